"""Attention on TPUs: JAX's splash attention kernel.

The causal mask is shifted by the length of the prefix.  Padding is masked through segment ids:
existing columns are segment 1, padding is segment 0.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as upstream
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

BLOCK = 128  # queries and columns of the smallest block


def splash(q_BTNH, k_BSKH, v_BSKH, valid_BS, scale, softcap, *, share=(0, 1), interpret=False):
    """Return attention, forward and backward by JAX's kernels; T and S are padded to whole blocks.

    JAX's kernel weights all columns alike for a query that sees nothing; here its output is 0.

    Raises:
      ValueError: the queries are one of several shares, and no whole blocks.
    """
    (_, queries, heads, _), columns = q_BTNH.shape, k_BSKH.shape[1]
    number, parts = share
    if parts > 1 and queries % BLOCK:
        raise ValueError(f"splash takes shares of a multiple of {BLOCK} queries, not of {queries}")
    past = columns - queries * parts
    more_t, more_s = -queries % BLOCK, -columns % BLOCK

    def ready(x_BTNH, more):  # [B, N, T, H]
        return jnp.pad(x_BTNH.swapaxes(1, 2), ((0, 0), (0, 0), (0, more), (0, 0)))

    q_BNTH = ready((q_BTNH.astype(jnp.float32) * scale).astype(q_BTNH.dtype), more_t)
    k_BKSH, v_BKSH = ready(k_BSKH, more_s), ready(v_BSKH, more_s)
    ones_BT = jnp.ones(q_BNTH.shape[::2], jnp.int32)
    exists_BS = jnp.pad(valid_BS, ((0, 0), (0, more_s))).astype(jnp.int32)
    shape = (queries * parts + more_t, columns + more_s)
    kernel = upstream.make_splash_mha(
        masks.MultiHeadMask([masks.CausalMask(shape, offset=past)] * heads),
        block_sizes=_blocks(queries + more_t, columns + more_s),
        attn_logits_soft_cap=softcap or None,
        head_shards=1,
        q_seq_shards=parts,
        interpret=interpret,
    )
    if parts > 1:
        kernel = _of_share(kernel, number, parts)
    out_BNTH = jax.vmap(kernel)(q_BNTH, k_BKSH, v_BKSH, upstream.SegmentIds(ones_BT, exists_BS))
    out_BTNH = out_BNTH[:, :, :queries].swapaxes(1, 2)
    seen_BS = jnp.cumsum(exists_BS, axis=1)
    sees_BT = jax.lax.dynamic_slice_in_dim(seen_BS, past + number * queries, queries, 1) > 0
    return jnp.where(sees_BT[:, :, None, None], out_BTNH, jnp.zeros_like(out_BTNH))


def _of_share(kernel, number, parts: int):
    """Return the kernel of one share of the queries.

    What it holds about blocks of the mask has the blocks of queries in its second dimension, and
    the queries' columns are a vector: `SplashAttentionKernel.manual_sharding_spec` splits them so.
    """

    def take(x):
        axis = min(x.ndim, 2) - 1
        size = x.shape[axis] // parts
        return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)

    return jax.tree.map(take, kernel)


def _blocks(queries: int, columns: int) -> upstream.BlockSizes:
    """Return the largest block sizes up to 512 that divide the padded T and S."""
    t, s = (next(x for x in (512, 384, 256, 128) if y % x == 0) for y in (queries, columns))
    return upstream.BlockSizes(
        block_q=t,
        block_kv=s,
        block_q_dkv=t,
        block_kv_dkv=s,
        block_q_dq=t,
        block_kv_dq=s,
    )
