"""Decoding attention for TPUs: a Pallas kernel on Mosaic.

The rows of a prompt are cut into sets of at most GROUP rows; Z counts the sets of all prompts.
For each set and kv head the kernel goes through blocks of the prefix and then of the rows' own
caches.  A block of the prefix is loaded once for all queries of the set, the X rows of one
matrix product.  X is the number of rows of the set times M, the query heads per kv head, padded
to whole tiles.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from rlvr_kernels.decode_attention.columns import Columns

LOW = -1e30  # score of a masked column; finite, since LOW - LOW must be 0
GROUP = 32  # rows of a set, at most
VMEM = 2**20  # bytes of a block of keys; with values and double buffers four times as much


class Plan(NamedTuple):
    """A Plan says how the work is cut into sets of rows and blocks of columns."""

    group: int  # rows of a set, which share a prefix
    splits: int  # sets of a prompt
    block_p: int  # columns of a block of the prefix
    block_s: int  # columns of a block of the rows' own caches
    queries: int  # M, padded to whole tiles


def pallas_tpu(q_BNH, own, prefix, layer, places, scale, softcap, *, interpret=False):
    """Return decoding attention; cache blocks after the last one seen by a set are skipped.

    Raises:
      ValueError: there are places; the rows of a set are those of one prompt.
    """
    if places is not None:
        raise ValueError("pallas_tpu takes no places")
    (rows, heads, size), (_, _, kv_heads, _, _) = q_BNH.shape, own.k_LXKSH.shape
    dtype = q_BNH.dtype
    if own.k_scale_LXK1S is None:
        q_BNH = q_BNH.astype(own.k_LXKSH.dtype)
    plan = _plan(q_BNH, own.k_LXKSH, prefix.k_LXKSH)
    by_set, per_kv = (rows // plan.group, plan.group), heads // kv_heads
    q = q_BNH.reshape(*by_set, kv_heads, per_kv, size)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, 0), (0, plan.queries - per_kv), (0, 0)))
    q_ZKXH = q.swapaxes(1, 2).reshape(by_set[0], kv_heads, -1, size)

    def grouped(see, block):  # as integers, padded to whole blocks
        see = jnp.pad(see, ((0, 0), (0, -see.shape[1] % block)))
        return see.reshape(*by_set, -1).astype(jnp.int32)

    def sets(x_LBKxy):
        return None if x_LBKxy is None else x_LBKxy.reshape(-1, *by_set, *x_LBKxy.shape[2:])

    see_ZGS = grouped(own.see_BS, plan.block_s)
    place_S = jnp.arange(1, see_ZGS.shape[2] + 1, dtype=jnp.int32)
    last_Z = jnp.max(jnp.max(see_ZGS, axis=1) * place_S, axis=1)
    out_ZKXH = _call(
        (layer[None], (last_Z + (plan.block_s - 1)) // plan.block_s),
        q_ZKXH,
        prefix._replace(see_BS=grouped(prefix.see_BS, plan.block_p)),
        Columns(
            sets(own.k_LXKSH),
            sets(own.v_LXKSH),
            see_ZGS,
            sets(own.k_scale_LXK1S),
            sets(own.v_scale_LXK1S),
        ),
        plan=plan,
        out_dtype=dtype,
        interpret=interpret,
        scale=scale,
        softcap=softcap,
    )
    out = out_ZKXH.reshape(by_set[0], kv_heads, plan.group, plan.queries, size)[:, :, :, :per_kv]
    return out.swapaxes(1, 2).reshape(rows, heads, size)


def _plan(q_BNH, k_LBKSH, prefix_k_LQKPH) -> Plan:
    (rows, heads, size), (_, _, kv_heads, columns, _) = q_BNH.shape, k_LBKSH.shape
    _, prompts, _, prefix, _ = prefix_k_LQKPH.shape
    whole, item = rows // prompts, q_BNH.dtype.itemsize  # int8 keys are cast to this dtype
    most = max(1, min(whole, GROUP, VMEM // (128 * size * item)))
    group = next(g for g in range(most, 0, -1) if whole % g == 0)
    tile = 32 // item  # sublanes of a register
    return Plan(
        group=group,
        splits=whole // group,
        block_p=_block(prefix, size * item),
        block_s=_block(columns, group * size * item),
        queries=-(-(heads // kv_heads) // tile) * tile,
    )


def _call(scalars, q_ZKXH, prefix, own, *, plan: Plan, out_dtype, interpret, **numbers):
    """Run the kernel over the grid (set, kv head, block): blocks of the prefix, then of the caches.

    `scalars` are the number of the layer [1], which every block of keys and values is loaded from,
    and how many blocks of its caches each set needs [Z].
    """
    sets, kv_heads, queries, size = q_ZKXH.shape
    columns = {"prefix": prefix.k_LXKSH.shape[3], "columns": own.k_LXKSH.shape[4]}
    blocks_p = pl.cdiv(columns["prefix"], plan.block_p)
    blocks_s = pl.cdiv(columns["columns"], plan.block_s)

    def shared(j):
        return jnp.minimum(j, blocks_p - 1)

    def of_set(z, j, used):
        return jnp.clip(j - blocks_p, 0, jnp.maximum(used[z] - 1, 0))

    q_spec = pl.BlockSpec((None, None, queries, size), lambda z, k, j, layer, used: (z, k, 0, 0))
    prefix_spec = pl.BlockSpec(
        (None, None, None, plan.block_p, size),
        lambda z, k, j, layer, used: (layer[0], z // plan.splits, k, shared(j), 0),
    )
    see_p_spec = pl.BlockSpec(
        (None, plan.group, plan.block_p), lambda z, k, j, layer, used: (z, 0, shared(j))
    )
    scale_p_spec = pl.BlockSpec(
        (None, None, None, 1, plan.block_p),
        lambda z, k, j, layer, used: (layer[0], z // plan.splits, k, 0, shared(j)),
    )
    own_spec = pl.BlockSpec(
        (None, None, plan.group, None, plan.block_s, size),
        lambda z, k, j, layer, used: (layer[0], z, 0, k, of_set(z, j, used), 0),
    )
    see_s_spec = pl.BlockSpec(
        (None, plan.group, plan.block_s), lambda z, k, j, layer, used: (z, 0, of_set(z, j, used))
    )
    scale_s_spec = pl.BlockSpec(
        (None, None, plan.group, None, 1, plan.block_s),
        lambda z, k, j, layer, used: (layer[0], z, 0, k, 0, of_set(z, j, used)),
    )
    scaled = 0 if own.k_scale_LXK1S is None else 2
    of_prefix = Columns(prefix_spec, prefix_spec, see_p_spec, *[scale_p_spec] * scaled)
    of_rows = Columns(own_spec, own_spec, see_s_spec, *[scale_s_spec] * scaled)
    return pl.pallas_call(
        partial(_kernel, blocks_p=blocks_p, **columns, **numbers),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(sets, kv_heads, blocks_p + blocks_s),
            in_specs=[q_spec, of_prefix, of_rows],
            out_specs=q_spec,
            scratch_shapes=[pltpu.VMEM((queries, width), jnp.float32) for width in (1, 1, size)],
        ),
        out_shape=jax.ShapeDtypeStruct(q_ZKXH.shape, out_dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name="decode_attention",
    )(*scalars, q_ZKXH, prefix, own)


def _block(columns: int, bytes_per_column: int) -> int:
    """Return the columns of a block: 512 or 256 if as many fit into VMEM, else 128.

    It is never more than all columns.
    """
    block = 512
    while block > 128 and block * bytes_per_column > VMEM:
        block //= 2
    return min(block, columns)


def _kernel(
    _,  # the layer, which only the blocks depend on
    used_ref,
    q_ref,
    shared,
    own,
    out_ref,
    high_ref,
    sum_ref,
    out32_ref,
    *,
    scale,
    softcap,
    blocks_p,
    prefix,
    columns,
):
    """Add one block to the online softmax of its set and kv head.

    `shared` and `own` are `Columns` of references to blocks.  `high_ref` holds the running maximum
    of the scores, `sum_ref` the sum of exp(score - maximum) and `out32_ref` the values weighted by
    it.
    """
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _():
        high_ref[...] = jnp.full_like(high_ref, LOW)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        out32_ref[...] = jnp.zeros_like(out32_ref)

    def update(score_Xs, see_Gs, product):
        score_Xs = score_Xs * scale
        if softcap:
            score_Xs = softcap * jnp.tanh(score_Xs / softcap)
        score_GMs = score_Xs.reshape(see_Gs.shape[0], -1, see_Gs.shape[1])
        seen_GMs = jnp.broadcast_to(see_Gs[:, None], score_GMs.shape) != 0
        score_Xs = jnp.where(seen_GMs, score_GMs, LOW).reshape(score_Xs.shape)
        old_X1 = high_ref[...]
        high_X1 = jnp.maximum(old_X1, jnp.max(score_Xs, axis=1, keepdims=True))
        keep_X1 = jnp.exp(old_X1 - high_X1)
        weight_Xs = jnp.exp(score_Xs - high_X1)
        high_ref[...] = high_X1
        sum_ref[...] = keep_X1 * sum_ref[...] + jnp.sum(weight_Xs, axis=1, keepdims=True)
        out32_ref[...] = keep_X1 * out32_ref[...] + product(weight_Xs)

    @pl.when(step < blocks_p)
    def _():
        k_pH, v_pH, k_scale_1p, v_scale_1p = _load(shared, step, prefix, q_ref.dtype)
        dot = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
        score_Xp = dot(q_ref[...], k_pH, (((1,), (1,)), ((), ()))) * k_scale_1p

        def product(w_Xp):
            return dot((w_Xp * v_scale_1p).astype(v_pH.dtype), v_pH, (((1,), (0,)), ((), ())))

        update(score_Xp, shared.see_BS[...], product)

    block = step - blocks_p

    @pl.when((block >= 0) & (block < used_ref[pl.program_id(0)]))
    def _():
        k_GsH, v_GsH, k_scale_G1s, v_scale_G1s = _load(own, block, columns, q_ref.dtype)
        group, _, size = k_GsH.shape
        dot = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
        q_GMH = q_ref[...].reshape(group, -1, size)
        score_GMs = dot(q_GMH, k_GsH, (((2,), (2,)), ((0,), (0,)))) * k_scale_G1s

        def product(w_Xs):
            w_GMs = (w_Xs.reshape(group, -1, w_Xs.shape[1]) * v_scale_G1s).astype(v_GsH.dtype)
            return dot(w_GMs, v_GsH, (((2,), (1,)), ((0,), (0,)))).reshape(-1, size)

        update(score_GMs.reshape(-1, k_GsH.shape[1]), own.see_BS[...], product)

    @pl.when(step == pl.num_programs(2) - 1)
    def _():
        out_ref[...] = (out32_ref[...] / sum_ref[...]).astype(out_ref.dtype)


def _load(held, block, columns, dtype):
    """Return a block of keys, one of values, and their scales, which are 1 without int8.

    Keys and values that are int8 are returned in `dtype`, which holds them exactly.
    """
    if held.k_scale_LXK1S is None:
        return held.k_LXKSH[...], _real(held.v_LXKSH[...], block, columns, -2), 1.0, 1.0
    k_sH, v_sH = (x[...].astype(dtype) for x in (held.k_LXKSH, held.v_LXKSH))
    v_scale_1s = _real(held.v_scale_LXK1S[...], block, columns, -1)
    return k_sH, v_sH, held.k_scale_LXK1S[...], v_scale_1s


def _real(x_s, block, columns, axis):
    """Return a block with 0 beyond the last column; `axis` is that of the columns.

    The memory there may hold anything, and even a weight of 0 times NaN is NaN.
    """
    size = x_s.shape[axis]
    if columns % size == 0:
        return x_s
    column = jax.lax.broadcasted_iota(jnp.int32, x_s.shape, x_s.ndim + axis) + block * size
    return jnp.where(column < columns, x_s, jnp.zeros_like(x_s))
