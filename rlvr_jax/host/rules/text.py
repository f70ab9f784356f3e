"""Text: exact, normalised, and the two baselines of work A, containment and Jaccard similarity."""

from __future__ import annotations

import re
import unicodedata

from rlvr_jax.host.problems.number_words import parse_number_words
from rlvr_jax.host.text import answers

_LONG = re.compile(r"[^\W\d_]{2}")
_LETTER = re.compile(r"[(*`\"']*([^\W\d_])[)*`\"'.:]*")
_MINUS = re.compile(r"(?<![^\W\d_])-|-(?![^\W\d_])")
_WORDS = re.compile(r"[\w\s.,;:!?'\"()*`\u2018\u2019\u201c\u201d-]*")


def exact(completion: str, reference: str) -> float:
    """1.0 when the extracted answer is the reference, letter for letter."""
    found = answers.extract(completion)
    return float(found is not None and found == reference.strip() != "")


def normalised(completion: str, reference: str) -> float:
    """1.0 when the answers are the same without case, articles, punctuation; seven is 7."""
    found = answers.extract(completion)
    if found is None:
        return 0.0
    wanted = digits(normal(reference))
    says = (found, answers.bare(found))
    return float(bool(wanted) and wanted in [digits(normal(line)) for line in says])


def contains(completion: str, reference: str) -> float:
    """1.0 when the last line has the reference in it: work A's baseline, which pays for lists.

    As published it is a plain substring; here the match begins and ends at a word's edge, so
    142 does not contain 42.
    """
    line, wanted = _folded(answers.extract(completion)), _folded(reference)
    if not wanted:
        return 0.0
    return float(bool(re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", line)))


def jaccard(completion: str, reference: str) -> float:
    """Shared words over all words of answer and reference: work A's soft baseline."""
    mine, theirs = (
        set(re.findall(r"\w+|[^\w\s]", _folded(side)))
        for side in (answers.extract(completion), reference)
    )
    return len(mine & theirs) / len(mine | theirs) if mine and theirs else 0.0


def _folded(text: str | None) -> str:
    return " ".join(unicodedata.normalize("NFKC", text or "").casefold().split())


def normal(text: str) -> str:
    """Text to compare: words without case, articles and punctuation; formulas without spaces."""
    marks = {unicodedata.decomposition(char).partition(">")[0] for char in text}
    if not marks & {"<super", "<sub", "<circle"}:  # NFKC would make x2 of x squared
        text = unicodedata.normalize("NFKC", text)
    text = answers.plain(text).casefold().strip()
    if choice := _LETTER.fullmatch(text):
        return choice[1]
    if any(char.isnumeric() for char in text) or not _is_prose(text):
        return "".join(text.split()).strip("$").rstrip(".")
    words = re.sub(r"[^\w\s]", " ", text).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def digits(text: str) -> str:
    """A number written in words, in digits."""
    value = parse_number_words(text.lower().strip(". "))
    return text if value is None else str(value)


def _is_prose(text: str) -> bool:
    """Words and their marks: a lone letter is a choice or a variable, a bare minus a sign."""
    return bool(_WORDS.fullmatch(text) and _LONG.search(text) and not _MINUS.search(text))
