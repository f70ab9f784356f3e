"""The toy tasks are small problems of reasoning-gym, rewritten for a small vocabulary.

`TASKS` says for each task which reasoning-gym data set it takes its entries from, how an entry
becomes a short question and in which surface forms its answer may be written. `task_answers` writes
and grades answers; `sources.toy` generates the problem sets.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Few names and nouns, so that a small vocabulary spells each in a piece or two.
MEN = "James John Robert David Peter Henry Jack Noah Lucas Owen".split()
WOMEN = "Mary Linda Susan Sarah Emma Lisa Anna Alice Lucy Zoe".split()
NOUNS = frozenset(
    "humans children adults parents students teachers doctors artists chefs dogs cats birds fish "
    "bees ants spiders horses lions tigers whales".split()
)


@dataclass(frozen=True)
class Task:
    """A `Task` is one kind of problem: its data set, its questions and the forms of its answers.

    `shorten` turns an entry of the data set into (question, key), or into None to skip the entry.
    The key is the problem without its wording and decides the split. An empty key stands for the
    question itself: `sum`, `equation` and `siblings` have only a few hundred different facts, which
    recur across splits in other questions. `unit` is (singular, plural). `forms` are additional
    surface forms: {n} stands for the number in digits or words, {d} for the number in digits, {u}
    for the unit and {v} for the unknown.
    """

    domain: str
    dataset: str
    shorten: Callable[[dict[str, Any]], tuple[str, str] | None]
    kind: str = "number"  # number | choice (options in the question) | bool
    unit: tuple[str, str] | None = None
    forms: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)


def _sum(entry: dict[str, Any]) -> tuple[str, str]:
    return f"What is {entry['metadata']['expression']}?", ""


def _equation(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["question"], ""


def _legs(entry: dict[str, Any]) -> tuple[str, str]:
    question = entry["question"].split("Now, ")[1].strip()
    animals = sorted(entry["metadata"]["animals"].items())
    return question[0].upper() + question[1:], ", ".join(f"{n} {name}" for name, n in animals)


def _siblings(entry: dict[str, Any]) -> tuple[str, str]:
    text = entry["question"].replace("she also has ", "")
    # One template asks about a man whom it never introduced: say that he is her brother.
    sister = text.split()[0]
    text = re.sub(rf"does (?!{sister}'s)(\w+)'s brother have", r"does her brother \1 have", text)
    return text, ""


def _family(entry: dict[str, Any]) -> tuple[str, str]:
    story, _, rest = entry["question"].partition("\n\n")
    meta = entry["metadata"]
    story = story.replace(". They have a child called", "; their child is")
    question = f"{story} {rest.split('?')[0]}?"
    return question, f"{story} {meta['person1']} to {meta['person2']}"


def _syllogism(entry: dict[str, Any]) -> tuple[str, str] | None:
    meta = entry["metadata"]
    first, second, then = meta["premise1"], meta["premise2"], meta["conclusion"]
    # reasoning-gym forgets that the middle term must be distributed ("All cats are pets. Some pets
    # are not dogs." proves nothing about cats and dogs), so some of its "Yes" are wrong: skip them.
    loose = not first.startswith("No") and " not " not in first and second.startswith("Some")
    if meta["type"] == "syllogism" and entry["answer"] == "Yes" and loose:
        return None
    nouns = set(f"{first} {second}".split()) - {"All", "No", "Some", "are", "not"}
    if not nouns <= NOUNS:
        return None
    question = f"{first}. {second}. Does it follow that {then[0].lower()}{then[1:]}?"
    return question, "; ".join(sorted((first, second))) + " => " + then


TASKS: dict[str, Task] = {
    "sum": Task(
        *("arithmetic", "chain_sum", _sum),
        forms=("= {n}", "it equals {n}"),
        params=dict(min_terms=2, max_terms=2, min_digits=1, max_digits=1),
    ),
    "chain": Task(
        *("arithmetic", "chain_sum", _sum),
        params=dict(min_terms=4, max_terms=5, min_digits=1, max_digits=1),
    ),
    "equation": Task(
        *("algebra", "simple_equations", _equation),
        forms=("{v} = {n}", "{v} is {n}"),
        params=dict(min_terms=1, max_terms=1, max_value=10),
    ),
    "legs": Task(
        *("gsm", "leg_counting", _legs),
        unit=("leg", "legs"),
        forms=("{n} {u}", "there are {n} {u}"),
        params=dict(min_animals=1, max_animals=2, max_instances=5),
    ),
    "siblings": Task(
        *("gsm", "aiw", _siblings),
        unit=("sister", "sisters"),
        forms=("{n} {u}", "he has {n} {u}"),
        params=dict(task_type_weights=[1.0, 0.0, 0.0], max_entities=20),
    ),
    # Families of three: with a fourth person reasoning-gym calls a daughter-in-law "mother-in-law".
    "family": Task(
        *("logic", "family_relationships", _family),
        kind="choice",
        params=dict(min_family_size=3, max_family_size=3, male_names=MEN, female_names=WOMEN),
    ),
    "syllogism": Task(
        *("logic", "syllogism", _syllogism), kind="bool", params=dict(invalid_ratio=0.5)
    ),
}


def check_task(name: str) -> None:
    """Refuse a name that is not a toy task, naming the nearest one.

    Raises:
      ValueError: TASKS has no such name.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TASKS)}."
        raise ValueError(f"Unknown task {name!r}; {hint}")


def parse_options(record: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a choice question: lower-case letter -> text."""
    options = re.findall(r" ([A-Z])\) (-?\w+)", record["question"])
    return {letter.lower(): text for letter, text in options}


def find_unknown(record: Mapping[str, str]) -> str:
    """Return the letter that an equation asks for; "" if the question has no equation."""
    match = re.search(r": .*?([a-z])", record["question"])
    return match[1] if match else ""
