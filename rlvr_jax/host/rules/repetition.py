"""Measure how little a completion repeats itself: the rule `repetition`."""

from __future__ import annotations

MAX_WORDS = 100_000


def distinct_share(completion: str, n: int = 3) -> float:
    """Return the share of distinct n-grams among the n-grams of words of a completion, in (0, 1].

    The share is 1 for a text without repetition.  The usual repetition penalty, (1 - share) * p
    with p = -1, equals this share minus one.  A text of fewer than n words repeats nothing.
    """
    words = completion.lower().split()[:MAX_WORDS]
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0
