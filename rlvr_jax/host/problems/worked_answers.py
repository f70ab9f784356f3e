"""This module writes the lines that lead to the answer of a toy problem, right or with one mistake.

A line of a problem with a number is a step (`3 + 4 = 7`).  A line of another problem repeats a fact
of the question (`Noah is married to Sarah`).  The answer itself stands on a line of its own, which
is not written here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

SLIPS = (-2, -1, 1, 2)  # how far a wrong step is from the right one
_SIGNS = {"+": 1, "-": -1}
# What contradicts a statement that begins with a quantifier, if its nouns are not empty.
_OPPOSITES = {"All": ("No",), "No": ("All", "Some"), "Some": ("No",)}


def write_lines(record: Mapping[str, str]) -> list[str]:
    """Write the right lines for a record of a toy task; there is at least one."""
    return _WRITERS[record["task"]](record["question"], record["answer"])


def write_lines_to(record: Mapping[str, str], answer: str, rng: random.Random) -> list[str]:
    """Write lines that lead to the wrong number `answer`.

    One step has a wrong result, and the later steps go on from it.  Of problems without numbers,
    and for answers that are no number, the lines are right.
    """
    lines = write_lines(record)
    if not _is_step(lines[-1]) or not re.fullmatch(r"-?\d+", answer):
        return lines
    shift = int(answer) - int(record["answer"])
    first = rng.randrange(len(lines)) if record["task"] == "chain" else len(lines) - 1
    for i in range(first, len(lines)):
        left, sign, right, result = _split(lines[i])
        start = int(left) + (shift if i > first else 0)
        lines[i] = f"{start} {sign} {right} = {int(result) + shift}"
    return lines


def spoil_line(
    record: Mapping[str, str], lines: list[str], rng: random.Random
) -> tuple[list[str], str]:
    """Return the lines with a mistake in one of them, and that line.

    A step gets a wrong result, from which the later steps do not go on.  A fact gets another name
    of the question, or another quantifier.
    """
    at = rng.randrange(len(lines))
    if _is_step(lines[at]):
        left, sign, right, result = _split(lines[at])
        wrong = f"{left} {sign} {right} = {int(result) + rng.choice(SLIPS)}"
    else:
        wrong = rng.choice([line for line in _false_facts(record) if line not in lines])
    return [*lines[:at], wrong, *lines[at + 1 :]], wrong


def _is_step(line: str) -> bool:
    return " = " in line


def _split(line: str) -> tuple[str, str, str, str]:
    left, sign, right, _, result = line.split()
    return left, sign, right, result


def _add_up(question: str, _: str) -> list[str]:
    expression = question.removeprefix("What is ").partition("?")[0]
    total, lines = int(expression.split()[0]), []
    for sign, term in re.findall(r"([+-]) (\d+)", expression):
        result = total + _SIGNS[sign] * int(term)
        lines.append(f"{total} {sign} {term} = {result}")
        total = result
    return lines


def _divide(question: str, answer: str) -> list[str]:
    left, right = question.rpartition(": ")[2].split(" = ")
    factor = re.match(r"\d+", left)
    return [f"{right} / {factor[0] if factor else 1} = {answer}"]


def _count_legs(question: str, answer: str) -> list[str]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    parts, products = [], []
    for count, animal in re.findall(r"(\d+) ([\w ]+)", question.partition(" have ")[2]):
        legs = ANIMALS.get(animal, ANIMALS.get(animal.removesuffix("s")))
        products.append(int(count) * legs)
        parts.append(f"{count} * {legs} = {products[-1]}")
    if len(parts) > 1:
        parts.append(f"{products[0]} + {products[1]} = {answer}")
    return parts


def _count_sisters(question: str, answer: str) -> list[str]:
    return [f"{int(answer) - 1} + 1 = {answer}"]  # a sister of the brothers is the person asked of


def _tell_family(question: str, _: str) -> list[str]:
    story = question.partition(".")[0]
    return story.split("; ")


def _tell_premises(question: str, _: str) -> list[str]:
    return question.split(". ")[:2]


_WRITERS = {
    **{"sum": _add_up, "chain": _add_up, "equation": _divide, "legs": _count_legs},
    **{"siblings": _count_sisters, "family": _tell_family, "syllogism": _tell_premises},
}


def _false_facts(record: Mapping[str, str]) -> list[str]:
    """List statements about the question that contradict it."""
    lines = write_lines(record)
    if record["task"] == "family":
        first, second = re.findall(r"(\w+) is married to (\w+)", lines[0])[0]
        child = lines[1].rpartition(" ")[2]
        return [f"{first} is married to {child}", f"their child is {second}"]
    found = []
    for line in lines:
        quantifier, rest = line.split(" ", 1)
        if quantifier == "Some" and " not " in rest:
            found.append(f"All {rest.replace(' not', '')}")
        else:
            found += [f"{other} {rest}" for other in _OPPOSITES[quantifier]]
    return found
