"""The field's data sets from files that the user has downloaded, as TFDS builders and as records.

Nothing is downloaded here. The files lie in a TFDS manual directory, itself or in its folder of
the data set's name; `SETS` says under which names they are looked for.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.sources import files
from rlvr_jax.host.text import answers

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

Record = dict[str, str]
BAD_SHARE = 0.01  # a release is taken as it is, but for this share of unusable rows
_HUB = ("{}-*-of-*.parquet", "data/{}-*-of-*.parquet", "{}.parquet", "data/{}.parquet")
_LOCAL = ("{}.jsonl", "{}.json", "data/{}.jsonl", "data/{}.json")


@dataclass(frozen=True)
class Download:
    """Where a data set's files come from and how they are named; {} is the split's own name."""

    home: str
    patterns: tuple[str, ...]
    test: str = "test"  # what the release calls its held-out problems
    drop: str = ""  # rows of this ability are left out


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
    # Its programs would have to be run to be scored, and nothing of a model's is run here.
    "eurus_2_rl_data": Download(
        "the parquet files of PRIME-RL/Eurus-2-RL-Data on the hub",
        (*_HUB, *_LOCAL),
        test="validation",
        drop="code",
    ),
}


def check(name: str, folder: Path) -> None:
    """Refuse a data set that is not known or whose files are not there.

    Raises:
      ValueError: which name is near, or which files to put where.
    """
    for split in ("train", "test"):
        for path in paths(name, folder, split):
            files.check(path)


def paths(name: str, folder: Path, split: str) -> list[Path]:
    """The files of one split, in order; ValueError says what to put where."""
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"take one of {', '.join(SETS)}."
        raise ValueError(f"there is no data set {name!r} here; {hint}")
    known = SETS[name]
    called = known.test if split == "test" else split
    for home in (folder / name, folder):
        for pattern in known.patterns:
            if found := sorted(home.glob(pattern.format(called))):
                _check_shards(found)
                return found
    raise ValueError(
        f"no {called!r} files of {name} in {folder} or its folder {name!r}: put {known.home} there "
        f"(looked for {', '.join(pattern.format(called) for pattern in known.patterns)})."
    )


def records(name: str, folder: Path, split: str) -> Iterator[Record]:
    """The problems of one split, `train` or `test`.

    Raises:
      ValueError: no files, one that cannot be read, or more than BAD_SHARE of unusable rows.
    """
    total, bad, first = 0, 0, ""
    for path in paths(name, folder, split):
        files.check(path)
        for where, row in files.rows(path):
            if SETS[name].drop and row.get("ability") == SETS[name].drop:
                continue
            total += 1
            try:
                yield _record(name, row)
            except ValueError as error:
                bad, first = bad + 1, first or f"{where}: {error}"
    if bad > BAD_SHARE * total:
        raise ValueError(f"{bad} of {total} rows of {name} cannot be used, the first is {first}")


def builder(name: str, **arguments: Any) -> tfds.core.DatasetBuilder:
    """The data set as a TFDS builder, registered as `rlvr_gsm8k` and so on.

    `builder("gsm8k", data_dir=...).download_and_prepare(download_config=DownloadConfig(
    manual_dir=...))` writes ArrayRecord files with the splits `train` and `test`.

    Raises:
      ValueError: no such data set.
    """
    if name not in SETS:
        paths(name, Path(), "train")  # says which names there are
    made: tfds.core.DatasetBuilder = _class(name)(**{"file_format": "array_record"} | arguments)
    return made


@functools.cache
def _class(called: str) -> Any:
    """Made on use: the base class costs seconds to import, and a name registers only once."""
    import tensorflow_datasets as tfds

    class Downloaded(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
        """Files of a manual directory, row by row."""

        name = f"rlvr_{called}"  # TFDS has a gsm8k of its own, which downloads
        VERSION = tfds.core.Version(dataset.VERSION)
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {SETS[called].home} into the manual directory."

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
            return iter(enumerate(records(called, folder, split)))

    return Downloaded


def _record(name: str, row: dict[str, Any]) -> Record:
    if name == "gsm8k" and "####" not in str(row.get("answer")):
        raise ValueError("its answer has no final line with ####.")
    if name == "math":
        if answers.boxed(str(row.get("solution"))) is None:
            raise ValueError(r"its solution has no \boxed{} answer.")
        row = {key: value for key, value in row.items() if key != "answer"}
    return files.record(row, f"tfds:{name}")


def _check_shards(found: list[Path]) -> None:
    """`train-00000-of-00003.parquet` promises two more."""
    for path in found:
        shard = re.search(r"-of-(\d+)$", path.stem)
        here = [other for other in found if other.parent == path.parent]
        if shard and len(here) != int(shard[1]):
            raise ValueError(
                f"{path.parent} has {len(here)} of {int(shard[1])} files like {path.name}: "
                "download the others too."
            )
