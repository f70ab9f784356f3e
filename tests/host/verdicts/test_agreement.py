"""Agreement in numbers: against slow sums, by hand, and scikit-learn where it is installed."""

import itertools

import numpy as np
import pytest

from rlvr_jax.host.verdicts import agreement

DRAWS = [np.random.default_rng(seed) for seed in range(20)]


def pairs(rng, n=50):
    return rng.random(n) < rng.random(), rng.random(n) < rng.random()


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        ([1], 1),
        ([0], 0),
        ([None], None),
        ([], None),
        ([1, 0], 1),  # a tie is at least m/2
        ([1, 0, 0], 0),
        ([1, 1, 0], 1),
        ([1, 0, None], None),  # the third would decide
        ([1, 1, None], 1),  # it could not
        ([0, 0, None], 0),
        ([0, None], None),  # 1 would make it a tie
        ([0, 0, 0, 1, None], 0),
        ([0, 0, 1, None], None),
        ([None, None], None),
    ],
)
def test_majority(votes, verdict):
    assert agreement.majority(votes) == verdict


def test_a_majority_is_what_it_would_be_however_unread_votes_fall():
    """Sum of ones >= m/2, the paper's rule, over every way to fill in what was not read."""
    for m in range(1, 6):
        for votes in itertools.product((0, 1, None), repeat=m):
            holes = votes.count(None)
            filled = {
                sum(v or 0 for v in votes) + sum(more) >= m / 2
                for more in itertools.product((0, 1), repeat=holes)
            }
            expected = int(filled.pop()) if len(filled) == 1 else None
            assert agreement.majority(votes) == expected, votes


def test_f1_by_hand():
    said, truth = np.array([1, 1, 1, 0, 0]), np.array([1, 0, 0, 1, 0])
    assert agreement.f1(said, truth) == pytest.approx(0.4)  # precision 1/3, recall 1/2
    assert agreement.f1(truth * 0, truth * 0) == 0


def test_kappa_by_hand():
    """A book's example: 20 and 15 of 50 agreed, chance gives one half."""
    one = np.array([1] * 20 + [1] * 5 + [0] * 10 + [0] * 15)
    other = np.array([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15)
    assert agreement.kappa(one, other) == pytest.approx(0.4)
    assert agreement.kappa(one, one) == 1
    assert agreement.kappa(one, 1 - one) < 0
    assert agreement.kappa(np.ones(9), np.ones(9)) == 0
    assert agreement.kappa(np.ones(0), np.ones(0)) == 0


def test_kappa_of_votes_is_the_mean_of_its_pairs():
    votes = [[1, 1, 0], [0, 0, 0], [1, 0, None], [0, 1, 1], [1, 1, 1]]
    a, b, c = (np.array([row[i] for row in votes], object) for i in range(3))
    read = [0, 1, 3, 4]
    both = [agreement.kappa(a, b), agreement.kappa(a[read], c[read])]
    both.append(agreement.kappa(b[read], c[read]))
    assert agreement.kappa_of_votes(votes) == pytest.approx(np.mean(both))
    assert agreement.kappa_of_votes([]) == 0 == agreement.kappa_of_votes([[1], [0]])


def test_ece_by_hand():
    p1, truth = np.array([0.95, 0.91, 0.15, 1.0]), np.array([1, 0, 0, 1])
    top = abs((1 + 0 + 1) / 3 - (0.95 + 0.91 + 1.0) / 3)  # 1.0 is in the last bin
    assert agreement.ece(p1, truth) == pytest.approx(0.75 * top + 0.25 * 0.15)
    assert agreement.ece(np.array([0.0, 1.0]), np.array([0, 1])) == 0
    assert agreement.ece(np.array([1.0, 1.0]), np.array([0, 0])) == 1
    assert agreement.ece(np.zeros(0), np.zeros(0)) == 0


@pytest.mark.parametrize("rng", DRAWS)
def test_against_slow_sums(rng):
    said, truth = pairs(rng)
    p1 = rng.random(50)
    tp = sum(s and t for s, t in zip(said, truth, strict=True))
    fp = sum(s and not t for s, t in zip(said, truth, strict=True))
    fn = sum(t and not s for s, t in zip(said, truth, strict=True))
    tn = 50 - tp - fp - fn
    found = agreement.agreement(said, truth)
    assert found["accuracy"] == pytest.approx((tp + tn) / 50)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn or 1))
    assert found["false_positive"] == pytest.approx(fp / (fp + tn or 1))
    assert found["false_negative"] == pytest.approx(fn / (fn + tp or 1))
    chance = ((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)) / 2500
    assert found["kappa"] == pytest.approx(((tp + tn) / 50 - chance) / ((1 - chance) or 1))
    slow = 0.0
    for low in range(10):
        inside = [i for i in range(50) if low <= 10 * p1[i] < low + 1]
        if inside:
            slow += len(inside) / 50 * abs(truth[inside].mean() - p1[inside].mean())
    assert agreement.ece(p1, truth) == pytest.approx(slow)


@pytest.mark.parametrize("rng", DRAWS[:5])
def test_against_scikit_learn(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    said, truth = pairs(rng)
    assert agreement.f1(said, truth) == pytest.approx(metrics.f1_score(truth, said))
    assert agreement.kappa(said, truth) == pytest.approx(metrics.cohen_kappa_score(truth, said))
