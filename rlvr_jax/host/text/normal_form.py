"""Compute the normal form of a text, by which two answers are compared letter by letter."""

from __future__ import annotations

import re
import unicodedata

from rlvr_jax.host.text import answers

_LONG = re.compile(r"[^\W\d_]{2}")
_LETTER = re.compile(r"[(*`\"']*([^\W\d_])[)*`\"'.:]*")
_MINUS = re.compile(r"(?<![^\W\d_])-|-(?![^\W\d_])")
_WORDS = re.compile(r"[\w\s.,;:!?'\"()*`\u0964\u2018\u2019\u201c\u201d-]*")
_JOINERS = "\u200c\u200d"


def normal_form(text: str) -> str:
    """Return the normal form of a text: words without case, articles and punctuation, or a formula.

    A formula keeps its signs, but loses its blanks and the dollar signs around it.  A currency sign
    before a number stays, so that 5 and $5 differ.  A single letter loses its brackets, because it
    is a choice or a variable.  Vowel signs and joiners are part of a word.
    """
    marks = {unicodedata.decomposition(char).partition(">")[0] for char in text}
    if not marks & {"<super", "<circle"}:  # NFKC would turn x squared into x2
        text = unicodedata.normalize("NFKC", text)
    text = answers.plain(text).casefold().strip()
    text = re.sub(r"^#(?=[^\W\d_])", "", text)  # a hashtag
    if letter := _LETTER.fullmatch(text):
        return letter[1]
    if any(char.isnumeric() for char in text) or not _is_prose(text):
        text = re.sub(r"_\{?(\d+)\}?", r"\1", "".join(text.split()))
        return (text.strip("$") if text.endswith("$") else text).rstrip(".")
    words = "".join(char if _belongs_to_word(char) else " " for char in text).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def _belongs_to_word(char: str) -> bool:
    return char.isalnum() or char in "_" + _JOINERS or unicodedata.category(char)[0] == "M"


def _is_prose(text: str) -> bool:
    """Return whether a text is words and their punctuation; a lone minus makes it a formula."""
    text = "".join(c for c in text if unicodedata.category(c)[0] != "M" and c not in _JOINERS)
    return bool(_WORDS.fullmatch(text) and _LONG.search(text) and not _MINUS.search(text))
