"""Columns that devices share change no number, and no device holds more than its share of them."""

import dataclasses
import functools
import importlib
import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from make_round import update_on
from rlvr_jax import (
    block,
    context,
    engine,
    likelihood,
    model,
    optim,
    parameters,
    ragged,
    sharding,
    step,
    verifier,
    vocabulary,
)
from rlvr_jax.config import (
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RlStage,
    SampleConfig,
)
from rlvr_jax.host.plans import hlo, traffic
from rlvr_jax.structs import Frozen, Prompts, Rollout, Setup, Verdict

Q, G, P, R = 4, 2, 8, 16
SMALL = ModelConfig(
    layers=2, width=16, heads=4, kv_heads=2, head_size=8, feedforward=16, vocab=48, remat=True
)
STAGE = RlStage(
    prompts=Q, samples=G, loss=LossConfig(kl_coef=0.05), optim=OptimConfig(lr=1e-2, eps=1e-4)
)
TX = optim.make_optimizer(STAGE.optim, 10)
ONE, FOUR, TWO = MeshConfig(), MeshConfig(1, 2, 1, context=4), MeshConfig(1, 2, 2, context=2)


def mesh_of(cfg):
    return sharding.make_mesh(cfg, jax.devices()[: cfg.devices])


def draw(cfg, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: np.ones(x.shape, np.float32)
        if name.startswith("norm")
        else rng.normal(0, 0.25, x.shape).astype(np.float32)
        for name, x in parameters.abstract(cfg).items()
    }


def placed(mesh_cfg, mesh, params):
    """Parameters as a run holds them."""
    return jax.device_put(params, sharding.shard_tree(params, mesh, mesh_cfg))


def answered(columns=R, seed=0):
    """Left-padded prompts and ragged responses, some of full length."""
    rng = np.random.default_rng(seed)
    length_B = np.maximum(rng.integers(1, columns + 1, Q * G), columns * (np.arange(Q * G) % 3 < 1))
    mask_BR = np.arange(columns) < length_B[:, None]
    noise_BR = -rng.exponential(size=(Q * G, columns))
    return Rollout(
        prompt_QP=rng.integers(8, 48, (Q, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - rng.integers(3, P + 1, (Q, 1)),
        response_BR=rng.integers(0, 48, (Q * G, columns)).astype(np.int32),
        length_B=length_B.astype(np.int32),
        truncated_B=np.zeros(Q * G, bool),
        logprob_BR=np.where(mask_BR, noise_BR, 0).astype(np.float32),
    )


# ---- numbers -------------------------------------------------------------------------------


@functools.cache
def update(mesh_cfg):
    """One update, as a stage runs it: reference, advantages, gradient, optimizer."""
    setup = Setup(STAGE, SMALL, SMALL, R, (1,), TX)
    mesh = mesh_of(mesh_cfg)
    with jax.set_mesh(mesh):
        params = placed(mesh_cfg, mesh, draw(SMALL))
        state = step.init_state(jax.random.key(0), params, TX)
        frozen = Frozen(placed(mesh_cfg, mesh, draw(SMALL, 1)), {})
        rewards = np.arange(Q * G, dtype=np.float32) % 3
        rows = sharding.place_rows((answered(), rewards), mesh)
        run = jax.jit(functools.partial(update_on, setup=setup))
        result = run(state, frozen, *rows)
        return jax.device_get((result.state.params, result.state.opt_state[1][0], result.metrics))


@pytest.mark.parametrize(
    "mesh_cfg", [FOUR, pytest.param(TWO, marks=pytest.mark.slow)], ids=["four", "two"]
)
def test_shared_columns_change_no_number_of_an_update(mesh_cfg):
    for tree, same in zip(update(ONE)[:2], update(mesh_cfg)[:2], strict=True):
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(same), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    metrics, same = update(ONE)[2], update(mesh_cfg)[2]
    assert abs(metrics["policy/kl"]) > 0.01 and metrics["policy/grad_norm"] > 0.01
    assert set(metrics) == set(same)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, same[name], rtol=1e-5, atol=1e-6, err_msg=name)


def gradient(cfg, mesh_cfg, rows):
    """The gradient of random multiples of log-probs and entropies, and the loss itself."""

    def objective(states):
        logprob, entropy = likelihood.token_logprobs(states, SampleConfig(), cfg)
        weight = jnp.cos(states.token_BR) + 0.1 * jnp.arange(states.token_BR.shape[1])
        return jnp.sum(weight * logprob + entropy), ({}, jnp.float32(0), ())

    def run(params, rows):
        found = likelihood.gradient(objective, params, rows, cfg)
        return found.grads, found.value

    mesh = mesh_of(mesh_cfg)
    with jax.set_mesh(mesh):
        given = placed(mesh_cfg, mesh, draw(cfg)), sharding.place_rows(rows, mesh)
        return jax.device_get(jax.jit(run)(*given))


def same_gradient(one, other, share=1e-5):
    assert float(one[1]) == pytest.approx(float(other[1]), rel=1e-5)
    for name, want in one[0].items():
        most = np.abs(want).max()
        assert most > 0
        np.testing.assert_allclose(other[0][name], want, rtol=0, atol=share * most, err_msg=name)


def test_nor_of_a_model_with_a_sliding_window_and_kv_heads_that_do_not_divide():
    """One kv head on two devices of `tensor`: each computes all heads."""
    letters = {"K": ()}
    cfg = dataclasses.replace(
        SMALL, family="gemma2", kv_heads=1, window=5, global_every=2, attention_softcap=3.0
    )
    shared = dataclasses.replace(TWO, letters=letters)
    same_gradient(gradient(cfg, ONE, answered()), gradient(cfg, shared, answered()))


@pytest.mark.slow
def test_kernels_read_the_share_of_a_device():
    """Shares of whole blocks go through the kernel for TPUs, here interpreted; others do not."""
    rows, cfg = answered(256), dataclasses.replace(SMALL, layers=1)
    want = gradient(cfg, ONE, rows)
    names = []

    def kernels(cfg, earned, uneven="", **names_of):
        if "splash" not in names_of.values():
            return "xla"
        names.append("xla" if uneven else "splash_interpret")
        return names[-1]

    two = MeshConfig(context=2)
    with (
        mock.patch.object(block, "kernel_name", kernels),
        mock.patch.object(ragged, "widths", lambda columns: [columns]),
    ):
        same_gradient(want, gradient(cfg, two, rows))
    assert set(names) == {"xla", "splash_interpret"}  # the 8 columns of prompts are no blocks


@pytest.mark.parametrize("cache", ["compute", pytest.param("int8", marks=pytest.mark.slow)])
def test_responses_are_written_by_the_same_devices_as_without_the_axis(cache):
    asked = answered()
    no = np.zeros((Q, 1), np.int32)
    prompts = Prompts(asked.prompt_QP, asked.prompt_mask_QP, no, no > 0)
    cfg = dataclasses.replace(SMALL, layers=1, cache_dtype=cache)
    sampler = functools.partial(
        engine.Sampler, eos=(1,), samples=G, columns=4, cfg=SampleConfig(temperature=1.0)
    )

    def write(mesh_cfg, **more):
        model_cfg, mesh = dataclasses.replace(cfg, **more), mesh_of(mesh_cfg)
        with jax.set_mesh(mesh):
            params = placed(mesh_cfg, mesh, draw(model_cfg))
            run = jax.jit(lambda *x: engine.generate(x[0], x[1], sampler(x[2]), model_cfg)[0])
            rows = sharding.place_rows(prompts, mesh)
            return jax.device_get(run(params, rows, jax.random.key(3)))

    one = write(ONE)
    for other in (write(MeshConfig(context=4)), write(MeshConfig(context=4), decode_tensor=2)):
        np.testing.assert_array_equal(one.response_BR, other.response_BR)
        np.testing.assert_allclose(one.logprob_BR, other.logprob_BR, atol=1e-5)


@pytest.mark.parametrize("width", [16, 12])
@pytest.mark.parametrize("columns", [8, 6])
def test_tables_are_read_by_shared_columns(columns, width):
    """Also columns that the axis does not divide, and a width that both axes do not divide."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(24, width)).astype(np.float32)
    hidden = rng.normal(size=(4, columns, width)).astype(np.float32)
    token = rng.integers(0, 24, (4, columns)).astype(np.int32)
    weight = rng.normal(size=(2, 4, columns)).astype(np.float32)

    def total(table, hidden):
        x = vocabulary.look_up(table, token, "float32")
        logprob, entropy = vocabulary.logprob(hidden + x, table, token, 0.7, 3.0, "xla")
        return jnp.sum(logprob * weight[0] + entropy * weight[1])

    def run(mesh_cfg):
        with jax.set_mesh(mesh_of(mesh_cfg)):
            return jax.device_get(jax.jit(jax.value_and_grad(total, (0, 1)))(table, hidden))

    (value, grads), (same, others) = run(ONE), run(FOUR)
    assert value == pytest.approx(same, rel=1e-5)
    for a, b in zip(grads, others, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_columns_move_on_by_one():
    x, first = np.arange(48.0).reshape(2, 8, 3), -np.ones((2, 3))
    with jax.set_mesh(mesh_of(MeshConfig(2, context=4))):
        for columns in (8, 7):
            got = jax.jit(context.shift)(first, x[:, :columns])
            np.testing.assert_array_equal(got[:, 0], first)
            np.testing.assert_array_equal(got[:, 1:], x[:, : columns - 1])


def test_widths_are_divided():
    with jax.set_mesh(mesh_of(MeshConfig(context=8))):
        assert ragged.widths(144) == [144, 72, 40, 24, 16]
        assert ragged.widths(20) == [20, 16]  # refused in a config; whole on every device here
        assert context.axes(20) == () and context.axes(16) == ("context",)
        padded = context.pad_front(jnp.ones((1, 3), jnp.int32), 9)
        np.testing.assert_array_equal(padded, [[0] * 4 + [1] * 3])


def test_a_verifier_reads_widths_that_are_divided(monkeypatch):
    """Its template behind the answer has any number of columns."""
    ids, widths = np.zeros((Q, P), np.int32), []
    prompts = Prompts(ids, ids == 0, ids, ids == 0)
    tail, word, table = np.ones((1, 3), np.int32), np.ones(1, np.int32), np.zeros(SMALL.vocab, bool)
    verdict = Verdict(tail, tail > 0, word, word, table, table, table)
    answers = verifier.Answers(
        np.ones((Q * G, R), np.int32), np.arange(Q * G) + 1, np.zeros(Q * G, bool)
    )
    extend = model.extend

    def seen(params, token_XS, *rest):
        widths.append(token_XS.shape[1])
        return extend(params, token_XS, *rest)

    monkeypatch.setattr(model, "extend", seen)
    with jax.set_mesh(mesh_of(FOUR)):
        score = functools.partial(verifier.score_answers, reward_cfg=RewardConfig(), cfg=SMALL)
        jax.eval_shape(score, draw(SMALL), prompts, answers, verdict)
    assert widths and all(width % 4 == 0 for width in widths)


# ---- the compiled program --------------------------------------------------------------------

LONG = dataclasses.replace(SMALL, width=128, feedforward=384, part_tokens=4096)
COLUMNS, SEEN = 4096, 4096 + 32  # of a response, and with its prompt
LARGE = 2**20  # bytes of scores above which they are computed in chunks; of all queries 271 MB


@functools.cache
def compiled(mesh_cfg):
    """The update of long responses of one width, for a mesh: its text, bytes of temporaries."""
    mesh = mesh_of(mesh_cfg)

    def like(shape, dtype):
        rows = NamedSharding(mesh, Spec(sharding.ROWS))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    rows = Rollout(
        *(like((2, 32), x) for x in (jnp.int32, jnp.bool_)),
        like((4, COLUMNS), jnp.int32),
        *(like((4,), x) for x in (jnp.int32, jnp.bool_)),
        like((4, COLUMNS), jnp.float32),
    )
    params = parameters.abstract(LONG)
    layout = sharding.shard_tree(params, mesh, mesh_cfg)
    params = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout[name])
        for name, x in params.items()
    }

    def objective(states):
        logprob, _ = likelihood.token_logprobs(states, SampleConfig(), LONG)
        return -jnp.sum(logprob), ({}, jnp.float32(0), ())

    def run(params, rows):
        return likelihood.gradient(objective, params, rows, LONG).grads

    plain = importlib.import_module("rlvr_kernels.attention.xla")
    with (
        jax.set_mesh(mesh),
        mock.patch.object(ragged, "widths", lambda columns: [columns]),
        mock.patch.object(plain, "LARGE", LARGE),
    ):
        done = jax.jit(run, out_shardings=layout).lower(params, rows).compile()
    return done.as_text(), done.memory_analysis().temp_size_in_bytes


def test_activations_of_a_device_shrink_with_the_axis():
    """By less than the four devices: keys, values and the scores of a chunk stay as they are."""
    assert compiled(FOUR)[1] < 0.35 * compiled(MeshConfig(fsdp=2))[1]


def test_of_columns_only_keys_and_values_are_gathered():
    """Not of [rows, columns, width or feed-forward]: a K * H of 16 is less than every width."""
    text = compiled(FOUR)[0]
    gathered, largest = set(), 0
    kinds = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    for line in text.splitlines():
        found = re.match(rf".* = (.*?) ({kinds})\(", line)
        for dtype, shape in re.findall(r"([a-z]\w*)\[([\d,]+)\]", found[1]) if found else ():
            sizes = tuple(map(int, shape.split(",")))
            if dtype == "f32" and COLUMNS in sizes:
                gathered.add((found[2], sizes))
            if dtype == "f32" and COLUMNS // 4 in sizes:
                largest = max(largest, math.prod(sizes))
    assert gathered == {("all-gather", (1, COLUMNS, 2, 8))}
    assert largest <= COLUMNS // 4 * LONG.width  # of what each device holds: sums of gradients


@pytest.mark.parametrize("mesh_cfg", [FOUR, MeshConfig(fsdp=2)], ids=["shared", "whole"])
def test_no_array_holds_the_scores_of_all_queries(mesh_cfg):
    """Forward and backward: scores end in S, and only some queries have theirs at a time."""
    text = compiled(mesh_cfg)[0]
    shapes = {tuple(map(int, x.split(","))) for x in re.findall(r"f32\[([\d,]+)\]", text)}
    scores = {shape for shape in shapes if shape[-1] == SEEN and math.prod(shape) > 4 * SEEN}
    assert scores and max(map(math.prod, scores)) <= 1.1 * LARGE / 4


def test_plan_counts_what_goes_over_the_axis():
    read = traffic.Traffic(hlo.parse_module(compiled(FOUR)[0]), FOUR.axes)
    assert ("context",) in {wire.axes for wire in read.total().wires}


# ---- config --------------------------------------------------------------------------------


def test_a_mesh_says_its_axes():
    assert str(ONE) == "1 x 1 x 1 (data x fsdp x tensor)"
    assert str(FOUR) == "1 x 2 x 4 x 1 (data x fsdp x context x tensor)"
    assert FOUR.devices == FOUR.row_shards == 8
    assert FOUR.product("fsdp", "context") == "mesh.fsdp x mesh.context = 8"
    with pytest.raises(ValueError, match="set mesh.data, mesh.fsdp, mesh.context and mesh.tensor"):
        sharding.make_mesh(MeshConfig(context=3))


def test_parameters_are_split_over_both_axes():
    assert sharding.param_spec("q_LDNH", FOUR) == Spec(None, ("fsdp", "context"), ("tensor",))
    assert sharding.param_spec("q_LDNH", ONE) == Spec(None, ("fsdp",), ("tensor",))
    with pytest.raises(
        ValueError, match="D = 12 of q_LDNH is not a multiple of mesh.fsdp x mesh.c"
    ):
        sharding.check_divides({"L": 1, "D": 12, "N": 1, "H": 1}, ["q_LDNH"], FOUR, "model")
