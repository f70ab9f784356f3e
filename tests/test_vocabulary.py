"""Tokens are looked up and scored on a mesh: values, gradients and what is exchanged."""

import importlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from rlvr_jax import likelihood, parameters, sharding, vocabulary
from rlvr_jax.config import MeshConfig, ModelConfig, SampleConfig
from rlvr_jax.structs import Rollout

B, T, D, V = 8, 37, 16, 24
MESHES = [(8, 1, 1), (2, 1, 4), (1, 4, 2), (2, 2, 2), (1, 8, 1)]
EXCHANGES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    """Chunks of 16 columns, the fewest, so that T columns are three."""
    module = importlib.import_module("rlvr_kernels.token_logprob.xla")
    monkeypatch.setattr(module, "TOKENS_OF_PIECE", 16)


def arrays(width=D, vocab=V):
    rng = np.random.default_rng(width * vocab)
    hidden = rng.normal(size=(B, T, width)).astype(np.float32)
    table = (rng.normal(size=(vocab, width)) / 2).astype(np.float32)
    token = rng.integers(0, vocab, (B, T)).astype(np.int32)
    return hidden, table, token, rng.normal(size=(3, B, T)).astype(np.float32)


def placed(mesh, hidden, table, token):
    """The arrays as a step has them: rows over the data axes, the table over both others."""
    rows = NamedSharding(mesh, Spec(sharding.ROWS))
    even = table.shape[0] % mesh.shape["tensor"] == table.shape[1] % mesh.shape["fsdp"] == 0
    split = NamedSharding(mesh, Spec("tensor", "fsdp") if even else Spec())
    return tuple(
        jax.device_put(x, s)
        for x, s in zip((hidden, table, token), (rows, split, rows), strict=True)
    )


def mesh_of(shape):
    return sharding.make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)])


def scored(hidden, table, token, weight, *, temperature, softcap, impl="xla"):
    """Log-probs, entropies and gradients of sums of both, weighted."""

    def total(hidden, table):
        logprob, entropy = vocabulary.logprob(hidden, table, token, temperature, softcap, impl)
        return jnp.sum(logprob * weight[0] + entropy * weight[1]), (logprob, entropy)

    grads, out = jax.grad(total, (0, 1), has_aux=True)(hidden, table)
    return *out, *grads


def oracle(hidden, table, token, weight, *, temperature, softcap):
    """The same in float64, one position at a time."""
    hidden, table = hidden.astype(np.float64), table.astype(np.float64)
    logprob, entropy = np.zeros(token.shape), np.zeros(token.shape)
    d_hidden, d_table = np.zeros(hidden.shape), np.zeros(table.shape)
    for at in np.ndindex(token.shape):
        raw = table @ hidden[at]
        slope = np.full(raw.shape, 1 / temperature)
        if softcap:
            slope = (1 - np.tanh(raw / softcap) ** 2) / temperature
            raw = softcap * np.tanh(raw / softcap)
        z = raw / temperature
        prob = np.exp(z - z.max())
        prob /= prob.sum()
        logprob[at], entropy[at] = np.log(prob[token[at]]), -np.sum(prob * np.log(prob))
        d_z = weight[0][at] * (np.eye(len(z))[token[at]] - prob)
        d_z -= weight[1][at] * prob * (np.log(prob) + entropy[at])
        d_hidden[at] = (d_z * slope) @ table
        d_table += np.outer(d_z * slope, hidden[at])
    return logprob, entropy, d_hidden, d_table


def near(got, want, share=1e-6):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, atol=share * np.abs(want).max(), rtol=0)


# -- scoring ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [(1.0, 0.0), (0.7, 3.0)], ids=["plain", "tempered and capped"])
@pytest.mark.parametrize("shape", [(1, 1, 1), *MESHES])
def test_scores_are_those_of_the_oracle_on_every_mesh(shape, how) -> None:
    *args, weight = arrays()
    options = dict(zip(("temperature", "softcap"), how, strict=True))
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        got = jax.jit(lambda *x: scored(*x, **options))(*placed(mesh, *args), weight)
    for a, b in zip(got, oracle(*args, weight, **options), strict=True):
        assert a.dtype == jnp.float32
        near(a, b, 2e-6)


@pytest.mark.parametrize("impl", ["pallas_tpu_interpret", "pallas_gpu_interpret"])
def test_kernels_score_pieces_of_the_vocabulary(impl) -> None:
    *args, weight = arrays()
    mesh = mesh_of((1, 4, 2))
    with jax.set_mesh(mesh):
        run = jax.jit(lambda *x: scored(*x, temperature=0.7, softcap=3.0, impl=impl))
        got = run(*placed(mesh, *args), weight)
    for a, b in zip(got, oracle(*args, weight, temperature=0.7, softcap=3.0), strict=True):
        near(a, b, 2e-6)


@pytest.mark.parametrize("width, vocab", [(18, 24), (16, 27), (18, 27)])
def test_sizes_that_the_mesh_does_not_divide_are_whole(width, vocab) -> None:
    *args, weight = arrays(width, vocab)
    mesh = mesh_of((1, 4, 2))
    with jax.set_mesh(mesh):
        run = jax.jit(lambda *x: (scored(*x, temperature=1.0, softcap=0.0), found(*x)))
        got, looked_up = run(*placed(mesh, *args), weight)
    for a, b in zip(got, oracle(*args, weight, temperature=1.0, softcap=0.0), strict=True):
        near(a, b, 2e-6)
    for a, b in zip(looked_up, found_by_hand(*args, weight), strict=True):
        near(a, b)


def test_rows_that_the_mesh_does_not_divide_are_scored_by_the_plain_operation() -> None:
    hidden, table, token, weight = arrays()
    args = hidden[:3], table, token[:3], weight[:, :3]
    with jax.set_mesh(mesh_of((2, 2, 2))):
        run = jax.jit(lambda *x: (scored(*x, temperature=1.0, softcap=0.0), found(*x)))
        got, looked_up = run(*args)
    for a, b in zip(got, oracle(*args, temperature=1.0, softcap=0.0), strict=True):
        near(a, b, 2e-6)
    for a, b in zip(looked_up, found_by_hand(*args), strict=True):
        near(a, b)


def test_bfloat16_is_rounded_in_the_inputs_and_in_the_gradient_only() -> None:
    hidden, table, token, weight = arrays()
    low = hidden.astype(jnp.bfloat16), table.astype(jnp.bfloat16)
    mesh = mesh_of((1, 4, 2))
    with jax.set_mesh(mesh):
        run = jax.jit(lambda *x: scored(*x, temperature=1.0, softcap=0.0))
        *out, d_hidden, d_table = run(*placed(mesh, *low, token), weight)
    rounded = (x.astype(np.float32) for x in low)
    want = oracle(*rounded, token, weight, temperature=1.0, softcap=0.0)
    for a, b in zip(out, want[:2], strict=True):
        near(a, b, 2e-6)
    for a, b in zip((d_hidden, d_table), want[2:], strict=True):
        assert a.dtype == jnp.bfloat16
        near(a, b, 0.01)


def test_a_piece_without_the_token_and_one_with_all_the_probability() -> None:
    """Logits of hundreds: one piece has all the probability, and nothing overflows."""
    hidden, table, token, weight = arrays()
    mesh = mesh_of((1, 1, 8))
    with jax.set_mesh(mesh):
        run = jax.jit(lambda *x: scored(*x, temperature=1.0, softcap=0.0))
        got = run(*placed(mesh, 100 * hidden, table, token), weight)
    assert all(np.all(np.isfinite(x)) for x in got)
    logit = np.einsum("btd,vd->btv", 100 * hidden.astype(np.float64), table)
    logit -= logit.max(-1, keepdims=True)
    want = logit - np.log(np.exp(logit).sum(-1, keepdims=True))
    near(got[0], np.take_along_axis(want, token[..., None], -1)[..., 0], 1e-6)
    near(got[1], -(np.exp(want) * want).sum(-1), 1e-4)


# -- looking up ------------------------------------------------------------------------------------


def found(hidden, table, token, weight, dtype=jnp.float32):
    """The looked-up rows, and the gradient of the table of their product with `hidden`."""

    def total(table):
        x = vocabulary.look_up(table, token, dtype)
        return jnp.sum(x.astype(jnp.float32) * hidden * weight[2][..., None]), x

    d_table, x = jax.grad(total, has_aux=True)(table)
    return x, d_table


def found_by_hand(hidden, table, token, weight):
    d_table = np.zeros(table.shape)
    for at in np.ndindex(token.shape):
        d_table[token[at]] += hidden[at].astype(np.float64) * weight[2][at]
    return table[token], d_table


@pytest.mark.parametrize("shape", [(1, 1, 1), *MESHES])
def test_rows_are_looked_up_and_their_gradient_is_summed(shape) -> None:
    *args, weight = arrays()
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        x, d_table = jax.jit(found)(*placed(mesh, *args), weight)
    want_x, want_d = found_by_hand(*args, weight)
    np.testing.assert_array_equal(x, want_x)
    near(d_table, want_d)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lookups_in_bfloat16_sum_their_gradient_in_float32(shape, dtype) -> None:
    """All tokens are one: a sum in bfloat16 would stop growing, at 256."""
    hidden, table, _, _ = arrays()
    token, ones = np.full((B, T), 5, np.int32), np.ones((3, B, T), np.float32)
    table, mesh = table.astype(dtype), mesh_of(shape)
    with jax.set_mesh(mesh):
        run = jax.jit(lambda *x: found(*x, dtype=jnp.bfloat16))
        x, d_table = run(*placed(mesh, np.ones_like(hidden), table, token), ones)
    np.testing.assert_array_equal(x, table.astype(jnp.bfloat16)[token])
    np.testing.assert_array_equal(d_table[5], B * T)
    assert d_table.dtype == dtype


# -- what is exchanged -----------------------------------------------------------------------------


def exchanges(text: str) -> list[tuple[str, int, bool]]:
    """(kind, elements of its largest result, whether it is in a loop) of each collective."""
    computations = dict(
        re.findall(r"^(?:ENTRY )?%?([\w.\-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S)
    )
    looped = set()
    todo = re.findall(r"body=%?([\w.\-]+)", text)
    while todo:
        if (name := todo.pop()) not in looped:
            looped.add(name)
            called = re.findall(
                r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", computations[name]
            )
            todo += [other for other in called if other in computations]
    out = []
    for name, lines in computations.items():
        for shape, kind in re.findall(rf" = (.*?) ({EXCHANGES})(?:-start)?\(", lines):
            sizes = [
                math.prod(int(n) for n in dims.split(",") if n)
                for dims in re.findall(r"\w+\[([\d,]*)\]", shape)
            ]
            out.append((kind, max(sizes), name in looped))
    return out


def compiled(shape, run):
    hidden, table, token, weight = arrays(64, 512)
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        split = NamedSharding(mesh, Spec("tensor", "fsdp"))
        rows = NamedSharding(mesh, Spec(sharding.ROWS))
        layout = (rows, rows, rows, split) if run is not found else (rows, split)
        args = (*placed(mesh, hidden, table, token), weight)
        return jax.jit(run, out_shardings=layout).lower(*args).compile().as_text()


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 4, 2)])
def test_the_head_is_exchanged_once_and_outside_the_loop_over_chunks(shape) -> None:
    def run(*args):
        return scored(*args, temperature=1.0, softcap=0.0)

    text = compiled(shape, run)
    assert len(re.findall(r" while\(", text)) == 2  # the chunks, forward and backward
    found = exchanges(text)
    assert found and not [x for x in found if x[2]]
    piece = 512 * 64 // shape[2]
    assert [kind for kind, size, _ in found if size == piece] == ["all-gather"]
    scattered = [size for kind, size, _ in found if kind == "reduce-scatter"]
    assert scattered == [piece // shape[1]]
    rest = [size for kind, size, _ in found if kind in ("all-reduce", "all-to-all")]
    assert all(size <= B // shape[1] * T * 64 for size in rest)  # activations


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 4, 2)])
def test_no_device_holds_the_logits_of_all_columns(shape) -> None:
    def run(*args):
        return scored(*args, temperature=1.0, softcap=0.0)

    text = compiled(shape, run)
    rows, words = B // shape[1], 512 // shape[2]
    largest = max(
        math.prod(int(n) for n in dims.split(","))
        for dims in re.findall(r"f32\[([\d,]+)\]", text)
        if dims.endswith(f",{words}")
    )
    assert largest == rows * 16 * words


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 4, 2), (2, 1, 4)])
def test_looking_up_exchanges_activations_and_no_table(shape) -> None:
    """Of the table only its gradient's sum over `data`, on the part that a device holds."""
    exchanged = exchanges(compiled(shape, found))
    part = 512 * 64 // (shape[1] * shape[2])
    activations = B // shape[0] * T * 64 // shape[1]
    most = max(activations, part if shape[0] > 1 else 0)
    assert exchanged and max(size for _, size, _ in exchanged) <= most < 512 * 64


def test_no_part_of_an_update_exchanges_a_whole_table_or_its_gradient() -> None:
    """Of the compiled update of a small model: the head is gathered, its gradient scattered."""
    cfg = ModelConfig(
        layers=1, width=32, heads=4, kv_heads=4, head_size=8, feedforward=32, vocab=4096
    )
    mesh_cfg = MeshConfig(1, 4, 2)
    mesh = sharding.make_mesh(mesh_cfg)

    def like(shape, dtype):
        rows = NamedSharding(mesh, Spec(sharding.ROWS))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    rows = Rollout(
        *(like((8, 16), x) for x in (jnp.int32, jnp.bool_, jnp.int32)),
        *(like((8,), x) for x in (jnp.int32, jnp.bool_)),
        like((8, 16), jnp.float32),
    )
    params = parameters.abstract(cfg)
    layout = sharding.shard_tree(params, mesh, mesh_cfg)
    params = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout[name])
        for name, x in params.items()
    }

    def objective(states):
        logprob, _ = likelihood.token_logprobs(states, SampleConfig(), cfg)
        return -jnp.sum(logprob), ({}, jnp.float32(0), ())

    def gradient(params, rows):
        return likelihood.gradient(objective, params, rows, cfg).grads

    with jax.set_mesh(mesh):
        run = jax.jit(gradient, out_shardings=layout)
        found = exchanges(run.lower(params, rows).compile().as_text())
    held = 4096 * 32 // 8  # elements of a table on each device
    large = sorted(kind for kind, size, _ in found if size >= held)
    assert large == ["all-gather", "reduce-scatter"]  # of the head
    assert max(size for kind, size, _ in found if kind != "all-gather") == held
