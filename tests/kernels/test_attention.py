"""The op `attention` against a float64 numpy oracle: values and gradients."""

import importlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_kernels.attention import attention, cases

pytestmark = pytest.mark.usefixtures("strict_dtypes")

EVERY = ["reference", "xla", "splash_interpret"]


def oracle(a, d, near=None, *, scale, softcap=0.0) -> tuple:
    """Output, and gradients of sum(output * d); queries that see nothing are left out."""
    q, k, v, d = (np.asarray(x, np.float64) for x in (a["q_BTNH"], a["k_BSKH"], a["v_BSKH"], d))
    (rows, queries, heads, _), (_, columns, kv_heads, _) = q.shape, k.shape
    out, dq, dk, dv = (np.zeros(x.shape) for x in (q, q, k, v))
    for b, t, n in np.ndindex(rows, queries, heads):
        see = np.asarray(a["valid_BS"])[b] & (np.arange(columns) <= columns - queries + t)
        if near is not None:
            see &= np.asarray(near)[b, t]
        if not see.any():
            continue
        kv = n // (heads // kv_heads)
        raw = scale * k[b, see, kv] @ q[b, t, n]
        score = softcap * np.tanh(raw / softcap) if softcap else raw
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        out[b, t, n] = weight @ v[b, see, kv]
        d_weight = v[b, see, kv] @ d[b, t, n]
        d_raw = weight * (d_weight - weight @ d_weight) * scale
        d_raw *= 1 - np.tanh(raw / softcap) ** 2 if softcap else 1
        dq[b, t, n] = d_raw @ k[b, see, kv]
        dk[b, see, kv] += np.outer(d_raw, q[b, t, n])
        dv[b, see, kv] += np.outer(weight, d[b, t, n])
    return out, dq, dk, dv


def seeing(case, valid_BS):
    return (jnp.cumsum(valid_BS, axis=1)[:, case.prefix :] > 0)[:, :, None, None]


def cotangent(case, valid_BS):
    """A random gradient of the output; it is 0 for queries that see nothing."""
    shape = (case.rows, case.queries, case.heads, case.size)
    noise = jax.random.normal(jax.random.key(5), shape)
    return jnp.where(seeing(case, valid_BS), noise, 0.0).astype(case.dtype)


def value_and_grads(run, a, d):
    valid = a["valid_BS"]

    @jax.jit
    def both(q, k, v, d):
        out, back = jax.vjp(lambda q, k, v: run(q, k, v, valid), q, k, v)
        return out, *back(d)

    return both(a["q_BTNH"], a["k_BSKH"], a["v_BSKH"], d)


def compare(case, a, got, want) -> None:
    seen = np.asarray(seeing(case, a["valid_BS"]))
    near = 1e-5 if case.dtype == "float32" else 0.03
    for index, (x, y) in enumerate(zip(got, want, strict=True)):
        x = np.asarray(x, np.float32)
        assert np.all(np.isfinite(x))
        x = np.where(seen, x, 0) if index == 0 else x
        np.testing.assert_allclose(x, y, atol=near * max(1.0, np.abs(y).max()), rtol=near)


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("name", cases.SMALL)
def test_each_implementation_meets_the_oracle(name, impl) -> None:
    case = cases.SMALL[name]
    a, options = cases.inputs(case), cases.options(case)
    d = cotangent(case, a["valid_BS"])
    got = value_and_grads(lambda *x: attention(*x, **options, impl=impl), a, d)
    assert [x.dtype for x in got] == [jnp.dtype(case.dtype)] * 4
    compare(case, a, got, oracle(a, d, **options))


@pytest.mark.parametrize("name", ["prompt", "continued", "bfloat16"])
def test_cudnn_gives_upstream_what_the_oracle_means(name) -> None:
    """cudnn's arguments given to JAX's plain implementation, which runs on every machine."""
    module = importlib.import_module("rlvr_kernels.attention.cudnn")
    case = cases.SMALL[name]
    a = {k: x if x.dtype == bool else x.astype(jnp.bfloat16) for k, x in cases.inputs(case).items()}
    case = cases.Case(**{**vars(case), "dtype": "bfloat16"})
    scale = cases.options(case)["scale"]
    d = cotangent(case, a["valid_BS"])
    with jax.numpy_dtype_promotion("standard"):  # upstream mixes dtypes
        got = value_and_grads(lambda *x: module.cudnn(*x, scale, 0.0, implementation="xla"), a, d)
    compare(case, a, got, oracle(a, d, scale=scale))


@pytest.mark.parametrize("impl", ["reference", "xla"])
def test_near_narrows_what_is_seen(impl) -> None:
    case = cases.SMALL["continued"]
    a, options = cases.inputs(case), cases.options(case)
    column = jnp.arange(case.columns)
    near = column[case.prefix :, None] - column < 4
    near = jnp.broadcast_to(near, (case.rows, *near.shape))
    d = cotangent(case, a["valid_BS"])
    last = case.queries - 1  # the last query of each row still sees something
    got = value_and_grads(lambda *x: attention(*x, near, **options, impl=impl), a, d)
    assert np.isfinite(np.asarray(got[0][:, last])).all()
    compare(case, a, got, oracle(a, d, near, **options))


@pytest.mark.parametrize("impl", EVERY)
def test_shares_of_the_queries_together_are_all(impl) -> None:
    """As devices have them that share the queries; the number of the share is no constant."""
    case = cases.Case(1, 37, 256, heads=2, kv_heads=1, size=8, softcap=2.0)
    a, options = cases.inputs(case), cases.options(case)

    def run(q, k, v, valid):
        def one(number, q):
            return attention(q, k, v, valid, **options, share=(number, 2), impl=impl)

        numbers, halves = jnp.arange(2), jnp.stack(jnp.split(q, 2, 1))
        return jnp.concatenate(jax.lax.map(lambda x: one(*x), (numbers, halves)), 1)

    d = cotangent(case, a["valid_BS"])
    compare(case, a, value_and_grads(run, a, d), oracle(a, d, **options))


def test_splash_takes_no_shares_of_broken_blocks() -> None:
    a = cases.inputs(cases.SMALL["many_blocks"])
    a["q_BTNH"] = a["q_BTNH"][:, :65]
    with pytest.raises(ValueError, match="a multiple of 128 queries, not of 65"):
        attention(**a, scale=1.0, share=(1, 2), impl="splash_interpret")


@pytest.fixture
def low_limit(monkeypatch) -> None:
    """All scores of more than a few kilobytes are computed in chunks of 16 columns."""
    module = importlib.import_module("rlvr_kernels.attention.xla")
    monkeypatch.setattr(module, "LARGE", 2**12)


@pytest.mark.usefixtures("low_limit")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", [0, 5])
def test_large_scores_are_computed_in_chunks_of_columns(window, dtype) -> None:
    """43 queries are two chunks and a rest; gradients of keys are summed over the chunks."""
    case = cases.Case(2, 9, 43, heads=4, kv_heads=2, size=8, softcap=2.0, dtype=dtype)
    a, options = cases.inputs(case), cases.options(case)
    near = ()
    if window:
        column = jnp.arange(case.columns)
        seen = column[case.prefix :, None] - column < window
        near = (jnp.broadcast_to(seen, (case.rows, *seen.shape)),)
    d = cotangent(case, a["valid_BS"])

    def run(*x):
        return attention(*x, *near, **options, impl="xla")

    got = value_and_grads(run, a, d)
    assert [x.dtype for x in got] == [jnp.dtype(dtype)] * 4
    compare(case, a, got, oracle(a, d, *near, **options))


@pytest.mark.usefixtures("low_limit")
def test_no_array_holds_the_scores_of_all_columns() -> None:
    case = cases.Case(2, 0, 64, heads=4, kv_heads=2, size=8)
    a, options = cases.inputs(case), cases.options(case)

    def total(q):
        return jnp.sum(attention(q, *list(a.values())[1:], **options, impl="xla"))

    text = str(jax.make_jaxpr(jax.grad(total))(a["q_BTNH"]))
    shapes = {tuple(map(int, x.split(","))) for x in re.findall(r"f32\[([\d,]+)\]", text)}
    largest = max(math.prod(shape) for shape in shapes if shape[-1] == 64)
    assert largest == 2 * 4 * 16 * 64


def test_chunks_do_not_become_more_where_devices_share_the_scores() -> None:
    """What counts is what one device holds; inside shard_map the arrays are its own."""
    module = importlib.import_module("rlvr_kernels.attention.xla")
    assert module._devices() == 1
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    seen = []

    def look(x):
        seen.append(module._devices())
        return x

    with jax.set_mesh(mesh):
        assert module._devices() == 8
        spec = jax.sharding.PartitionSpec("a")
        jax.jit(jax.shard_map(look, in_specs=spec, out_specs=spec))(jnp.zeros(2))
    assert set(seen) == {1}


@pytest.mark.parametrize("impl", EVERY)
def test_a_row_that_sees_nothing_at_all_is_finite(impl) -> None:
    """Output and gradients stay finite even if the loss uses such a query's output."""
    case = cases.SMALL["continued"]
    a, options = cases.inputs(case), cases.options(case)
    a["valid_BS"] = a["valid_BS"].at[0].set(False)
    d = jnp.ones_like(a["q_BTNH"])
    got = value_and_grads(lambda *x: attention(*x, **options, impl=impl), a, d)
    assert all(np.all(np.isfinite(x)) for x in got)
    want = oracle(a, d, **options)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x[1], y[1], atol=1e-5 * np.abs(y).max(), rtol=1e-5)


@pytest.mark.parametrize("impl", ["splash", "splash_interpret", "cudnn"])
def test_only_two_take_near(impl) -> None:
    a = cases.inputs(cases.SMALL["prompt"])
    near = jnp.ones((2, 12, 12), bool)
    with pytest.raises(ValueError, match="only reference and xla take near"):
        attention(**a, near_BTS=near, scale=1.0, impl=impl)


def test_cudnn_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="softcap"):
        attention(**cases.inputs(cases.SMALL["bfloat16"]), scale=1.0, softcap=2.0, impl="cudnn")
    with pytest.raises(ValueError, match="not float32"):
        attention(**cases.inputs(cases.SMALL["prompt"]), scale=1.0, impl="cudnn")


@pytest.mark.parametrize(
    "name, shape",
    [
        ("q_BTNH", (2, 12, 3, 16)),
        ("q_BTNH", (2, 13, 4, 16)),  # more queries than columns
        ("q_BTNH", (2, 12, 4, 8)),
        ("k_BSKH", (2, 11, 2, 16)),
        ("v_BSKH", (1, 12, 2, 16)),
        ("valid_BS", (2, 11)),
        ("near_BTS", (2, 12, 11)),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(name, shape) -> None:
    a = cases.inputs(cases.SMALL["prompt"])
    a[name] = jnp.zeros(shape, bool if name in ("valid_BS", "near_BTS") else a["q_BTNH"].dtype)
    with pytest.raises(ValueError, match="must be"):
        attention(**a, scale=1.0)
