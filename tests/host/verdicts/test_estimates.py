"""Estimates of pass@k and their intervals, against sums over subsets and against resampling."""

import itertools
import math

import numpy as np
import pytest

from rlvr_jax.host.verdicts import estimates


def every_subset(scores, k):
    """The best score of k, averaged over all choices of k answers."""
    return np.mean([max(part) for part in itertools.combinations(scores, k)])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("graded", [False, True])
def test_the_best_of_k_is_the_mean_over_all_subsets(k, graded) -> None:
    rng = np.random.default_rng(k)
    score_QG = rng.random((7, 5)) if graded else rng.integers(0, 2, (7, 5)).astype(float)
    want = [every_subset(row, k) for row in score_QG.tolist()]
    np.testing.assert_allclose(estimates.best_of(score_QG, k), want, rtol=1e-12)


@pytest.mark.parametrize("right", range(9))
@pytest.mark.parametrize("k", [1, 3, 8])
def test_for_right_and_wrong_it_is_the_papers_formula(right, k) -> None:
    """Chen et al. 2021, equation 1: 1 - C(n - c, k) / C(n, k)."""
    row = [1.0] * right + [0.0] * (8 - right)
    want = 1 - math.comb(8 - right, k) / math.comb(8, k)
    assert estimates.best_of(np.array([row[::-1]]), k)[0] == pytest.approx(want, abs=1e-12)


def test_many_answers_are_no_overflow() -> None:
    row = np.zeros((1, 4000))
    row[0, 7] = 1
    assert estimates.best_of(row, 100)[0] == pytest.approx(100 / 4000)
    assert estimates.best_of(row, 4000)[0] == 1


@pytest.mark.parametrize("k", [0, 6])
def test_more_answers_than_there_are_is_refused(k) -> None:
    with pytest.raises(ValueError, match="k from 1 to 5"):
        estimates.best_of(np.zeros((2, 5)), k)


@pytest.mark.parametrize(
    "samples, want",
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (9, [1, 2, 4, 8, 9])],
)
def test_k_doubles_up_to_all_answers(samples, want) -> None:
    assert estimates.choose_counts(samples) == want


def test_an_interval_is_that_of_plain_resampling() -> None:
    """Problems drawn one by one with replacement, by another generator: the same within noise."""
    rng = np.random.default_rng(3)
    value_QM = np.stack([rng.integers(0, 2, 60), rng.random(60)], 1)
    means = []
    for _ in range(4000):
        means.append(np.mean([value_QM[rng.integers(60)] for _ in range(60)], 0))
    want = np.quantile(means, [0.025, 0.975], axis=0).T
    found = estimates.interval(value_QM)
    np.testing.assert_allclose(found, want, atol=0.02)
    normal = 1.96 * value_QM.std(0) / math.sqrt(60)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], 2 * normal, rtol=0.1)
    assert np.array_equal(found, estimates.interval(value_QM)), "the same each time"


def test_domains_have_means_and_intervals_of_their_own() -> None:
    hits, domains = np.array([1.0, 1.0, 0.0, 1.0]), ["b", "a", "b", "a"]
    means, intervals = estimates.by_domain({"x": hits, "y": 1 - hits}, domains)
    assert means == {
        "x": {"all": 0.75, "a": 1.0, "b": 0.5},
        "y": {"all": 0.25, "a": 0.0, "b": 0.5},
    }
    assert intervals["x"]["a"] == [1.0, 1.0] and intervals["x"]["b"] == [0.0, 1.0]
    low, high = intervals["x"]["all"]
    assert 0.2 <= low < 0.75 < high == 1.0
