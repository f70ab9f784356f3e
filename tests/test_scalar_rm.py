"""A scalar reward model: loss, gradient, rows and critiques against plain loops in numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlvr_jax import model, parameters, sampling, scalar_rm, sharding, step
from rlvr_jax.config import MeshConfig, ModelConfig, SampleConfig
from rlvr_jax.structs import Ranking, Rollout

EOS, V = 1, 24
CFG = ModelConfig(layers=2, width=16, heads=4, kv_heads=2, head_size=6, feedforward=20, vocab=V)
Q, N, P, R, K = 4, 3, 4, 6, 5
COUNT, BEST = np.array([3, 2, 1, 1]), np.array([2, 0, 1, 0], np.int32)
SAMPLE = SampleConfig(temperature=1.5)
ENDS = (EOS, 2, 3, 4, 5)  # many, so that some critiques end
SILENT, LOUD = scalar_rm.Writer(ENDS), scalar_rm.Writer(ENDS, K, SAMPLE)
RANKING = Ranking(np.arange(N) < COUNT[:, None], BEST, COUNT == 1)
strict = pytest.mark.usefixtures("strict_dtypes")


@pytest.fixture(scope="module")
def params() -> dict:
    """A model whose value head is not zero."""
    start = parameters.with_value(parameters.init(jax.random.key(3), CFG), CFG)
    return start | {"value_D": jax.random.normal(jax.random.key(4), (CFG.width,))}


@pytest.fixture(scope="module")
def critic() -> dict:
    return parameters.init(jax.random.key(5), CFG)


@pytest.fixture(scope="module")
def texts() -> scalar_rm.Texts:
    rng = np.random.default_rng(1)
    prompt = rng.integers(2, V, (Q, P)).astype(np.int32)
    mask = np.arange(P)[None] >= np.array([[0], [2], [1], [0]])
    exists = RANKING.exists_BN.reshape(-1)
    length = np.where(exists, rng.integers(1, R + 1, Q * N), 0).astype(np.int32)
    response = rng.integers(2, V, (Q * N, R)).astype(np.int32)
    rows = Rollout(
        prompt, mask, response, length, np.zeros(Q * N, bool), np.zeros((Q * N, R), np.float32)
    )
    return scalar_rm.Texts(rows, RANKING, rng.integers(0, 2**32, Q * N).astype(np.uint32))


def ids_of(texts, row: int) -> list[int]:
    """The ids of query and response, from first to last."""
    rows, query = texts.rows, row // N
    ids = rows.prompt_QP[query][rows.prompt_mask_QP[query]].tolist()
    return ids + rows.response_BR[row, : rows.length_B[row]].tolist()


@jax.jit
def hidden_state(params, token, mask):
    return model.prefill(params, token, mask, CFG)[0][:, -1]


def last_hidden(params, ids: list[int]):
    """The hidden state [1, D] of the last token of a whole text, from one forward pass."""
    token = np.zeros((1, P + R + K), np.int32)
    token[0, -len(ids) :] = ids
    return hidden_state(params, token, np.arange(token.size)[None] >= token.size - len(ids))


def value(params, ids: list[int]):
    """The value head's value of a whole text."""
    return model.value(params, last_hidden(params, ids)[0])


def oracle(reward: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss and its slopes by the rewards, one pair after the other, in float64."""
    reward = reward.astype(np.float64).reshape(Q, N)
    total, slope = 0.0, np.zeros((Q, N))
    for q in range(Q):
        n, best = COUNT[q], BEST[q]
        if n == 1:
            sign = 1 if best else -1
            total += np.log1p(np.exp(-sign * reward[q, 0]))
            slope[q, 0] = -sign / (1 + np.exp(sign * reward[q, 0]))
            continue
        for other in set(range(n)) - {best}:
            gap = reward[q, best] - reward[q, other]
            total += np.log1p(np.exp(-gap)) / (n - 1)
            push = 1 / (1 + np.exp(gap)) / (n - 1)
            slope[q, best] -= push
            slope[q, other] += push
    return total / Q, slope.reshape(-1) / Q


def test_the_loss_is_that_of_every_pair_of_the_best() -> None:
    reward = np.random.default_rng(2).normal(0, 2, Q * N).astype(np.float32)
    loss, slope = jax.value_and_grad(scalar_rm.loss)(jnp.asarray(reward), RANKING)
    expected, slopes = oracle(reward)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, slopes, atol=1e-7)
    far = scalar_rm.loss(jnp.full(Q * N, 1e4).at[2].set(-1e4), RANKING)
    assert np.isfinite(far) and far > 2000


def test_right_is_the_best_alone_at_the_top() -> None:
    reward = np.array([[1, 2, 3], [1, 1, 9], [0.1, 9, 9], [0, -9, 9]], np.float32)
    right = scalar_rm.is_right(reward.reshape(-1), RANKING)
    assert right.tolist() == [True, False, True, False]


@strict
def test_a_reward_is_the_value_of_the_whole_text(params, texts) -> None:
    rows = scalar_rm.write_rows({}, texts, jax.random.key(0), SILENT, CFG)
    assert all(rows.response_BR[i, n - 1] == EOS for i, n in enumerate(rows.length_B) if n)
    reward = scalar_rm.score(params, rows, CFG)
    for row, length in enumerate(texts.rows.length_B):
        expected = value(params, ids_of(texts, row)) if length else 0.0
        np.testing.assert_allclose(reward[row], expected, atol=2e-5)


def test_the_gradient_is_that_of_plain_forward_passes(params, texts) -> None:
    """Also in parts of a few tokens, and whatever the order of responses and items."""

    def plain(params):
        read = [value(params, ids_of(texts, i)) if n else 0.0 for i, n in enumerate(lengths)]
        return scalar_rm.loss(jnp.stack([jnp.float32(x) for x in read]), RANKING)

    lengths = texts.rows.length_B
    loss, grads = jax.jit(jax.value_and_grad(plain))(params)
    # In the first item two responses change places; the second item fills its last two places.
    order = np.array([1, 0, 2, 5, 4, 3, 6, 7, 8, 9, 10, 11])
    swapped = jax.tree.map(lambda x: x[order] if len(x) == Q * N else x, texts.rows)
    exists = RANKING.exists_BN.copy()
    exists[1] = [False, True, True]
    other = RANKING.replace(exists_BN=exists, best_B=np.array([2, 2, 1, 0], np.int32))
    for rows, ranking, tokens in ((texts.rows, RANKING, 4096), (swapped, other, 16)):
        cfg = dataclasses.replace(CFG, part_tokens=tokens)
        ended = scalar_rm.write_rows(
            {}, texts._replace(rows=rows, ranking=ranking), jax.random.key(0), SILENT, cfg
        )
        result = jax.jit(scalar_rm.gradient, static_argnums=3)(params, ended, ranking, cfg)
        np.testing.assert_allclose(result.loss, loss, rtol=1e-5)
        for name, expected in grads.items():
            np.testing.assert_allclose(result.grads[name], expected, atol=3e-5, err_msg=name)


@strict
def test_critiques_are_those_of_a_plain_loop_and_are_read(params, critic, texts) -> None:
    key = jax.random.key(7)
    written = scalar_rm.write_critiques(critic, texts, key, LOUD, CFG)
    rows = scalar_rm.write_rows(critic, texts, key, LOUD, CFG)
    reward = scalar_rm.score(params, rows, CFG)
    cut = 0
    for row, length in enumerate(texts.rows.length_B):
        if not length:
            assert float(reward[row]) == 0 and int(rows.length_B[row]) == 0
            continue
        asked, said = ids_of(texts, row), []
        while len(said) < K and not set(said) & set(ENDS):
            logits = model.logits(critic, last_hidden(critic, asked + said), CFG)
            own = jax.random.fold_in(jax.random.fold_in(key, texts.stream_B[row]), len(said))
            said.append(int(sampling.sample(logits, own[None], SAMPLE)[0][0]))
        assert written.response_BR[row, : written.length_B[row]].tolist() == said
        cut += said[-1] not in ENDS
        said = [i for i in said if i not in ENDS]
        read = rows.response_BR[row, length : rows.length_B[row]].tolist()
        assert read == [*said, EOS]
        np.testing.assert_allclose(reward[row], value(params, asked + said), atol=2e-5)
    assert 0 < cut < COUNT.sum()  # both cases are here


@pytest.mark.slow
def test_neither_mesh_nor_place_changes_a_reward(params, critic, texts) -> None:
    key = jax.random.key(7)

    @jax.jit
    def score(texts):
        rows = scalar_rm.write_rows(critic, texts, key, LOUD, CFG)
        return scalar_rm.score(params, rows, CFG)

    alone = np.asarray(score(texts))
    mesh = sharding.make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    with jax.set_mesh(mesh):
        split = np.asarray(score(sharding.place_rows(texts, mesh)))
    np.testing.assert_allclose(split, alone, atol=2e-6)

    def turned(x):
        return np.asarray(x).reshape(Q, -1, *x.shape[1:])[::-1].reshape(x.shape)

    back = np.asarray(score(jax.tree.map(turned, texts)))
    np.testing.assert_allclose(turned(back), alone, atol=2e-6)


def test_steps_learn_to_prefer_the_best(texts) -> None:
    tx = optax.adam(1e-2)
    start = parameters.with_value(parameters.init(jax.random.key(3), CFG), CFG)
    state = step.init_state(jax.random.key(0), start, tx)
    learn = jax.jit(scalar_rm.scalar_step, static_argnames=("writer", "cfg", "tx"))
    seen = []
    for _ in range(12):
        state, metrics = learn(state, {}, texts, writer=SILENT, cfg=CFG, tx=tx)
        seen.append(jax.device_get(metrics))
    assert seen[0]["loss"] == pytest.approx(np.log(2), rel=1e-6) and seen[0]["scalar/acc"] == 0
    assert seen[-1]["loss"] < 0.3 and seen[-1]["scalar/acc"] == 1
    assert state.step == 12 and metrics["policy/skipped"] == 0
