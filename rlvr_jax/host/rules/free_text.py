"""Grade answers in words: exact match, normal forms, containment and Jaccard similarity.

Containment and Jaccard similarity are the baselines of "Crossing the Reward Bridge" (arXiv
2503.23829).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator

import regex

from rlvr_jax.host.rules.maths.notation import digits_for_words
from rlvr_jax.host.text import answers
from rlvr_jax.host.text.normal_form import normal_form

_SUBSCRIPT = re.compile(r"(?<=[A-Za-z)\]])[\u2080-\u2089]+")  # not the base of a number
_BASE = re.compile(r"(?<=\d)[\u2080-\u2089]+")
_FORMULA = re.compile(r"(?<!\\)\$([^$\n]*)(?<!\\)\$")  # between a pair of dollars
_HASH = re.compile(r"(?<!\S)#(?=[^\W\d])")
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u2010\u2011](?=[^\W\d_])")
_ARTICLE = re.compile(r"\bthe\s+", re.I)
_TENS = {
    **{"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70},
    **{"eighty": 80, "ninety": 90},
}
_ORDINALS = {
    word: number
    for number, word in enumerate(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
        " thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth".split(),
        start=1,
    )
} | {word[:-1] + "ieth": number for word, number in _TENS.items()}
_ORDINAL = re.compile(
    rf"\b(?:({'|'.join(_TENS)})[\s-]+)?({'|'.join(_ORDINALS)})\b(?![\s-]+(?:of|half|hand))", re.I
)
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "BOPOMOFO")
_IN_NUMBER = re.compile(r"\d[.,:/]")  # before a digit
_NUMBER_GOES_ON = re.compile(r"[.,:/]\d|%")
_SIGNED = re.compile(r"(?:^|[^\w)\]])[-+\u2212]$")


def exact(completion: str, reference: str) -> float:
    """Return 1.0 if the extracted answer is the reference, letter for letter, else 0.0."""
    answer, wanted = answers.extract(completion), unicodedata.normalize("NFC", reference.strip())
    return float(answer is not None and answer == wanted != "")


def normalised(completion: str, reference: str) -> float:
    """Return 1.0 if answer and reference have the same normal form, else 0.0.

    Case, articles, punctuation, hyphens inside words and subscripts (CO₂ for CO2) do not count;
    seven is 7 and first is 1st.  An answer with a currency sign that the reference does not have is
    wrong.
    """
    answer = answers.extract(completion)
    if answer is None or not _currencies(answer) <= _currencies(reference):
        return 0.0
    wanted = _forms(reference)
    return float(any(wanted & _forms(line) for line in (answer, answers.bare(answer))))


@functools.lru_cache(4096)  # a reference is compared with many answers
def _forms(text: str) -> frozenset[str]:
    """Return the normal forms of a text: as it is, with its hyphenated words joined, in digits."""
    text = _SUBSCRIPT.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _BASE.sub(lambda match: " base " + unicodedata.normalize("NFKC", match[0]), text)
    text = "".join(char for char in _FORMULA.sub(r"\1", text) if unicodedata.category(char) != "Sc")
    text = _HASH.sub("", text)
    in_digits = _ORDINAL.sub(
        lambda match: _digits_of_ordinal(*match.groups()), _ARTICLE.sub("", text)
    )
    forms = {normal_form(form) for form in (text, _HYPHEN.sub("", text), in_digits)}
    return frozenset(digits_for_words(form) for form in forms if form)


def _digits_of_ordinal(tens: str | None, unit: str) -> str:
    number = _TENS.get((tens or "").lower(), 0) + _ORDINALS[unit.lower()]
    is_teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if is_teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _currencies(text: str) -> set[str]:
    """Return the currency signs of a text; a pair of dollars that holds a formula is none."""
    return {char for char in _FORMULA.sub(r"\1", text) if unicodedata.category(char) == "Sc"}


def contains(completion: str, reference: str) -> float:
    """Return 1.0 if the extracted answer contains the reference, else 0.0.

    This baseline is a weak reward: it also rewards an answer that lists many candidates.  The
    published baseline is a plain substring match.  Here the match also begins and ends at the edge
    of a word or a number, so that neither 142 nor 4.2 contains 2.  In scripts without blanks
    between words (Chinese, Japanese, Thai, Lao, Khmer and Burmese), every place counts as the edge
    of a word.  In Korean, which appends particles to words, every place counts as the end of a
    word.
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
    """Return the Jaccard similarity of the words of answer and reference, in [0, 1].

    The similarity is the number of different words that both have over the number that either has.
    Punctuation marks count as words.  The similarity is 0.0 if one side has no words.
    """
    mine, theirs = (
        set(regex.findall(r"[\w\p{M}]+|[^\w\s\p{M}]", _folded(side)))
        for side in (answers.extract(completion), reference)
    )
    return len(mine & theirs) / len(mine | theirs) if mine and theirs else 0.0


def _folded(text: str | None) -> str:
    """Return a text in compatibility characters (NFKC) without case; Turkish dotted I is i."""
    folded = unicodedata.normalize("NFKC", text or "").casefold().replace("i\u0307", "i")
    return " ".join(folded.split())
