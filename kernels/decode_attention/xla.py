"""Two batched products per part: a prefix is read once for the G * M queries of its group.

Own columns are read in chunks, up to the last one that any row sees: a cache may be much longer
than what has been written so far.
"""

import math

import jax
import jax.numpy as jnp

READ = 4096  # row-columns of the cache that are read at a time
NARROW, WIDE = 64, 512  # columns of a chunk, within


def xla(q_BNH, k_BKSH, v_BKSH, see_BS, prefix_k_QKPH, prefix_v_QKPH, see_BP, scale, softcap):
    """Products with float32 sums, softmax in float32, weights in the dtype of the values."""
    (rows, heads, size), (_, kv_heads, columns, _) = q_BNH.shape, k_BKSH.shape
    prompts = prefix_k_QKPH.shape[0]
    q_BKMH = (q_BNH * scale).reshape(rows, kv_heads, heads // kv_heads, size)

    def by_prompt(x_BKMy):  # [Q, K, G * M, y]
        x = x_BKMy.reshape(prompts, -1, *x_BKMy.shape[1:]).swapaxes(1, 2)
        return x.reshape(prompts, kv_heads, -1, x.shape[-1])

    def by_row(x_QKxy):  # [B, K, M, y]
        x = x_QKxy.reshape(prompts, kv_heads, rows // prompts, -1, x_QKxy.shape[-1])
        return x.swapaxes(1, 2).reshape(rows, kv_heads, -1, x.shape[-1])

    see_BKMP = jnp.broadcast_to(see_BP[:, None, None], (*q_BKMH.shape[:3], see_BP.shape[1]))
    shared = (by_prompt(q_BKMH), prefix_k_QKPH, prefix_v_QKPH, by_prompt(see_BKMP))
    parts = tuple(by_row(x) for x in _partial(*shared, softcap))
    chunk = math.gcd(columns, max(NARROW, min(WIDE, 1 << (READ // rows).bit_length() >> 1)))
    if columns <= NARROW or chunk < NARROW or chunk == columns:
        own = _partial(q_BKMH, k_BKSH, v_BKSH, see_BS[:, None, None], softcap)
        _, total, out_BKMH = _merge(parts, own)
        return (out_BKMH / total).reshape(q_BNH.shape).astype(q_BNH.dtype)

    def add(i, parts):
        k, v, see = (
            jax.lax.dynamic_slice_in_dim(x, i * chunk, chunk, axis)
            for x, axis in ((k_BKSH, 2), (v_BKSH, 2), (see_BS, 1))
        )
        return _merge(parts, _partial(q_BKMH, k, v, see[:, None, None], softcap))

    seen = jnp.max(jnp.where(see_BS, jnp.arange(1, columns + 1, dtype=jnp.int32), 0))
    _, total, out_BKMH = jax.lax.fori_loop(0, (seen + chunk - 1) // chunk, add, parts)
    return (out_BKMH / total).reshape(q_BNH.shape).astype(q_BNH.dtype)


def _partial(q_BKMH, k_BKSH, v_BKSH, see, softcap):
    """Softmax over some of the columns: largest score, sum of weights, weighted values."""
    score = jnp.einsum("bkmh,bksh->bkms", q_BKMH, k_BKSH, preferred_element_type=jnp.float32)
    score = softcap * jnp.tanh(score / softcap) if softcap else score
    score = jnp.where(see, score, -1e30)
    most = jnp.max(score, -1, keepdims=True)
    weight = jnp.exp(score - most)
    out = jnp.einsum(
        "bkms,bksh->bkmh", weight.astype(v_BKSH.dtype), v_BKSH, preferred_element_type=jnp.float32
    )
    return most, jnp.sum(weight, -1, keepdims=True), out


def _merge(a, b):
    """Softmax over the columns of both."""
    most = jnp.maximum(a[0], b[0])
    scale_a, scale_b = jnp.exp(a[0] - most), jnp.exp(b[0] - most)
    return most, a[1] * scale_a + b[1] * scale_b, a[2] * scale_a + b[2] * scale_b
