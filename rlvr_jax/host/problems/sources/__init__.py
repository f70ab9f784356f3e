"""Problems come from toy tasks, reasoning-gym, the user's files and downloaded data sets.

    build_splits(cfg.data, {"train": 4096, "test": 400}, cfg.seed)  # {"train": [record, ...], ...}

Each module reads or generates the problems of one kind of source: `toy`, `gym`, `files` and
`downloads`. This module mixes the sources of a config and deals their problems to splits. A source
with held-out problems of its own takes its part of `test` from them. A hash of the problem assigns
every other problem to a split.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr_jax.config import DataConfig, SourceConfig
from rlvr_jax.host.problems import option_lines, preference, ranked_answers
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.sources import downloads, files, gym, hub_data, toy, whole
from rlvr_jax.host.problems.sources.whole import QUERY, Counts
from rlvr_jax.host.text.conversation import is_conversation

_END: Record = {}  # compared by identity, so no record equals it
PATIENCE = 5000  # draws in a row without a new problem before a source counts as exhausted


def build_splits(data: DataConfig, counts: Counts, seed: int) -> dict[str, list[Record]]:
    """Build the splits of a config's problems, from `data.sources` or else from `data.tasks`.

    `counts` is the number of records of each split, or `all` (`whole.deal`). The same config,
    counts and seed give the same records in the same order.

    Raises:
      ValueError: the sources or tasks cannot be used or have too few distinct problems.
    """
    if data.sources:
        return mix_sources(data.sources, counts, seed)
    numbers = {split: int(n) for split, n in counts.items()}
    splits = toy.generate_splits(data.tasks, numbers, seed)
    if data.preferences.most:
        return {split: _rank(rows, split, data, seed) for split, rows in splits.items()}
    toy.rewrite_demonstrations(splits.get("sft", []), data.demonstration_errors, seed)
    return splits


def _rank(rows: list[Record], split: str, data: DataConfig, seed: int) -> list[Record]:
    """Make a preference item of each toy problem; only the split `sft` has wrong judgements."""
    counts = data.preferences.least, data.preferences.most
    errors = data.demonstration_errors if split == "sft" else 0.0
    items = (ranked_answers.build_item(row, counts, errors, seed) for row in rows)
    return [preference.build_record(item) for item in items]


def check_source(source: SourceConfig) -> None:
    """Refuse a source that cannot be used, before any problem is read.

    Raises:
      ValueError: the source cannot be used; the message is one sentence.
    """
    if source.test_file and not source.file:
        raise ValueError(f"test_file {source.test_file} needs a `file` to train on: give both.")
    if source.params and not source.gym:
        raise ValueError(f"{_name(source)} takes no params: they are reasoning-gym's.")
    if source.gym:
        gym.check_gym_dataset(source.gym, source.params)
    elif source.tfds:
        downloads.check_download(source.tfds, Path(source.folder))
    elif source.hub:
        for split in filter(None, (source.split, source.test_split)):
            for found in hub_data.find_files(source, split):
                files.check_file(found)
    for path in filter(None, (source.file, source.test_file)):
        files.check_file(Path(path))


def mix_sources(
    sources: Sequence[SourceConfig], counts: Counts, seed: int
) -> dict[str, list[Record]]:
    """Build shuffled splits of distinct problems, shared among the sources by weight.

    No problem (`key`) occurs twice, within a split or across splits, even if two sources have it. A
    problem that one source holds out occurs in no split except `test`. The same seed gives the same
    records.

    Raises:
      ValueError: there are no sources, a count is negative, or a source cannot be read or has too
        few distinct problems.
    """
    if not sources or any(n != "all" and n < 0 for n in counts.values()):
        raise ValueError("Sources must be a non-empty list, and counts at least 0.")
    for split in (split for split, n in counts.items() if n == "all"):
        if odd := next((x for x in sources if x.gym or x.weight != sources[0].weight), None):
            raise ValueError(
                f"data.{split} is all, and {_name(odd)} has a weight of its own or no end: give "
                "a number"
            )
    for source in sources:
        check_source(source)
    parts = _parts(sources, counts)
    held_out = [load_held_out(source) for source in sources]
    counts = {split: n for split, n in counts.items() if split in parts}
    out: dict[str, list[Record]] = {split: [] for split in counts}
    seen: set[str] = set()
    owner: dict[str, str] = {}  # the split of a query, which several preference items may share

    def add(stream: Iterator[Record | None], i: int, names: Iterable[str]) -> None:
        wanted = {split: parts[split][i] for split in names if split in counts}
        if "all" in wanted.values():
            rows = [row for row in stream if row is not None]
            dealt = whole.deal(rows, wanted, seen, owner, _name(sources[i]))
        else:
            dealt = _take(stream, wanted, seen, owner, sources[i])
        for split, taken in dealt.items():
            out[split] += taken

    for i, kept in enumerate(held_out):
        if kept is not None:
            add(_shuffled(kept, f"test/{i}/{seed}"), i, ["test"])
    # Held-out problems stay out of the other sources' splits even if the config has no test split.
    seen |= {row["key"] for kept in held_out for row in kept or ()}
    owner |= {row["key"][:QUERY]: "test" for kept in held_out for row in kept or ()}
    for i, source in enumerate(sources):
        names = [split for split in counts if held_out[i] is None or split != "test"]
        add(_stream(source, f"train/{i}/{seed}", seed), i, names)
    for split, rows in out.items():
        random.Random(f"{split}/{seed}").shuffle(rows)
    return out


def _parts(sources: Sequence[SourceConfig], counts: Counts) -> dict[str, list[Any]]:
    """Return how many problems of each split each source gives: a number, or `all`.

    A split that is `all`, and that no source serves, is left out.

    Raises:
      ValueError: no source serves a split that has a number.
    """
    parts: dict[str, list[Any]] = {}
    talks = [_holds_conversations(source) for source in sources]
    for split, count in counts.items():
        weights = [
            source.weight * (split in (source.splits or counts) and (split == "sft" or not talk))
            for source, talk in zip(sources, talks, strict=True)
        ]
        if count == "all":
            if any(weights):
                parts[split] = ["all" if weight else 0 for weight in weights]
            continue
        if count and not any(weights):
            raise ValueError(
                f"data.{split} is {count} and no source has problems for it (conversations without "
                f"a reference are for data.sft alone, others as `splits` says): set data.{split} "
                "to 0, or add a source."
            )
        parts[split] = _shares(count, weights) if count else [0] * len(sources)
    return parts


def _holds_conversations(source: SourceConfig) -> bool:
    """Return whether the first record of a source is a conversation without a reference."""
    if not source.file and not source.hub:
        return False
    first = next(_records(source, "train"), None)
    return first is not None and is_conversation(first)


def _stream(source: SourceConfig, order: str, seed: int) -> Iterator[Record | None]:
    """Iterate over the source's problems for training; `order` seeds the order of stored ones."""
    if not source.gym:
        return _shuffled(load_all(source), order)
    generated = gym.generate_records(source.gym, source.params, seed)
    return (row and _finish(row, source) for row in generated)


def load_held_out(source: SourceConfig) -> list[Record] | None:
    """Load the problems that a source itself keeps for tests; None if it keeps none.

    Raises:
      ValueError: the source cannot be read.
    """
    kept = source.tfds or source.test_file or source.test_split
    return _load(source, "test") if kept else None


def _records(source: SourceConfig, split: str) -> Iterator[Record]:
    """Read the problems of a file or a downloaded data set, for `train` or `test`."""
    if source.tfds:
        return downloads.load_records(source.tfds, Path(source.folder), split)
    if source.hub:
        return hub_data.load_records(
            source, source.split if split == "train" else source.test_split
        )
    path = Path(source.file if split == "train" else source.test_file)
    task = f"file:{Path(source.file).stem}"
    drop = source.unranked == "drop"
    return files.load_records(path, task, source.columns, drop_unranked=drop)


def load_all(source: SourceConfig) -> list[Record]:
    """Load all problems of a file or of a downloaded data set, but those that it holds out.

    Raises:
      ValueError: the source cannot be read.
    """
    return _load(source, "train")


def _load(source: SourceConfig, split: str) -> list[Record]:
    """Load all problems of a file or a downloaded data set."""
    finished = [_finish(row, source) for row in _records(source, split)]
    if len({is_conversation(row) for row in finished}) > 1:
        raise ValueError(
            f"{_name(source)} has rows with a reference and conversations without one: put them "
            "into two files."
        )
    return finished


def _shuffled(rows: list[Record], order: str) -> Iterator[Record]:
    return iter(random.Random(order).sample(rows, len(rows)))


def _finish(row: Record, source: SourceConfig) -> Record:
    """Return the record with the source's domain and suffix; the key stays that of the problem."""
    row = row | {"domain": source.domain or row["domain"]}
    if source.suffix:
        gap = "" if source.suffix[0].isspace() else " "
        lettered = option_lines.parse_letter(row["reference"], row["question"])
        if lettered:  # the text of the last option must not run into the suffix
            row["question"] = option_lines.insert_before(row["question"], gap + source.suffix)
        else:
            row["question"] += gap + source.suffix
        if row["messages"]:
            *before, last = json.loads(row["messages"])
            messages = [*before, last | {"content": row["question"]}]
            row["messages"] = json.dumps(messages, ensure_ascii=False)
    return row


def _take(
    stream: Iterator[Record | None],
    counts: Mapping[str, int],
    seen: set[str],
    owner: dict[str, str],
    source: SourceConfig,
) -> dict[str, list[Record]]:
    """Deal new records to splits by the hash of their keys until every split has its count.

    `seen` has the keys of all records dealt so far, and `owner` the split of each query; the
    function adds to both.
    """
    rows: dict[str, list[Record]] = {split: [] for split in counts}
    missing, idle = sum(counts.values()), 0
    passed: set[str] = set()  # keys of new problems whose split is full
    while missing and (idle < PATIENCE or not source.gym):  # a file ends by itself
        if (record := next(stream, _END)) is _END:
            break
        if record is None or record["key"] in seen or record["key"] in passed:
            idle += 1
            continue
        idle, split = 0, _choose_split(record["key"], counts)
        full = len(rows[split]) == counts[split]
        full |= owner.setdefault(record["key"][:QUERY], split) != split
        (passed if full else seen).add(record["key"])
        if not full:
            rows[split].append(record)
            missing -= 1
    if missing:
        raise ValueError(_too_few(source, rows, counts, passed))
    return rows


def _too_few(
    source: SourceConfig,
    rows: Mapping[str, Sequence[Record]],
    counts: Mapping[str, int],
    passed: Iterable[str],
) -> str:
    """Return the sentence about a source with too few problems: how many there are, what to do."""
    found = {split: len(taken) for split, taken in rows.items()}
    for key in passed:
        found[_choose_split(key, counts)] += 1
    short = next(split for split in counts if found[split] < counts[split])
    share = min(found[split] / counts[split] for split in counts if counts[split])
    lower = f"lower {', '.join(f'data.{split}' for split in counts)}"
    lower += f" to {95 * share:.0f} % of what they are" if share > 0.02 else ""
    return (
        f"{_name(source)} has too few distinct problems: {found[short]} of {counts[short]} for the "
        f"split {short!r} (a hash deals its {sum(found.values())} to the splits): {lower}, set to "
        "0 what no stage reads, or give the source less weight."
    )


def _choose_split(key: str, counts: Mapping[str, int]) -> str:
    # The hash does not depend on the seed, so that no seed moves a problem into another split.
    place = int(key[:16], 16) / 2**64 * sum(counts.values())
    edges = itertools.accumulate(counts.values())
    return next(split for split, edge in zip(counts, edges, strict=True) if place <= edge > 0)


def _shares(count: int, weights: Sequence[float]) -> list[int]:
    """Divide `count` by weight into integers, with the largest-remainder method."""
    exact = [count * (weight / sum(weights)) for weight in weights]
    parts = [int(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts


def _name(source: SourceConfig) -> str:
    if source.gym:
        return f"reasoning-gym's {source.gym!r}"
    if source.hub:
        return f"the data set {source.hub} of the hub"
    return f"the data set {source.tfds!r}" if source.tfds else str(Path(source.file))
