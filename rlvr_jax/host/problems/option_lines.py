"""Option lines list the options of a multiple-choice question: "A) red", "B) blue".

If a data set has the options in a column of their own, the question gets these lines at its end,
and the reference becomes the line of the right option.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"  # at most this many options have a letter
_LINE = re.compile(rf"[{LETTERS}]\) \S.*")


def write_lines(texts: Sequence[str]) -> list[str]:
    """Return one line for each option text: its letter, a bracket and the text."""
    return [f"{letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False)]


def is_listed(line: str, question: str) -> bool:
    """Return whether a question lists the option of a line, after `A)` or a form such as `A.`."""
    sign = r"\s*[).:\]]+\s*"
    return re.search(rf"(?<!\w){line[0]}{sign}{re.escape(line[3:])}(?!\w)", question) is not None


def parse_letter(reference: str, question: str) -> str | None:
    """Return the letter of a reference that is an option line of the question, else None."""
    is_line = _LINE.fullmatch(reference) and is_listed(reference, question)
    return reference[0] if is_line else None


def insert_before(question: str, text: str) -> str:
    """Return the question with a text inserted before its option lines, or else at its end."""
    head, first, rest = question.rpartition(f"\n{LETTERS[0]}) ")
    return head + text + first + rest if first else question + text
