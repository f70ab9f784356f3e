"""TFDS writes problem sets to disk as ArrayRecord files, and Grain reads them in batches.

    prepare(folder, {"train": rows, "test": rows}, name="toy")   # once; safe to kill and to repeat
    source = open_split(folder, "train")                         # source[i] is a dict of str
    stream = batches(source, batch_size=8, seed=0)               # stream.get_state() is plain JSON

TensorFlow is not needed.
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

from rlvr_jax.host.files.whole_file import sync_folder

# grain (which imports jax) and tensorflow_datasets take seconds to import, so functions do it.
if TYPE_CHECKING:
    import grain

Record = dict[str, str]

# The fields of a record, in their order on disk. `key` identifies the problem: two wordings of one
# problem have the same key, and no key is in two splits. `messages` is the prompt as JSON
# [{"role", "content"}] that ends with a user message, or "" if the question alone is the prompt.
# `extra` is a JSON object for scorers, or "".
FIELDS = (
    *("question", "reference", "answer", "demonstration"),
    *("domain", "task", "key", "messages", "extra"),
)

# The name of a problem set's folder; increase the version whenever FIELDS changes.
VERSION = "2.0.0"
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class RandomAccessSource(Protocol):
    """A `RandomAccessSource` gives records by index in any order; a list of records is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> Record: ...


def prepare(folder: Path, splits: Mapping[str, Iterable[dict[str, str]]], name: str) -> None:
    """Write the problem set `name` with all its splits under `folder`, in the given order.

    If the set is already there, the function returns at once without reading the rows; delete the
    folder of the set to write it again. The set appears by one rename at the end. So `open_split`
    ignores what a killed run left, and processes that write the same set end up with one copy.

    Raises:
      ValueError: a split is empty, a row does not have the FIELDS as text, `name` or the name of a
        split is not a word, or the set is already there with other splits.
      OSError: the disk is full.
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
        sync_folder(home / VERSION)
    except Exception:
        # Another process may have finished first: its rename and clean-up make ours fail.
        if not _already_there(home / VERSION, splits):
            raise
    # Killed runs and slower processes leave unfinished copies, which are useless now.
    for leftover in home.glob("incomplete.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def prepared(folder: Path, name: str) -> bool:
    """Return whether the problem set is on disk and complete."""
    return (Path(folder) / name / VERSION).exists()


def open_split(folder: Path, split: str) -> RandomAccessSource:
    """Open one split of the problem set under `folder` and check that its files are complete.

    `folder` is the folder given to `prepare`. If that folder contains several sets, add the name
    of the set to the path.

    Raises:
      FileNotFoundError: there is no problem set, or one of its files is missing.
      ValueError: there are several sets, the split does not exist, or a file is damaged.
        Reading a record of a damaged file can raise ValueError too.
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
        # TFDS trusts the lengths in its metadata without opening the files.
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
) -> grain.DatasetIterator[list[Record]]:
    """Iterate over shuffled batches of `batch_size` records.

    With `repeat` the iterator is endless; without, it ends after one epoch. Every epoch has its own
    order, which depends only on `seed` and the epoch: row r of a step is the same record whatever
    the number of processes, each of which has the whole batch. An epoch drops the records that do
    not fill a batch. With `get_state()` and `set_state()`, the iterator continues at the next
    batch.

    Raises:
      ValueError: there are too few records for one batch, or an argument is out of range.
    """
    if batch_size < 1 or not 0 <= seed < 2**32:
        raise ValueError(
            f"batch_size {batch_size} or seed {seed} is out of range: "
            "batch_size >= 1 and 0 <= seed < 2**32 are needed."
        )
    if len(source) < batch_size:
        raise ValueError(
            f"there are {len(source)} records, too few for one batch of {batch_size}: take a "
            "smaller batch or more data."
        )
    import grain

    # With shuffle(seed=...) instead of seed(), epoch 1 of seed 0 would equal epoch 0 of seed 1.
    dataset: Any = grain.MapDataset.source(source).seed(seed).shuffle()
    dataset = dataset.batch(batch_size, drop_remainder=True, batch_fn=list)
    if repeat:  # after batch(), so that no batch spans two epochs and repeats a record
        dataset = dataset.repeat()
    # A batch of 256 takes some 40 ms to read and a step takes seconds, so threads are not worth it.
    read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    iterator: grain.DatasetIterator[list[Record]] = iter(dataset.to_iter_dataset(read))
    return iterator


def problem_key(*texts: str) -> str:
    """Compute the `key` of a problem: a hash of its texts without regard to case and spacing."""
    words = unicodedata.normalize("NFKC", " ".join(texts)).casefold().split()
    return hashlib.blake2b(" ".join(words).encode("utf-8"), digest_size=16).hexdigest()


def each(source: RandomAccessSource) -> Iterator[Record]:
    """Iterate over all records in order."""
    return (source[i] for i in range(len(source)))


def keep(source: RandomAccessSource, indices: Sequence[int]) -> RandomAccessSource:
    """Return a view of the records with these indices, in this order, without reading them.

    Raises:
      ValueError: an index is out of range or occurs twice.
    """
    kept = tuple(indices)
    if len(set(kept)) < len(kept) or not all(0 <= i < len(source) for i in kept):
        raise ValueError(
            f"indices must be distinct and at least 0 and below {len(source)}, the number of "
            "records of the split: leave the others out."
        )
    return _Selection(source, kept)


@dataclass(frozen=True)
class _Selection:
    source: RandomAccessSource
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: SupportsIndex, /) -> Record:
        return self.source[self.indices[index]]


@dataclass(frozen=True)
class _Split:
    """A `_Split` reads a split on disk, decodes its bytes to text and makes errors readable."""

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
    """Write the set with a TFDS builder that downloads nothing and prints nothing."""
    with _quiet():
        import tensorflow_datasets as tfds

        class ProblemSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc]
            """A TFDS builder, defined per call because its class attribute names the set."""

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
                """Print nothing, unlike the base class: there is no download."""

            def _log_download_done(self) -> None:
                """Print nothing, unlike the base class: there is no download."""

        ProblemSet.name = name
        builder = ProblemSet(data_dir=str(folder), file_format="array_record")
        offline = tfds.download.DownloadConfig(try_download_gcs=False, register_checksums=False)
        with tempfile.TemporaryDirectory() as unused:  # TFDS needs a download folder
            try:
                builder.download_and_prepare(download_dir=unused, download_config=offline)
            except RuntimeError as error:  # ArrayRecord raises this when the disk is full
                raise OSError(f"cannot write problem set {name!r} in {folder}: {error}") from error


def _check_row(row: Mapping[str, str], where: str) -> None:
    """Refuse a row that does not have exactly the FIELDS as text; `where` names it in the error."""
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
    """Return whether the set is complete; ValueError if it has other splits."""
    if not home.exists():
        return False
    if set(known := _splits_in(home)) != set(splits):
        raise ValueError(f"{home} exists with other splits ({', '.join(known)}): delete it first.")
    return True


def _splits_in(home: Path) -> list[str]:
    """Read the names of the splits without importing TFDS."""
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
    except (ValueError, RecursionError) as error:
        raise ValueError(_lost(path, error)) from error


def _lost(path: Path, reason: object) -> str:
    return f"{path} cannot be used, delete {path.parent} and prepare it again: {reason}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence TFDS's progress bars and absl's log, except for errors."""
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
