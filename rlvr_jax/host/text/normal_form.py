"""The normal form of a text, in which two answers are compared letter by letter."""

from __future__ import annotations

import re
import unicodedata

from rlvr_jax.host.problems.number_words import parse_number_words
from rlvr_jax.host.text import answers

_LONG = re.compile(r"[^\W\d_]{2}")
_LETTER = re.compile(r"[(*`\"']*([^\W\d_])[)*`\"'.:]*")
_MINUS = re.compile(r"(?<![^\W\d_])-|-(?![^\W\d_])")
_WORDS = re.compile(r"[\w\s.,;:!?'\"()*`\u0964\u2018\u2019\u201c\u201d-]*")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_JOINERS = "\u200c\u200d"
_ORDINALS = {  # the last word of an ordinal number, and the cardinal one
    **{"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight"},
    **{"ninth": "nine", "twelfth": "twelve"},
}


def normal_form(text: str) -> str:
    """Return words without case, articles and punctuation, or a formula without blanks.

    A single letter loses its brackets: it is a choice or a variable.  Vowel signs and joiners are
    part of a word.  A currency sign stays: 5 is not $5 where letters count.
    """
    marks = {unicodedata.decomposition(char).partition(">")[0] for char in text}
    if not marks & {"<super", "<circle"}:  # NFKC would turn x squared into x2
        text = unicodedata.normalize("NFKC", text)
    text = answers.plain(text).casefold().strip()
    text = re.sub(r"^#(?=[^\W\d_])", "", text)  # a hashtag
    if letter := _LETTER.fullmatch(text):
        return letter[1]
    if any(char.isnumeric() for char in text) or not _is_prose(text):
        text = re.sub(r"_\{?(\d+)\}?", r"\1", "".join(text.split())).rstrip(".")
        return text.strip("$") if text.endswith("$") else text
    words = "".join(char if _belongs_to_word(char) else " " for char in text).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def normal_forms(text: str) -> set[str]:
    """Return the forms in which a text may be written: co-operate is cooperate, first is 1st."""
    forms = {normal_form(text), normal_form(_HYPHEN.sub("", text))}
    return {_ordinal(form) for form in forms if form}


def _ordinal(form: str) -> str:
    """Return 21st for "twenty first", and 42 for "forty two"; other texts as they are."""
    head, _, last = form.rpartition(" ")
    cardinal = _ORDINALS.get(last)
    if cardinal is None and last.endswith("th"):
        cardinal = last.removesuffix("ieth") + "y" if last.endswith("ieth") else last[:-2]
    if cardinal is None:
        value = parse_number_words(form)
        return form if value is None else str(value)
    value = parse_number_words(f"{head} {cardinal}".strip())
    if value is None:
        return form
    endings = {1: "st", 2: "nd", 3: "rd"}
    teens = value % 100 in (11, 12, 13)
    return f"{value}{'th' if teens else endings.get(value % 10, 'th')}"


def _belongs_to_word(char: str) -> bool:
    return char.isalnum() or char in "_" + _JOINERS or unicodedata.category(char)[0] == "M"


def _is_prose(text: str) -> bool:
    """Return whether a text is words and their punctuation; a lone minus makes it a formula."""
    text = "".join(c for c in text if unicodedata.category(c)[0] != "M" and c not in _JOINERS)
    return bool(_WORDS.fullmatch(text) and _LONG.search(text) and not _MINUS.search(text))
