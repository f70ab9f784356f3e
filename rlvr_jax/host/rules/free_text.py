"""Rules for answers in words: exact, normalised, containment and Jaccard similarity.

The last two are the baselines of "Crossing the Reward Bridge" (arXiv 2503.23829).
"""

from __future__ import annotations

import re
import unicodedata

from rlvr_jax.host.rules.word_forms import normal_forms
from rlvr_jax.host.text import answers


def exact(completion: str, reference: str) -> float:
    """Return 1.0 if the extracted answer is the reference, letter for letter, else 0.0."""
    answer = answers.extract(completion)
    wanted = unicodedata.normalize("NFC", reference.strip())
    return float(answer is not None and answer == wanted != "")


def normalised(completion: str, reference: str) -> float:
    """Return 1.0 if answer and reference have the same normal form, else 0.0.

    Case, articles, hyphens and punctuation do not count; seven is 7, and first is 1st.
    """
    answer = answers.extract(completion)
    if answer is None:
        return 0.0
    forms = normal_forms(answer) | normal_forms(answers.bare(answer))
    return float(bool(normal_forms(reference) & forms))


def contains(completion: str, reference: str) -> float:
    """Return 1.0 if the extracted answer contains the reference, else 0.0.

    As a reward this baseline pays for lists of answers.  As published it is a plain substring;
    here the match begins and ends at the edge of a word, so that 142 does not contain 42.
    """
    line, wanted = _folded(answers.extract(completion)), _folded(reference)
    if not wanted:
        return 0.0
    return float(bool(re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", line)))


def jaccard(completion: str, reference: str) -> float:
    """Return the Jaccard similarity of the words of answer and reference: shared over all words."""
    mine, theirs = (
        set(re.findall(r"\w+|[^\w\s]", _folded(side)))
        for side in (answers.extract(completion), reference)
    )
    return len(mine & theirs) / len(mine | theirs) if mine and theirs else 0.0


def _folded(text: str | None) -> str:
    return " ".join(unicodedata.normalize("NFKC", text or "").casefold().split())
