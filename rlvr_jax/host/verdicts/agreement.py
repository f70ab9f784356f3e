"""Verdicts in numbers: the majority of votes, and how far two sets of verdicts agree.

Every function is plain arithmetic on numpy arrays, and gives a finite number for whatever it is
given: a ratio of nothing to nothing is 0.
"""

import itertools
from collections.abc import Sequence

import numpy as np

Vote = int | None  # 1 or 0; None where the judge's word could not be read
BINS = 10


def majority(votes: Sequence[Vote]) -> Vote:
    """1 if at least half of all m votes are 1, a tie included (arXiv 2503.23829), else 0.

    None where votes that were not read could turn it: they count neither as 1 nor as 0.
    """
    if not votes:
        return None
    if 2 * votes.count(1) >= len(votes):
        return 1
    return 0 if 2 * votes.count(0) > len(votes) else None


def f1(said: np.ndarray, truth: np.ndarray) -> float:
    """Harmonic mean of precision and recall of the verdict 1."""
    said, truth = said.astype(bool), truth.astype(bool)
    return _ratio(2 * (said & truth).sum(), said.sum() + truth.sum())


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of two judges: agreement beyond that of chance, 1 at most.

    0 where chance alone agrees always, both judges saying the same word throughout.
    """
    one, other = one.astype(bool), other.astype(bool)
    if not one.size:
        return 0.0
    p, q = one.mean(), other.mean()
    chance = p * q + (1 - p) * (1 - q)
    return _ratio((one == other).mean() - chance, 1 - chance)


def kappa_of_votes(votes: Sequence[Sequence[Vote]]) -> float:
    """Mean of Cohen's kappa over all pairs of votes; where one is not read, that answer is left
    out of the pair.
    """
    found = []
    for a, b in itertools.combinations(list(zip(*votes, strict=True)), 2):
        both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        found.append(kappa(*np.array(both, int).reshape(-1, 2).T))
    return float(np.mean(found)) if found else 0.0


def ece(p1: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of p(1), in bins of equal width, the last with its right end.

    The mean over all verdicts of |how often 1 was right - mean p(1)| of the verdict's bin.
    """
    p1, truth = p1.astype(np.float64), truth.astype(np.float64)
    place = np.minimum((p1 * bins).astype(int), bins - 1)
    gaps = np.bincount(place, truth, bins) - np.bincount(place, p1, bins)
    return _ratio(np.abs(gaps).sum(), p1.size)


def agreement(said: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How far bool verdicts `said` agree with `truth`."""
    said, truth = said.astype(bool), truth.astype(bool)
    return {
        "accuracy": _ratio((said == truth).sum(), truth.size),
        "f1": f1(said, truth),
        "false_positive": _ratio((said & ~truth).sum(), (~truth).sum()),
        "false_negative": _ratio((~said & truth).sum(), truth.sum()),
        "kappa": kappa(said, truth),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
