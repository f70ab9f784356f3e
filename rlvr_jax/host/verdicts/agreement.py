"""This module takes the majority of votes, and measures the agreement of two sets of verdicts.

All functions are arithmetic on numpy arrays and return finite numbers: a ratio with denominator 0
counts as 0.
"""

import itertools
from collections.abc import Sequence

import numpy as np

Vote = int | None  # 1 or 0; None if the judge's reply could not be read
BINS = 10


def majority(votes: Sequence[Vote]) -> Vote:
    """Return the verdict of several votes: 1 if at least half of them are 1 (arXiv 2503.23829).

    The verdict is None if it depends on unreadable votes, which count neither as 1 nor as 0.
    """
    if not votes:
        return None
    if 2 * votes.count(1) >= len(votes):
        return 1
    return 0 if 2 * votes.count(0) > len(votes) else None


def f1(verdict: np.ndarray, truth: np.ndarray) -> float:
    """Compute the F1 score of verdicts: harmonic mean of the precision and recall of 1."""
    verdict, truth = verdict.astype(bool), truth.astype(bool)
    return _ratio(2 * (verdict & truth).sum(), verdict.sum() + truth.sum())


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Compute Cohen's kappa of two judges' verdicts: agreement beyond chance, at most 1.

    Kappa is 0 if both judges always give the same verdict, because chance alone agrees then.
    """
    one, other = one.astype(bool), other.astype(bool)
    if not one.size:
        return 0.0
    p, q = one.mean(), other.mean()
    chance = p * q + (1 - p) * (1 - q)
    return _ratio((one == other).mean() - chance, 1 - chance)


def kappa_of_votes(votes: Sequence[Sequence[Vote]]) -> float:
    """Compute the mean of Cohen's kappa over all pairs of votes.

    `votes` has for each answer the same number of votes. A pair skips the answers for which one of
    its two votes is unreadable.
    """
    kappas = []
    for a, b in itertools.combinations(list(zip(*votes, strict=True)), 2):
        both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        kappas.append(kappa(*np.array(both, int).reshape(-1, 2).T))
    return float(np.mean(kappas)) if kappas else 0.0


def ece(p1: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """Compute the expected calibration error of probabilities p(1), in bins of equal width.

    It is the mean over all verdicts of |share of 1 in `truth` - mean p(1)| in the verdict's bin
    (Naeini et al. 2015). p(1) = 1 belongs to the last bin.
    """
    p1, truth = p1.astype(np.float64), truth.astype(np.float64)
    place = np.minimum((p1 * bins).astype(int), bins - 1)
    gaps = np.bincount(place, truth, bins) - np.bincount(place, p1, bins)
    return _ratio(np.abs(gaps).sum(), p1.size)


def agreement(verdict: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compute all measures of agreement between verdicts and the truth, both arrays of 0 and 1."""
    verdict, truth = verdict.astype(bool), truth.astype(bool)
    return {
        "accuracy": _ratio((verdict == truth).sum(), truth.size),
        "f1": f1(verdict, truth),
        "false_positive": _ratio((verdict & ~truth).sum(), (~truth).sum()),
        "false_negative": _ratio((~verdict & truth).sum(), truth.sum()),
        "kappa": kappa(verdict, truth),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
