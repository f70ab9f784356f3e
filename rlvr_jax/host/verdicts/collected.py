"""An rl stage collects answers for a label stage in a file with one JSON line per answer."""

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlvr_jax.host.files import whole_file

Row = dict[str, Any]
FIELDS = {"step", "problem", "question", "reference", "answer_ids", "opening"}


def is_chosen(name: str, step: int, row: int, share: float) -> bool:
    """Return whether to collect the response in this row of a step of the stage `name`.

    The choice is a hash, so every run chooses the same responses: about `share` of them.
    """
    return zlib.crc32(f"{name}/{step}/{row}".encode()) < share * 2**32


class Writer:
    """A `Writer` appends answers to the file of a stage."""

    def __init__(self, path: Path, step: int):
        """Open the file and drop the answers from `step` on, which a resumed stage writes again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in _load_rows(path) if row["step"] < step]
        whole_file.write_whole(path, "".join(map(_line, kept)))
        self._file = path.open("a", encoding="utf-8")

    def write(self, rows: Iterable[Row]) -> None:
        """Append answers and force them to disk, before a checkpoint records their step."""
        self._file.write("".join(map(_line, rows)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def load_answers(path: Path) -> list[Row]:
    """Load all collected answers.

    Raises:
      ValueError: the file is missing or holds no answers.
    """
    rows = _load_rows(path)
    if not rows:
        raise ValueError(f"{path} holds no answers: raise `collect` of the rl stage, or its steps")
    return rows


def _load_rows(path: Path) -> list[Row]:
    """Load the rows before an incomplete last line.

    A killed process can leave an incomplete line, but only after the last checkpoint.

    Raises:
      ValueError: a line before the last one is damaged.
    """
    rows: list[Row] = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and not FIELDS - row.keys():
            rows.append(row)
        elif number < len(lines):
            raise ValueError(f"{path}, line {number}, is damaged: put the file back")
    return rows


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"
