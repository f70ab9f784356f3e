"""Decoding attention in plain JAX.

A prefix is read once for all rows of its prompt.  The cache is read in chunks, up to the last
column that any row sees, since it may be much longer than the responses are so far.
"""

import math

import jax
import jax.numpy as jnp

READ = 4096  # rows times columns of a chunk, about
NARROW, WIDE = 64, 512  # columns of a chunk, at least and at most


def xla(q_BNH, k_BKSH, v_BKSH, see_BS, prefix_k_QKPH, prefix_v_QKPH, see_BP, scale, softcap):
    """Return attention with sums and softmax in float32.

    The attention weights are cast to the dtype of the values before the second product.
    """
    (rows, heads, size), (_, kv_heads, columns, _) = q_BNH.shape, k_BKSH.shape
    prompts = prefix_k_QKPH.shape[0]
    q_BKMH = q_BNH.reshape(rows, kv_heads, heads // kv_heads, size)

    def by_prompt(x_BKMy):  # [Q, K, G * M, y]
        x = x_BKMy.reshape(prompts, -1, *x_BKMy.shape[1:]).swapaxes(1, 2)
        return x.reshape(prompts, kv_heads, -1, x.shape[-1])

    def by_row(x_QKxy):  # [B, K, M, y]
        x = x_QKxy.reshape(prompts, kv_heads, rows // prompts, -1, x_QKxy.shape[-1])
        return x.swapaxes(1, 2).reshape(rows, kv_heads, -1, x.shape[-1])

    def score(q, k, see):
        raw = jnp.einsum("bkmh,bksh->bkms", q, k, preferred_element_type=jnp.float32) * scale
        raw = softcap * jnp.tanh(raw / softcap) if softcap else raw
        return jnp.where(see, raw, -1e30)

    def add(sums, score):  # online softmax: the largest score, and the sum of exp(score - largest)
        most = jnp.maximum(sums[0], jnp.max(score, -1, keepdims=True))
        total = sums[1] * jnp.exp(sums[0] - most)
        return most, total + jnp.sum(jnp.exp(score - most), -1, keepdims=True)

    def values(score, v, sums):  # normalises weights before the cast, as in training
        weight = (jnp.exp(score - sums[0]) / sums[1]).astype(v.dtype)
        return jnp.einsum("bkms,bksh->bkmh", weight, v, preferred_element_type=jnp.float32)

    see_BKMP = jnp.broadcast_to(see_BP[:, None, None], (*q_BKMH.shape[:3], see_BP.shape[1]))
    prefix_QKxP = score(by_prompt(q_BKMH), prefix_k_QKPH, by_prompt(see_BKMP))
    nothing = jnp.full((*q_BKMH.shape[:3], 1), -1e30), jnp.zeros((*q_BKMH.shape[:3], 1))
    sums = add(nothing, by_row(prefix_QKxP))
    chunk = math.gcd(columns, max(NARROW, min(WIDE, 1 << (READ // rows).bit_length() >> 1)))
    if chunk < NARROW or chunk == columns:
        own_BKMS = score(q_BKMH, k_BKSH, see_BS[:, None, None])
        sums = add(sums, own_BKMS)
        out_BKMH = values(own_BKMS, v_BKSH, sums)
    else:

        def slice_of(x, i, axis):
            return jax.lax.dynamic_slice_in_dim(x, i * chunk, chunk, axis)

        def read(i, carry):
            own_BKMS, sums = carry
            see = slice_of(see_BS, i, 1)[:, None, None]
            new = score(q_BKMH, slice_of(k_BKSH, i, 2), see)
            own_BKMS = jax.lax.dynamic_update_slice_in_dim(own_BKMS, new, i * chunk, 3)
            return own_BKMS, add(sums, new)

        def sum_up(i, out_BKMH):
            new = slice_of(own_BKMS, i, 3)
            return out_BKMH + values(new, slice_of(v_BKSH, i, 2), sums)

        seen = jnp.max(jnp.where(see_BS, jnp.arange(1, columns + 1, dtype=jnp.int32), 0))
        chunks = (seen + chunk - 1) // chunk
        room = jnp.zeros((*q_BKMH.shape[:3], columns))
        own_BKMS, sums = jax.lax.fori_loop(0, chunks, read, (room, sums))
        out_BKMH = jax.lax.fori_loop(0, chunks, sum_up, jnp.zeros(q_BKMH.shape, jnp.float32))
    sums_Q = tuple(by_prompt(x) for x in sums)
    out_BKMH += by_row(values(prefix_QKxP, prefix_v_QKPH, sums_Q))
    return out_BKMH.reshape(q_BNH.shape).astype(q_BNH.dtype)
