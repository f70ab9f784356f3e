"""Reading in parts: every row once, at the cost of its tokens; gradients as of the plain way."""

import dataclasses
import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from make_round import update_on
from rlvr_jax import likelihood, loss, model, parameters, policy_update, ragged, sharding, step
from rlvr_jax.config import (
    AdvantageConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    RlStage,
    SampleConfig,
)
from rlvr_jax.structs import Frozen, Params, Rollout, Setup, TrainState

AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant")
KL, TEMPERATURE = 0.1, 0.8
V, Q, G, P, R = 32, 8, 2, 20, 40  # read in 20 and 16 columns, and in 40, 20 and 16
B = Q * G
SIZES = dict(layers=2, width=16, heads=4, kv_heads=2, head_size=6, feedforward=24, vocab=V)
LLAMA = ModelConfig(**SIZES)
SLOW = pytest.mark.slow  # a quarter of an hour in all; what is left has every part of the machinery
# An optimizer that moves nothing and keeps the gradient it was given.
RECORD = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)

# -- parts ----------------------------------------------------------------------------------------


@functools.cache
def visitor(columns: int, tokens: int):
    """All that can be seen of `each` from inside its visits, jitted; one compile per shape."""

    def visit(carry, part):
        times_B, width_B, parts, begun_B = carry
        assert part.columns <= columns
        ones_M = jnp.ones(part.index_SM.shape[1], jnp.int32)
        at_M = part.index_SM[0]
        times_B = times_B.at[at_M].add(ones_M, mode="drop")
        width_B = width_B.at[at_M].set(part.columns, mode="drop")
        begun_B = begun_B.at[at_M].set(parts, mode="drop")
        return times_B, width_B, parts + 1, begun_B

    def run(length_B):
        nothing_B = jnp.zeros(length_B.shape, jnp.int32)
        carry = (nothing_B, nothing_B, jnp.int32(0), nothing_B - 1)
        return ragged.visit_parts(visit, carry, length_B, columns, tokens)

    return jax.jit(run)


def parts_by_hand(lengths, columns: int, tokens: int) -> list[tuple[list[int], int, int]]:
    """Rows, columns and room of each part: the rule of the design, one row at a time.

    The longest row that is left decides the width, the narrowest that holds it, and with it how
    many rows go along.
    """
    widths = [columns]
    while widths[-1] > 16:
        widths.append(max(16, (widths[-1] + 1) // 2))
    waiting = sorted(range(len(lengths)), key=lambda b: -lengths[b])
    parts = []
    while waiting and lengths[waiting[0]] > 0:
        width = min(w for w in widths if w >= lengths[waiting[0]])
        room = min(len(lengths), max(1, tokens // width))
        parts.append((waiting[:room], width, room))
        waiting = waiting[room:]
    return parts


def visited(lengths, columns: int, tokens: int) -> int:
    return sum(width * room for _, width, room in parts_by_hand(lengths, columns, tokens))


@pytest.mark.parametrize("columns, tokens", [(1, 1), (7, 20), (16, 16), (33, 64), (100, 256)])
def test_every_row_is_in_one_part_that_is_wide_enough(columns, tokens) -> None:
    rng = np.random.default_rng(columns)
    for trial in range(40):
        lengths = rng.integers(0, columns + 1, 13)
        lengths[rng.random(13) < (0.0, 0.3, 0.9, 1.0)[trial % 4]] = 0
        if trial == 0:
            lengths[:] = columns
        (times, width, parts, begun), run = visitor(columns, tokens)(lengths.astype(np.int32))
        alive = lengths > 0
        assert np.all(np.asarray(times)[alive] == 1) and np.all(np.asarray(times) <= 1)
        assert np.all(np.asarray(width)[alive] >= lengths[alive])
        assert np.all(np.asarray(width) <= columns)
        # Rows without tokens cause no part: one may only fill up the room in the last one.
        assert set(np.asarray(begun)[alive].tolist()) == set(range(int(parts)))
        assert np.all(np.asarray(begun)[~alive & (times == 1)] == parts - 1)
        by_hand = parts_by_hand(lengths.tolist(), columns, tokens)
        assert int(parts) == len(by_hand)
        assert int(run) == sum(width * room for _, width, room in by_hand)
        for rows, at_width, _ in by_hand:
            assert set(np.asarray(width)[[b for b in rows if lengths[b]]]) <= {at_width}


def test_equal_and_halving_lengths_are_read_without_waste() -> None:
    lengths = np.array([16] * 4 + [32] * 2 + [64] + [128], np.int32)
    for tokens in (128, 256, 512):
        _, run = visitor(128, tokens)(lengths)
        assert int(run) >= lengths.sum()
    _, run = visitor(128, 1)(lengths)  # one row at a time
    assert int(run) == lengths.sum()


def test_widths_are_halves_down_to_sixteen() -> None:
    assert ragged.widths(256) == [256, 128, 64, 32, 16]
    assert ragged.widths(100) == [100, 50, 25, 16]
    assert ragged.widths(17) == [17, 16]
    assert ragged.widths(16) == [16] and ragged.widths(1) == [1]


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_widths_are_few_on_an_accelerator(platform) -> None:
    device = jax.sharding.AbstractDevice(device_kind="", num_cores=1, platform=platform)
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert ragged.widths(32_768) == [32_768, 16_384, 8192, 2048, 512]
        assert ragged.widths(1000) == [1000, 500, 250]
        assert ragged.widths(256) == [256, 128, 64]
        assert ragged.widths(64) == [64] and ragged.widths(1) == [1]


def test_parts_of_coarse_widths_hold_all_rows(monkeypatch) -> None:
    monkeypatch.setattr(ragged, "widths", lambda columns: ragged.coarse(columns, 8))
    lengths = np.array([0, 1, 8, 9, 32, 33, 64, 65, 128], np.int32)
    (times, width, _, _), run = visitor.__wrapped__(128, 128)(lengths)
    assert np.all(np.asarray(times)[1:] == 1) and int(run) >= lengths.sum()
    assert np.all(np.asarray(width)[1:] >= lengths[1:])
    assert set(np.asarray(width)[1:].tolist()) <= {128, 64, 32, 8}


def test_shards_sort_their_own_rows() -> None:
    """A part is as wide as its longest row on any shard; no row leaves its shard."""
    cfg = MeshConfig(data=4, fsdp=2)
    mesh = sharding.make_mesh(cfg)
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 65, (8, 5)).astype(np.int32)
    lengths[3] = 0
    seen = []

    def visit(carry, part):
        jax.debug.callback(lambda i: seen.append((np.asarray(i), part.columns)), part.index_SM)
        return carry

    with jax.set_mesh(mesh):
        _, run = jax.jit(lambda x: ragged.visit_parts(visit, 0, x, 64, 64))(lengths.reshape(-1))
        jax.effects_barrier()
    at = 0
    left = -np.sort(-lengths, axis=1)
    assert int(run) == sum(8 * index.shape[1] * width for index, width in seen)
    for index, width in seen:
        room = index.shape[1]
        assert index.shape[0] == 8 and room == min(5, max(1, 64 // width))
        longest = left[:, at : at + room].max()
        assert width == min(w for w in (64, 32, 16) if w >= longest)
        for shard in range(8):
            order = np.argsort(-lengths[shard], kind="stable")[at : at + room]
            order = order[lengths[shard][order] > 0]
            assert index[shard, : len(order)].tolist() == order.tolist()
            assert np.all(index[shard, len(order) :] == 5)  # past the end: nobody
        at += room
    assert np.all(left[:, at:] == 0)


def test_values_of_rows_stand_where_the_rows_do() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 41, 11).astype(np.int32)
    lengths[4] = 0
    x = rng.normal(size=(11, 40)).astype(np.float32)
    cfg = dataclasses.replace(LLAMA, part_tokens=50)

    @jax.jit
    def run(x, lengths):
        def of_part(part):
            mask = jnp.arange(part.columns) < part.pick(lengths)[:, None]
            doubled = jnp.where(mask, 2 * part.pick(x), 0)
            return doubled, jnp.sum(doubled, -1)

        out = (jnp.zeros_like(x), jnp.full(11, -1.0))
        return ragged.map_rows(of_part, out, lengths, 40, cfg)

    doubled, total = run(x, lengths)
    want = np.where(np.arange(40) < lengths[:, None], 2 * x, 0)
    np.testing.assert_array_equal(doubled, want)
    np.testing.assert_allclose(total[lengths > 0], want.sum(-1)[lengths > 0], atol=1e-5)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("part_tokens", [1, 64, 512])
def test_prompts_in_parts_are_prompts_at_once(part_tokens, unroll) -> None:
    cfg = dataclasses.replace(LLAMA, part_tokens=part_tokens, unroll=unroll)
    params, asked = random_params(cfg, np.float32), batch()
    token, mask = asked.prompt_QP, asked.prompt_mask_QP

    @jax.jit
    def both(params):
        layers = parameters.unstack(params, cfg)
        return ragged.read_prompts(layers, token, mask, cfg), model.prefill(
            params, token, mask, cfg
        )[1]

    (got, run), want = both(params)
    assert int(run) == visited(mask.sum(1).tolist(), P, part_tokens)
    np.testing.assert_allclose(got.last_QD, want.last_QD, atol=1e-5)
    for a, b in zip(jax.tree.leaves(got.kv), jax.tree.leaves(want.kv), strict=True):
        seen = np.broadcast_to(mask[:, None, :, None], b.shape)
        np.testing.assert_allclose(np.asarray(a)[seen], np.asarray(b)[seen], atol=1e-5)


# -- gradient -------------------------------------------------------------------------------------


def family(name: str, options: dict) -> ModelConfig:
    return ModelConfig(family=name, **SIZES, **options)  # type: ignore[arg-type]


def random_params(cfg: ModelConfig, dtype, seed: int = 3) -> Params:
    """Every parameter random, also norms and biases."""
    rng = np.random.default_rng(seed)
    return {
        key: (rng.normal(0, 0.3, x.shape) + ("norm" in key and not cfg.has.from_one)).astype(dtype)
        for key, x in parameters.abstract(cfg).items()
    }


def batch(dtype=np.float32) -> Rollout:
    """A rollout that nobody sampled: prompts and responses of all lengths, rubbish in the holes."""
    rng = np.random.default_rng(7)
    asked = np.array([P, 1, 5, 16, 17, 2, 12, 20])
    length = rng.integers(1, R + 1, B).astype(np.int32)
    length[[0, 3, 5, 9]] = R, 1, 16, 17
    mask = np.arange(R) < length[:, None]
    return Rollout(
        prompt_QP=rng.integers(0, V, (Q, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - asked[:, None],
        response_BR=rng.integers(0, V, (B, R)).astype(np.int32),
        length_B=length,
        truncated_B=np.zeros(B, bool),
        logprob_BR=np.where(mask, -rng.exponential(1, (B, R)), 0).astype(dtype),
    )


def rewards(dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(8).random(B).astype(dtype)


def row_weights(length, aggregate: str) -> np.ndarray:
    """Of each of a row's tokens: the four denominators of the literature."""
    return {
        "token-mean": np.full(B, 1 / length.sum()),
        "seq-mean-token-mean": 1 / (B * length),
        "seq-mean-token-sum": np.full(B, 1 / B),
        "constant": np.full(B, 1 / (B * R)),
    }[aggregate]


def repeated(params, rows: Rollout, cfg: ModelConfig, entropy: bool = False):
    """Log-probs (and entropies) [B, R]: each row with its own copy of its prompt, in one batch."""
    token_BT = jnp.concatenate([jnp.repeat(rows.prompt_QP, G, 0), rows.response_BR], 1)
    mask_BR = jnp.arange(R) < rows.length_B[:, None]
    mask_BT = jnp.concatenate([jnp.repeat(rows.prompt_mask_QP, G, 0), mask_BR], 1)
    hidden_BTD, _ = model.prefill(params, token_BT, mask_BT, cfg)
    logits_BRV = model.logits(params, hidden_BTD[:, P - 1 : -1], cfg) / TEMPERATURE
    logprob_BRV = logits_BRV - jax.nn.logsumexp(logits_BRV, -1, keepdims=True)
    logprob_BR = jnp.take_along_axis(logprob_BRV, rows.response_BR[..., None], -1)[..., 0]
    logprob_BR = jnp.where(mask_BR, logprob_BR, 0.0)
    if entropy:
        entropy_BR = -jnp.sum(jnp.exp(logprob_BRV) * logprob_BRV, -1)
        return logprob_BR, jnp.where(mask_BR, entropy_BR, 0.0)
    return logprob_BR


def plain_gradients(cfg: ModelConfig, dtype) -> dict[tuple[str, str], tuple]:
    """Loss and gradient by plain means, for each way to add up and each place of the KL term.

    Leave-one-out advantage of rewards (less the penalty), the score function, and k3.
    """
    cfg = dataclasses.replace(cfg, unroll=False, remat=False)
    params, reference = (random_params(cfg, dtype, seed) for seed in (3, 4))
    rows, reward = batch(dtype), rewards(dtype)
    mask = np.arange(R) < rows.length_B[:, None]
    reference_BR = np.asarray(jax.jit(repeated, static_argnums=2)(reference, rows, cfg))

    @jax.jit
    def value_and_grad(params, weight_BR, advantage_B, kl):
        def objective(params):
            logprob_BR = repeated(params, rows, cfg)
            ratio_BR = jnp.exp(logprob_BR - jax.lax.stop_gradient(logprob_BR))  # 1
            gain_BR = ratio_BR * advantage_B[:, None]
            d_BR = logprob_BR - reference_BR
            return jnp.sum(weight_BR * (kl * (jnp.exp(-d_BR) + d_BR - 1) - gain_BR))

        return jax.value_and_grad(objective)(params)

    found = {}
    for kl_in in ("reward", "loss"):
        penalty = KL * (rows.logprob_BR - reference_BR).sum(-1) if kl_in == "reward" else 0
        left = (reward - penalty).reshape(Q, G)
        others = (left.sum(1, keepdims=True) - left) / (G - 1)
        advantage = (left - others).reshape(-1)
        for aggregate in AGGREGATES:
            weight = np.where(mask, row_weights(rows.length_B, aggregate)[:, None], 0)
            kl = KL if kl_in == "loss" else 0.0
            found[kl_in, aggregate] = value_and_grad(params, weight, advantage, kl)
    return found


def update_gradients(cfg: ModelConfig, kl_in: str, aggregates, dtype) -> list[tuple]:
    """Gradient and metrics of the step's own update.  Only row weights know the aggregation:

    choosing among them at run time saves compiling once for each.
    """
    stage = RlStage(
        prompts=Q,
        samples=G,
        sample=SampleConfig(temperature=TEMPERATURE),
        advantage=AdvantageConfig(normalise="none", baseline="rloo"),
        loss=LossConfig(kl_coef=KL, kl_in=kl_in),  # type: ignore[arg-type]
    )
    params, reference = (random_params(cfg, dtype, seed) for seed in (3, 4))
    state = step.init_state(jax.random.key(0), params, RECORD)
    frozen = Frozen(reference, {})
    weights = loss.row_weights

    @jax.jit
    def update(which, state: TrainState, frozen: Frozen, rows: Rollout, reward_B):
        def chosen(mask_BR, cfg, counted_B):
            each = [weights(mask_BR, dataclasses.replace(cfg, aggregate=a)) for a in AGGREGATES]
            return jnp.stack(each)[which]

        with mock.patch.object(loss, "row_weights", chosen):
            setup = Setup(stage, cfg, cfg, R, (), RECORD)
            result = update_on(state, frozen, rows, reward_B, setup)
        return result.state.opt_state, result.metrics

    args = state, frozen, batch(dtype), rewards(dtype)
    return [update(AGGREGATES.index(aggregate), *args) for aggregate in aggregates]


@pytest.fixture
def exact():
    """Float64 throughout, where the code asks for float32: what is left is no rounding."""
    x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        yield np.float64


def largest_error(grads: Params, want: Params) -> float:
    """Relative to the largest entry of each parameter's gradient."""
    assert set(grads) == set(want)
    return max(
        float(np.max(np.abs(np.asarray(grads[k]) - want[k])) / np.max(np.abs(want[k])))
        for k in want
    )


@functools.cache
def plain_exact(cfg: ModelConfig):
    """Gradients of the plain way; called under `exact` only."""
    return jax.tree.map(np.asarray, plain_gradients(cfg, np.float64))


def double(cfg: ModelConfig) -> ModelConfig:
    return dataclasses.replace(cfg, compute="float64")  # type: ignore[arg-type]


@pytest.mark.parametrize("kl_in", [pytest.param("reward", marks=SLOW), "loss"])
@pytest.mark.parametrize(
    "part_tokens", [pytest.param(16, marks=SLOW), 64, pytest.param(512, marks=SLOW)]
)
def test_gradient_is_the_plain_one_under_every_aggregation(exact, part_tokens, kl_in) -> None:
    plain = plain_exact(double(LLAMA))
    cfg = double(dataclasses.replace(LLAMA, part_tokens=part_tokens))
    got = update_gradients(cfg, kl_in, AGGREGATES, exact)
    for aggregate, (grads, metrics) in zip(AGGREGATES, got, strict=True):
        value, want = plain[kl_in, aggregate]
        assert all(np.max(np.abs(x)) > 1e-6 for x in want.values())
        assert largest_error(grads, want) < 1e-12, aggregate
        assert float(metrics["policy/loss"]) == pytest.approx(float(value), rel=1e-12)
        assert float(metrics["policy/skipped"]) == 0


@pytest.mark.parametrize(
    "name, part_tokens, kl_in, aggregate, changes",
    [
        ("qwen3_moe", 64, "loss", "token-mean", dict(unroll=True, remat=True)),
        *(
            pytest.param(*case, marks=SLOW)
            for case in [
                ("llama", 64, "loss", "token-mean", dict(unroll=True)),
                ("gemma3_text", 16, "loss", "constant", dict(unroll=True, remat=True)),
                ("llama", 16, "reward", "constant", dict(unroll=True, remat=True, tied=False)),
                ("llama", 512, "loss", "seq-mean-token-mean", dict(remat=True)),
                ("mistral", 64, "reward", "token-mean", {}),
                ("mistral", 16, "loss", "constant", dict(unroll=True)),
                ("qwen2", 64, "loss", "seq-mean-token-sum", dict(unroll=True)),
                ("qwen3", 64, "reward", "seq-mean-token-mean", dict(remat=True)),
                ("gemma2", 64, "loss", "seq-mean-token-mean", {}),
                ("gemma2", 512, "reward", "token-mean", dict(unroll=True)),
                ("gemma3_text", 64, "reward", "token-mean", {}),
                ("smollm3", 64, "loss", "token-mean", dict(unroll=True)),
                ("phi3", 64, "reward", "token-mean", {}),
                ("olmo2", 64, "loss", "constant", {}),
            ]
        ),
    ],
)
def test_gradient_is_the_plain_one_in_every_family(
    exact, of_family, name, part_tokens, kl_in, aggregate, changes
) -> None:
    options = of_family[name]
    cfg = double(family(name, options | changes | dict(part_tokens=part_tokens)))
    _, want = plain_exact(double(family(name, options | dict(tied=cfg.tied))))[kl_in, aggregate]
    ((grads, _),) = update_gradients(cfg, kl_in, [aggregate], exact)
    assert largest_error(grads, want) < 1e-12


# Every way to weigh a token, and what needs a whole row for it; the sampler was somebody else.
FORMS = {
    "clip": dict(clip_high=0.28, dual_clip=3.0),
    "gspo": dict(ratio="sequence", clip_low=0.05, clip_high=0.05),
    "gspo-token": dict(ratio="sequence-token", clip_low=0.05, clip_high=0.05),
    "product": dict(ratio="product"),
    "cispo": dict(objective="cispo", clip_low=1.0),
    "sapo": dict(objective="sapo"),
    "gmpo": dict(objective="gmpo", clip_low=0.4, clip_high=0.4),
    "plain": dict(objective="plain"),
    "k1+": dict(kl_coef=KL, kl_in="loss", kl_form="k1+"),
    "k2": dict(kl_coef=KL, kl_in="loss", kl_form="k2"),
    "k3+": dict(kl_coef=KL, kl_in="loss", kl_form="k3+", aggregate="seq-mean-token-mean"),
    "corrected": dict(kl_coef=KL, kl_in="loss", kl_form="k1", kl_corrected=True),
    "abs": dict(kl_coef=KL, kl_in="loss", kl_form="abs"),
    "entropy": dict(entropy_coef=0.1, aggregate="seq-mean-token-sum"),
    "truncate": dict(correct="truncate", correct_high=1.2),
    "mask": dict(correct="mask", correct_low=0.8, correct_high=1.2),
    "sequence-truncate": dict(correct="sequence-truncate", correct_low=0.1),
    "sequence-mask": dict(correct="sequence-mask"),
    "geometric-mask": dict(correct="geometric-mask", correct_low=0.9, correct_high=1.1),
    "stale": dict(stale_kl=0.01),
}


@pytest.mark.parametrize(
    "names, shape",
    [
        (("clip", "gspo-token", "gmpo", "sequence-mask", "entropy"), (1, 1, 1)),
        pytest.param(FORMS, (1, 1, 1), marks=SLOW),
        pytest.param(FORMS, (2, 2, 1), marks=SLOW),
    ],
    ids=["few", "all", "on a mesh"],
)
def test_gradient_is_the_plain_one_in_every_form(exact, names, shape) -> None:
    """In parts and at once, with old log-probs beside the current; one compilation for all."""
    cfg, rng = double(dataclasses.replace(LLAMA, part_tokens=64)), np.random.default_rng(9)
    forms = [LossConfig(**FORMS[name]) for name in names]  # type: ignore[arg-type]
    sample = SampleConfig(temperature=TEMPERATURE)
    stage = RlStage(prompts=Q, samples=G, sample=sample)
    params, rows = random_params(cfg, np.float64), batch(np.float64)
    mask = np.arange(R) < rows.length_B[:, None]
    current = np.asarray(jax.jit(repeated, static_argnums=2)(params, rows, LLAMA))
    behaviour, reference, sampler = (
        np.where(mask, current + rng.normal(0, 0.2, (B, R)), np.nan) for _ in range(3)
    )
    rows = rows.replace(logprob_BR=np.where(mask, sampler, 0))
    advantage = rng.normal(size=(B, R))
    one = loss.policy_gradient

    def in_parts(which, params, batch):
        def chosen(tokens, weight_B, kl_coef, _):
            return jax.lax.switch(
                which, [lambda f=f: (one(tokens, weight_B, kl_coef, f)[0], {}) for f in forms]
            )

        def weights(mask_BR, _, counted_B, row_weights=loss.row_weights):
            return jnp.stack([row_weights(mask_BR, f) for f in forms])[which]

        setup = Setup(stage, cfg, cfg, 1, (), RECORD)
        with mock.patch.multiple(loss, policy_gradient=chosen, row_weights=weights):
            return policy_update.gradient(params, batch, KL, setup)[:2]

    @functools.partial(jax.jit, static_argnums=0)
    def at_once(form, logprob_BR, entropy_BR):
        weight_B = loss.row_weights(mask, form)

        def value(logprob_BR, entropy_BR):
            given = (behaviour, rows.logprob_BR, reference, advantage, mask)
            return one(loss.Tokens(logprob_BR, entropy_BR, *given), weight_B, KL, form)[0]

        return jax.value_and_grad(value, (0, 1))(logprob_BR, entropy_BR)

    def read(params):
        return repeated(params, rows, cfg, entropy=True)

    in_parts, read = jax.jit(in_parts), jax.jit(read)
    mesh = sharding.make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)])
    batch_ = policy_update.Batch(*(rows, mask, advantage, reference, np.ones(B, bool), behaviour))
    placed = sharding.place_rows(batch_, mesh)
    values, pull = jax.vjp(read, params)
    different = []
    for which, (name, form) in enumerate(zip(names, forms, strict=True)):
        with jax.set_mesh(mesh):
            grads, value = jax.device_get(in_parts(which, params, placed))
        want_value, slopes = at_once(form, *values)
        (want,) = pull(slopes)
        assert largest_error(grads, want) < 1e-10, name
        assert float(value) == pytest.approx(float(want_value), rel=1e-10), name
        different.append((round(float(np.sum(want["norm_D"])), 12), round(float(value), 12)))
    assert len(set(different)) == len(forms)  # k1+ and k2 have one gradient, and two values


def test_gradient_in_float32_is_the_plain_one_up_to_rounding() -> None:
    """What differs is the order of sums: measured 3.2e-6 of the largest entry."""
    _, want = plain_gradients(LLAMA, np.float32)["loss", "token-mean"]
    cfg = dataclasses.replace(LLAMA, part_tokens=64, unroll=True)
    ((grads, _),) = update_gradients(cfg, "loss", ["token-mean"], np.float32)
    assert largest_error(grads, want) < 1e-5


def test_a_prompts_gradient_is_added_up_in_float32() -> None:
    """600 rows, each its own part, in bfloat16, whose sums of ones end at 256."""
    cfg = dataclasses.replace(LLAMA, compute="bfloat16", part_tokens=16)
    params = random_params(cfg, np.float32)

    def objective(params, prefix, part):
        rows = jnp.sum(part.exists(jnp.ones(600, jnp.int32)))
        return jnp.sum(prefix.last_QD.astype(jnp.float32)) * rows, ({}, jnp.float32(0), ())

    def of(count: int) -> np.ndarray:
        rows = Rollout(
            prompt_QP=np.ones((1, 1), np.int32),
            prompt_mask_QP=np.ones((1, 1), bool),
            response_BR=np.ones((600, 16), np.int32),
            length_B=(np.arange(600) < count).astype(np.int32),
            truncated_B=np.zeros(600, bool),
            logprob_BR=np.zeros((600, 16), np.float32),
        )
        grads, *_ = jax.jit(ragged.gradient, static_argnums=(0, 3))(objective, params, rows, cfg)
        return np.asarray(grads["norm_D"])

    np.testing.assert_allclose(of(600), 600 * of(1), rtol=0.01)


# -- what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part_tokens",
    [100, *(pytest.param(x, marks=pytest.mark.slow) for x in (16, 512))],
)
def test_update_useful_is_what_is_counted_by_hand(part_tokens) -> None:
    cfg = dataclasses.replace(LLAMA, layers=1, part_tokens=part_tokens)
    rows = batch()
    ((_, metrics),) = update_gradients(cfg, "loss", ["token-mean"], np.float32)
    asked = rows.prompt_mask_QP.sum(1).tolist()
    run = visited(rows.length_B.tolist(), R, part_tokens) + visited(asked, P, part_tokens)
    useful = (rows.length_B.sum() + sum(asked)) / run
    assert float(metrics["perf/update_useful"]) == pytest.approx(useful, rel=1e-6)


def test_logprobs_in_parts_are_the_plain_ones() -> None:
    """Forward only: the reference's way, with values where there is a token and 0 elsewhere."""
    params, rows = random_params(LLAMA, np.float32), batch()
    want = jax.jit(repeated, static_argnums=2)(params, rows, LLAMA)
    for part_tokens, unroll in ((16, True), (64, False), (512, False)):
        cfg = dataclasses.replace(LLAMA, part_tokens=part_tokens, unroll=unroll)
        sample_cfg = SampleConfig(temperature=TEMPERATURE)
        logprob, _ = jax.jit(likelihood.logprobs, static_argnums=(2, 3))(
            params, rows, sample_cfg, cfg
        )
        np.testing.assert_allclose(logprob, want, atol=1e-5, rtol=0)
        assert np.all(np.asarray(logprob)[~np.asarray(rows.response_mask_BR)] == 0)


def test_the_long_tail_is_read_at_the_cost_of_its_tokens() -> None:
    """Lengths of a skewed batch, as the step itself counts them."""
    tail = np.repeat([16, 32, 64, 128, 256], [48, 8, 4, 2, 2]).astype(np.int32)
    length = np.random.default_rng(0).permutation(tail)
    sizes = dict(layers=1, width=8, heads=1, kv_heads=1, head_size=8, feedforward=8, vocab=8)
    cfg = ModelConfig(**sizes, part_tokens=256)
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 8, (8, 16)).astype(np.int32)
    rows = Rollout(
        prompt_QP=ids,
        prompt_mask_QP=np.arange(16) >= 16 - rng.integers(8, 17, (8, 1)),
        response_BR=rng.integers(0, 8, (64, 256)).astype(np.int32),
        length_B=length,
        truncated_B=np.zeros(64, bool),
        logprob_BR=np.zeros((64, 256), np.float32),
    )
    state = step.init_state(jax.random.key(0), random_params(cfg, np.float32), RECORD)
    frozen = Frozen({}, {})
    stage = RlStage(prompts=8, samples=8)
    setup = Setup(stage, cfg, cfg, 256, (), RECORD)
    update = functools.partial(update_on, setup=setup, decoded=1984)
    reward_B = rng.random(64).astype(np.float32)
    metrics = jax.jit(update)(state, frozen, rows, reward_B).metrics
    asked = rows.prompt_mask_QP.sum(1)
    run = visited(length.tolist(), 256, 256) + visited(asked.tolist(), 16, 256)
    useful = (length.sum() + asked.sum()) / run
    assert float(metrics["perf/update_useful"]) == pytest.approx(useful, rel=1e-6)
    assert useful >= 0.75
    assert float(metrics["perf/rollout_useful"]) == pytest.approx((length.sum() - 64) / 1984)
