"""The engine: what it samples, when it stops, and that the trainer reads the same numbers."""

import dataclasses
import functools
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import block, engine, likelihood, model, parameters, ragged, sampling, sharding
from rlvr_jax.config import FAMILIES, MeshConfig, ModelConfig, SampleConfig
from rlvr_jax.structs import Prompts, Rollout

pytestmark = pytest.mark.usefixtures("strict_dtypes")
SLOW = pytest.mark.slow  # further combinations of what others have

V, EOS = 32, 5
Q, G, P, R = 3, 4, 6, 8
CFG = ModelConfig(
    layers=2, width=V, heads=4, kv_heads=2, head_size=6, feedforward=40, vocab=V, tied=False
)
PLAIN, GREEDY = SampleConfig(), SampleConfig(temperature=0)
SAMPLERS = {
    "plain": PLAIN,
    "cool": SampleConfig(temperature=0.7),
    "top-k": SampleConfig(top_k=6),
    "top-p": SampleConfig(temperature=1.3, top_p=0.8),
}

prefill = jax.jit(model.prefill, static_argnums=3)
logprobs = jax.jit(likelihood.logprobs, static_argnums=(2, 3))


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def write(params, prompts, key, eos, samples, columns, sample_cfg, cfg, limit_B=None):
    sampler = engine.Sampler(key, eos, samples, columns, sample_cfg, limit_B)
    return engine.generate(params, prompts, sampler, cfg)


@pytest.fixture(scope="module")
def params() -> dict:
    """A random model whose every context gives EOS a fair chance."""
    rng = np.random.default_rng(0)
    params = {
        name: np.ones(x.shape, np.float32)
        if "norm" in name
        else rng.normal(0, 0.5 if x.shape[0] == V else 0.25, x.shape).astype(np.float32)
        for name, x in parameters.abstract(CFG).items()
    }
    # A direction of the stream that is the same everywhere, and that EOS likes.
    params["embed_VD"][:, 0] = 4.0
    params["out_LNHD"][..., 0] = params["down_LFD"][..., 0] = 0.0
    params["head_VD"][:, 0] = 0.0
    params["head_VD"][EOS] = 3 * np.eye(V)[0]
    return params


@pytest.fixture(scope="module")
def chain() -> dict:
    """A model without context: token n is followed by n - 1, and 6 by 5, which is EOS.

    Embeddings are unit vectors and the blocks add nothing, so logits are a table of pairs.
    """
    params = {name: np.zeros(x.shape, np.float32) for name, x in parameters.abstract(CFG).items()}
    params |= {name: np.ones_like(x) for name, x in params.items() if "norm" in name}
    params["embed_VD"] = np.eye(V, dtype=np.float32)
    for now in range(V):
        params["head_VD"][(now - 1) % V, now] = 10.0
    return params


def make_prompts(lengths=(6, 1, 4), width: int = P, seed: int = 1) -> Prompts:
    """Left-padded ids, drawn from the right end, so that a wider window holds the same prompts."""
    rng = np.random.default_rng(seed)
    ids = np.array([rng.integers(6, V, 20)[-width:] for _ in lengths], np.int32)
    mask = np.arange(width)[None] >= width - np.array(lengths)[:, None]
    nothing = np.zeros((len(lengths), 1), np.int32)
    return Prompts(ids, mask, nothing, nothing.astype(bool))


def chain_prompts(last: list[int]) -> Prompts:
    prompts = make_prompts((3,) * len(last))
    prompts.prompt_QP[:, -1] = last
    return prompts


def generate(*args) -> Rollout:
    return write(*args)[0]


def read(params, written: Rollout, sample_cfg: SampleConfig, cfg: ModelConfig) -> tuple:
    """Log-probability and entropy [B, R], differentiable: all prompts at once, all rows at once."""
    _, prefix = model.prefill(params, written.prompt_QP, written.prompt_mask_QP, cfg)
    shards = sharding.data_shards()
    rows, columns = written.response_BR.shape
    index = jnp.broadcast_to(jnp.arange(rows // shards), (shards, rows // shards))
    part = ragged.Part(index.astype(jnp.int32), columns)
    states = likelihood.part_states(params, prefix, part, written, cfg)
    return likelihood.token_logprobs(states, sample_cfg, cfg)


def draw(params, prompts: Prompts, cfg: SampleConfig = PLAIN, seed: int = 0) -> Rollout:
    written = generate(params, prompts, jax.random.key(seed), jnp.int32(EOS), G, R, cfg, CFG)
    return jax.tree.map(np.asarray, written)


def next_logits(params, prompts: Prompts, response_BR) -> np.ndarray:
    """Logits [B, R, V] in front of each response column, by a prefill of plain repeated rows."""
    token = np.concatenate([np.repeat(prompts.prompt_QP, G, 0), response_BR], 1)
    mask = np.repeat(prompts.prompt_mask_QP, G, 0)
    mask = np.concatenate([mask, np.ones_like(response_BR, bool)], 1)
    hidden, _ = prefill(params, token, mask, CFG)
    return np.asarray(hidden, np.float64)[:, P - 1 : -1] @ params["head_VD"].T.astype(np.float64)


# -- sampler and trainer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["plain", "top-p", *(pytest.param(name, marks=SLOW) for name in ("cool", "top-k"))]
)
def test_trainer_reads_what_the_sampler_wrote(params, name) -> None:
    written = draw(params, make_prompts(), SAMPLERS[name])
    mask = written.response_mask_BR
    # The batch is worth testing: stops at many columns, the first one too, and rows cut off.
    assert len(set(written.length_B.tolist())) >= 4
    assert written.truncated_B.any() and not written.truncated_B.all()

    logprob, entropy = logprobs(params, written, SAMPLERS[name], CFG)
    assert np.max(np.abs(logprob - written.logprob_BR)) <= 1e-5
    # Top-p may leave one token alone: then nothing is uncertain, and nothing is rounded.
    certain = np.asarray(mask) & (np.asarray(entropy) == 0)
    assert name == "top-p" or not certain.any()
    assert np.all(written.logprob_BR[certain] == 0)
    assert np.all(written.logprob_BR[mask & ~certain] < 0)
    assert np.all(np.asarray(entropy)[mask & ~certain] > 0)
    for x in (written.response_BR, written.logprob_BR, logprob, entropy):
        assert np.all(np.asarray(x)[~np.asarray(mask)] == 0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_logprobs_and_entropy_are_those_of_the_distribution(params, name) -> None:
    cfg = SAMPLERS[name]
    prompts = make_prompts()
    written = draw(params, prompts, cfg)
    logprob, entropy = logprobs(params, written, cfg, CFG)
    for b, row in enumerate(next_logits(params, prompts, written.response_BR)):
        for t in range(written.length_B[b]):
            prob = np.exp((row[t] - row[t].max()) / cfg.temperature)
            if cfg.top_k:
                prob[prob < np.sort(prob)[-cfg.top_k]] = 0
            order = np.argsort(-prob)
            reached = np.cumsum(prob[order]) / prob.sum()
            if cfg.top_p < 1:
                prob[order[1 + np.searchsorted(reached, cfg.top_p) :]] = 0
            prob = prob / prob.sum()
            assert logprob[b, t] == pytest.approx(np.log(prob[written.response_BR[b, t]]), abs=1e-5)
            some = prob[prob > 0]
            assert entropy[b, t] == pytest.approx(-(some * np.log(some)).sum(), abs=1e-5)


def test_bfloat16_parity_does_not_depend_on_the_temperature(params) -> None:
    """The trainer divides the same float32 logits as the sampler, with no rounding of its own."""
    cfg = dataclasses.replace(CFG, compute="bfloat16")
    cool = SAMPLERS["cool"]
    written = generate(params, make_prompts(), jax.random.key(0), jnp.int32(EOS), G, R, cool, cfg)
    logprob, _ = logprobs(params, written, cool, cfg)
    gap = np.abs(np.asarray(logprob) - np.asarray(written.logprob_BR))
    # Sums of another order rarely round to another bfloat16; where one does, its row moves by 1e-2.
    assert np.median(gap) < 1e-6 and np.mean(gap) < 2e-3


def test_greedy_is_the_argmax_step_by_step(params) -> None:
    prompts = make_prompts()
    written = draw(params, prompts, GREEDY)
    best = next_logits(params, prompts, written.response_BR).argmax(-1)
    mask = np.asarray(written.response_mask_BR)
    np.testing.assert_array_equal(written.response_BR[mask], best[mask])
    assert np.all(written.logprob_BR == 0)
    assert len(set(written.response_BR[mask].tolist())) > 3


def test_a_token_is_drawn_with_the_key_of_its_row_and_column(params) -> None:
    """Sampling is replayed from logits of plain rows and keys folded by hand."""
    prompts = make_prompts()
    written = draw(params, prompts, PLAIN, seed=4)
    logits = jnp.asarray(next_logits(params, prompts, written.response_BR), jnp.float32)
    fold = jax.vmap(jax.random.fold_in, (0, None))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(4), jnp.arange(Q * G))
    for t in range(R):
        token, _ = sampling.sample(logits[:, t], fold(keys, t), PLAIN)
        live = t < written.length_B
        np.testing.assert_array_equal(written.response_BR[live, t], np.asarray(token)[live])


# -- stopping -------------------------------------------------------------------------------------


def test_lengths_and_flags_of_a_known_chain(chain) -> None:
    # After 6 comes EOS at once; after 13 it comes in the very last column; after 14 too late.
    written = draw(chain, chain_prompts([6, 13, 14]), GREEDY)
    want = {6: [5], 13: [12, 11, 10, 9, 8, 7, 6, 5], 14: [13, 12, 11, 10, 9, 8, 7, 6]}
    for q, last in enumerate(want):
        for b in range(q * G, (q + 1) * G):
            length = len(want[last])
            assert written.length_B[b] == length
            assert written.response_BR[b, :length].tolist() == want[last]
            assert written.truncated_B[b] == (last == 14)
            assert written.response_mask_BR[b].sum() == length
    assert np.all(written.response_BR[:G, 1:] == 0)
    assert written.length_B.dtype == np.int32 and written.truncated_B.dtype == bool


def test_lengths_follow_from_the_tokens(params) -> None:
    written = draw(params, make_prompts(), PLAIN, seed=7)
    for b in range(Q * G):
        tokens = written.response_BR[b].tolist()
        length = int(written.length_B[b])
        if EOS in tokens:
            assert length == tokens.index(EOS) + 1 and not written.truncated_B[b]
        else:
            assert length == R and written.truncated_B[b]


@pytest.fixture(scope="module")
def counting():
    """`generate`, and the list of columns that its loop has really decoded."""
    turns: list[int] = []
    decode = model.decode

    def counted(params, token_B, column, *rest):
        jax.debug.callback(lambda at: turns.append(int(at)), column)
        return decode(params, token_B, column, *rest)

    def run(*args):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "decode", counted)
            params, prompts, key, eos = args
            sampler = engine.Sampler(key, eos, G, R, GREEDY)
            return engine.generate(params, prompts, sampler, CFG)[0]

    return jax.jit(run), turns


@pytest.mark.parametrize("last, longest", [([6, 6, 6], 1), ([6, 8, 7], 3), ([6, 6, 20], 8)])
def test_the_loop_stops_with_the_longest_row(chain, counting, last, longest) -> None:
    run, turns = counting
    turns.clear()
    written = run(chain, chain_prompts(last), jax.random.key(0), jnp.int32(EOS))
    assert written.length_B.max() == longest
    jax.effects_barrier()
    assert longest - 1 <= len(turns) <= longest  # the last column's decode is not needed


# -- independence ---------------------------------------------------------------------------------


def test_rows_do_not_depend_on_other_prompts(params) -> None:
    prompts = make_prompts()
    other = make_prompts((5, 6, 2), seed=9)
    for x in ("prompt_QP", "prompt_mask_QP"):
        getattr(other, x)[1] = getattr(prompts, x)[1]
    a, b = draw(params, prompts), draw(params, other)
    middle = slice(G, 2 * G)
    np.testing.assert_array_equal(a.response_BR[middle], b.response_BR[middle])
    # 5e-6, not exact: slots shrink at other columns, and products of other row counts round apart.
    np.testing.assert_allclose(a.logprob_BR[middle], b.logprob_BR[middle], atol=5e-6, rtol=0)
    assert np.any(a.response_BR[:G] != b.response_BR[:G])
    # A group's rows share a prompt and nothing else: their tokens differ.
    assert len({tuple(row) for row in a.response_BR[middle]}) > 1
    assert np.any(draw(params, prompts, seed=1).response_BR != a.response_BR)


def test_rows_do_not_depend_on_batch_size_or_padding(params) -> None:
    whole = draw(params, make_prompts())
    alone = draw(params, make_prompts((6,), width=P + 3))
    np.testing.assert_array_equal(alone.response_BR, whole.response_BR[:G])
    np.testing.assert_array_equal(alone.length_B, whole.length_B[:G])
    np.testing.assert_allclose(alone.logprob_BR, whole.logprob_BR[:G], atol=5e-6, rtol=0)


def test_what_follows_the_end_is_not_read(params) -> None:
    written = draw(params, make_prompts())
    mask = np.asarray(written.response_mask_BR)
    rubbish = np.where(mask, written.response_BR, 9).astype(np.int32)
    want = logprobs(params, written, PLAIN, CFG)
    got = logprobs(params, written.replace(response_BR=rubbish), PLAIN, CFG)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


# -- gradient -------------------------------------------------------------------------------------


def test_gradient_of_logprobs_is_their_slope(params) -> None:
    """Central differences at the steepest coordinate of each parameter, weights of both signs."""
    written = draw(params, make_prompts())
    weight = np.random.default_rng(3).normal(0, 0.3, (Q * G, R)).astype(np.float32)

    def loss(params):
        logprob, entropy = read(params, written, SAMPLERS["cool"], CFG)
        return jnp.sum(weight * (logprob + 0.5 * entropy))

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    _, grads = value_and_grad(params)
    for name, slope in grads.items():
        at = np.unravel_index(np.argmax(np.abs(slope)), slope.shape)

        def moved(delta, name=name, at=at):
            x = params[name].copy()
            x[at] += delta
            return float(value_and_grad(params | {name: x})[0])

        # Richardson: the error of the wide difference is 4 times that of the narrow one.
        wide = (moved(2e-2) - moved(-2e-2)) / 4e-2
        narrow = (moved(1e-2) - moved(-1e-2)) / 2e-2
        assert float(slope[at]) == pytest.approx((4 * narrow - wide) / 3, rel=0.01), name


# -- families -------------------------------------------------------------------------------------

# Experts, windows, two rotations and norms around both branches; the others run in test-slow.
ENOUGH = ("qwen3_moe", "gemma3_text")
NEWER = [
    pytest.param(name, marks=() if name in ENOUGH else pytest.mark.slow)
    for name in FAMILIES
    if name != "llama"
]


def family(name: str, options: dict) -> tuple[ModelConfig, dict]:
    """A small model of a family, every parameter random, also norms and biases."""
    cfg = ModelConfig(
        family=name,  # type: ignore[arg-type]
        layers=3,
        width=16,
        heads=4,
        kv_heads=2,
        head_size=6,
        feedforward=24,
        vocab=V,
        **options,
    )
    rng = np.random.default_rng(3)
    params = {
        key: rng.normal(0, 0.3, x.shape).astype(np.float32)
        + np.float32("norm" in key and not cfg.has.from_one)
        for key, x in parameters.abstract(cfg).items()
    }
    return cfg, params


@pytest.mark.parametrize("name", NEWER)
def test_trainer_reads_what_the_sampler_wrote_in_every_family(name, of_family) -> None:
    cfg, params = family(name, of_family[name])
    prompts = make_prompts()
    written = generate(params, prompts, jax.random.key(0), jnp.int32(EOS), G, R, PLAIN, cfg)
    logprob, _ = logprobs(params, written, PLAIN, cfg)
    assert np.max(np.abs(logprob - written.logprob_BR)) <= 1e-5
    assert np.min(np.asarray(written.logprob_BR)) < -1


@pytest.mark.parametrize("name", NEWER)
def test_every_family_gives_the_same_numbers_and_gradients_on_a_mesh(name, of_family) -> None:
    cfg, params = family(name, of_family[name])
    written = generate(
        params, make_prompts((6, 1, 4, 2)), jax.random.key(0), jnp.int32(EOS), G, R, PLAIN, cfg
    )

    @jax.jit
    def learn(params, written):
        def objective(params):
            logprob, entropy = read(params, written, PLAIN, cfg)
            return jnp.sum(logprob) + jnp.sum(entropy), logprob

        return jax.grad(objective, has_aux=True)(params)

    grads, alone = learn(params, written)
    mesh_cfg = MeshConfig(data=2, fsdp=2, tensor=2)
    mesh = sharding.make_mesh(mesh_cfg)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.shard_tree(params, mesh, mesh_cfg))
        rows = sharding.place_rows(jax.device_get(written), mesh)
        spread_grads, spread = learn(placed, rows)
    np.testing.assert_allclose(spread, alone, atol=1e-5, rtol=0)
    for key, grad in grads.items():
        scale = np.linalg.norm(grad)
        assert np.linalg.norm(np.asarray(spread_grads[key]) - grad) <= 1e-5 * scale, key


@pytest.mark.slow
def test_what_the_families_add_changes_what_is_said(of_family) -> None:
    """An option that did nothing would pass every test of agreement with itself."""
    changes = {
        "gemma2": dict(window=2, global_every=3, attention_softcap=0.5, logit_softcap=1.0),
        "gemma3_text": dict(rope_theta_window=50.0, query_scale=3.0),
        "qwen3_moe": dict(experts_used=1, experts_sum_to_one=False),
        "qwen3": dict(rope_scaling="linear", rope_factor=4.0),
        "smollm3": dict(unrotated_every=3, rope_truncate=False),
        "phi3": dict(long_rows=True, rope_amplitude=0.8),
    }
    for name, options in changes.items():
        cfg, params = family(name, of_family[name])
        rows = draw_rows(params, cfg)
        before, _ = logprobs(params, rows, PLAIN, cfg)
        for key, value in options.items():
            more = {"rope_factor": 4.0} if key == "rope_scaling" else {}
            if key == "rope_factor":
                more = {"rope_scaling": "llama3", "rope_original": 16}
            after, _ = logprobs(
                params, rows, PLAIN, dataclasses.replace(cfg, **{key: value}, **more)
            )
            assert np.max(np.abs(after - before)) > 1e-3, (name, key)


def draw_rows(params, cfg: ModelConfig) -> Rollout:
    return generate(params, make_prompts(), jax.random.key(0), jnp.int32(EOS), G, R, PLAIN, cfg)


def test_any_of_several_ends_ends_a_response(chain) -> None:
    """After 9 comes 8, and so on down: the first of the ends that is met counts."""
    prompts = chain_prompts([10, 13, 31])
    written = generate(chain, prompts, jax.random.key(0), (EOS, 8), G, R, GREEDY, CFG)
    assert written.length_B.reshape(-1, G)[:, 0].tolist() == [2, 5, R]
    assert written.truncated_B.reshape(-1, G)[:, 0].tolist() == [False, False, True]


# -- the engine against a plain loop --------------------------------------------------------------

TINY = ModelConfig(
    layers=2, width=16, heads=4, kv_heads=2, head_size=6, feedforward=24, vocab=8, tied=False
)
END = 1


def tiny_params(cfg: ModelConfig, seed: int = 0) -> dict:
    """Of eight tokens one is the end: it comes after eight draws or so, at random."""
    rng = np.random.default_rng(seed)
    return {
        key: (rng.normal(0, 0.3, x.shape) + ("norm" in key and not cfg.has.from_one)).astype(
            np.float32
        )
        for key, x in parameters.abstract(cfg).items()
    }


def tiny_prompts(count: int, width: int = 5) -> Prompts:
    rng = np.random.default_rng(count)
    ids = rng.integers(0, 8, (count, width)).astype(np.int32)
    mask = np.arange(width) >= width - rng.integers(1, width + 1, (count, 1))
    return Prompts(ids, mask, ids[:, :0], mask[:, :0])


@functools.partial(jax.jit, static_argnums=(6, 7))
def next_token(params, token_BT, mask_BT, column, key, rows_B, sample_cfg, cfg):
    """Drawn behind the tokens so far by a forward pass over all of them: no cache, no slots."""
    hidden_BTD, _ = model.prefill(params, token_BT, mask_BT, cfg)
    start = token_BT.shape[1] - cfg.context
    last_BD = jax.lax.dynamic_index_in_dim(hidden_BTD, start + column - 1, 1, keepdims=False)
    fold = jax.random.fold_in
    keys = jax.vmap(lambda row: fold(fold(key, row), column))(rows_B)
    return sampling.sample(model.logits(params, last_BD, cfg), keys, sample_cfg)


def plain_loop(params, prompts: Prompts, samples, columns, cfg, limit=None, sampler=PLAIN, end=END):
    """Tokens, log-probs and lengths, one column after the other for all rows."""
    cfg = dataclasses.replace(cfg, unroll=False, context=columns, slots=0)
    rows = len(prompts.prompt_QP) * samples
    limit = np.full(rows, columns) if limit is None else limit
    token = np.repeat(prompts.prompt_QP, samples, 0)
    mask = np.repeat(prompts.prompt_mask_QP, samples, 0)
    first = token.shape[1]
    token = np.concatenate([token, np.zeros((rows, columns), np.int32)], 1)
    mask = np.concatenate([mask, np.zeros((rows, columns), bool)], 1)
    logprob = np.zeros((rows, columns), np.float32)
    length, live = np.zeros(rows, np.int32), np.ones(rows, bool)
    ended = np.zeros(rows, bool)
    key, numbers = jax.random.key(0), jnp.arange(rows)
    for column in range(columns):
        if not live.any():
            break
        at = jnp.int32(column)
        drawn, value = next_token(params, token, mask, at, key, numbers, sampler, cfg)
        token[live, first + column] = np.asarray(drawn)[live]
        mask[live, first + column] = True
        logprob[live, column] = np.asarray(value)[live]
        length += live
        ended |= live & (np.asarray(drawn) == end)
        live &= ~ended & (length < limit)
    return token[:, first:], logprob, length, ended


def assert_same(written: Rollout, plain, atol: float = 1e-5) -> None:
    token, logprob, length, ended = plain
    np.testing.assert_array_equal(written.length_B, length)
    np.testing.assert_array_equal(written.response_BR, token)
    np.testing.assert_array_equal(written.truncated_B, ~ended)
    np.testing.assert_allclose(written.logprob_BR, logprob, atol=atol, rtol=0)


def decoded_by_hand(length, slots: int, shards: int = 1) -> int:
    """Rows decoded: every slot there is, each column; a row's first token needs no decoding.

    A shard's slots take its next rows as they become free; when no shard has any left, the slots
    are halved as soon as half of them, on the fullest shard, hold a row.
    """
    waiting = [list(x) for x in np.reshape(length, (shards, -1))]
    count = min(slots or len(waiting[0]), len(waiting[0]))
    live = [[shard.pop(0) - 1 for _ in range(count)] for shard in waiting]  # tokens to come
    live = [[n for n in shard if n] for shard in live]
    decoded = 0
    while any(waiting):
        for shard, queue in zip(live, waiting, strict=True):
            while len(shard) < count and queue:
                shard.append(queue.pop(0))
        decoded += count * shards
        live = [[n - 1 for n in shard if n > 1] for shard in live]
    while count:
        fewer = count // 2 if count > 2 else 0
        while max(map(len, live)) > fewer:
            decoded += count * shards
            live = [[n - 1 for n in shard if n > 1] for shard in live]
        count = fewer
    return decoded


@pytest.mark.parametrize(
    "slots, count, samples, options",
    [
        (0, 3, 5, dict()),
        (1, 3, 5, dict(unroll=True, limit=True)),
        (3, 7, 1, dict(unroll=True)),
        (8, 11, 1, dict(limit=True)),
        (4, 3, 5, dict(part_tokens=7, sampler="top-k")),
        pytest.param(0, 9, 1, dict(unroll=True), marks=SLOW),
        pytest.param(1, 9, 1, dict(), marks=SLOW),
        pytest.param(3, 3, 5, dict(limit=True), marks=SLOW),
        pytest.param(8, 5, 5, dict(unroll=True), marks=SLOW),
        pytest.param(2, 3, 5, dict(sampler="top-p", unroll=True), marks=SLOW),
    ],
)
def test_the_engine_writes_what_a_plain_loop_writes(slots, count, samples, options) -> None:
    """Many rows to a slot: with ten columns the ring is gone around several times."""
    columns, rows = 10, count * samples
    sampler = SAMPLERS[options.pop("sampler", "plain")]
    limit = None
    if options.pop("limit", False):
        limit = np.random.default_rng(slots).integers(1, columns + 1, rows).astype(np.int32)
    cfg = dataclasses.replace(TINY, slots=slots, **options)
    params, prompts = tiny_params(TINY), tiny_prompts(count)
    plain = plain_loop(params, prompts, samples, columns, TINY, limit, sampler)
    key = jax.random.key(0)
    written, decoded = write(params, prompts, key, (END,), samples, columns, sampler, cfg, limit)
    assert_same(written, plain)
    length, ended = plain[2:]
    assert len(set(length.tolist())) >= 3 and ended.any() and not ended.all()
    assert int(decoded) == decoded_by_hand(length, slots)
    assert slots not in (1, 2) or length.sum() / slots > 2 * columns


@pytest.mark.parametrize(
    "name",
    [*ENOUGH, pytest.param("mistral", marks=SLOW), pytest.param("gemma2", marks=SLOW)],
)
def test_the_engine_writes_what_a_plain_loop_writes_in_other_families(name, of_family) -> None:
    """Windows are counted in positions of the row, wherever in the ring its columns stand."""
    cfg = dataclasses.replace(TINY, family=name, **of_family[name])
    params, prompts = tiny_params(cfg), tiny_prompts(3)
    plain = plain_loop(params, prompts, 3, 12, cfg)
    for slots, unroll in ((0, True), (2, False)):
        how = dataclasses.replace(cfg, slots=slots, unroll=unroll)
        key = jax.random.key(0)
        written, _ = write(params, prompts, key, (END,), 3, 12, PLAIN, how)
        assert_same(written, plain)
    assert plain[2].max() > 3 + 2  # longer than the window


@pytest.mark.parametrize("slots, samples", [(0, 3), (2, 6)])
def test_a_long_ring_is_read_in_chunks(monkeypatch, slots, samples) -> None:
    """130 columns make a ring of 192, read 64 at a time; refilled slots go around it."""
    monkeypatch.setattr(sys.modules["rlvr_kernels.decode_attention.xla"], "WIDE", 64)
    params, prompts = tiny_params(TINY), tiny_prompts(1)
    cfg = dataclasses.replace(TINY, slots=slots)
    limit = np.array([130, 3, 90, 129, 130, 66][:samples], np.int32)
    plain = plain_loop(params, prompts, samples, 130, TINY, limit, end=-1)  # no end at all

    @jax.jit  # of its own: what was compiled before is not used again
    def run(params, key):
        sampler = engine.Sampler(key, (), samples, 130, PLAIN, limit)
        return engine.generate(params, prompts, sampler, cfg)

    written, decoded = run(params, jax.random.key(0))
    assert_same(written, plain)
    assert int(decoded) == decoded_by_hand(plain[2], slots)
    if slots:
        assert plain[2].sum() > 2 * 192


MESHES = {"data": (8, 1, 1), "fsdp": (2, 4, 1), "all": (2, 2, 2), "tensor": (4, 1, 2)}


@pytest.mark.parametrize(
    "mesh, slots",
    [
        ("fsdp", 0),
        ("all", 3),
        pytest.param("data", 2, marks=SLOW),
        pytest.param("tensor", 1, marks=SLOW),
    ],
)
def test_a_mesh_writes_what_one_device_writes(mesh, slots, monkeypatch) -> None:
    """Every shard refills its own slots from its own rows, and shares their prefixes."""
    monkeypatch.setattr(block, "takes_places", lambda cfg: True)  # as on an accelerator
    cfg = dataclasses.replace(TINY, slots=slots)
    params, prompts = tiny_params(TINY), tiny_prompts(8)
    key, columns, samples = jax.random.key(0), 10, 5
    plain = plain_loop(params, prompts, samples, columns, TINY)
    mesh_cfg = MeshConfig(*MESHES[mesh])
    on = sharding.make_mesh(mesh_cfg)
    with jax.set_mesh(on):
        placed = jax.device_put(params, sharding.shard_tree(params, on, mesh_cfg))
        rows = sharding.place_rows(prompts, on)
        written, decoded = write(placed, rows, key, (END,), samples, columns, PLAIN, cfg)
        written = jax.device_get(written)
    assert_same(written, plain)
    shards = mesh_cfg.data * mesh_cfg.fsdp
    assert int(decoded) == decoded_by_hand(plain[2], slots, shards)


SHARED = {(1, 4, 1): 2, (1, 8, 1): 4, (1, 2, 2): 4}  # mesh: devices that share weights to decode


@pytest.mark.parametrize(
    "shape, slots",
    [((1, 8, 1), 1), ((1, 2, 2), 0), pytest.param((1, 4, 1), 0, marks=SLOW)],
)
def test_devices_that_share_weights_write_what_one_device_writes(shape, slots) -> None:
    """Two kv heads serve four devices too: each device has a copy of the one that it reads."""
    cfg = dataclasses.replace(TINY, slots=slots, decode_tensor=SHARED[shape])
    params, prompts = tiny_params(TINY), tiny_prompts(8)
    plain = plain_loop(params, prompts, 3, 10, TINY)
    written = on_mesh(shape, params, prompts, cfg)(10)
    assert written.length_B.sharding.spec[0] in ("fsdp", ("data", "fsdp"))
    assert_same(jax.device_get(written), plain)


def on_mesh(shape: tuple[int, int, int], params: dict, prompts: Prompts, cfg: ModelConfig):
    """Return a function of the budget that writes on a mesh; `lower=True` only lowers."""
    mesh_cfg = MeshConfig(*shape)
    sharding.check_decode_view(cfg.sizes, cfg.decode_tensor, mesh_cfg, "model")
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[: math.prod(shape)])

    def run(columns: int, lower: bool = False):
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, sharding.shard_tree(params, mesh, mesh_cfg))
            rows = sharding.place_rows(prompts, mesh)
            args = placed, rows, jax.random.key(0), (END,), 3, columns, PLAIN, cfg
            return write.lower(*args) if lower else write(*args)[0]

    return run


def test_devices_that_share_weights_never_gather_them_whole() -> None:
    """Each device gets its quarter only, and a column moves nothing larger than an activation."""
    wide = dataclasses.replace(TINY, width=64, head_size=32, feedforward=256, decode_tensor=4)
    shapes = {name: x.shape for name, x in parameters.abstract(wide).items()}
    params = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    lowered = on_mesh((1, 8, 1), params, tiny_prompts(8), wide)(10, lower=True)
    names = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(
        rf" = \(?\w+\[([\d,]*)\].* ({names})\(.*op_name=\"([^\"]*)", lowered.compile().as_text()
    )
    sizes = [(math.prod(int(x) for x in dims.split(",") if x), where) for dims, _, where in found]
    rows = 8 * 3 // 2  # of one of the two shards of the view
    assert max(size for size, where in sizes if "while" in where) <= rows * 6 * wide.width
    weights = [math.prod(shapes[name]) for name in ("q_LDNH", "gate_LDF", "out_LNHD")]
    assert max(size for size, _ in sizes) == max(weights) // 4


@pytest.mark.parametrize(
    "unroll, slots, samples",
    [(True, 1, 3), (False, 0, 5), pytest.param(False, 1, 3, marks=SLOW)],
)
def test_weights_are_gathered_once_and_not_for_every_column(
    unroll, slots, samples, monkeypatch
) -> None:
    """Inside the loop, shards that split the weights tell each other when to stop; nothing else."""
    monkeypatch.setattr(block, "takes_places", lambda cfg: True)  # as on an accelerator
    cfg = dataclasses.replace(TINY, slots=slots, unroll=unroll)
    mesh_cfg = MeshConfig(1, 8, 1)
    mesh = sharding.make_mesh(mesh_cfg)
    with jax.set_mesh(mesh):
        params = tiny_params(TINY)
        placed = jax.device_put(params, sharding.shard_tree(params, mesh, mesh_cfg))
        rows = sharding.place_rows(tiny_prompts(8), mesh)
        lowered = write.lower(placed, rows, jax.random.key(0), (END,), samples, 10, PLAIN, cfg)
    names = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(rf" = (\S+) ({names})\(.*op_name=\"([^\"]*)", lowered.compile().as_text())
    in_loop = {shape for shape, _, where in found if "while" in where}
    assert in_loop == ({"s32[]", "pred[]"} if slots else {"s32[]"})  # who waits, who writes
    assert "all-gather" in {kind for _, kind, where in found if "while" not in where}


def test_rows_depend_neither_on_their_slot_nor_on_who_shares_it() -> None:
    """Other prompts before and behind, other lengths, another number of slots: the same row."""
    params, prompts, key = tiny_params(TINY), tiny_prompts(7), jax.random.key(2)
    other = tiny_prompts(7)
    for x in ("prompt_QP", "prompt_mask_QP"):
        getattr(other, x)[:] = getattr(prompts, x)[::-1]
        getattr(other, x)[5] = getattr(prompts, x)[5]
    limit = np.random.default_rng(0).integers(1, 11, 21).astype(np.int32)
    limit[15:18] = 10
    runs = []
    for slots, asked, most in ((0, prompts, None), (2, other, None), (5, other, limit)):
        cfg = dataclasses.replace(TINY, slots=slots)
        written, _ = write(params, asked, key, (END,), 3, 10, PLAIN, cfg, most)
        runs.append(jax.device_get(written))
    mine = slice(15, 18)
    for run in runs[1:]:
        np.testing.assert_array_equal(run.response_BR[mine], runs[0].response_BR[mine])
        np.testing.assert_array_equal(run.length_B[mine], runs[0].length_B[mine])
        near = dict(atol=1e-6, rtol=0)
        np.testing.assert_allclose(run.logprob_BR[mine], runs[0].logprob_BR[mine], **near)
        assert np.any(run.response_BR[:15] != runs[0].response_BR[:15])


def test_a_prefix_is_shared_as_long_as_prompts_are_fewer_than_slots() -> None:
    """Four rows of two prompts are left in slots, one place of the first prompt is empty."""
    cfg, sampler = TINY, engine.Sampler(jax.random.key(0), (), 3, 10, PLAIN)
    prompts = tiny_prompts(2)
    params = parameters.for_decoding(tiny_params(cfg), cfg)
    _, prefix = prefill(params, prompts.prompt_QP, prompts.prompt_mask_QP, cfg)
    slots, _ = engine.begin(params, prefix, 6, sampler, cfg)
    slots = slots._replace(row_SM=jnp.array([[0, 6, 2, 3, 4, 6]]))
    four = engine.shrink(slots, 4, 3, 6, share=True)
    assert four.row_SM.tolist() == [[0, 2, 3, 4]] == four.prefix.places.place_ZM.tolist()
    assert four.prefix.places.row_ZQG.tolist() == [[[0, 4, 1], [2, 3, 4]]]
    np.testing.assert_array_equal(four.prefix.mask_QP, prompts.prompt_mask_QP)
    two = engine.shrink(four._replace(row_SM=jnp.array([[6, 2, 6, 4]])), 2, 3, 6, share=True)
    alone = engine.shrink(slots, 4, 3, 6, share=False)
    assert two.prefix.places is None is alone.prefix.places
    np.testing.assert_array_equal(two.prefix.mask_QP, prompts.prompt_mask_QP)
    np.testing.assert_array_equal(alone.prefix.mask_QP, prompts.prompt_mask_QP[[0, 0, 1, 1]])


def test_slot_counts_are_few_on_an_accelerator(monkeypatch) -> None:
    assert engine.slot_counts(48) == [48, 24, 12, 6, 3, 1]
    monkeypatch.setattr(engine.dispatch, "platform", lambda: "tpu")
    assert engine.slot_counts(512) == [512, 256, 128, 32, 8]
    assert engine.slot_counts(5) == [5, 3, 2] and engine.slot_counts(1) == [1]


@pytest.mark.parametrize("unroll", [False, True])
def test_what_accelerators_do_changes_no_token(unroll, monkeypatch) -> None:
    """Few slot counts, and prefixes that the rows left of a group share."""
    monkeypatch.setattr(block, "takes_places", lambda cfg: True)
    monkeypatch.setattr(engine, "slot_counts", lambda count: ragged.coarse(count, 2))
    params, prompts = tiny_params(TINY), tiny_prompts(3)
    cfg = dataclasses.replace(TINY, unroll=unroll)

    @jax.jit  # of its own: what was compiled before is not used again
    def run(params, key):
        sampler = engine.Sampler(key, (END,), 5, 10, PLAIN)
        return engine.generate(params, prompts, sampler, cfg)[0]

    assert_same(run(params, jax.random.key(0)), plain_loop(params, prompts, 5, 10, TINY))


def test_the_long_tail_costs_what_it_holds() -> None:
    """Lengths of a skewed batch: hardly a row is decoded for nothing."""
    tail = np.repeat([16, 32, 64, 128, 256], [48, 8, 4, 2, 2]).astype(np.int32)
    limit = np.random.default_rng(0).permutation(tail)
    cfg = ModelConfig(layers=1, width=8, heads=1, kv_heads=1, head_size=8, feedforward=8, vocab=8)
    params, prompts = tiny_params(cfg), tiny_prompts(8)
    for slots in (0, 16):
        how = dataclasses.replace(cfg, slots=slots)
        key = jax.random.key(0)
        written, decoded = write(params, prompts, key, (), 8, 256, PLAIN, how, limit)
        np.testing.assert_array_equal(written.length_B, limit)
        assert int(decoded) == decoded_by_hand(limit, slots)
        assert (limit.sum() - 64) / int(decoded) >= 0.7, slots
