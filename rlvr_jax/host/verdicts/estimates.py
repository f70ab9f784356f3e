"""This module estimates what a policy can do from scores of its answers, with intervals.

Scores [Q, G] have one row for each problem and one column for each of its G answers.  An interval
comes from the bootstrap over problems (Efron 1979): the problems are drawn anew with replacement,
and the answers to a problem stay together, because they are not independent of one another.
"""

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np

LEVEL = 0.95
RESAMPLES = 1000
PART = 100  # resamples at a time: their counts need PART x Q numbers of memory


def best_of(score_QG: np.ndarray, k: int) -> np.ndarray:
    """Compute for each problem the expected best score [Q] of k of its G answers, without bias.

    The k answers are drawn without replacement.  The i-th smallest of G scores is the best of
    C(i - 1, k - 1) of the C(G, k) subsets.  For scores of 0 and 1 this is pass@k = 1 - C(G - c, k)
    / C(G, k) with c right answers (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Raises:
      ValueError: k is not from 1 to G.
    """
    score_QG = np.sort(np.asarray(score_QG, np.float64), 1)
    total = score_QG.shape[1]
    if not 1 <= k <= total:
        raise ValueError(f"pass@{k} needs k from 1 to {total}, the number of answers to a problem")
    weight_G = np.array([comb(i, k - 1) / comb(total, k) for i in range(total)])
    return score_QG @ weight_G


def choose_counts(samples: int) -> list[int]:
    """Return the k for which pass@k is told: 1, 2, 4 and so on, and the number of answers."""
    return [*(2**i for i in range(samples.bit_length()) if 2**i < samples), samples]


def interval(value_QM: np.ndarray) -> np.ndarray:
    """Compute the interval [M, 2] of the means of M columns, by bootstrap over the Q rows.

    It is the percentile interval at LEVEL.  The same rows give the same interval, because the draws
    have a seed of their own.
    """
    rows, draw = len(value_QM), np.random.default_rng(0)
    means = []
    for _ in range(0, RESAMPLES, PART):
        count_NQ = draw.multinomial(rows, np.full(rows, 1 / rows), size=PART)
        means.append(count_NQ @ np.asarray(value_QM, np.float64) / rows)
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return np.quantile(np.concatenate(means), edges, axis=0).T


def by_domain(
    measures: Mapping[str, np.ndarray], domains: Sequence[str]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, list[float]]]]:
    """Compute the mean and the interval of each measure [Q], over all problems and by domain.

    `domains` has the domain of each problem.  Both results go from the name of the measure to
    `all` and the domains.
    """
    value_QM = np.stack([np.asarray(x, np.float64) for x in measures.values()], 1)
    of_each = np.array(domains)
    parts = {"all": np.ones(len(of_each), bool)}
    parts |= {domain: of_each == domain for domain in sorted(set(domains))}
    means: dict[str, dict[str, float]] = {name: {} for name in measures}
    intervals: dict[str, dict[str, list[float]]] = {name: {} for name in measures}
    for part, kept_Q in parts.items():
        mean_M, edges_M2 = value_QM[kept_Q].mean(0), interval(value_QM[kept_Q])
        for name, mean, edges in zip(measures, mean_M, edges_M2, strict=True):
            means[name][part] = float(mean)
            intervals[name][part] = [float(x) for x in edges]
    return means, intervals
