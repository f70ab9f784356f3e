"""Token log-probs for GPUs: Pallas kernels on Triton.

`pallas_tpu.py` has the formulas.  A program of the forward and the d_hidden kernel holds a block of
tokens and goes through a share of the vocabulary.  A program of the d_head kernel holds a block of
vocabulary entries ("words") and goes through all tokens.  The width is cut into blocks too, since
registers are few.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

LOW = -1e30  # logit of a word beyond the vocabulary; finite, since LOW - LOW must be 0
BLOCK = 64  # tokens, words and width of a block; Triton needs powers of two
SHARES = 4  # programs that share the vocabulary; one per block of tokens would leave cores idle


def pallas_gpu(hidden_BTD, head_VD, token_BT, temperature, softcap, *, interpret=False):
    """Return log-probs and entropies, both float32 [B, T]; forward and backward pass are kernels.

    Sums are float32.  The gradients of hidden states and head have the dtypes of these arrays.  The
    gradient of the logits is cast to the dtype of the head before the matrix products.
    """
    flat, hidden_BTD, head_VD = _blocks(hidden_BTD, head_VD, token_BT, interpret)
    static = (float(temperature), float(softcap), interpret)
    out = _flat(flat(hidden_BTD), head_VD, flat(token_BT), static)
    return tuple(x[: token_BT.size].reshape(token_BT.shape) for x in out)


def measure(hidden_BTD, head_VD, token_BT, temperature, softcap, *, interpret=False):
    """Return log-probs, log-sum-exp and entropies over a piece of the vocabulary."""
    flat, hidden_BTD, head_VD = _blocks(hidden_BTD, head_VD, token_BT, interpret)
    static = (float(temperature), float(softcap), interpret)
    (logprob_X, _), saved = _forward(flat(hidden_BTD), head_VD, flat(token_BT), static)
    return tuple(x[: token_BT.size].reshape(token_BT.shape) for x in (logprob_X, *saved[3:]))


def pull(hidden_BTD, head_VD, token_BT, *rest, interpret=False):
    """Return the gradients of hidden states and of a piece of the head.

    `rest` is log-sum-exp and entropy of the whole vocabulary, the cotangents of log-prob and
    entropy, all [B, T], then temperature and softcap.
    """
    *of_token, temperature, softcap = rest
    flat, hidden, head = _blocks(hidden_BTD, head_VD, token_BT, interpret)
    total, entropy, *cotangent = map(flat, of_token)
    saved = (flat(hidden), head, flat(token_BT), total, entropy)
    d_hidden_XD, d_head_VD, _ = _backward(
        (float(temperature), float(softcap), interpret), saved, cotangent
    )
    d_hidden_BTD = d_hidden_XD[: token_BT.size].reshape(hidden_BTD.shape)
    return d_hidden_BTD.astype(hidden_BTD.dtype), d_head_VD.astype(head_VD.dtype)


def _blocks(hidden_BTD, head_VD, token_BT, interpret):
    """Return a function from [B, T, ...] to whole blocks [X, ...], and the matrices to multiply."""
    tokens = token_BT.size

    def flat(x):
        x = x.reshape(tokens, *x.shape[2:])
        return jnp.pad(x, ((0, -tokens % BLOCK), *[(0, 0)] * (x.ndim - 1)))

    if interpret:  # the CPU lacks some products of bfloat16
        hidden_BTD, head_VD = hidden_BTD.astype(jnp.float32), head_VD.astype(jnp.float32)
    return flat, hidden_BTD, head_VD


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _flat(hidden_XD, head_VD, token_X, static):
    return _forward(hidden_XD, head_VD, token_X, static)[0]


def _forward(hidden_XD, head_VD, token_X, static):
    tokens = hidden_XD.shape[0]
    part_SX = _call(
        _forward_kernel,
        (tokens // BLOCK, SHARES),
        [jax.ShapeDtypeStruct((SHARES, tokens), jnp.float32)] * 4,
        static,
        "token_logprob_forward",
    )(hidden_XD, head_VD, token_X)
    high_SX, sum_SX, moment_SX, chosen_SX = part_SX
    high_X = jnp.max(high_SX, axis=0)
    less_SX = high_SX - high_X
    keep_SX = jnp.exp(less_SX)
    sum_X = jnp.sum(keep_SX * sum_SX, axis=0)
    moment_X = jnp.sum(keep_SX * (moment_SX + less_SX * sum_SX), axis=0)
    total_X = high_X + jnp.log(sum_X)
    entropy_X = jnp.log(sum_X) - moment_X / sum_X
    logprob_X = jnp.sum(chosen_SX, axis=0) - total_X
    return (logprob_X, entropy_X), (hidden_XD, head_VD, token_X, total_X, entropy_X)


def _backward(static, saved, cotangent):
    hidden_XD, head_VD = saved[:2]
    (tokens, width), vocab = hidden_XD.shape, head_VD.shape[0]
    args = (*saved, *cotangent)
    d_hidden_YD = _call(  # Y = SHARES * X
        _hidden_kernel,
        (tokens // BLOCK, SHARES),
        jax.ShapeDtypeStruct((SHARES * tokens, width), jnp.float32),
        static,
        "token_logprob_d_hidden",
    )(*args)
    d_head_VD = _call(
        _head_kernel,
        (pl.cdiv(vocab, BLOCK),),
        jax.ShapeDtypeStruct((vocab, width), jnp.float32),
        static,
        "token_logprob_d_head",
    )(*args)
    d_hidden_XD = jnp.sum(d_hidden_YD.reshape(SHARES, tokens, width), axis=0).astype(
        hidden_XD.dtype
    )
    return d_hidden_XD, d_head_VD.astype(head_VD.dtype), None


_flat.defvjp(_forward, _backward)


def _call(kernel, grid, out_shape, static, name):
    """Return `kernel` as a function of arrays.

    A program sees whole arrays and loads its own blocks, masked at the edges.
    """
    temperature, softcap, interpret = static
    return pl.pallas_call(
        partial(kernel, temperature=temperature, softcap=softcap, interpret=interpret),
        grid=grid,
        out_shape=out_shape,
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name=name,
    )


def _tile(ref, start, step):
    """Return a BLOCK x BLOCK square of an array, and the mask of its part inside the array.

    The square has the rows from `start` on, and block number `step` of the width.
    """
    row, column = start + jnp.arange(BLOCK), step * BLOCK + jnp.arange(BLOCK)
    inside = (row < ref.shape[0])[:, None] & (column < ref.shape[1])[None, :]
    return ref.at[pl.ds(start, BLOCK), pl.ds(step * BLOCK, BLOCK)], inside


def _load(ref, start, step):
    place, inside = _tile(ref, start, step)
    return plgpu.load(place, mask=inside, other=0.0)


def _logits(hidden_ref, head_ref, x, v, temperature, softcap):
    """Return z [x, v] of a block, the vocabulary index of each entry, and d z / d raw logit."""

    def add(step, sum_xv):
        head_vd = _load(head_ref, v, step)
        return sum_xv + plgpu.dot(_load(hidden_ref, x, step), head_vd, trans_b=True)

    steps = pl.cdiv(head_ref.shape[1], BLOCK)
    raw_xv = jax.lax.fori_loop(0, steps, add, jnp.zeros((BLOCK, BLOCK), jnp.float32))
    slope = 1.0 / temperature
    if softcap:
        tanh_xv = jnp.tanh(raw_xv / softcap)
        raw_xv, slope = softcap * tanh_xv, (1.0 - tanh_xv * tanh_xv) / temperature
    word_v = v + jnp.arange(BLOCK)
    z_xv = jnp.where((word_v < head_ref.shape[0])[None, :], raw_xv / temperature, LOW)
    return z_xv, word_v, slope


def _share(head_ref):
    """Return first and end block of the vocabulary share of this program."""
    blocks = pl.cdiv(head_ref.shape[0], BLOCK)
    each = pl.cdiv(blocks, SHARES)
    first = pl.program_id(1) * each
    return first, jnp.minimum(first + each, blocks)


def _forward_kernel(
    hidden_ref,
    head_ref,
    token_ref,
    high_ref,
    sum_ref,
    moment_ref,
    chosen_ref,
    *,
    temperature,
    softcap,
    interpret,
):
    """Write the partial softmax of one share of the vocabulary.

    It is the maximum m of z, the sums of exp(z - m) and of exp(z - m) (z - m), and z of the token
    itself, or 0 if the token is in another share.
    """
    x = pl.program_id(0) * BLOCK
    token_x = token_ref[pl.ds(x, BLOCK)]

    def add(block, carry):
        old_x, sum_x, moment_x, chosen_x = carry
        z_xv, word_v, _ = _logits(hidden_ref, head_ref, x, block * BLOCK, temperature, softcap)
        high_x = jnp.maximum(old_x, jnp.max(z_xv, axis=1))
        less_x = old_x - high_x
        below_xv = z_xv - high_x[:, None]
        weight_xv = jnp.exp(below_xv)
        moment_x = jnp.exp(less_x) * (moment_x + less_x * sum_x)
        moment_x += jnp.sum(weight_xv * below_xv, axis=1)
        sum_x = jnp.exp(less_x) * sum_x + jnp.sum(weight_xv, axis=1)
        hit_xv = word_v[None, :] == token_x[:, None]
        return high_x, sum_x, moment_x, chosen_x + jnp.sum(jnp.where(hit_xv, z_xv, 0.0), axis=1)

    zero_x = jnp.zeros((BLOCK,), jnp.float32)
    carry = (jnp.full((BLOCK,), LOW, jnp.float32), zero_x, zero_x, zero_x)
    out = jax.lax.fori_loop(*_share(head_ref), add, carry)
    for ref, value_x in zip((high_ref, sum_ref, moment_ref, chosen_ref), out, strict=True):
        ref[pl.program_id(1), pl.ds(x, BLOCK)] = value_x


def _d_logits(hidden_ref, head_ref, refs, x, v, temperature, softcap):
    """Return the gradient of the loss with respect to the raw logits of a block.

    It has the dtype of the head.
    """
    token_x, total_x, entropy_x, d_logprob_x, d_entropy_x = (
        ref[pl.ds(x, BLOCK)][:, None] for ref in refs
    )
    z_xv, word_v, slope = _logits(hidden_ref, head_ref, x, v, temperature, softcap)
    log_xv = z_xv - total_x
    pull_xv = d_logprob_x + d_entropy_x * (log_xv + entropy_x)
    d_z_xv = jnp.where(word_v[None, :] == token_x, d_logprob_x, 0.0) - jnp.exp(log_xv) * pull_xv
    return (d_z_xv * slope).astype(head_ref.dtype)


def _accumulate(out_ref, start, other_ref, first, last, d_of, interpret):
    """Write out[start:] = the sum over blocks of d_of(block) @ other[block], summed in place.

    No other program writes these rows, so the sum has the same order in every run.
    """

    def walk(body):
        jax.lax.fori_loop(0, pl.cdiv(out_ref.shape[1], BLOCK), body, None)
        if not interpret:  # a thread may read next what another thread has written
            plgpu.debug_barrier()

    def clear(step, _):
        place, inside = _tile(out_ref, start, step)
        plgpu.store(place, jnp.zeros((BLOCK, BLOCK), jnp.float32), mask=inside)

    def add(block, _):
        d_ab = d_of(block)

        def one(step, _):
            place, inside = _tile(out_ref, start, step)
            product = plgpu.dot(d_ab, _load(other_ref, block * BLOCK, step))
            old = plgpu.load(place, mask=inside, other=0.0)
            plgpu.store(place, old + product, mask=inside)

        walk(one)

    walk(clear)
    jax.lax.fori_loop(first, last, add, None)


def _hidden_kernel(hidden_ref, head_ref, *refs, temperature, softcap, interpret):
    *inputs, out_YD = refs
    x = pl.program_id(0) * BLOCK

    def d_of(block):
        return _d_logits(hidden_ref, head_ref, inputs, x, block * BLOCK, temperature, softcap)

    y = pl.program_id(1) * hidden_ref.shape[0] + x
    _accumulate(out_YD, y, head_ref, *_share(head_ref), d_of, interpret)


def _head_kernel(hidden_ref, head_ref, *refs, temperature, softcap, interpret):
    *inputs, out_VD = refs
    v = pl.program_id(0) * BLOCK

    def d_of(block):
        return _d_logits(hidden_ref, head_ref, inputs, block * BLOCK, v, temperature, softcap).T

    _accumulate(out_VD, v, hidden_ref, 0, hidden_ref.shape[0] // BLOCK, d_of, interpret)
