"""The op `token_logprob` against a float64 oracle and its reference: values, gradients, memory."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_kernels import token_logprob as op
from rlvr_kernels.token_logprob import cases

pytestmark = pytest.mark.usefixtures("strict_dtypes")

B, D, V = 2, 6, 11
SHORT, EVEN, ODD = 5, 128, 130  # columns: below one chunk, a multiple of it, and not
EVERY = ["reference", "xla", "pallas_tpu_interpret", "pallas_gpu_interpret"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    """Smaller chunks, 32 columns for two rows, so that small inputs have several."""
    monkeypatch.setattr(importlib.import_module("rlvr_kernels.token_logprob.xla"), "TOKENS", 64)


def inputs(columns: int, scale: float = 1.0) -> tuple:
    rng = np.random.default_rng(columns)
    hidden = rng.normal(0, scale, (B, columns, D)).astype(np.float32)
    head = rng.normal(0, 1, (V, D)).astype(np.float32)
    token = rng.integers(0, V, (B, columns)).astype(np.int32)
    return hidden, head, token


def cotangents(columns: int) -> tuple:
    rng = np.random.default_rng(columns + 1)
    return tuple(rng.normal(0, 1, (2, B, columns)).astype(np.float32))


def oracle(hidden, head, token) -> tuple:
    """Log-probability and entropy, one position at a time."""
    logprob, entropy = np.zeros(token.shape), np.zeros(token.shape)
    for at in np.ndindex(token.shape):
        logit = np.float64(head) @ np.float64(hidden[at])
        prob = np.exp(logit - logit.max())
        prob /= prob.sum()
        logprob[at] = np.log(prob[token[at]])
        entropy[at] = -(prob * np.log(prob)).sum()
    return logprob, entropy


def oracle_grads(hidden, head, token, d_logprob, d_entropy) -> tuple:
    """d logprob / d logit = onehot - p;  d entropy / d logit = -p (log p + entropy)."""
    d_hidden, d_head = np.zeros(hidden.shape), np.zeros(head.shape)
    for at in np.ndindex(token.shape):
        logit = np.float64(head) @ np.float64(hidden[at])
        prob = np.exp(logit - logit.max())
        prob /= prob.sum()
        entropy = -(prob * np.log(prob)).sum()
        d_logit = d_logprob[at] * (np.eye(V)[token[at]] - prob)
        d_logit -= d_entropy[at] * prob * (np.log(prob) + entropy)
        d_hidden[at] = d_logit @ np.float64(head)
        d_head += np.outer(d_logit, np.float64(hidden[at]))
    return d_hidden, d_head


def value_and_grads(args, cotangent, impl, **options):
    @jax.jit
    def both(hidden, head, token, d_logprob, d_entropy):
        def run(x, w):
            return op.token_logprob(x, w, token, **options, impl=impl)

        out, back = jax.vjp(run, hidden, head)
        return out, back((d_logprob, d_entropy))

    return both(*args, *cotangent)


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("columns", [SHORT, EVEN, ODD])
def test_values_and_gradients_are_those_of_the_oracle(columns, impl) -> None:
    args, cotangent = inputs(columns), cotangents(columns)
    out, grads = value_and_grads(args, cotangent, impl)
    for got, want in zip(out, oracle(*args), strict=True):
        assert got.dtype == jnp.float32 and got.shape == (B, columns)
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
    for got, want in zip(grads, oracle_grads(*args, *cotangent), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=1e-5)


@pytest.mark.parametrize("impl", EVERY[1:])
@pytest.mark.parametrize("name", cases.SMALL)
def test_each_implementation_gives_what_the_reference_gives(name, impl) -> None:
    case = cases.SMALL[name]
    args, options = tuple(cases.inputs(case).values()), cases.options(case)
    cotangent = jax.random.normal(jax.random.key(1), (2, *args[2].shape))
    out, grads = value_and_grads(args, cotangent, impl, **options)
    want, want_grads = value_and_grads(args, cotangent, "reference", **options)
    for a, b in zip(out, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    for a, b in zip(grads, want_grads, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        near = 1e-5 if case.dtype == "float32" else 0.01
        np.testing.assert_allclose(a, b, atol=near * np.abs(b).max(), rtol=near)


def shapes_in(args, cotangent, impl) -> list[tuple]:
    def run(hidden, head, token, *cotangent):
        back = jax.vjp(lambda x, w: op.token_logprob(x, w, token, impl=impl), hidden, head)[1]
        return back(cotangent)

    jaxpr = jax.make_jaxpr(run)(*args, *cotangent)
    return [tuple(v.aval.shape) for eqn in walk(jaxpr.jaxpr) for v in eqn.outvars]


def test_no_array_holds_the_logits_of_all_columns() -> None:
    """No array as large as [B, T, V] is alive, forward or backward."""
    shapes = shapes_in(inputs(EVEN), cotangents(EVEN), "xla")
    assert max(np.prod(shape) for shape in shapes if V in shape) == B * 32 * V


@pytest.mark.parametrize("rows, chunk", [(2, 32), (4, 16), (50, 16)])
def test_a_chunk_has_the_columns_that_its_rows_leave(rows, chunk) -> None:
    args = np.zeros((rows, 99, D), np.float32), np.zeros((V, D), np.float32)
    args += (np.zeros((rows, 99), np.int32),)
    shapes = shapes_in(args, np.zeros((2, rows, 99), np.float32), "xla")
    assert (rows, chunk, V) in shapes and (rows, 99, V) not in shapes


@pytest.mark.parametrize("impl", ["pallas_tpu", "pallas_gpu"])
def test_kernels_hold_no_more_than_blocks_of_logits(impl) -> None:
    case = cases.LARGE["smollm2_135m"]
    args = tuple(cases.abstract(case).values())
    cotangent = (jax.ShapeDtypeStruct(args[2].shape, jnp.float32),) * 2
    largest = max(np.prod(shape) for shape in shapes_in(args, cotangent, impl))
    tokens = case.rows * case.columns
    assert largest <= max(4 * tokens, case.vocab) * case.width < tokens * case.vocab / 15


def walk(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from walk(inner)


@pytest.mark.parametrize("columns", [31, 32, 33])
def test_thirty_two_columns_are_one_chunk(columns) -> None:
    args = inputs(columns)
    for got, want in zip(op.token_logprob(*args), oracle(*args), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("impl", EVERY)
def test_large_logits_stay_finite(impl) -> None:
    """Logits of several thousand: softmax is one token, entropy 0, gradients finite."""
    args = inputs(SHORT, scale=1000.0)
    out, grads = value_and_grads(args, cotangents(SHORT), impl)
    for got, want in zip(out, oracle_far(*args), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=5e-3)
    assert all(np.all(np.isfinite(x)) for x in grads)


def oracle_far(hidden, head, token) -> tuple:
    logit = np.float64(hidden) @ np.float64(head).T
    logit -= logit.max(-1, keepdims=True)
    total = np.log(np.exp(logit).sum(-1, keepdims=True))
    prob = np.exp(logit - total)
    chosen = np.take_along_axis(logit - total, token[..., None], -1)[..., 0]
    return chosen, -(prob * (logit - total)).sum(-1)


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("columns", [SHORT, ODD])
def test_bfloat16_inputs_give_float32_results(columns, impl) -> None:
    """Only the inputs are rounded: the result is that of the oracle for the rounded inputs."""
    hidden, head, token = inputs(columns)
    hidden, head = jnp.bfloat16(hidden), jnp.bfloat16(head)
    cotangent = cotangents(columns)
    out, grads = value_and_grads((hidden, head, token), cotangent, impl)
    rounded = np.asarray(hidden, np.float32), np.asarray(head, np.float32), token
    for got, want in zip(out, oracle(*rounded), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
    for got, want in zip(grads, oracle_grads(*rounded, *cotangent), strict=True):
        assert got.dtype == jnp.bfloat16  # of their primals
        np.testing.assert_allclose(
            np.asarray(got, np.float32), want, atol=0.02 * np.abs(want).max(), rtol=0.02
        )


@pytest.mark.parametrize(
    "hidden, head, token",
    [
        ((2, 5, 6), (11, 7), (2, 5)),
        ((2, 5, 6), (11, 6), (2, 4)),
        ((2, 5, 6), (11, 6), (3, 5)),
        ((2, 5, 6), (11, 6), (2, 5, 1)),
        ((2, 5, 6), (11, 6), (2,)),
        ((5, 6), (11, 6), (5,)),
        ((2, 5, 6), (6,), (2, 5)),
        ((2, 5, 6), (1, 11, 6), (2, 5)),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(hidden, head, token) -> None:
    with pytest.raises(ValueError):
        op.token_logprob(jnp.zeros(hidden), jnp.zeros(head), jnp.zeros(token, jnp.int32))


def test_the_refusal_names_the_shapes() -> None:
    hidden, head, token = inputs(SHORT)
    with pytest.raises(ValueError, match=r"\(2, 5, 6\).*\(11, 5\).*\(2, 5\).*\[B, T, D\]"):
        op.token_logprob(hidden, head[:, 1:], token)
