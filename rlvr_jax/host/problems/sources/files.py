"""This module reads files of problems: JSONL, JSON and parquet, in the layouts of common data sets.

This module reads the rows; `layouts` makes a record of each. The structs of a parquet file may be
nested or flat (a column named `reward_model.ground_truth`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvr_jax.host.files.looked_up import looked_up
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.preference import UnrankedError
from rlvr_jax.host.problems.sources.layouts import NO_COLUMNS, Columns, Row, parse_records
from rlvr_jax.host.problems.sources.layouts import parse_record as parse_record

KINDS = (".jsonl", ".json", ".parquet")


def check_file(path: Path) -> None:
    """Refuse a file of problems that cannot be opened, without reading it.

    Raises:
      ValueError: there is no such file, its suffix is not in KINDS, or it is a parquet file and
        pyarrow is not installed.
    """
    if path.suffix.lower() not in KINDS:
        named = len(path.parts) == 2 and not path.exists()  # OWNER/NAME
        hint = f", or write {{hub: {path}}} for a data set of the hub" if named else ""
        raise ValueError(
            f"{path} must be one of {', '.join(KINDS)}: convert it or rename it{hint}."
        )
    if not path.is_file():
        kind = "a folder" if path.is_dir() else f"not there{looked_up(path)}"
        raise ValueError(f"the file {path} is {kind}: check the path.")
    if path.suffix.lower() == ".parquet":
        _parquet()


def load_records(
    path: Path, task: str, columns: Columns = NO_COLUMNS, *, drop_unranked: bool = False
) -> Iterator[Record]:
    """Load the problems or preference items of a file one by one.

    `task` is the task of the records of problems, `columns` is as in `parse_records`.  With
    `drop_unranked`, rows of preferences without a single best response, or with empty or equal
    ones, are left out.

    Raises:
      ValueError: the file cannot be read, or a row cannot be a problem; the message names the file
        and the line or row, counted from 1.
    """
    check_file(path)
    for where, row in load_rows(path):
        try:
            yield from parse_records(row, task, columns)
        except ValueError as error:
            if drop_unranked and isinstance(error, UnrankedError):
                continue
            raise ValueError(f"{where}: {error}") from error


def load_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Load the rows of a file, each with a text that says where in the file it stands.

    Raises:
      ValueError: the file or a row cannot be read.
    """
    read = {".parquet": _parquet_rows, ".json": _json_rows}.get(path.suffix.lower(), _lines)
    for where, row in read(path):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: a row must be an object, not {type(row).__name__}.")
        yield where, _nested(row)


def _nested(row: Row) -> Row:
    """Turn each column named `a.b` into the struct `a` with the field `b`."""
    out: Row = {}
    for name, value in row.items():
        outer, dot, inner = str(name).partition(".")
        if dot and isinstance(out.setdefault(outer, {}), dict):
            out[outer][inner] = value
        else:
            out[str(name)] = value
    return out


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            text = line.removeprefix(b"\xef\xbb\xbf")  # joined files have some in the middle
            shift, start = start + len(line) - len(text), start + len(line)
            if text.strip():
                yield where, _loads(text, where, shift)


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Load a JSON file that holds an array of rows, a single row, or one row in each line."""
    raw = path.read_bytes()
    body = raw.removeprefix(b"\xef\xbb\xbf")
    if body.lstrip().startswith(b"["):
        for number, row in enumerate(_loads(body, str(path), len(raw) - len(body)), 1):
            yield f"{path}, row {number}", row
    elif (row := _single_row(body)) is not None:
        yield str(path), row
    else:
        yield from _lines(path)


def _single_row(body: bytes) -> Any:
    try:
        return _loads(body, "", 0)
    except (ValueError, RecursionError):
        return None


def _loads(raw: bytes, where: str, offset: int) -> Any:
    """Parse strict JSON; `offset` is where in the file the bytes begin."""
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {offset + error.start} of the file is not UTF-8 ({error.reason}): save "
            "the file as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}): repair or remove it.") from error


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for batch in _parquet().ParquetFile(path).iter_batches(batch_size=1024):
            for i in range(len(batch)):
                number += 1
                yield f"{path}, row {number}", batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, row {number}: not UTF-8 ({error.reason}): repair it.") from error
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path} is not readable parquet after row {number} ({error}): write the file again."
        ) from error


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError(
            "parquet files need a package: pip install -e '.[parquet]' in the clone, or convert to "
            "JSONL."
        ) from error
    return pyarrow.parquet
