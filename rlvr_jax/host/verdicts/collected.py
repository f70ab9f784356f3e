"""Answers that an rl stage leaves for a label stage: a line each, in the order of its steps."""

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FIELDS = {"step", "problem", "question", "reference", "answer_ids", "opening"}


def chosen(name: str, step: int, row: int, share: float) -> bool:
    """Whether this response is one of the share; the same ones on every run."""
    return zlib.crc32(f"{name}/{step}/{row}".encode()) < share * 2**32


class Writer:
    """Appends answers; what a resumed stage computes again replaces what was there."""

    def __init__(self, path: Path, step: int):
        """Keeps what was written before `step`, which is the next."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in _rows(path) if row["step"] < step]
        part = path.with_suffix(".part")
        part.write_text("".join(map(_line, kept)), encoding="utf-8")
        part.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, rows: Iterable[Row]) -> None:
        """On the disk before this returns, so that no checkpoint knows a later step."""
        self._file.write("".join(map(_line, rows)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[Row]:
    """All rows; ValueError where there is none."""
    rows = _rows(path)
    if not rows:
        raise ValueError(f"{path} holds no answers: raise `collect` of the rl stage, or its steps")
    return rows


def _rows(path: Path) -> list[Row]:
    """Up to the first line that is not whole, which a kill has left, and which was never counted
    by a checkpoint.
    """
    rows: list[Row] = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or FIELDS - row.keys():
            break
        rows.append(row)
    return rows


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"
