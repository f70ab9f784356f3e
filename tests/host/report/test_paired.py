"""Intervals and tests agree with slow definitions."""

import itertools
import math

import numpy as np
import pytest

from rlvr_jax.host.report import paired


def test_t_interval_of_known_values():
    assert paired.t_interval([0.5]) is None
    # mean 2, deviation 1, three runs: 4.303 / sqrt(3)
    assert paired.t_interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))
    many = [0.0, 1.0] * 40
    assert paired.t_interval(many) == pytest.approx(1.96 * np.std(many, ddof=1) / math.sqrt(80))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 9), (12, 4), (5, 5)])
def test_mcnemar_is_the_binomial_test(first, second):
    count = first + second
    chance = [math.comb(count, k) / 2**count for k in range(count + 1)]
    slow = sum(p for p in chance if p <= chance[first] * (1 + 1e-9))
    assert paired.mcnemar(first, second) == pytest.approx(min(1.0, slow))


def test_sign_flips_are_near_all_signs():
    differences = np.array([0.5, 0.25, 1.0, -0.25, 0.75, 0.0, 0.5, 0.0])
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=8)]
    slow = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9)
    assert paired.sign_flips(differences) == pytest.approx(slow, abs=0.01)
    assert paired.sign_flips(np.zeros(4)) == 1.0
    assert 0 < paired.sign_flips(np.ones(60)) < 1e-3


def test_the_bootstrap_is_near_the_normal_interval():
    differences = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], 400, p=[0.1, 0.6, 0.3])
    low, high = paired.bootstrap(differences)
    half = 1.96 * differences.std() / 20
    assert low == pytest.approx(differences.mean() - half, abs=0.01)
    assert high == pytest.approx(differences.mean() + half, abs=0.01)
    assert paired.bootstrap(differences) == (low, high)
