"""The distribution against loops over sorted tokens, the draws against the distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import sampling
from rlvr_jax.config import SampleConfig

pytestmark = pytest.mark.usefixtures("strict_dtypes")

V = 12
TIES = [0.0, 2.0, 2.0, 1.0, 2.0, -1.0, 1.0, 1.0, -3.0, 0.0, -1.0, 0.5]


def oracle(logits, cfg: SampleConfig) -> np.ndarray:
    """Probabilities in float64; filters take from the top until they have enough, ties go along."""
    logits = np.asarray(logits, np.float64)
    if cfg.temperature == 0:
        return np.eye(len(logits))[int(np.argmax(logits))]
    prob = np.exp((logits - logits.max()) / cfg.temperature)
    if cfg.top_k:
        for v in range(len(logits)):
            if sum(other > logits[v] for other in logits) >= cfg.top_k:
                prob[v] = 0
    prob = prob / prob.sum()
    if cfg.top_p < 1:
        mass, least = 0.0, 1.0
        for p in sorted(prob, reverse=True):
            if mass < cfg.top_p:
                mass, least = mass + p, p
        prob = np.where(prob >= least, prob, 0)
    return prob / prob.sum()


@pytest.mark.parametrize("top_k", [0, 1, 3, V])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.4, 1e-6])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
def test_distribution_is_that_of_the_oracle(temperature, top_k, top_p) -> None:
    cfg = SampleConfig(temperature, top_k, top_p)
    rows = np.random.default_rng(0).normal(0, 2, (5, V)).astype(np.float32)
    rows = np.concatenate([rows, np.array([TIES, [0.0] * V], np.float32)])
    got = np.asarray(sampling.log_distribution(jnp.asarray(rows).reshape(7, 1, V), cfg))
    assert got.dtype == np.float32 and got.shape == (7, 1, V)
    for row, logprob in zip(rows, got[:, 0], strict=True):
        want = oracle(row, cfg)
        np.testing.assert_allclose(np.exp(logprob), want, atol=1e-6, rtol=0)
        np.testing.assert_allclose(logprob[want > 0], np.log(want[want > 0]), atol=1e-5, rtol=0)
        assert np.all(logprob[want == 0] < -1e20) and np.all(np.isfinite(logprob))


@pytest.mark.parametrize(
    "cfg, kept",
    [
        (SampleConfig(top_k=1), {1, 2, 4}),
        (SampleConfig(top_k=4), {1, 2, 4, 3, 6, 7}),
        (SampleConfig(top_p=0.01), {1, 2, 4}),
        (SampleConfig(top_p=0.3), {1, 2, 4}),  # two of the three would do: 0.425
        (SampleConfig(top_p=0.7), {1, 2, 4, 3, 6, 7}),  # the three hold 0.638
        (SampleConfig(top_k=4, top_p=0.7), {1, 2, 4}),  # of what top-k leaves, 0.731
        (SampleConfig(top_k=4, top_p=0.75), {1, 2, 4, 3, 6, 7}),
        (SampleConfig(temperature=0.5, top_p=0.8), {1, 2, 4}),  # 0.848 at this temperature
    ],
)
def test_ties_at_the_border_stay(cfg, kept) -> None:
    logprob = np.asarray(sampling.log_distribution(jnp.array(TIES), cfg))
    assert set(np.flatnonzero(logprob > -1e20)) == kept


@pytest.mark.parametrize("top_k", [V, V + 1, 10 * V])
def test_top_k_of_the_vocabulary_or_more_keeps_all(top_k) -> None:
    logits = jnp.array(TIES)
    got = sampling.log_distribution(logits, SampleConfig(top_k=top_k))
    np.testing.assert_array_equal(got, sampling.log_distribution(logits, SampleConfig()))


def test_temperature_zero_is_the_first_largest() -> None:
    logits = jnp.array([TIES, [-5.0] * V])
    logprob = np.asarray(sampling.log_distribution(logits, SampleConfig(temperature=0)))
    assert np.all(np.exp(logprob) == np.eye(V)[[1, 0]])
    keys = jax.random.split(jax.random.key(0), 2)
    token, chosen = sampling.sample(logits, keys, SampleConfig(temperature=0))
    assert token.tolist() == [1, 0] and chosen.tolist() == [0, 0]


@pytest.mark.parametrize("temperature, top_k, top_p", [(1.0, 0, 1.0), (0.7, 7, 0.9)])
def test_frequencies_are_the_probabilities(temperature, top_k, top_p) -> None:
    cfg, draws = SampleConfig(temperature, top_k, top_p), 20_000
    logits = np.random.default_rng(1).normal(0, 1.5, V).astype(np.float32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(draws))
    rows = jnp.broadcast_to(logits, (draws, V))
    token, logprob = jax.jit(sampling.sample, static_argnums=2)(rows, keys, cfg)
    assert token.dtype == jnp.int32 and logprob.dtype == jnp.float32

    want = oracle(logits, cfg)
    count = np.bincount(token, minlength=V)
    assert np.all(count[want == 0] == 0)
    expected = draws * want[want > 0]
    chi2 = np.sum((count[want > 0] - expected) ** 2 / expected)
    freedom = len(expected) - 1
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom)
    np.testing.assert_allclose(logprob, np.log(want[token]), atol=1e-5, rtol=0)


def test_a_draw_depends_on_its_own_key_and_logits_only() -> None:
    cfg = SampleConfig(temperature=3.0)
    logits = jnp.asarray(np.random.default_rng(2).normal(0, 1, (64, V)), jnp.float32)
    keys = jax.random.split(jax.random.key(4), 64)
    token, logprob = sampling.sample(logits, keys, cfg)
    again, again_logprob = sampling.sample(logits[::-1], keys[::-1], cfg)
    np.testing.assert_array_equal(token, again[::-1])
    np.testing.assert_array_equal(logprob, again_logprob[::-1])
    want = jnp.take_along_axis(sampling.log_distribution(logits, cfg), token[:, None], 1)[:, 0]
    np.testing.assert_allclose(logprob, want, atol=1e-6, rtol=0)
    other, _ = sampling.sample(logits, jax.random.split(jax.random.key(5), 64), cfg)
    assert np.mean(np.asarray(token) != np.asarray(other)) > 0.5
    same, _ = sampling.sample(logits * 0, jnp.broadcast_to(keys[0], (64,)), cfg)
    assert len(set(same.tolist())) == 1


def test_impossible_tokens_are_never_drawn_and_bfloat16_is_read_as_float32() -> None:
    logits = jnp.full((50, V), -jnp.inf, jnp.bfloat16).at[:, 5].set(1).at[:, 7].set(1)
    keys = jax.random.split(jax.random.key(6), 50)
    for cfg in (SampleConfig(), SampleConfig(top_k=4), SampleConfig(top_p=0.9)):
        token, logprob = sampling.sample(logits, keys, cfg)
        assert set(token.tolist()) == {5, 7}
        assert logprob.dtype == jnp.float32
        np.testing.assert_allclose(logprob, np.log(0.5), atol=1e-6)
