"""All problems of a file are dealt to the splits, where a count is `all`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rlvr_jax.host.problems.dataset import Record

Counts = Mapping[str, int | Literal["all"]]
QUERY = 16  # that many characters of a key are those of the query (`preference.build_record`)
# The shares of splits without a number in what the other splits leave.
SHARES = {"sft": 4096, "label": 2048, "train": 4096, "test": 400}
MOST_TESTS = 400  # of a file that learning reads too


def deal(
    rows: Sequence[Record],
    counts: Counts,
    seen: set[str],
    owner: dict[str, str],
    name: str,
) -> dict[str, list[Record]]:
    """Deal the records of a file to splits: numbers as they are given, and what is left by share.

    Records go by the hash of their problem, as elsewhere, so that no seed moves one. `seen` has the
    keys of all records dealt so far, and `owner` the split of each query, whose records stay
    together; the function adds to both. `name` is that of the file, for the message.

    Raises:
      ValueError: the file has too few distinct problems.
    """
    fresh = {row["key"]: row for row in reversed(rows) if row["key"] not in seen}
    fresh = {row["key"]: row for row in rows if row["key"] in fresh and row is fresh[row["key"]]}
    wanted = _numbers(counts, len(fresh), name)
    left = dict(wanted)
    split_of: dict[str, str] = {}
    for key in sorted(fresh):
        split = owner.get(key[:QUERY]) or next((s for s in wanted if left[s] > 0), "")
        if not split:
            continue
        owner[key[:QUERY]] = split
        if split in wanted and (counts[split] == "all" or left[split] > 0):
            split_of[key], left[split] = split, left[split] - 1
    if short := next((s for s in wanted if counts[s] != "all" and left[s] > 0), ""):
        raise ValueError(_too_few(name, len(fresh), wanted, short))
    seen |= fresh.keys()
    dealt: dict[str, list[Record]] = {split: [] for split in counts}
    for key, row in fresh.items():
        if key in split_of:
            dealt[split_of[key]].append(row)
    return dealt


def _numbers(counts: Counts, there: int, name: str) -> dict[str, int]:
    """Return the number of records of each split of a file that has `there` of them."""
    fixed = {split: n for split, n in counts.items() if n != "all"}
    shares = {split: SHARES[split] for split in counts if split not in fixed}
    rest = there - sum(fixed.values())
    if rest < len(shares):
        wanted = fixed | dict.fromkeys(shares, 1)
        short = max(fixed, key=lambda split: fixed[split], default=next(iter(shares)))
        raise ValueError(_too_few(name, there, wanted, short))
    found: dict[str, int] = {}
    if "test" in shares:
        test = max(1, round(rest * shares["test"] / sum(shares.values())))
        found["test"] = min(test, MOST_TESTS) if len(counts) > 1 else rest
        rest, shares = rest - found["test"], {s: n for s, n in shares.items() if s != "test"}
    total = sum(shares.values())
    for split, share in shares.items():
        found[split] = max(1, rest * share // total)
    if shares:  # what the division left over
        last = [*shares][-1]
        found[last] += rest - sum(found[split] for split in shares)
    return {split: fixed.get(split, found.get(split, 0)) for split in counts}


def _too_few(name: str, there: int, wanted: Mapping[str, int], short: str) -> str:
    return (
        f"{name} has too few distinct problems: {there}, and the splits want "
        f"{', '.join(f'{n} for {split}' for split, n in wanted.items())}: lower data.{short}, or "
        "leave it out to take what is there"
    )
