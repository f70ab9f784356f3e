"""The data hop: problem sets on disk as ArrayRecord (TFDS, no TensorFlow), batches through Grain.

Three calls make the hop:

    prepare(folder, {"train": rows, "test": rows}, name="toy")   # once; safe to kill and to repeat
    source = open_split(folder, "train")                         # source[i] is a dict of str
    stream = batches(source, batch_size=8, seed=0)               # stream.get_state() is plain JSON
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

# grain (which pulls in jax) and tensorflow_datasets take seconds to import: only on use.
if TYPE_CHECKING:
    import grain

Record = dict[str, str]

# `key` identifies the core problem: two wordings of one problem share it, and splits are disjoint
# in it. `messages` is the prompt as JSON [{"role", "content"}] that ends with a user message, or ""
# when it is the question alone; `extra` is a JSON object for scorers, or "". The order is the order
# on disk.
FIELDS = (
    *("question", "reference", "answer", "demonstration"),
    *("domain", "task", "key", "messages", "extra"),
)

# Names the folder of a problem set; raise it whenever FIELDS changes.
VERSION = "2.0.0"
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class RandomAccessSource(Protocol):
    """Records that can be read in any order; a list of records is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> Record: ...


def prepare(folder: Path, splits: Mapping[str, Iterable[dict[str, str]]], name: str) -> None:
    """Write the problem set `name` with all its splits under `folder`, in the order given.

    Returns at once, without reading the rows, when the set is already there; delete its folder to
    write it anew. The set appears by one rename at the very end, so a killed run leaves nothing
    that `open_split` would take for data, and processes that race for it end up with one copy.

    Raises:
      ValueError: an empty split, a row that is not the FIELDS as text, a name that cannot be a
        file name, or a set that is already there with other splits.
    """
    for word in (name, *splits):
        if not _WORD.fullmatch(word) or word == "all":  # TFDS keeps "all" for the union
            raise ValueError(
                f"{word!r} cannot name a problem set or split: use a word like 'train'."
            )
    if not splits:
        raise ValueError(f"problem set {name!r} has no splits: give at least one, such as 'train'.")
    home = Path(folder).absolute() / name
    if _already_there(home / VERSION, splits):
        return
    try:
        _write(home.parent, splits, name)
    except Exception:
        # Another process may have finished first: its rename and clean-up make ours fail.
        if not _already_there(home / VERSION, splits):
            raise
    # What killed runs left, and what slower racers still write: nobody needs it any more.
    for leftover in home.glob("incomplete.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def prepared(folder: Path, name: str) -> bool:
    """Whether the problem set is there and complete."""
    return (Path(folder) / name / VERSION).exists()


def open_split(folder: Path, split: str) -> RandomAccessSource:
    """Open one split of the problem set under `folder`, checking that its files are whole.

    `folder` is the one given to `prepare`; where it holds several sets, add the set's name to it.

    Raises:
      FileNotFoundError: no problem set, or one of its files is gone.
      ValueError: several sets, no such split, or a damaged file; reading a record can raise it too.
    """
    folder = Path(folder).absolute()
    homes = sorted([*folder.glob(VERSION), *folder.glob(f"*/{VERSION}")])
    if not homes:
        raise FileNotFoundError(f"no complete problem set under {folder}: prepare it first.")
    if len(homes) > 1:
        names = ", ".join(home.parent.name for home in homes)
        raise ValueError(f"{folder} holds several problem sets: add one of {names} to the path.")
    home = homes[0]
    known = _splits_in(home)
    _read_json(home / "features.json")
    if split not in known:
        raise ValueError(f"no split {split!r} in {home}: it has {', '.join(known)}.")
    with _quiet():
        import grain
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(home))
        info = builder.info.splits[split]
        paths = [home / Path(path).name for path in info.filepaths]
        # TFDS believes its own record of the lengths; the files have the last word.
        for path, length in zip(paths, info.shard_lengths, strict=True):
            if not path.exists():
                raise FileNotFoundError(_lost(path, "it is missing"))
            try:
                stored = len(grain.sources.ArrayRecordDataSource(str(path)))
            except RuntimeError as error:
                raise ValueError(_lost(path, error)) from error
            if stored != length:
                raise ValueError(_lost(path, f"{stored} records instead of {length}"))
        ends = list(itertools.accumulate(info.shard_lengths))
        return _Split(builder.as_data_source(split), paths, ends)


def batches(
    source: RandomAccessSource,
    batch_size: int,
    seed: int,
    *,
    repeat: bool = True,
    shard: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator[list[Record]]:
    """Shuffled batches of `batch_size` records for process `shard[0]` of `shard[1]`.

    Every epoch has an order of its own, a function of `seed` and the epoch alone. Processes take
    turns in that one order, so step k draws the same global batch however many processes share it,
    and they never share a record within an epoch. What does not fill a batch waits for a later
    epoch's order. `get_state()` and `set_state()` of the iterator continue at the very next batch.

    Raises:
      ValueError: this process would not fill one batch, or an argument is out of range.
    """
    index, count = shard
    if batch_size < 1 or not 0 <= index < count or not 0 <= seed < 2**32:
        raise ValueError(
            f"batch_size {batch_size}, shard {shard} or seed {seed} is out of range: "
            "batch_size >= 1, 0 <= index < count and 0 <= seed < 2**32 are needed."
        )
    held = len(source) // count  # equal for all, or processes would fall out of step
    if held < batch_size:
        raise ValueError(
            f"each of {count} processes gets {held} of {len(source)} records, too few for one "
            f"batch of {batch_size}: take a smaller batch, fewer processes or more data."
        )
    import grain

    # seed() rather than shuffle(seed=...): the latter makes epoch 1 of seed 0 epoch 0 of seed 1.
    dataset: Any = grain.MapDataset.source(source).seed(seed).shuffle()
    dataset = dataset.slice(slice(index, held * count, count))
    dataset = dataset.batch(batch_size, drop_remainder=True, batch_fn=list)
    if repeat:  # after batch: no batch straddles two epochs and shows a record twice
        dataset = dataset.repeat()
    # A batch of 256 takes some 40 ms to read, a step takes seconds: no threads, no surprises.
    read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    iterator: grain.DatasetIterator[list[Record]] = iter(dataset.to_iter_dataset(read))
    return iterator


def problem_key(*asked: str) -> str:
    """A short name for what is asked, whatever its case and spacing: a record's `key`."""
    words = unicodedata.normalize("NFKC", " ".join(asked)).casefold().split()
    return hashlib.blake2b(" ".join(words).encode("utf-8"), digest_size=16).hexdigest()


def each(source: RandomAccessSource) -> Iterator[Record]:
    """All records in order."""
    return (source[i] for i in range(len(source)))


def keep(source: RandomAccessSource, indices: Sequence[int]) -> RandomAccessSource:
    """A view of the records at these places, in this order; nothing is read until it is asked for.

    Raises:
      ValueError: a place that the source does not have, or one that is named twice.
    """
    places = tuple(indices)
    if len(set(places)) < len(places) or not all(0 <= i < len(source) for i in places):
        raise ValueError(
            f"indices must be distinct and at least 0 and below {len(source)}, the number of "
            "records of the split: leave the others out."
        )
    return _Kept(source, places)


@dataclass(frozen=True)
class _Kept:
    """Some records of a source."""

    source: RandomAccessSource
    places: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: SupportsIndex, /) -> Record:
        return self.source[self.places[index]]


@dataclass(frozen=True)
class _Split:
    """A split on disk: TFDS's bytes as text, its errors as sentences."""

    raw: Any
    paths: list[Path]
    ends: list[int]  # ends[j]: index after the last record of paths[j]

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: SupportsIndex, /) -> Record:
        place = range(len(self))[index]  # IndexError and negative indices as in a list
        try:
            example = self.raw[place]
            return {field: example[field].decode("utf-8") for field in FIELDS}
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(_lost(self.paths[bisect.bisect(self.ends, place)], error)) from error


def _write(folder: Path, splits: Mapping[str, Iterable[dict[str, str]]], name: str) -> None:
    """Run the TFDS builder: ArrayRecord only, no download, no bucket, silent."""
    with _quiet():
        import tensorflow_datasets as tfds

        class ProblemSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc]
            """Built per call: its base class costs an import and its name is the set's."""

            VERSION = tfds.core.Version(VERSION)

            def _info(self) -> Any:
                features = {field: tfds.features.Text() for field in FIELDS}
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    disable_shuffling=True,  # row i stays row i; `batches` shuffles
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {split: self._generate_examples(split) for split in splits}

            def _generate_examples(self, split: str) -> Iterator[tuple[int, Record]]:
                where, number = f"split {split!r} of problem set {name!r}", -1
                for number, row in enumerate(splits[split]):
                    _check_row(row, f"record {number} of {where}")
                    yield number, row
                if number < 0:
                    raise ValueError(f"{where} is empty: give it at least one record.")

            def _log_download_bytes(self) -> None:
                """Prints a banner about a download; there is none."""

            def _log_download_done(self) -> None:
                """Likewise."""

        ProblemSet.name = name
        builder = ProblemSet(data_dir=str(folder), file_format="array_record")
        offline = tfds.download.DownloadConfig(try_download_gcs=False, register_checksums=False)
        with tempfile.TemporaryDirectory() as unused:  # TFDS makes it even with nothing to put in
            try:
                builder.download_and_prepare(download_dir=unused, download_config=offline)
            except RuntimeError as error:  # how ArrayRecord says that the disk is full
                raise OSError(f"cannot write problem set {name!r} in {folder}: {error}") from error


def _check_row(row: Mapping[str, str], where: str) -> None:
    """Refuse a row before it is written, in words that lead to it."""
    if set(row) != set(FIELDS):
        odd = ", ".join(sorted(set(row) ^ set(FIELDS)))
        raise ValueError(f"{where} must have exactly the fields {FIELDS}: see {odd}.")
    for field, text in row.items():
        if not isinstance(text, str):
            raise ValueError(f"{where}: {field} must be text, not {type(text).__name__}.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: {field} is not Unicode ({error.reason}).") from error


def _already_there(home: Path, splits: Iterable[str]) -> bool:
    """Whether the set is complete; ValueError when another one is in its place."""
    if not home.exists():
        return False
    if set(known := _splits_in(home)) != set(splits):
        raise ValueError(f"{home} exists with other splits ({', '.join(known)}): delete it first.")
    return True


def _splits_in(home: Path) -> list[str]:
    """Names of the splits, without importing TFDS."""
    path = home / "dataset_info.json"
    try:
        return [split["name"] for split in _read_json(path)["splits"]]
    except (KeyError, TypeError) as error:
        raise ValueError(_lost(path, "it lists no splits")) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(_lost(path, "it is missing")) from error
    except ValueError as error:
        raise ValueError(_lost(path, error)) from error


def _lost(path: Path, reason: object) -> str:
    return f"{path} cannot be used, delete {path.parent} and prepare it again: {reason}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS's progress bars and absl's chatter off the terminal; errors still show."""
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
