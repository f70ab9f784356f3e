"""The lines that list the options of a multiple-choice question: "A) red", "B) blue".

A question whose options a data set has in a column of their own ends with these lines, and its
reference is the line of the right option.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"  # at most this many options have a letter
_LINE = re.compile(rf"[{LETTERS}]\) \S.*")


def write_lines(texts: Sequence[str]) -> list[str]:
    """Return the lines of options with these texts."""
    return [f"{letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False)]


def is_listed(line: str, question: str) -> bool:
    """Return whether a question lists the option of a line, with this or another sign."""
    sign = r"\s*[).:\]]+\s*"
    return re.search(rf"(?<!\w){line[0]}{sign}{re.escape(line[3:])}(?!\w)", question) is not None


def parse_letter(reference: str, question: str) -> str | None:
    """Return the letter of a reference that is the line of an option of its question, else None."""
    is_line = _LINE.fullmatch(reference) and is_listed(reference, question)
    return reference[0] if is_line else None


def insert_before(question: str, text: str) -> str:
    """Return the question with a text before the lines of its options, at the end of its words."""
    head, first, rest = question.rpartition(f"\n{LETTERS[0]}) ")
    return head + text + first + rest if first else question + text
