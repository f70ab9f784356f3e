"""Token log-probs for TPUs: Pallas kernels on Mosaic.

The kernels go through the vocabulary block by block with an online softmax, so no array of
[tokens, V] exists anywhere.  Let z = softcap(hidden @ head.T) / temperature, p = softmax(z),
L = logsumexp(z) and E the entropy.  Then

    d logprob / dz = onehot - p        d entropy / dz = -p (z - L + E).

The forward kernel saves L and E; the backward kernels compute z of each block again.  X = B * T
counts tokens, v the vocabulary entries ("words") of a block.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LOW = -1e30  # logit of a word beyond the vocabulary; finite, since LOW - LOW must be 0
# Each block of the outer loop reads all of the other operand: it is as large as fits.
OUTER = 2**22  # bytes of a block of the outer operand; a double buffer and its gradient fit
INNER = 2**20  # bytes of a block of the inner operand; a double buffer fits
LIMIT = 2**25  # bytes of VMEM for a kernel; a width of 8192 needs more than some chips' default


def pallas_tpu(hidden_BTD, head_VD, token_BT, temperature, softcap, *, interpret=False):
    """Return log-probs and entropies, both float32 [B, T]; forward and backward pass are kernels.

    Sums are float32.  The gradients of hidden states and head have the dtypes of these arrays.  The
    gradient of the logits is cast to the dtype of the other factor before each matrix product.
    """
    flat, static = _blocks(head_VD, token_BT, temperature, softcap, interpret)
    out = _flat(flat(hidden_BTD), head_VD, flat(token_BT[..., None]), static)
    return tuple(_columns(x, token_BT) for x in out)


def measure(hidden_BTD, head_VD, token_BT, temperature, softcap, *, interpret=False):
    """Return log-probs, log-sum-exp and entropies over a piece of the vocabulary."""
    flat, static = _blocks(head_VD, token_BT, temperature, softcap, interpret)
    (logprob_X1, _), saved = _forward(flat(hidden_BTD), head_VD, flat(token_BT[..., None]), static)
    return tuple(_columns(x, token_BT) for x in (logprob_X1, *saved[3:]))


def pull(hidden_BTD, head_VD, token_BT, *rest, interpret=False):
    """Return the gradients of hidden states and of a piece of the head.

    `rest` is log-sum-exp and entropy of the whole vocabulary, the cotangents of log-prob and
    entropy, all [B, T], then temperature and softcap.
    """
    *of_token, temperature, softcap = rest
    flat, static = _blocks(head_VD, token_BT, temperature, softcap, interpret)
    total, entropy, *cotangent = (flat(x[..., None]) for x in of_token)
    saved = (flat(hidden_BTD), head_VD, flat(token_BT[..., None]), total, entropy)
    d_hidden_XD, d_head_VD, _ = _backward(static, saved, cotangent)
    return d_hidden_XD[: token_BT.size].reshape(hidden_BTD.shape), d_head_VD


def _blocks(head_VD, token_BT, temperature, softcap, interpret):
    """Return a function from [B, T, ...] to whole blocks [X, ...], and the static arguments."""
    tokens, (vocab, width) = token_BT.size, head_VD.shape
    outer, inner = (_block(width * head_VD.dtype.itemsize, most) for most in (OUTER, INNER))
    whole_x, whole_v = (-(-size // 128) * 128 for size in (tokens, vocab))
    outer_x = min(outer, whole_x)
    inner_x = inner if outer_x % inner == 0 else 128
    by_token, by_word = (outer_x, min(inner, whole_v)), (min(outer, whole_v), inner_x)

    def flat(x):
        return jnp.pad(x.reshape(tokens, x.shape[-1]), ((0, -tokens % outer_x), (0, 0)))

    return flat, (float(temperature), float(softcap), by_token, by_word, interpret)


def _columns(x_X1, token_BT):
    """Return values of flat tokens as [B, T]."""
    return x_X1[: token_BT.size, 0].reshape(token_BT.shape)


def _block(bytes_per_row: int, most: int) -> int:
    """Return the rows of a block: 512 or 256 if as many have at most so many bytes, else 128."""
    block = 512
    while block > 128 and block * bytes_per_row > most:
        block //= 2
    return block


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _flat(hidden_XD, head_VD, token_X1, static):
    return _forward(hidden_XD, head_VD, token_X1, static)[0]


def _forward(hidden_XD, head_VD, token_X1, static):
    temperature, softcap, (block_x, block_v), _, interpret = static
    (tokens, width), vocab = hidden_XD.shape, head_VD.shape[0]
    column = pl.BlockSpec((block_x, 1), lambda i, j: (i, 0))
    logprob_X1, total_X1, entropy_X1 = pl.pallas_call(
        partial(_forward_kernel, vocab=vocab, temperature=temperature, softcap=softcap),
        grid=(tokens // block_x, pl.cdiv(vocab, block_v)),
        in_specs=[
            pl.BlockSpec((block_x, width), lambda i, j: (i, 0)),
            pl.BlockSpec((block_v, width), lambda i, j: (j, 0)),
            column,
        ],
        out_specs=[column] * 3,
        out_shape=[jax.ShapeDtypeStruct((tokens, 1), jnp.float32)] * 3,
        scratch_shapes=[pltpu.VMEM((block_x, 1), jnp.float32)] * 4,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=LIMIT
        ),
        interpret=interpret,
        name="token_logprob_forward",
    )(hidden_XD, head_VD, token_X1)
    return (logprob_X1, entropy_X1), (hidden_XD, head_VD, token_X1, total_X1, entropy_X1)


def _backward(static, saved, cotangent):
    hidden_XD, head_VD, token_X1, total_X1, entropy_X1 = saved
    temperature, softcap, by_token, by_word, interpret = static
    (tokens, width), vocab = hidden_XD.shape, head_VD.shape[0]
    args = (hidden_XD, head_VD, token_X1, total_X1, entropy_X1, *cotangent)
    known = dict(vocab=vocab, temperature=temperature, softcap=softcap)
    outer, inner = lambda i, j: (i, 0), lambda i, j: (j, 0)

    def call(kernel, grid, x, v, like, name):
        hidden, head = pl.BlockSpec((x[0], width), x[1]), pl.BlockSpec((v[0], width), v[1])
        out = pl.BlockSpec(((x if x[1] is outer else v)[0], width), outer)
        return pl.pallas_call(
            partial(kernel, **known),
            grid=grid,
            in_specs=[hidden, head, *[pl.BlockSpec((x[0], 1), x[1])] * 5],
            out_specs=out,
            out_shape=jax.ShapeDtypeStruct(like.shape, like.dtype),
            scratch_shapes=[pltpu.VMEM(out.block_shape, jnp.float32)],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=LIMIT
            ),
            interpret=interpret,
            name=name,
        )(*args)

    x, v = by_token
    grid = (tokens // x, pl.cdiv(vocab, v))
    name = "token_logprob_d_hidden"
    d_hidden_XD = call(_hidden_kernel, grid, (x, outer), (v, inner), hidden_XD, name)
    v, x = by_word
    grid = (pl.cdiv(vocab, v), tokens // x)
    d_head_VD = call(_head_kernel, grid, (x, inner), (v, outer), head_VD, "token_logprob_d_head")
    return d_hidden_XD, d_head_VD, None


_flat.defvjp(_forward, _backward)


def _real(head_ref, block, vocab):
    """Return a block of the head with 0 beyond the vocabulary.

    The memory there may hold anything, also NaN.
    """
    head_vD = head_ref[...]
    if vocab % head_vD.shape[0] == 0:
        return head_vD
    row_vD = jax.lax.broadcasted_iota(jnp.int32, head_vD.shape, 0) + block * head_vD.shape[0]
    return jnp.where(row_vD < vocab, head_vD, jnp.zeros_like(head_vD))


def _logits(hidden_xD, head_vD, block, vocab, temperature, softcap):
    """Return z [x, v] of a block, the vocabulary index of each entry, and d z / d raw logit."""
    raw_xv = jax.lax.dot_general(
        hidden_xD, head_vD, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    slope = 1.0 / temperature
    if softcap:
        tanh_xv = jnp.tanh(raw_xv / softcap)
        raw_xv, slope = softcap * tanh_xv, (1.0 - tanh_xv * tanh_xv) / temperature
    z_xv = raw_xv / temperature
    word_xv = jax.lax.broadcasted_iota(jnp.int32, z_xv.shape, 1) + block * z_xv.shape[1]
    if vocab % z_xv.shape[1]:
        z_xv = jnp.where(word_xv < vocab, z_xv, LOW)
    return z_xv, word_xv, slope


def _forward_kernel(
    hidden_ref,
    head_ref,
    token_ref,
    logprob_ref,
    total_ref,
    entropy_ref,
    high_ref,
    sum_ref,
    moment_ref,
    chosen_ref,
    *,
    vocab,
    temperature,
    softcap,
):
    """Add one block of the vocabulary to the online softmax of a block of tokens.

    The scratch arrays hold the running maximum m of z, the sums of exp(z - m) and of
    exp(z - m) (z - m), and z of the token itself.
    """
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _():
        high_ref[...] = jnp.full_like(high_ref, LOW)
        for ref in (sum_ref, moment_ref, chosen_ref):
            ref[...] = jnp.zeros_like(ref)

    head_vD = _real(head_ref, block, vocab)
    z_xv, word_xv, _ = _logits(hidden_ref[...], head_vD, block, vocab, temperature, softcap)
    old_x1 = high_ref[...]
    high_x1 = jnp.maximum(old_x1, jnp.max(z_xv, axis=1, keepdims=True))
    less_x1 = old_x1 - high_x1
    keep_x1 = jnp.exp(less_x1)
    below_xv = z_xv - high_x1
    weight_xv = jnp.exp(below_xv)
    moment_ref[...] = keep_x1 * (moment_ref[...] + less_x1 * sum_ref[...]) + jnp.sum(
        weight_xv * below_xv, axis=1, keepdims=True
    )
    sum_ref[...] = keep_x1 * sum_ref[...] + jnp.sum(weight_xv, axis=1, keepdims=True)
    high_ref[...] = high_x1
    chosen_ref[...] += jnp.sum(
        jnp.where(word_xv == token_ref[...], z_xv, 0.0), axis=1, keepdims=True
    )

    @pl.when(block == pl.num_programs(1) - 1)
    def _():
        log_x1 = jnp.log(sum_ref[...])
        logprob_ref[...] = chosen_ref[...] - high_ref[...] - log_x1
        total_ref[...] = high_ref[...] + log_x1
        entropy_ref[...] = log_x1 - moment_ref[...] / sum_ref[...]


def _d_logits(refs, head_vD, block, vocab, temperature, softcap):
    """Return the gradient of the loss with respect to the raw logits of a block, in float32."""
    hidden_ref, token_ref, total_ref, entropy_ref, d_logprob_ref, d_entropy_ref = refs
    z_xv, word_xv, slope = _logits(hidden_ref[...], head_vD, block, vocab, temperature, softcap)
    log_xv = z_xv - total_ref[...]
    pull_xv = d_logprob_ref[...] + d_entropy_ref[...] * (log_xv + entropy_ref[...])
    d_z_xv = jnp.where(word_xv == token_ref[...], d_logprob_ref[...], 0.0)
    return (d_z_xv - jnp.exp(log_xv) * pull_xv) * slope


def _hidden_kernel(hidden_ref, head_ref, *refs, **known):
    *inputs, out_ref, sum_ref = refs
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _():
        sum_ref[...] = jnp.zeros_like(sum_ref)

    head_vD = _real(head_ref, block, known["vocab"])
    d_xv = _d_logits((hidden_ref, *inputs), head_vD, block, **known).astype(head_vD.dtype)
    sum_ref[...] += jax.lax.dot_general(
        d_xv, head_vD, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )

    @pl.when(block == pl.num_programs(1) - 1)
    def _():
        out_ref[...] = sum_ref[...].astype(out_ref.dtype)


def _head_kernel(hidden_ref, head_ref, *refs, **known):
    *inputs, out_ref, sum_ref = refs

    @pl.when(pl.program_id(1) == 0)
    def _():
        sum_ref[...] = jnp.zeros_like(sum_ref)

    block = pl.program_id(0)
    head_vD = _real(head_ref, block, known["vocab"])
    hidden_xD = hidden_ref[...]
    d_xv = _d_logits((hidden_ref, *inputs), head_vD, block, **known).astype(hidden_xD.dtype)
    sum_ref[...] += jax.lax.dot_general(
        d_xv, hidden_xD, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _():
        out_ref[...] = sum_ref[...].astype(out_ref.dtype)
