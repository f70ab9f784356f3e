"""The rule `repetition`: how little a completion repeats itself."""

from __future__ import annotations

MAX_WORDS = 100_000


def distinct_share(completion: str, n: int = 3) -> float:
    """Return the number of distinct n-grams of words over the number of all; 1 for no repetition.

    The usual repetition penalty, (1 - share) * p with p = -1, equals this share minus one.  A text
    of fewer than n words repeats nothing.
    """
    words = completion.lower().split()[:MAX_WORDS]
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0
