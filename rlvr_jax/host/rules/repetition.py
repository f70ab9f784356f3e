"""Repetition: the share of n-grams that are new."""

from __future__ import annotations

MAX_WORDS = 100_000


def distinct(completion: str, n: int = 3) -> float:
    """Distinct n-grams over all n-grams of the words: 1 without repetition.

    The published penalty, (1 - distinct) * p with p = -1, is this minus one.  A text of fewer than
    n words repeats nothing.
    """
    words = completion.lower().split()[:MAX_WORDS]
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0
