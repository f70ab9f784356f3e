"""Decoding attention for GPUs: a Pallas kernel on Triton.

Each program computes a partial softmax over one span of columns; the partial results are merged
afterwards.  The same kernel serves caches and prefixes: X queries share the keys of one set of
columns.  With M = N / K query heads per kv head and G rows per prompt, X is M for a row's own
cache and G * M for a prefix, so that a prefix is read once for its whole group.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from rlvr_kernels.decode_attention.places import to_places, to_rows

LOW = -1e30  # score of a masked column; finite, since LOW - LOW must be 0
SPAN, BLOCK = 256, 64  # columns of a program, and of one step of it
LEAST = 16  # rows and depth of the smallest matrix product in Triton
MOST = 64  # queries of a program


def pallas_gpu(q_BNH, own, prefix, layer, places, scale, softcap, *, interpret=False):
    """Return decoding attention; a program skips the columns behind the last one that is seen."""
    (rows, heads, size), (_, prompts, kv_heads, _, _) = q_BNH.shape, prefix.k_LXKSH.shape
    per_kv = heads // kv_heads
    q_BKMH = q_BNH.reshape(rows, kv_heads, per_kv, size)
    if own.k_scale_LXK1S is None:
        q_BKMH = q_BKMH.astype(own.k_LXKSH.dtype)
    q_QKxH = to_places(q_BKMH, prompts, places).swapaxes(1, 2).reshape(prompts, kv_heads, -1, size)
    part = partial(
        _part, layer[None], per_row=per_kv, scale=scale, softcap=softcap, interpret=interpret
    )
    alone = part(q_BKMH, own._replace(see_BS=own.see_BS[:, None]))
    see_QGP = to_places(prefix.see_BS, prompts, places)
    shared = part(q_QKxH, prefix._replace(see_BS=see_QGP))

    def by_row(x_CQKxy):
        x = x_CQKxy.reshape(*x_CQKxy.shape[:3], -1, per_kv, *x_CQKxy.shape[4:])
        return jax.vmap(lambda x_QKGMy: to_rows(x_QKGMy.swapaxes(1, 2), places))(x)

    both = [jnp.concatenate([a, by_row(b)]) for a, b in zip(alone, shared, strict=True)]
    out_CBKMH, high_CBKM, sum_CBKM = both
    keep_CBKM = jnp.exp(high_CBKM - jnp.max(high_CBKM, axis=0))
    out_BKMH = jnp.sum(keep_CBKM[..., None] * out_CBKMH, axis=0)
    sum_BKM = jnp.sum(keep_CBKM * sum_CBKM, axis=0)
    out_BKMH = out_BKMH / jnp.where(sum_BKM == 0, 1.0, sum_BKM)[..., None]  # 0: nothing is seen
    return out_BKMH.reshape(rows, heads, size).astype(q_BNH.dtype)


def _part(layer_1, q_ZKXH, held, *, per_row, scale, softcap, interpret):
    """Return the partial softmaxes of C spans in float32: values, maximum and sum of weights.

    Z counts rows (own cache) or prompts (prefix); in `held` the mask is [Z, R, S], for R rows of
    each.  The values [C, Z, K, X, H] are weighted by
    exp(score - maximum) and not yet divided by the sum [C, Z, K, X] of these weights.
    """
    (sets, kv_heads, queries, size), columns = q_ZKXH.shape, held.k_LXKSH.shape[3]
    whole = max(LEAST, pl.next_power_of_2(size))
    q_ZKXH = jnp.pad(q_ZKXH, ((0, 0), (0, 0), (0, 0), (0, whole - size)))
    block_x = min(MOST, max(LEAST, pl.next_power_of_2(queries)))
    blocks_x, spans = pl.cdiv(queries, block_x), pl.cdiv(columns, SPAN)
    place_S = jnp.arange(1, columns + 1, dtype=jnp.int32)
    last_Z = jnp.max(jnp.where(jnp.any(held.see_BS, axis=1), place_S, 0), axis=1)
    shape = (spans, sets, kv_heads, queries)
    out_CZKXH, high_CZKX, sum_CZKX = pl.pallas_call(
        partial(_kernel, block_x=block_x, per_row=per_row, scale=scale, softcap=softcap),
        grid=(sets * kv_heads, blocks_x, spans),
        out_shape=[
            jax.ShapeDtypeStruct((*shape, whole), jnp.float32),
            jax.ShapeDtypeStruct(shape, jnp.float32),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        ],
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="decode_attention",
    )(layer_1, last_Z, q_ZKXH, held._replace(see_BS=held.see_BS.astype(jnp.int8)))
    return out_CZKXH[..., :size], high_CZKX, sum_CZKX


def _kernel(
    layer_ref,
    last_ref,
    q_ref,
    held,
    out_ref,
    high_ref,
    sum_ref,
    *,
    block_x,
    per_row,
    scale,
    softcap,
):
    """Write the partial softmax of one span, computed online over its blocks.

    `held` is `Columns` of references.
    """
    kv_heads, queries, whole = q_ref.shape[1:]
    columns, size = held.k_LXKSH.shape[3:]
    layer = layer_ref[0]
    z, kv = pl.program_id(0) // kv_heads, pl.program_id(0) % kv_heads
    start, span = pl.program_id(1) * block_x, pl.program_id(2)
    inside_x = start + jnp.arange(block_x) < queries
    inside_xH = jnp.broadcast_to(inside_x[:, None], (block_x, whole))
    row_x = jnp.minimum(start + jnp.arange(block_x), queries - 1) // per_row
    at_x = pl.ds(start, block_x)
    q_xH = plgpu.load(q_ref.at[z, kv, at_x, :], mask=inside_xH, other=0.0)
    at_sH = jnp.broadcast_to(jnp.arange(whole)[None, :], (BLOCK, whole))

    def add(step, carry):
        old_x, sum_x, out_xH = carry
        first = span * SPAN + step * BLOCK
        column_s = first + jnp.arange(BLOCK)
        inside_s = column_s < columns
        inside_sH = inside_s[:, None] & (at_sH < size)

        def of_columns(scale_ref):
            if scale_ref is None:  # not int8
                return 1.0
            at_s = scale_ref.at[layer, z, kv, 0, column_s]
            return plgpu.load(at_s, mask=inside_s, other=0.0)[None, :]

        at = (layer, z, kv, jnp.broadcast_to(column_s[:, None], at_sH.shape), at_sH)
        k_sH = plgpu.load(held.k_LXKSH.at[at], mask=inside_sH, other=0).astype(q_xH.dtype)
        v_sH = plgpu.load(held.v_LXKSH.at[at], mask=inside_sH, other=0).astype(q_xH.dtype)
        score_xs = plgpu.dot(q_xH, k_sH, trans_b=True) * scale * of_columns(held.k_scale_LXK1S)
        if softcap:
            score_xs = softcap * jnp.tanh(score_xs / softcap)
        column_xs = jnp.broadcast_to(column_s[None, :], score_xs.shape)
        row_xs = jnp.broadcast_to(row_x[:, None], score_xs.shape)
        see_xs = plgpu.load(
            held.see_BS.at[z, row_xs, column_xs],
            mask=jnp.broadcast_to(inside_s[None, :], score_xs.shape),
            other=0,
        )
        score_xs = jnp.where(see_xs != 0, score_xs, LOW)
        high_x = jnp.maximum(old_x, jnp.max(score_xs, axis=1))
        keep_x = jnp.exp(old_x - high_x)
        weight_xs = jnp.exp(score_xs - high_x[:, None])
        scaled_xs = (weight_xs * of_columns(held.v_scale_LXK1S)).astype(v_sH.dtype)
        out_xH = keep_x[:, None] * out_xH + plgpu.dot(scaled_xs, v_sH)
        return high_x, keep_x * sum_x + jnp.sum(weight_xs, axis=1), out_xH

    left = jnp.minimum(plgpu.load(last_ref.at[z]) - span * SPAN, SPAN)
    steps = jnp.maximum(left + (BLOCK - 1), 0) // BLOCK
    zero_x, zero_xH = jnp.zeros((block_x,)), jnp.zeros((block_x, whole))
    carry = (jnp.full((block_x,), LOW, jnp.float32), zero_x, zero_xH)
    high_x, sum_x, out_xH = jax.lax.fori_loop(0, steps, add, carry)
    plgpu.store(out_ref.at[span, z, kv, at_x, :], out_xH, mask=inside_xH)
    plgpu.store(high_ref.at[span, z, kv, at_x], high_x, mask=inside_x)
    plgpu.store(sum_ref.at[span, z, kv, at_x], sum_x, mask=inside_x)
