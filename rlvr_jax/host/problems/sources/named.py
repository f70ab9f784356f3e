"""Problems that are named in words, as on a command line, and read without a run folder.

FILE.jsonl  FILE.json  FILE.parquet      the problems of a file
CONFIG.yaml                              the test split of a config, as a run would have it
task:NAME   gym:NAME                     new problems of a built-in task or of reasoning-gym
{tfds: gsm8k, folder: DIR}               any source, with the keys of `data.sources`
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable

from rlvr_jax.config import DataConfig, SourceConfig
from rlvr_jax.host.problems import sources
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.sources import files, toy

GENERATED = 200  # problems of a source without an end, where no number is given
SPLITS = ("sft", "label", "train", "test")


def build_held_out(data: DataConfig, seed: int) -> list[Record]:
    """Build the test split of a config, with the problems that a run of it would hold out.

    Raises:
      ValueError: the problems cannot be read or made.
    """
    counts = {split: getattr(data, split) for split in SPLITS if getattr(data, split)}
    return sources.build_splits(data, counts, seed)["test"]


def read_source(source: SourceConfig, count: int, seed: int) -> list[Record]:
    """Read the distinct problems of a source: those that it holds out, or else all that it has.

    `count` is the largest number, drawn by the seed; 0 means all, or GENERATED of a source that has
    no end.

    Raises:
      ValueError: the source cannot be read, or has no problems.
    """
    if source.gym:
        return sources.mix_sources([source], {"test": count or GENERATED}, seed)["test"]
    sources.check_source(source)
    found = distinct([sources.load_held_out(source) or sources.load_all(source)])
    if not found:
        raise ValueError(f"{source.file or source.tfds} has no problems")
    if not 0 < count < len(found):
        return found
    kept = sorted(random.Random(seed).sample(range(len(found)), count))
    return [found[i] for i in kept]


def distinct(parts: Iterable[list[Record]]) -> list[Record]:
    """Join lists of problems; a problem that occurs again is left out."""
    found: dict[str, Record] = {}
    for row in itertools.chain.from_iterable(parts):
        found.setdefault(row["key"], row)
    return list(found.values())


def read_named(
    name: str, count: int, seed: int, parse: Callable[[str], SourceConfig]
) -> list[Record]:
    """Read the problems that a name stands for, other than a config.

    `count` is as in `read_source`; `parse` reads the keys of a source in braces.

    Raises:
      ValueError: the name stands for nothing, or its problems cannot be read.
    """
    kind, _, rest = name.partition(":")
    if name.lstrip().startswith("{"):
        return read_source(parse(name), count, seed)
    if kind == "task":
        return toy.generate_splits((rest,), {"test": count or GENERATED}, seed)["test"]
    if kind == "gym":
        return read_source(SourceConfig(gym=rest), count, seed)
    if name.lower().endswith(files.KINDS):
        return read_source(SourceConfig(file=name), count, seed)
    raise ValueError(
        f"{name!r} names no problems: give a file ({', '.join(files.KINDS)}), a config (.yaml), "
        "task:NAME, gym:NAME, or the keys of a source, as in '{tfds: gsm8k, folder: DIR}'"
    )
