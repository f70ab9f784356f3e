"""Files of a run folder are read as they are: unfinished, damaged or hostile, and never trusted.

Models write the responses and data sets the questions, and a killed run leaves half a line.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_TEXT = 8000  # characters of one field

Json = dict[str, Any]


def iterate_rows(path: Path) -> Iterator[Json | None]:
    """Iterate over the objects of a JSONL file; a damaged line gives None.

    The last line gives nothing if it is damaged, because the run may still be writing it.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row
            elif line.endswith(b"\n"):
                yield None


def load_json(path: Path) -> Any:
    """Load a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None


def load_text(path: Path) -> str | None:
    """Load a text file; None if there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def number(value: object, digits: int = 6) -> float | int | None:
    """Return a number rounded to `digits` significant digits; None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(f"{value:.{digits}g}") if isinstance(value, float) else float(value)
    except OverflowError:
        return None
    if not math.isfinite(found):
        return None
    return int(found) if found.is_integer() and abs(found) < 1e15 else found


def numbers(table: object) -> dict[str, float | int]:
    """Return the finite numbers of a mapping by name; a single number is named `all`."""
    table = table if isinstance(table, dict) else {"all": table}
    found = {text(key): number(value) for key, value in table.items()}
    return {key: value for key, value in found.items() if value is not None}


def text(value: object) -> str:
    """Return any value as text; chat messages and other structures become JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def spread(count: int, limit: int) -> list[int]:
    """Return at most `limit` evenly spaced indices below `count`, with the first and the last."""
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]
