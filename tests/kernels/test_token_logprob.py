"""token_logprob against float64 numpy, values and gradients, in one chunk and in many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rlvr_kernels import token_logprob as op

pytestmark = pytest.mark.usefixtures("strict_dtypes")

B, D, V = 2, 6, 11
SHORT, EVEN, ODD = 5, 256, 130  # columns: below one chunk, a multiple of it, and not


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


@jax.jit
def value_and_grads(hidden, head, token, d_logprob, d_entropy):
    out, back = jax.vjp(lambda x, w: op.token_logprob(x, w, token), hidden, head)
    return out, back((d_logprob, d_entropy))


@pytest.mark.parametrize("columns", [SHORT, EVEN, ODD])
def test_values_and_gradients_are_those_of_the_oracle(columns) -> None:
    args, cotangent = inputs(columns), cotangents(columns)
    out, grads = value_and_grads(*args, *cotangent)
    for got, want in zip(out, oracle(*args), strict=True):
        assert got.dtype == jnp.float32 and got.shape == (B, columns)
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
    for got, want in zip(grads, oracle_grads(*args, *cotangent), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=1e-5)


def test_chunks_give_what_the_reference_gives() -> None:
    args, cotangent = inputs(ODD), cotangents(ODD)
    out, grads = value_and_grads(*args, *cotangent)

    @jax.jit
    def plain(hidden, head, token, d_logprob, d_entropy):
        out, back = jax.vjp(lambda x, w: op.reference(x, w, token), hidden, head)
        return out, back((d_logprob, d_entropy))

    want, want_grads = plain(*args, *cotangent)
    for a, b in zip((*out, *grads), (*want, *want_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max(), rtol=2e-6)


def test_no_array_holds_the_logits_of_all_columns() -> None:
    """What the op is for: nothing as large as [B, T, V] is alive, forward or backward."""
    jaxpr = jax.make_jaxpr(value_and_grads.__wrapped__)(*inputs(EVEN), *cotangents(EVEN))
    shapes = [tuple(v.aval.shape) for eqn in walk(jaxpr.jaxpr) for v in eqn.outvars]
    assert (B, op.CHUNK, V) in shapes
    largest = max(np.prod(shape) for shape in shapes if V in shape)
    assert largest == B * op.CHUNK * V


def walk(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from walk(inner)


def test_one_hundred_and_twenty_eight_columns_are_one_chunk() -> None:
    for columns in (op.CHUNK - 1, op.CHUNK, op.CHUNK + 1):
        args = inputs(columns)
        for got, want in zip(jax.jit(op.token_logprob)(*args), oracle(*args), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)


def test_large_logits_stay_finite() -> None:
    """Logits of several thousand: softmax is one token, entropy 0, gradients finite."""
    args = inputs(SHORT, scale=1000.0)
    out, grads = value_and_grads(*args, *cotangents(SHORT))
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


@pytest.mark.parametrize("columns", [SHORT, ODD])
def test_bfloat16_inputs_give_float32_results(columns) -> None:
    """Inputs are rounded, nothing after them is: the oracle of the rounded inputs is met."""
    hidden, head, token = inputs(columns)
    hidden, head = jnp.bfloat16(hidden), jnp.bfloat16(head)
    cotangent = cotangents(columns)
    out, grads = value_and_grads(hidden, head, token, *cotangent)
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
