"""Losses against loops over tokens, their gradients against closed forms in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import loss
from rlvr_jax.config import LossConfig

AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant")
B, R = 6, 5
LENGTHS = (5, 1, 3, 4, 2, 5)
MASK = np.arange(R) < np.array(LENGTHS)[:, None]


@pytest.fixture
def numbers() -> tuple:
    """Log-probs far enough from the behaviour's to clip on both sides; rubbish behind the end."""
    rng = np.random.default_rng(0)
    behaviour = -rng.exponential(1, (B, R))
    logprob = behaviour + rng.normal(0, 0.4, (B, R))
    reference = behaviour + rng.normal(0, 0.5, (B, R))
    advantage = np.array([1.3, -0.7, -2.0, 0.4, 0.9, -0.3])
    return logprob, behaviour, reference, advantage


def denominator(aggregate: str, row: int) -> float:
    return {
        "token-mean": float(sum(LENGTHS)),
        "seq-mean-token-mean": B * LENGTHS[row],
        "seq-mean-token-sum": B,
        "constant": B * R,
    }[aggregate]


def oracle(logprob, behaviour, reference, advantage, cfg: LossConfig) -> tuple:
    """Loss, its gradient and the sums to log, token by token."""
    value, grad = 0.0, np.zeros((B, R))
    clipped = drift = kl = 0.0
    for b in range(B):
        for t in range(LENGTHS[b]):
            ratio = np.exp(logprob[b, t] - behaviour[b, t])
            a = advantage[b]
            inside = min(max(ratio, 1 - cfg.clip_low), 1 + cfg.clip_high)
            cut = (a > 0 and ratio > 1 + cfg.clip_high) or (a < 0 and ratio < 1 - cfg.clip_low)
            weight = 1 / denominator(cfg.aggregate, b)
            value -= weight * min(ratio * a, inside * a)
            grad[b, t] -= 0.0 if cut else weight * ratio * a
            d = logprob[b, t] - reference[b, t]
            if cfg.kl_in == "loss":
                value += weight * cfg.kl_coef * (np.exp(-d) + d - 1)
                grad[b, t] += weight * cfg.kl_coef * (1 - np.exp(-d))
            clipped += cut
            drift += behaviour[b, t] - logprob[b, t]
            kl += d
    return value, grad, {"clip_frac": clipped, "approx_kl": drift, "kl": kl}


def run(logprob, behaviour, reference, advantage, cfg: LossConfig, mask=MASK) -> tuple:
    """Value, gradient and sums in the dtype of the arguments."""
    weight = loss.row_weights(mask, cfg).astype(logprob.dtype)

    def objective(logprob):
        return loss.policy_gradient(logprob, behaviour, reference, advantage, mask, weight, cfg)

    (value, sums), grad = jax.value_and_grad(objective, has_aux=True)(jnp.asarray(logprob))
    return float(value), np.asarray(grad), {k.split("/")[1]: float(v) for k, v in sums.items()}


def case(cfg: LossConfig) -> str:
    return f"{cfg.aggregate}-{cfg.clip_high}-{cfg.kl_coef}"


CASES = [
    LossConfig(aggregate=aggregate, clip_low=low, clip_high=high, kl_coef=kl, kl_in="loss")
    for aggregate in AGGREGATES
    for low, high, kl in ((0.2, 0.28, 0.0), (0.1, 0.4, 0.3))
]


@pytest.mark.parametrize("cfg", CASES, ids=case)
def test_policy_gradient_is_the_loop(numbers, cfg) -> None:
    """In float64, so that value and gradient agree to many digits."""
    with jax.enable_x64(True):
        value, grad, sums = run(*numbers, cfg)
    want, want_grad, want_sums = oracle(*numbers, cfg)
    assert value == pytest.approx(want, rel=1e-6)  # row weights are float32
    np.testing.assert_allclose(grad, want_grad, rtol=1e-6, atol=1e-12)
    assert np.all(grad[~MASK] == 0)
    assert 0 < want_sums["clip_frac"] < MASK.sum()
    if not cfg.kl_coef:
        assert "kl" not in sums
        del want_sums["kl"]
    assert sums == pytest.approx(want_sums, rel=1e-6)


@pytest.mark.parametrize("cfg", CASES[1::2], ids=case)
def test_gradient_is_the_slope(numbers, cfg) -> None:
    logprob, *rest = numbers
    with jax.enable_x64(True):
        _, grad, _ = run(logprob, *rest, cfg)
        for b, t in [(0, 0), (2, 1), (3, 3), (5, 4), (1, 0)]:
            step = np.zeros_like(logprob)
            step[b, t] = 1e-6
            up, down = (run(logprob + way * step, *rest, cfg)[0] for way in (1, -1))
            assert grad[b, t] == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "ratio, advantage, gain, slope",
    [
        # (ratio, A) -> what counts, and whether it still pulls
        (1.5, 1.0, 1.25, 0.0),
        (1.5, -1.0, -1.5, -1.5),
        (0.5, 1.0, 0.5, 0.5),
        (0.5, -1.0, -0.9, 0.0),
        (1.1, 2.0, 2.2, 2.2),
        (0.95, -2.0, -1.9, -1.9),
    ],
)
def test_clipping_by_hand(ratio, advantage, gain, slope) -> None:
    cfg = LossConfig(clip_low=0.1, clip_high=0.25)
    logprob = jnp.log(jnp.float32([[ratio]]))
    zero = jnp.zeros((1, 1))
    with jax.numpy_dtype_promotion("strict"):
        value, grad, sums = run(
            logprob, zero, zero, jnp.float32([advantage]), cfg, np.ones((1, 1), bool)
        )
    assert value == pytest.approx(-gain, rel=1e-5)
    assert grad[0, 0] == pytest.approx(-slope, rel=1e-5)
    assert sums["clip_frac"] == (slope == 0)
    assert sums["approx_kl"] == pytest.approx(-np.log(ratio), rel=1e-5)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_row_weights(aggregate) -> None:
    weight = np.asarray(loss.row_weights(jnp.asarray(MASK), LossConfig(aggregate=aggregate)))
    assert weight.shape == (B,) and weight.dtype == np.float32
    for b in range(B):
        assert weight[b] == pytest.approx(1 / denominator(aggregate, b), rel=1e-6)
    # The weights of all tokens add up to 1 where the loss is a mean over tokens.
    total = (weight[:, None] * MASK).sum()
    want = {"seq-mean-token-sum": sum(LENGTHS) / B, "constant": sum(LENGTHS) / (B * R)}
    assert total == pytest.approx(want.get(aggregate, 1.0), rel=1e-6)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_no_token_at_all_is_a_loss_of_zero(numbers, aggregate) -> None:
    nothing = np.zeros((B, R), bool)
    args = [np.float32(x) for x in numbers]
    value, grad, sums = run(*args, LossConfig(aggregate=aggregate), nothing)
    assert value == 0 and np.all(grad == 0) and not any(sums.values())


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_parts_of_a_batch_add_up(numbers, aggregate) -> None:
    """Weights come from the whole batch, so a loss is the sum over any split of its rows."""
    cfg = LossConfig(aggregate=aggregate, kl_coef=0.1, kl_in="loss")
    args = [np.float32(x) for x in numbers]
    weight = loss.row_weights(MASK, cfg)
    whole, sums = loss.policy_gradient(*args, MASK, weight, cfg)
    parts = [
        loss.policy_gradient(*[x[rows] for x in args], MASK[rows], weight[rows], cfg)
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    assert float(sum(value for value, _ in parts)) == pytest.approx(float(whole), rel=1e-5)
    for name, total in sums.items():
        assert float(sum(s[name] for _, s in parts)) == pytest.approx(float(total), rel=1e-5)


def test_k3() -> None:
    """exp(-d) + d - 1: 0 at 0, never negative, finite where the two are worlds apart."""
    d = np.array([[0.0, 1.0, -1.0, 0.1, 1e4, -1e4]], np.float32)
    got = np.asarray(loss.k3(jnp.asarray(d), jnp.zeros_like(d)))[0]
    np.testing.assert_allclose(got[:4], [0, np.exp(-1), np.e - 2, np.exp(-0.1) - 0.9], atol=1e-6)
    assert np.all(got >= 0) and np.all(np.isfinite(got))


def test_kl_in_the_reward_stays_out_of_the_loss(numbers) -> None:
    args = [np.float32(x) for x in numbers]
    with_kl = run(*args, LossConfig(kl_coef=0.5, kl_in="reward"))
    without = run(*args, LossConfig())
    assert with_kl[0] == without[0]
    np.testing.assert_array_equal(with_kl[1], without[1])
    assert "kl" in with_kl[2]


def test_worlds_apart_stays_finite(numbers) -> None:
    """A ratio of e^1000 is a bug elsewhere; it must not become an infinity that is averaged."""
    logprob, behaviour, reference, advantage = (np.float32(x) for x in numbers)
    cfg = LossConfig(kl_coef=0.1, kl_in="loss")
    for far in (1000, -1000):
        value, grad, _ = run(logprob + far, behaviour, reference, advantage, cfg)
        assert np.isfinite(value) and np.all(np.isfinite(grad))


def test_on_policy_gradient_is_the_policy_gradient_theorem() -> None:
    """All 3^2 responses of a table policy, weighted by their probability: grad of E[r].

    A baseline that does not depend on the response must not change it.
    """
    vocab, columns = 3, 2
    rng = np.random.default_rng(5)
    table = rng.normal(0, 1, (1 + vocab, vocab))  # first token; second token given the first
    texts = np.array(list(itertools.product(range(vocab), repeat=columns)))
    reward = rng.uniform(0, 1, len(texts))
    cfg = LossConfig(aggregate="seq-mean-token-sum")
    mask = np.ones(texts.shape, bool)

    def logprobs(table):
        rows = jax.nn.log_softmax(table)
        first = rows[0][texts[:, 0]]
        return jnp.stack([first, rows[1 + texts[:, 0], texts[:, 1]]], 1)

    with jax.enable_x64(True):
        probability = np.exp(np.asarray(logprobs(table)).sum(1))
        assert probability.sum() == pytest.approx(1, abs=1e-12)
        want = jax.grad(lambda x: -jnp.sum(jnp.exp(logprobs(x).sum(1)) * reward))(table)
        for baseline in (0.0, 0.37):
            # One row per response: its probability times the rows stands for how often it is drawn.
            advantage = (reward - baseline) * probability * len(texts)

            def objective(table, advantage=advantage):
                logprob = logprobs(table)
                still = jax.lax.stop_gradient(logprob)
                weight = loss.row_weights(mask, cfg).astype(logprob.dtype)
                return loss.policy_gradient(logprob, still, still, advantage, mask, weight, cfg)[0]

            np.testing.assert_allclose(jax.grad(objective)(table), want, rtol=1e-6, atol=1e-8)
