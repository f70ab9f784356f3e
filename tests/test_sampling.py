"""The sampling distribution against a plain loop, and the drawn tokens against the distribution."""

import functools

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
    """Probabilities in float64; top-k and top-p keep all tokens tied at their border."""
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


# -- drawing by inversion -------------------------------------------------------------------------


@functools.cache
def drawer(cfg: SampleConfig):
    """Many draws from one row of logits, few rows at a time: (logits, key) -> tokens, log-probs."""

    @functools.partial(jax.jit, static_argnums=2)
    def run(logits_V, key, draws: int):
        def some(first):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(4000))
            return sampling.sample(jnp.broadcast_to(logits_V, (4000, logits_V.size)), keys, cfg)

        token, logprob = jax.lax.map(some, 4000 * jnp.arange(draws // 4000))
        return token.reshape(-1), logprob.reshape(-1)

    return lambda logits, draws: run(jnp.asarray(logits, jnp.float32), jax.random.key(9), draws)


@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 300])
def test_frequencies_whatever_the_size_of_the_vocabulary(size) -> None:
    """A block of the vocabulary is 128 tokens: less than one, exactly one, more, a part of one."""
    logits = np.random.default_rng(size).normal(0, 1, size).astype(np.float32)
    draws = 200_000
    token, logprob = drawer(SampleConfig())(logits, draws)
    want = oracle(logits, SampleConfig())
    count = np.bincount(token, minlength=size)
    assert len(count) == size
    chi2 = np.sum((count - draws * want) ** 2 / (draws * want))
    freedom = size - 1
    assert chi2 <= freedom + 4 * np.sqrt(2 * freedom)
    np.testing.assert_allclose(logprob, np.log(want[token]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "cfg",
    [
        SampleConfig(),
        SampleConfig(top_k=3),
        SampleConfig(top_p=0.5),
        SampleConfig(temperature=0),
        SampleConfig(temperature=0.01),
        SampleConfig(temperature=50.0, top_k=200, top_p=0.99),
    ],
)
def test_a_token_without_mass_is_never_drawn(cfg) -> None:
    """Masked tokens also stand at the ends of the vocabulary and of its blocks."""
    logits = np.random.default_rng(3).normal(0, 3, 300).astype(np.float32)
    gone = [0, 1, 127, 128, 129, *range(180, 256), 298, 299]
    logits[gone] = -1e30
    token, logprob = drawer(cfg)(logits, 40_000)
    possible = np.exp(np.asarray(sampling.log_distribution(jnp.asarray(logits), cfg))) > 0
    assert not possible[gone].any()
    assert possible[np.asarray(token)].all() and np.all(np.asarray(logprob) > -1e20)


@pytest.mark.parametrize("share", [0.0, 1 - 2**-24, 0.5])
def test_the_ends_of_the_unit_interval_are_drawn_from_too(monkeypatch, share) -> None:
    """The smallest and the largest random number still give a token that has probability."""
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape: jnp.full(shape, share, jnp.float32)
    )
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 2, (40, 400)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.5] = -1e30
    logits[:, 128:256] = -1e30
    logits[20:, -140:] = logits[20:, :140] = -1e30
    logits[:, 257] = 0.5  # of the later rows a few tokens are left, this one for certain
    keys = jax.random.split(jax.random.key(0), 40)
    token, logprob = sampling.sample(jnp.asarray(logits), keys, SampleConfig())
    assert np.all(logits[np.arange(40), np.asarray(token)] > -1e20)
    assert np.all(np.asarray(logprob) > -1e20)


def rare_logits(blocks: int) -> np.ndarray:
    """One block of common tokens in the middle of blocks of tokens of probability 1e-7."""
    prob = np.full(128 * blocks, 1e-7)
    common = slice(128 * (blocks // 2), 128 * (blocks // 2 + 1))
    prob[common] = (1 - 1e-7 * 128 * (blocks - 1)) / 128
    return np.log(prob)


def test_rare_tokens_come_as_rarely_as_they_should() -> None:
    logits, draws = rare_logits(17), 200_000
    token, _ = drawer(SampleConfig())(logits, draws)
    rare = np.asarray(token) // 128 != 8
    expected = draws * 1e-7 * 16 * 128  # 41
    assert abs(rare.sum() - expected) < 4.5 * np.sqrt(expected)
    assert len(set(np.asarray(token)[rare].tolist())) > 0.9 * rare.sum()


def test_each_rare_token_has_its_own_share(monkeypatch) -> None:
    """Of 1e-7 each: less than the steps in which float32 counts up to 1.

    Only draws whose first number falls among the last blocks are made: their shares are those of
    all draws, and there are enough of them to count every single token.
    """
    blocks, draws = 9, 200_000
    logits = rare_logits(blocks)
    tail = 4 * 128 * 1e-7  # the blocks behind the common one
    uniform = jax.random.uniform

    def late(key, shape):
        first, second = uniform(key, shape)
        steps = jnp.floor(first * (tail * 2**23))  # random numbers are multiples of 2**-23
        return jnp.stack([1 - (steps + 1) / 2**23, second])

    monkeypatch.setattr(jax.random, "uniform", late)
    run = jax.jit(lambda rows, keys: sampling.sample(rows, keys, SampleConfig())[0])
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (10_000, logits.size))
    count = np.zeros(logits.size)
    for seed in range(draws // 10_000):
        token = run(rows, jax.random.split(jax.random.key(seed), 10_000))
        count += np.bincount(token, minlength=logits.size)
    late_counts = count[-4 * 128 :].reshape(4, 128)
    expected = draws / (4 * 128)  # 391
    # A block holds 107 of the steps, so that its own share is off by a hundredth or two.
    assert late_counts.sum() > 0.97 * draws
    np.testing.assert_allclose(late_counts.sum(1), 128 * expected, rtol=0.04)
    share = late_counts / late_counts.mean(1, keepdims=True)
    assert np.all(np.abs(share - 1) < 5 / np.sqrt(expected))
    chi2 = expected * np.sum((share - 1) ** 2)
    assert abs(chi2 - 508) < 4 * np.sqrt(2 * 508)


@pytest.mark.parametrize("size", [5, 300])
def test_extreme_logits_are_drawn_from(size) -> None:
    keys = jax.random.split(jax.random.key(1), 64)
    huge = np.zeros((64, size), np.float32)
    huge[:, size - 1], huge[:, 0] = 1e30, -1e30
    token, logprob = sampling.sample(jnp.asarray(huge), keys, SampleConfig())
    assert set(token.tolist()) == {size - 1} and np.all(np.asarray(logprob) == 0)
    level = np.full((64, size), 3e38, np.float32)  # no sum of them is finite
    token, logprob = sampling.sample(jnp.asarray(level), keys, SampleConfig())
    assert len(set(token.tolist())) > size // 8
    np.testing.assert_allclose(logprob, -np.log(size), atol=1e-5)
    low = np.where(np.arange(size) == 2, -1e4, -2e4).astype(np.float32)
    token, _ = sampling.sample(jnp.broadcast_to(low, (64, size)), keys, SampleConfig())
    assert set(token.tolist()) == {2}


def test_the_place_in_a_batch_changes_no_draw() -> None:
    rng = np.random.default_rng(6)
    logits = jnp.asarray(rng.normal(0, 1, (33, 300)), jnp.float32)
    keys = jax.random.split(jax.random.key(7), 33)
    cfg = SampleConfig(temperature=1.2)
    whole, _ = sampling.sample(logits, keys, cfg)
    again, _ = sampling.sample(logits, keys, cfg)
    np.testing.assert_array_equal(whole, again)
    order = rng.permutation(33)
    moved, _ = sampling.sample(logits[order], keys[order], cfg)
    np.testing.assert_array_equal(moved, whole[order])
    for b in (0, 17, 32):
        alone, _ = sampling.sample(logits[b : b + 1], keys[b : b + 1], cfg)
        assert alone[0] == whole[b]
    assert len(set(whole.tolist())) > 20
