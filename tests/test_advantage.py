"""Advantages against hand-computed numbers and loops over rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import advantage
from rlvr_jax.config import AdvantageConfig

pytestmark = pytest.mark.usefixtures("strict_dtypes")

FLOOR = 1e-4


def oracle(reward, penalty, samples: int, cfg: AdvantageConfig) -> list[float]:
    """z-score, minus penalty, minus baseline: float64, row by row."""
    rows = range(len(reward))
    group = [[j for j in rows if j // samples == i // samples] for i in rows]
    value = [float(r) for r in reward]
    if cfg.normalise != "none":
        scored = []
        for i in rows:
            peers = [value[j] for j in (rows if cfg.normalise == "batch" else group[i])]
            mean = sum(peers) / len(peers)
            std = (sum((x - mean) ** 2 for x in peers) / len(peers)) ** 0.5
            scored.append((value[i] - mean) / max(std, cfg.std_floor) if std else 0.0)
        value = scored
    value = [v - float(p) for v, p in zip(value, penalty, strict=True)]
    if cfg.baseline == "none":
        return value
    out = []
    for i in rows:
        peers = [value[j] for j in group[i] if cfg.baseline == "mean" or j != i]
        out.append(value[i] - sum(peers) / len(peers))
    return out


def combine(reward, penalty, samples, cfg) -> np.ndarray:
    return np.asarray(advantage.combine(jnp.float32(reward), jnp.float32(penalty), samples, cfg))


def test_published_values() -> None:
    """Rewards 1, 0, 0, 1: RLOO 2/3, GRPO 1 (population std), Dr. GRPO 1/2."""
    sign = np.array([1, -1, -1, 1])
    for normalise, baseline, size in (
        ("none", "rloo", 2 / 3),
        ("group", "none", 1.0),
        ("none", "mean", 0.5),
        ("group", "mean", 1.0),
        ("group", "rloo", 4 / 3),
    ):
        cfg = AdvantageConfig(normalise, baseline)
        got = combine([1, 0, 0, 1], np.zeros(4), 4, cfg)
        np.testing.assert_allclose(got, size * sign, atol=1e-6)


@pytest.mark.parametrize("normalise", ["batch", "group", "none"])
@pytest.mark.parametrize("baseline", ["rloo", "mean", "none"])
def test_combine_is_the_loop(normalise, baseline) -> None:
    cfg = AdvantageConfig(normalise, baseline)
    rng = np.random.default_rng(0)
    reward = rng.uniform(0, 1, 24).astype(np.float32)
    reward[4:8] = 0.1  # an equal group
    reward[8:12] = [1, 0, 1, 0]
    penalty = rng.normal(0, 0.3, 24).astype(np.float32)
    got = combine(reward, penalty, 4, cfg)
    assert got.shape == (24,) and got.dtype == np.float32
    np.testing.assert_allclose(got, oracle(reward, penalty, 4, cfg), atol=2e-6, rtol=0)


def test_the_penalty_is_not_normalised() -> None:
    """r~ = zscore(r) - penalty: rewards times ten change nothing, the penalty times ten does."""
    cfg = AdvantageConfig("batch", "none")
    reward, penalty = np.array([1.0, 0, 0, 0]), np.array([0.5, 0, 0, 0.25])
    want = np.array([3**0.5, *[-1 / 3**0.5] * 3])
    np.testing.assert_allclose(combine(reward, penalty, 2, cfg), want - penalty, atol=1e-6)
    np.testing.assert_allclose(combine(reward * 10, penalty, 2, cfg), want - penalty, atol=1e-6)
    np.testing.assert_allclose(
        combine(reward, penalty * 10, 2, cfg), want - 10 * penalty, atol=1e-6
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1 / 3, 0.7])
@pytest.mark.parametrize("size", [3, 7, 128])
def test_equal_rewards_give_exactly_zero(value, size) -> None:
    equal = np.full(2 * size, value, np.float32)
    for normalise in ("batch", "group", "none"):
        for baseline in ("rloo", "mean") if normalise == "none" else ("rloo", "mean", "none"):
            cfg = AdvantageConfig(normalise, baseline)
            assert np.all(combine(equal, np.zeros(2 * size), size, cfg) == 0)


def test_an_equal_group_has_no_signal_beside_others() -> None:
    reward = np.concatenate([np.full(128, 0.1), np.linspace(0, 1, 128)]).astype(np.float32)
    for normalise in ("batch", "group", "none"):
        got = combine(reward, np.zeros(256), 128, AdvantageConfig(normalise, "rloo"))
        assert np.all(got[:128] == 0) and np.all(got[128:140] < 0) and np.all(got[-9:] > 0)
    # Over the batch and without a baseline it does: it is a bad group, and equally so.
    got = combine(reward, np.zeros(256), 128, AdvantageConfig("batch", "none"))
    assert len(set(got[:128].tolist())) == 1 and got[0] < -0.5


@pytest.mark.parametrize("spread", [1e-6, 1e-5])
def test_below_the_floor_noise_stays_noise(spread) -> None:
    x = jnp.float32([0, spread, 0, spread])
    np.testing.assert_allclose(
        advantage.zscore(x, FLOOR), np.array([-1, 1, -1, 1]) * spread / 2 / FLOOR, rtol=1e-4
    )


def test_above_the_floor_it_plays_no_part() -> None:
    x = np.float32([0, 2e-3, 0, 2e-3])
    np.testing.assert_allclose(advantage.zscore(x, FLOOR), [-1, 1, -1, 1], rtol=1e-5)
    np.testing.assert_allclose(advantage.zscore(x, 2e-3), [-0.5, 0.5, -0.5, 0.5], rtol=1e-5)


def test_zscore_over_an_axis() -> None:
    x = np.random.default_rng(1).normal(3, 2, (4, 5)).astype(np.float32)
    x[2] = 0.1
    got = np.asarray(advantage.zscore(x, FLOOR, 1))
    for row, scored in zip(x.astype(np.float64), got, strict=True):
        want = (row - row.mean()) / row.std() if row.std() > 1e-9 else 0 * row
        np.testing.assert_allclose(scored, want, atol=1e-5)
    assert np.all(got[2] == 0)


@pytest.mark.parametrize("samples", [2, 3, 16])
def test_leave_one_out_is_the_scaled_distance_to_the_mean(samples) -> None:
    x = np.random.default_rng(2).uniform(0, 1, (5, samples)).astype(np.float32)
    got = np.asarray(advantage.leave_one_out(jnp.asarray(x)))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(
        got, samples / (samples - 1) * (wide - wide.mean(1, keepdims=True)), atol=1e-6
    )
    for q in range(5):
        for g in range(samples):
            others = np.delete(wide[q], g)
            assert got[q, g] == pytest.approx(wide[q, g] - others.mean(), abs=1e-6)


def test_advantages_are_constants() -> None:
    cfg = AdvantageConfig("batch", "rloo")

    def total(reward, penalty):
        return jnp.sum(advantage.combine(reward, penalty, 2, cfg) * jnp.arange(4.0))

    grads = jax.grad(total, (0, 1))(jnp.float32([1, 0, 0.5, 0]), jnp.float32([0, 0.1, 0, 0]))
    assert all(np.all(np.asarray(g) == 0) for g in grads)
