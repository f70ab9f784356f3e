"""The normal form of a text, in which two answers are compared letter by letter."""

from __future__ import annotations

import re
import unicodedata

from rlvr_jax.host.text import answers

_LONG = re.compile(r"[^\W\d_]{2}")
_LETTER = re.compile(r"[(*`\"']*([^\W\d_])[)*`\"'.:]*")
_MINUS = re.compile(r"(?<![^\W\d_])-|-(?![^\W\d_])")
_WORDS = re.compile(r"[\w\s.,;:!?'\"()*`\u2018\u2019\u201c\u201d-]*")


def normal_form(text: str) -> str:
    """Return words without case, articles and punctuation, or a formula without blanks.

    A single letter loses its brackets: it is a choice or a variable.
    """
    marks = {unicodedata.decomposition(char).partition(">")[0] for char in text}
    if not marks & {"<super", "<sub", "<circle"}:  # NFKC would turn x squared into x2
        text = unicodedata.normalize("NFKC", text)
    text = answers.plain(text).casefold().strip()
    if letter := _LETTER.fullmatch(text):
        return letter[1]
    if any(char.isnumeric() for char in text) or not _is_prose(text):
        return "".join(text.split()).strip("$").rstrip(".")
    words = re.sub(r"[^\w\s]", " ", text).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def _is_prose(text: str) -> bool:
    """Return whether a text is words and their punctuation; a lone minus makes it a formula."""
    return bool(_WORDS.fullmatch(text) and _LONG.search(text) and not _MINUS.search(text))
