"""Rules for answers in words: exact, normalised, containment and Jaccard similarity.

The last two are the baselines of "Crossing the Reward Bridge" (arXiv 2503.23829).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from rlvr_jax.host.rules.maths.notation import digits_for_words
from rlvr_jax.host.text import answers
from rlvr_jax.host.text.normal_form import normal_form

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "BOPOMOFO")
_IN_NUMBER = re.compile(r"\d[.,:/]")  # before a digit
_NUMBER_GOES_ON = re.compile(r"[.,:/]\d|%")
_SIGNED = re.compile(r"(?:^|[^\w)\]])[-+\u2212]$")


def exact(completion: str, reference: str) -> float:
    """Return 1.0 if the extracted answer is the reference, letter for letter, else 0.0."""
    answer = answers.extract(completion)
    return float(answer is not None and answer == reference.strip() != "")


def normalised(completion: str, reference: str) -> float:
    """Return 1.0 if answer and reference have the same normal form, else 0.0.

    Case, articles and punctuation do not count, and seven is 7.
    """
    answer = answers.extract(completion)
    if answer is None:
        return 0.0
    wanted = digits_for_words(normal_form(reference))
    lines = (answer, answers.bare(answer))
    return float(bool(wanted) and wanted in [digits_for_words(normal_form(line)) for line in lines])


def contains(completion: str, reference: str) -> float:
    """Return 1.0 if the extracted answer contains the reference, else 0.0.

    As a reward this baseline pays for lists of answers.  As published it is a plain substring;
    here the match begins and ends at the edge of a word or a number, so that neither 142 nor 4.2
    contains 2.  Words have no edges in scripts without blanks (Chinese, Japanese, Thai, Lao, Khmer
    and Burmese), and no end in Korean, which appends particles.
    """
    line, wanted = _folded(answers.extract(completion)), _folded(reference)
    if not wanted:
        return 0.0
    return float(any(_is_whole(line, at, at + len(wanted)) for at in _places(line, wanted)))


def _places(line: str, wanted: str) -> Iterator[int]:
    at = line.find(wanted)
    while at >= 0:
        yield at
        at = line.find(wanted, at + 1)


def _is_whole(line: str, begin: int, end: int) -> bool:
    """Return whether a part of a line begins and ends at an edge of a word or a number."""
    before, after = line[:begin][-2:], line[end : end + 2]
    first, last = line[begin], line[end - 1]
    if unicodedata.category(after[:1] or " ")[0] == "M":
        return False  # the mark changes the last letter
    if _is_digit(first) and (_is_digit(before[-1:]) or _IN_NUMBER.fullmatch(before)):
        return False
    if first.isdecimal() and _SIGNED.search(line[:begin][-3:]):
        return False
    if _is_digit(last) and (_is_digit(after[:1]) or _NUMBER_GOES_ON.match(after)):
        return False
    begins = not (_in_word(before[-1:]) and _in_word(first))
    ends = not (_in_word(after[:1]) and _in_word(last, particles=True))
    return begins and ends


def _in_word(char: str, particles: bool = False) -> bool:
    """Return whether a character belongs to words that blanks or signs separate."""
    if not char or not (char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M"):
        return False
    unspaced = (*_UNSPACED, "HANGUL") if particles else _UNSPACED
    return not unicodedata.name(char, "").startswith(unspaced)


def _is_digit(char: str) -> bool:
    return char != "" and unicodedata.numeric(char, None) is not None


def jaccard(completion: str, reference: str) -> float:
    """Return the Jaccard similarity of the words of answer and reference: shared over all words."""
    mine, theirs = (
        set(re.findall(r"\w+|[^\w\s]", _folded(side)))
        for side in (answers.extract(completion), reference)
    )
    return len(mine & theirs) / len(mine | theirs) if mine and theirs else 0.0


def _folded(text: str | None) -> str:
    """Return a text in compatibility characters (NFKC) without case; Turkish dotted I is i."""
    folded = unicodedata.normalize("NFKC", text or "").casefold().replace("i\u0307", "i")
    return " ".join(folded.split())
