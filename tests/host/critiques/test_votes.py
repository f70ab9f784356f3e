"""Votes on preference items, against plain loops, and the ties that are reported three ways."""

import itertools
import random

import numpy as np
import pytest

from rlvr_jax.host.critiques import votes

ITEMS, K, N = 40, 5, 4


@pytest.fixture(scope="module")
def ballots():
    rng = np.random.default_rng(0)
    count = rng.integers(1, N + 1, ITEMS)
    best = np.array([rng.integers(max(n, 2)) for n in count])
    valid = rng.random((ITEMS, K)) < 0.7
    exists = np.arange(N) < count[:, None]
    high = np.where(count == 1, 1, 4)  # few values, so that ties are frequent
    score = rng.integers(0, high[:, None, None] + 1, (ITEMS, K, N)) * 1.0
    score *= exists[:, None] & valid[..., None]
    return votes.Ballots(score, valid, rng.random((ITEMS, K)), count, best)


def outcome(scores: list[list[float]], n: int, best: int) -> tuple[float, float, bool, bool]:
    """(strict, expected, tied, unjudged) of one item, by counting over equal draws."""
    if n == 1:
        yes = sum(score[0] for score in scores)
        no = len(scores) - yes
        if yes == no:
            return 0.0, 0.5, bool(scores), not scores
        return float((yes > no) == (best == 1)), float((yes > no) == (best == 1)), False, False
    total = [sum(score[i] for score in scores) for i in range(n)]
    top = [i for i in range(n) if total[i] == max(total)]
    expected = sum(i == best for i in top) / len(top)
    return float(top == [best]), expected, len(top) > 1 and bool(scores), not scores


def test_outcomes_are_those_of_a_plain_loop(ballots):
    found = votes.outcomes(ballots, ballots.valid_Ik)
    seen = set()
    for i in range(ITEMS):
        kept = [ballots.score_IkN[i, k].tolist() for k in range(K) if ballots.valid_Ik[i, k]]
        expected = outcome(kept, int(ballots.count_I[i]), int(ballots.best_I[i]))
        names = ("strict", "expected", "tied", "unjudged")
        assert [found[name][i] for name in names] == pytest.approx([float(x) for x in expected])
        seen.add(expected[:3])
    assert len(seen) > 3


def test_expected_is_the_mean_over_random_draws_among_the_best():
    rng = random.Random(0)
    score = np.array([[[5.0, 5, 3, 5]]])
    ballots = votes.Ballots(score, np.ones((1, 1), bool), np.zeros((1, 1)), np.array([4]), [3])
    found = votes.outcomes(ballots, ballots.valid_Ik)
    assert found["expected"][0] == pytest.approx(1 / 3)
    assert found["strict"][0] == 0 and found["tied"][0] == 1
    hits = sum(rng.choice((0, 1, 3)) == 3 for _ in range(3000)) / 3000
    assert found["expected"][0] == pytest.approx(hits, abs=0.03)


def test_the_order_of_votes_and_of_responses_changes_nothing(ballots):
    whole = votes.outcomes(ballots, ballots.valid_Ik)
    order = np.random.default_rng(1).permutation(K)
    turned = votes.Ballots(
        ballots.score_IkN[:, order],
        ballots.valid_Ik[:, order],
        ballots.sound_Ik[:, order],
        ballots.count_I,
        ballots.best_I,
    )
    again = votes.outcomes(turned, turned.valid_Ik)
    for name in whole:
        np.testing.assert_array_equal(whole[name], again[name])


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.5, 1.0])
def test_the_meta_rm_keeps_the_soundest_valid_votes(ballots, keep):
    kept = votes.keep_best(ballots, keep)
    most = int(np.ceil(K * keep))
    for i in range(ITEMS):
        valid = [k for k in range(K) if ballots.valid_Ik[i, k]]
        best = sorted(valid, key=lambda k: -ballots.sound_Ik[i, k])[:most]
        assert sorted(np.flatnonzero(kept[i])) == sorted(best)


def test_the_first_votes_of_many_are_the_votes_of_few(ballots):
    for k, way in itertools.product((1, 3), ("strict", "tied")):
        few = ballots.first(k)
        assert few.score_IkN.shape == (ITEMS, k, N)
        assert votes.outcomes(few, few.valid_Ik)[way].shape == (ITEMS,)


def test_a_summary_has_means_and_intervals_by_domain():
    found = {"strict": np.array([1.0, 0, 1, 1])}
    report = votes.summarise(found, ["a", "b", "a", "b"])
    assert report["all"]["strict"] == 0.75 and report["all"]["items"] == 4
    half = 1.959964 * np.std([1, 0, 1, 1], ddof=1) / 2
    assert report["all"]["strict_pm"] == pytest.approx(half)
    assert report["a"]["strict"] == 1.0 and report["b"]["strict"] == 0.5
    assert votes.summarise({"strict": np.array([1.0])}, ["a"])["a"]["strict_pm"] == 0.0
