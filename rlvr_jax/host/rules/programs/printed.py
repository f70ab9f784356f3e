"""Compare the output that a program printed with the expected output."""

from __future__ import annotations

import re
from decimal import Decimal

MAX_DIGITS = 60  # of a number that is compared by value
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


def is_printed(printed: str, expected: str, exact: bool = False) -> bool:
    """Return whether a printed text equals the expected text, word by word.

    White space separates words, and its kind does not matter.  Numbers are compared by value if at
    least one of them has a fraction.  With `exact`, the texts have to be equal except for line
    breaks at their ends.
    """
    printed, expected = (text.replace("\r\n", "\n") for text in (printed, expected))
    if exact:
        return printed.rstrip("\n") == expected.rstrip("\n")
    words, wanted = printed.split(), expected.split()
    return len(words) == len(wanted) and all(map(_is_word, words, wanted))


def _is_word(word: str, wanted: str) -> bool:
    """Return whether two words are equal, or numbers of which at least one has a fraction.

    Whole numbers are equal as text only.  A whole number may be printed with a fraction of 0, and
    of other numbers the error is at most 1e-6 and 1 %, or 1e-9 of the number.
    """
    if word == wanted:
        return True
    if max(len(word), len(wanted)) > MAX_DIGITS:
        return False
    if _WHOLE.fullmatch(word) and _WHOLE.fullmatch(wanted):
        return False
    if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(wanted)):
        return False
    value, number = Decimal(word), Decimal(wanted)
    size, error = abs(number), Decimal("1e-9")
    if not _WHOLE.fullmatch(wanted):
        error = max(error, error * size, min(Decimal("1e-6"), size / 100))
    return abs(value - number) <= error
