"""A base held as int8: its values, what is read and learned on it, and what is never made of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import make_compiled as compiled
import numpy as np
import pytest

from rlvr_jax import adapters, int8, likelihood, optim, parameters, sharding, supervised
from rlvr_jax import step as steps
from rlvr_jax.config import AdapterConfig, MeshConfig, ModelConfig, OptimConfig, SampleConfig
from rlvr_jax.structs import Rollout

Q, P, R, V = 4, 5, 7, 48
CFG = ModelConfig(
    layers=2,
    width=32,
    heads=8,
    kv_heads=4,
    head_size=4,
    feedforward=40,
    vocab=V,
    part_tokens=200,
    adapter=AdapterConfig(rank=4, alpha=6.0, targets=("q", "o", "down")),
)
SPARSE = dataclasses.replace(CFG, family="qwen3_moe", experts=4, experts_used=2)
SCALES = {
    *("qs_LNH", "ks_LKH", "vs_LKH", "outs_LD", "gates_LF", "ups_LF", "downs_LD"),
    *("gates_LEF", "ups_LEF", "downs_LED"),
}


def by_hand(name, x):
    """A matrix as int8, its scales, and what these stand for, in float64."""
    dims = name.rpartition("_")[2].removeprefix("LE" if "LE" in name else "L")
    first = x.ndim - len(dims)
    inputs = tuple(range(first, first + dims.index(int8.OUTPUTS[name.partition("_")[0]])))
    scale = np.abs(np.float64(x)).max(inputs, keepdims=True) / 127
    stored = np.round(x / np.where(scale == 0, 1, scale))
    return stored, scale.squeeze(inputs), np.float32(stored * scale), scale


def drawn(cfg, seed=0):
    """A base of random values, and an adapter of which no matrix is 0."""
    base = jax.device_get(parameters.init(jax.random.key(seed), cfg))
    base["q_LDNH"] = base["q_LDNH"].copy()
    base["q_LDNH"][1, :, 2, 3] = 0
    rng = np.random.default_rng(seed)
    shapes = parameters.abstract_learned(cfg)
    return base, {name: np.float32(rng.normal(0, 0.2, x.shape)) for name, x in shapes.items()}


def widened(base):
    """What the base stands for when it is held as int8, in float32."""
    matrices = {name: by_hand(name, x)[2] for name, x in base.items() if int8.is_matrix(name)}
    return {k: np.float32(x) for k, x in parameters.hold(base, "bfloat16").items()} | matrices


def rows(seed=1):
    rng = np.random.default_rng(seed)
    return Rollout(
        prompt_QP=rng.integers(0, V, (Q, P)).astype(np.int32),
        prompt_mask_QP=np.arange(P) >= P - rng.integers(2, P + 1, (Q, 1)),
        response_BR=rng.integers(0, V, (Q, R)).astype(np.int32),
        length_B=np.array([7, 3, 5, 1], np.int32),
        truncated_B=np.zeros(Q, bool),
        logprob_BR=np.zeros((Q, R), np.float32),
    )


@functools.partial(jax.jit, static_argnums=1)
def gradient(params, cfg):
    """The gradient of a sum of log-probs, and the log-probs."""

    def objective(states):
        logprob_BR, _ = likelihood.token_logprobs(states, SampleConfig(), cfg)
        return -jnp.sum(logprob_BR), ({}, jnp.float32(0), logprob_BR)

    zero_BR = jnp.zeros((Q, R), jnp.float32)
    found = likelihood.gradient(objective, params, rows(), cfg, zero_BR)
    return found.grads, found.kept


@pytest.mark.parametrize("cfg", [CFG, SPARSE], ids=["dense", "experts"])
def test_values_are_rounded_to_the_nearest_step_of_their_output(cfg):
    base, _ = drawn(cfg)
    held = jax.jit(lambda base: parameters.hold(base, "int8"))(base)
    assert {name for name in held if int8.is_scale(name)} == set(held) - set(base)
    assert set(held) - set(base) < SCALES
    for name, x in base.items():
        if not int8.is_matrix(name):
            vector = parameters.is_vector(name)
            assert held[name].dtype == (jnp.float32 if vector else jnp.bfloat16)
            continue
        stored, scale, _, wide = by_hand(name, x)
        assert held[name].dtype == jnp.int8 and held[name].shape == x.shape
        np.testing.assert_allclose(held[int8.scale_of(name)], scale, rtol=1e-6)
        # A value in the middle between two steps may go to either.
        assert np.abs(held[name] - stored).max() <= 1 and np.mean(held[name] != stored) < 1e-3
        assert np.all(np.abs(int8.widen(name, held) - x) <= wide * 0.50001)
        assert np.abs(held[name]).max() == 127
    assert not np.any(int8.widen("q_LDNH", held)[1, :, 2, 3])
    like = parameters.abstract_frozen(cfg, "int8")
    assert {k: (x.shape, x.dtype) for k, x in held.items()} == {
        k: (x.shape, x.dtype) for k, x in like.items()
    }


@pytest.mark.parametrize(
    "cfg",
    [CFG, dataclasses.replace(CFG, unroll=True), SPARSE],
    ids=["scanned", "unrolled", "experts"],
)
def test_log_probs_and_gradients_are_those_of_the_widened_base(cfg):
    base, adapter = drawn(cfg)
    held = parameters.hold(base, "int8")
    got, read = gradient(held | adapter, cfg)
    want, wanted = gradient(widened(base) | adapter, cfg)
    np.testing.assert_allclose(read, wanted, atol=1e-5)
    assert set(got) == set(want) == set(adapter)
    for name, x in want.items():
        assert np.abs(x).max() > 1e-3
        np.testing.assert_allclose(got[name], x, atol=2e-5 * max(1, np.abs(x).max()))
    # Merged for decoding, in the compute dtype, it is the same function.
    merged = adapters.merge(held | adapter, cfg, jnp.float32)
    assert set(merged) == set(base) and merged["k_LDKH"].dtype == jnp.float32
    whole = dataclasses.replace(cfg, adapter=AdapterConfig())
    again = likelihood.logprobs(merged, rows(), SampleConfig(), whole)[0]
    np.testing.assert_allclose(read, again, atol=1e-5)
    assert np.abs(read - gradient(base | adapter, cfg)[1]).max() > 1e-3  # int8 is not exact


def updated(shape):
    """What supervised updates on an int8 base leave, and the digest of the base, on a mesh."""
    mesh_cfg = MeshConfig(*shape)
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[: int(np.prod(shape))])
    base, adapter = drawn(CFG)
    held = parameters.hold(base, "int8")
    tx = optim.make_optimizer(OptimConfig(lr=1e-2), 10)
    with jax.set_mesh(mesh):
        state = steps.init_state(jax.random.key(0), adapter, tx)
        state, held = jax.device_put(
            (state, held), sharding.shard_tree((state, held), mesh, mesh_cfg)
        )
        update = functools.partial(supervised.supervised_step, model_cfg=CFG, tx=tx)
        state, metrics = jax.jit(update)(state, sharding.place_rows(rows(), mesh), held)
        digest = jax.jit(adapters.digest)(held)
        return jax.device_get((state.params, metrics["loss"], digest))


def test_the_mesh_changes_nothing():
    spec = {name: tuple(sharding.param_spec(name, MeshConfig(1, 2, 2))) for name in SCALES}
    assert spec["qs_LNH"] == (None, "tensor") and spec["downs_LD"] == ()
    params, loss, digest = updated((1, 1, 1))
    split, again, same = updated((1, 2, 2))
    assert loss == pytest.approx(float(again), rel=1e-5) and np.array_equal(digest, same)
    for name, x in params.items():
        np.testing.assert_allclose(split[name], x, atol=1e-4)


def test_an_update_widens_one_layer_at_a_time():
    """No array of floats holds a matrix of all layers, and no loop keeps that of one layer."""
    sizes = dict(layers=3, width=26, heads=2, kv_heads=1, head_size=22, feedforward=58)
    cfg = dataclasses.replace(CFG, compute="bfloat16", **sizes)
    tx = optim.make_optimizer(OptimConfig(), 10)
    build = functools.partial(steps.init_state, tx=tx)
    state = jax.eval_shape(build, jax.random.key(0), parameters.abstract_learned(cfg))
    base = parameters.abstract_frozen(cfg, "int8")
    update = functools.partial(supervised.supervised_step, model_cfg=cfg, tx=tx)
    text = jax.jit(update).lower(state, rows(), base).compile().as_text()
    found = [x for comp in compiled.computations(text).values() for x in comp]
    made = {size for x in found for size in compiled.float_sizes(x.type)}
    loops = [x.type for x in found if x.op == "while"]
    carried = {size for kind in loops for size in compiled.float_sizes(kind)}
    stacks = {x.size for x in base.values() if x.dtype == jnp.int8}
    layers = {size // cfg.layers for size in stacks}
    assert loops and layers <= made and not stacks & made and not layers & carried
    # Unrolled, XLA would widen all layers first: they are scanned then too.
    unrolled = dataclasses.replace(cfg, unroll=True)
    assert not parameters.unrolls(base, unrolled) and parameters.unstack(base, unrolled) is base
    assert parameters.unrolls(parameters.abstract(cfg), unrolled)
