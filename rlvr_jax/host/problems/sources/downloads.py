"""This module reads well-known data sets from downloaded files, as records or through TFDS.

This module downloads nothing. It looks for the files in a folder, or in the subfolder with the name
of the data set, under the file names that `SETS` lists. TFDS calls that folder a manual directory.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr_jax.host.files.looked_up import looked_up
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.sources import files
from rlvr_jax.host.problems.sources.layouts import Row
from rlvr_jax.host.text import answers

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

BAD_SHARE = 0.01  # at most this share of a data set's rows may be unusable
_HUB = ("{}-*-of-*.parquet", "data/{}-*-of-*.parquet", "{}.parquet", "data/{}.parquet")
_LOCAL = ("{}.jsonl", "{}.json", "data/{}.jsonl", "data/{}.json")


@dataclass(frozen=True)
class Download:
    """A `Download` says where a data set comes from and how its files are named.

    In `patterns`, {} stands for the name of the split.
    """

    home: str
    patterns: tuple[str, ...]
    test: str = "test"  # the data set's own name for its held-out problems
    drop: str = ""  # rows with this value in the column `ability` are skipped


SETS = {
    "gsm8k": Download(
        "train.jsonl and test.jsonl of github.com/openai/grade-school-math, or the parquet files "
        "of openai/gsm8k on the hub",
        ("{}.jsonl", "main/{}-*-of-*.parquet", *_HUB),
    ),
    "math": Download(
        "the folders train and test of github.com/hendrycks/math, or the parquet files of a copy "
        "on the hub",
        ("{}/*/*.json", "MATH/{}/*/*.json", "*/{}-*-of-*.parquet", *_HUB, *_LOCAL),
    ),
    "multi_subject_rlvr": Download(
        "the parquet files of virtuoussy/Multi-subject-RLVR on the hub", (*_HUB, *_LOCAL)
    ),
    "math_rlvr": Download("the parquet files of virtuoussy/Math-RLVR on the hub", (*_HUB, *_LOCAL)),
    # Scoring its programming problems would mean to run programs of a model; skip them.
    "eurus_2_rl_data": Download(
        "the parquet files of PRIME-RL/Eurus-2-RL-Data on the hub",
        (*_HUB, *_LOCAL),
        test="validation",
        drop="code",
    ),
}


def check_download(name: str, folder: Path) -> None:
    """Refuse a data set that is not known or whose files are not in `folder`.

    Raises:
      ValueError: the message suggests the nearest known name, or says which files to put where.
    """
    for split in ("train", "test"):
        for path in find_files(name, folder, split):
            files.check_file(path)


def find_files(name: str, folder: Path, split: str) -> list[Path]:
    """Find the files of one split of a data set, in order.

    Raises:
      ValueError: the data set is not known, or some of its files are not in `folder`.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"take one of {', '.join(SETS)}."
        raise ValueError(f"there is no data set {name!r} here; {hint}")
    known = SETS[name]
    own_split = known.test if split == "test" else split
    for home in (folder / name, folder):
        for pattern in known.patterns:
            if paths := sorted(home.glob(pattern.format(own_split))):
                check_shards(paths)
                return paths
    raise ValueError(
        f"no {own_split!r} files of {name} in {folder}{looked_up(folder)} or its folder "
        f"{name!r}: put {known.home} there (looked for "
        f"{', '.join(pattern.format(own_split) for pattern in known.patterns)})."
    )


def load_records(name: str, folder: Path, split: str) -> Iterator[Record]:
    """Load the problems of one split, `train` or `test`, one by one.

    Raises:
      ValueError: a file is missing or cannot be read, or more than BAD_SHARE of the rows are
        unusable. The iterator raises the latter at its end.
    """
    rows = (
        (where, row)
        for path in find_files(name, folder, split)
        for where, row in files.load_rows(path)
        if not SETS[name].drop or row.get("ability") != SETS[name].drop
    )
    return usable(rows, lambda row: [_parse_record(name, row)], name)


def usable(
    rows: Iterable[tuple[str, Row]], parse: Callable[[Row], list[Record]], name: str
) -> Iterator[Record]:
    """Parse rows of a data set, each with its place, without those that cannot be used.

    Raises:
      ValueError: a file cannot be read, or more than BAD_SHARE of the rows are unusable.  The
        iterator raises the latter at its end.
    """
    total, bad, first = 0, 0, ""
    for where, row in rows:
        total += 1
        try:
            yield from parse(row)
        except ValueError as error:
            bad, first = bad + 1, first or f"{where}: {error}"
    if bad > BAD_SHARE * total:
        raise ValueError(f"{bad} of {total} rows of {name} cannot be used, the first is {first}")


def builder(name: str, **arguments: Any) -> tfds.core.DatasetBuilder:
    """Return a TFDS builder for a data set, registered with TFDS as `rlvr_gsm8k` and so on.

    `builder("gsm8k", data_dir=...).download_and_prepare(download_config=DownloadConfig(
    manual_dir=...))` writes ArrayRecord files with the splits `train` and `test`. `arguments` go to
    the builder.

    Raises:
      ValueError: the data set is not known.
    """
    if name not in SETS:
        find_files(name, Path(), "train")  # raises the error that lists the known names
    new: tfds.core.DatasetBuilder = _builder_class(name)(
        **{"file_format": "array_record"} | arguments
    )
    return new


@functools.cache
def _builder_class(set_name: str) -> Any:
    """Make the builder's class on first use: its base class takes seconds to import.

    The cache is needed because TFDS registers a name only once.
    """
    import tensorflow_datasets as tfds

    class Downloaded(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
        """A TFDS builder that reads the files of a manual directory."""

        name = f"rlvr_{set_name}"  # TFDS has a gsm8k of its own, which downloads
        VERSION = tfds.core.Version(dataset.VERSION)
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {SETS[set_name].home} into the manual directory."

        def _info(self) -> Any:
            features = {field: tfds.features.Text() for field in dataset.FIELDS}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            folder = Path(dl_manager.manual_dir)
            return {s: self._generate_examples(folder, s) for s in ("train", "test")}

        def _generate_examples(self, folder: Path, split: str) -> Iterator[tuple[int, Record]]:
            return iter(enumerate(load_records(set_name, folder, split)))

    return Downloaded


def _parse_record(name: str, row: dict[str, Any]) -> Record:
    if name == "gsm8k" and "####" not in str(row.get("answer")):
        raise ValueError("its answer has no final line with ####.")
    if name == "math":
        if answers.boxed(str(row.get("solution"))) is None:
            raise ValueError(r"its solution has no \boxed{} answer.")
        row = {key: value for key, value in row.items() if key != "answer"}
    return files.parse_record(row, f"tfds:{name}")


def check_shards(paths: list[Path]) -> None:
    """Refuse an incomplete set of shards: `train-00000-of-00003.parquet` needs two more files."""
    for path in paths:
        shard = re.search(r"-of-(\d+)$", path.stem)
        here = [other for other in paths if other.parent == path.parent]
        if shard and len(here) != int(shard[1]):
            raise ValueError(
                f"{path.parent} has {len(here)} of {int(shard[1])} files like {path.name}: "
                "download the others too."
            )
