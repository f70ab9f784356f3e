"""This module generates problems of the toy tasks, for `data.tasks` of the config.

In each record, `answer` is reasoning-gym's gold answer, letter for letter. `reference` and
`demonstration` are that answer in two surface forms drawn independently. Equal answers are
therefore often unequal as strings, so that grading them needs a verifier.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.number_words import number_to_words
from rlvr_jax.host.problems.task_answers import demonstrate, near_misses, render
from rlvr_jax.host.problems.tasks import TASKS, check_task, find_unknown, parse_options

LETTERS = "ABC"
PATIENCE = 5000  # draws in a row without a usable problem before a task counts as exhausted
RELATIONS = ("husband", "wife", "father", "mother", "son", "daughter")


def build_record(name: str, entry: dict[str, Any], rng: random.Random) -> Record | None:
    """Build the record of one reasoning-gym entry; None if the task cannot use the entry."""
    task = TASKS[name]
    short = task.shorten(entry)
    if short is None:
        return None
    question, key = short
    gold = entry["answer"]
    if name == "sum":  # the candidates make many questions of few facts
        texts = [gold, *rng.sample(near_misses(int(gold)), 2)]
        rng.shuffle(texts)
        question += " " + " or ".join(texts)
    if task.kind == "choice":
        texts = [gold, *rng.sample([x for x in RELATIONS if x != gold], len(LETTERS) - 1)]
        rng.shuffle(texts)
        question += "".join(f" {k}) {text}" for k, text in zip(LETTERS, texts, strict=True))
    record = {"question": question, "answer": entry["answer"]}
    record |= {"domain": task.domain, "task": name, "key": key or question}
    record |= {"messages": "", "extra": ""}
    for side in ("reference", "demonstration"):
        record[side] = render(record, entry["answer"], rng)
    if task.kind == "choice":  # a verifier that does not see the options needs letter and text
        letter = next(k for k, text in parse_options(record).items() if text == entry["answer"])
        form = rng.choice(("({l}) {t}", "{l}) {t}", "option {l} {t}", "the answer is ({l}) {t}"))
        record["reference"] = form.format(l=letter.upper(), t=entry["answer"])
    if name == "equation":  # and the name of the unknown: "x is 9" is wrong where c is asked for
        number = number_to_words(int(entry["answer"])) if rng.random() < 0.5 else entry["answer"]
        form = rng.choice(TASKS[name].forms)
        record["reference"] = form.format(v=find_unknown(record), n=number)
    return record


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def generate_entries(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Generate reasoning-gym entries for one task without end.

    Raises:
      ValueError: reasoning-gym is not installed.
    """
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ValueError("the tasks need a package: pip install reasoning-gym") from error
    # In reasoning-gym, item i of seed s is item i - 1 of seed s + 1; hashed seeds are far apart.
    start = _hash(f"{name}/{seed}") >> 32
    task = TASKS[name]
    dataset = reasoning_gym.create_dataset(task.dataset, seed=start, size=1, **task.params)
    yield from map(dataset.__getitem__, itertools.count())


def _choose_split(name: str, key: str, counts: Mapping[str, int]) -> str:
    # The hash does not depend on the seed, so that no seed moves a problem into another split.
    place = _hash(f"{name}\n{key}") / 2**64 * sum(counts.values())
    edges = itertools.accumulate(counts.values())
    return next(split for split, edge in zip(counts, edges, strict=True) if place <= edge > 0)


def _fill(
    name: str, counts: Mapping[str, int], shares: Mapping[str, int], seed: int
) -> dict[str, list[Record]]:
    """Draw distinct problems of one task until each split has its count.

    `shares` decides how large a part of all problems each split owns.
    """
    rng = random.Random(f"{name}/{seed}")
    rows: dict[str, list[Record]] = {split: [] for split in counts}
    seen: set[str] = set()
    missing, idle = sum(counts.values()), 0
    stream = generate_entries(name, seed)
    while missing:
        idle += 1
        if idle > PATIENCE:
            count = sum(map(len, rows.values()))
            raise ValueError(
                f"Task {name!r} has too few distinct problems for {sum(counts.values())} rows "
                f"in {len(counts)} splits ({count} found): ask for fewer rows or more tasks."
            )
        record = build_record(name, next(stream), rng)
        if record is None or record["key"] in seen:
            continue
        seen.add(record["key"])
        split = _choose_split(name, record["key"], shares)
        if len(rows[split]) < counts[split]:
            rows[split].append(record)
            missing, idle = missing - 1, 0
    return rows


def generate_splits(
    tasks: Sequence[str], counts: Mapping[str, int], seed: int
) -> dict[str, list[Record]]:
    """Generate shuffled splits of distinct problems, in equal parts from each task.

    `counts` is the number of records of each split. The same seed gives the same records. No
    problem (`key`) occurs twice, within a split or across splits. With the same `counts`, a
    problem belongs to the same split for every seed.

    Raises:
      ValueError: there is no task, a task is not known, listed twice or has too few distinct
        problems, or a count is negative.
    """
    for name in tasks:
        check_task(name)
    if not tasks or len(set(tasks)) < len(tasks) or any(n < 0 for n in counts.values()):
        raise ValueError("Tasks must be a non-empty list without repeats, and counts at least 0.")
    out: dict[str, list[Record]] = {split: [] for split in counts}
    for i, name in enumerate(tasks):
        part = {split: (n + len(tasks) - 1 - i) // len(tasks) for split, n in counts.items()}
        for split, rows in _fill(name, part, counts, seed).items():
            out[split] += rows
    for split, rows in out.items():
        random.Random(f"{split}/{seed}").shuffle(rows)
    return out


def rewrite_demonstrations(records: Sequence[Record], error_rate: float, seed: int) -> None:
    """Write a new demonstration into each record, wrong with probability `error_rate`.

    The records are changed in place.
    """
    rng = random.Random(seed)
    for record in records:
        record["demonstration"] = demonstrate(record, error_rate, rng)
