"""This module writes integers as English words and parses such words."""

import functools
import re

MAX_WORDS = 9999  # larger numbers are written in digits only
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_to_words(n: int) -> str:
    """Write an integer in English, such as "minus twenty-three" or "one hundred and five"."""
    if n < 0:
        return f"minus {number_to_words(-n)}"
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    rest = n % size
    link = " " if rest >= 100 else " and "
    text = f"{number_to_words(n // size)} {name}"
    return text + (f"{link}{number_to_words(rest)}" if rest else "")


def parse_number_words(text: str) -> int | None:
    """Return the integer that a lower-case English text spells; None if it spells none.

    Only spellings that `number_to_words` writes count, up to MAX_WORDS, with these exceptions:
    "negative" for "minus", "a hundred" for "one hundred", and spaces for hyphens.
    """
    sign, rest = re.fullmatch(r"(minus |negative )?(.*)", text, re.S).groups()  # type: ignore
    rest = re.sub(r"^an? (?=hundred|thousand)", "one ", rest)
    rest = re.sub(r"\b(hundred|thousand) and\b", r"\1", rest)
    value = _values().get(re.sub(r"(?<=\w)-(?=\w)", " ", rest))
    return -value if sign and value is not None else value


@functools.cache
def _values() -> dict[str, int]:
    texts = (number_to_words(n) for n in range(MAX_WORDS + 1))
    return {text.replace(" and ", " ").replace("-", " "): n for n, text in enumerate(texts)}
