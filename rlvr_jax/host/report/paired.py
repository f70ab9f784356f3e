"""Intervals and tests for runs that answered the same problems, and for seeds.

t interval   of a mean over seeds, by Student's t distribution
bootstrap    percentile interval of a mean difference, over problems (Efron, 1979)
sign flips   permutation test of a mean difference (Fisher, 1935): were the runs equal, each
             problem's difference would have either sign with equal chance
McNemar      the exact test for answers that are right or wrong: the binomial test of the
             problems that only one of the two runs solves (McNemar, 1947)
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np

DRAWS, CHUNK = 10_000, 500
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; then the normal distribution's.
T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160),
    *(2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056),
    *(2.052, 2.048, 2.045, 2.042),
)


def t_interval(values: Sequence[float]) -> float | None:
    """Return half of the 95 % interval of the mean of at least two values; else None."""
    count = len(values)
    if count < 2:
        return None
    quantile = T[count - 2] if count - 2 < len(T) else 1.96
    return quantile * statistics.stdev(values) / math.sqrt(count)


def bootstrap(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean of paired differences, by resampling the pairs."""
    rng, count = np.random.default_rng(seed), len(differences)
    means = [
        differences[rng.integers(count, size=(CHUNK, count))].mean(1) for _ in range(DRAWS // CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def sign_flips(differences: np.ndarray, seed: int = 0) -> float:
    """Return the two-sided p-value of the mean of paired differences, by drawing their signs.

    The observed signs count as one of the draws, so that p is never 0.
    """
    rng, seen = np.random.default_rng(seed), abs(differences.sum())
    moved = differences[differences != 0]
    extreme = 0
    for _ in range(DRAWS // CHUNK):
        signs = rng.integers(2, size=(CHUNK, len(moved))) * 2 - 1
        extreme += int((abs(signs @ moved) >= seen - 1e-9).sum())
    return (extreme + 1) / (DRAWS + 1)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value for problems that only one of two runs solves."""
    count, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count)
