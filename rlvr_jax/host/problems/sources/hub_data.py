"""This module finds the files of a data set of the hub: those of a split, perhaps of a subset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlvr_jax.config import SourceConfig
from rlvr_jax.host.files import hub
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.sources import downloads, files

# Where the files of a split lie in a subset or in the whole repository; {} is the split.
NAMES = ("{}-*-of-*.parquet", "{}.parquet", "{}/*.parquet", "{}.jsonl", "{}.json")


def find_files(source: SourceConfig, split: str) -> list[Path]:
    """Download the files of one split of a data set, and return them in order.

    Raises:
      ValueError: the data set cannot be downloaded, or has no such files.
    """
    patterns = _patterns(source, split)
    folder = hub.download_data(source.hub, patterns)
    for pattern in patterns:
        if paths := sorted(path for path in folder.glob(pattern) if path.is_file()):
            downloads.check_shards(paths)
            return paths
    raise ValueError(
        f"the data set {source.hub} has no files of the split {split!r} that can be read "
        f"({', '.join(patterns)}): name another split, or the folder of one of its parts by "
        "`subset`."
    )


def pin(source: SourceConfig) -> str:
    """Return the name of a source's data set with its commit."""
    folder = hub.download_data(source.hub, _patterns(source, source.split))
    return hub.with_commit(source.hub, folder)


def load_records(source: SourceConfig, split: str) -> Iterator[Record]:
    """Load the records of one split one by one.

    Raises:
      ValueError: a file cannot be read, or too many rows are unusable (`downloads.usable`).
    """
    task = f"file:{source.hub.partition('@')[0].rpartition('/')[2]}"
    rows = (row for path in find_files(source, split) for row in files.load_rows(path))
    return downloads.usable(
        rows, lambda row: files.parse_records(row, task, source.columns), source.hub
    )


def _patterns(source: SourceConfig, split: str) -> list[str]:
    subset = source.subset
    bases = (f"{subset}/", f"data/{subset}/") if subset else ("", "data/")
    return [base + name.format(split) for base in bases for name in NAMES]
