"""Attention in plain JAX: two matrix products, batched over rows and kv heads.

M = N / K query heads share a kv head.  Their M * T queries are the rows of one matrix product.
"""

import jax
import jax.numpy as jnp


def xla(q_BTNH, k_BSKH, v_BSKH, valid_BS, scale, softcap, near_BTS=None):
    """Return attention [B, T, N, H] with scores and softmax in float32.

    The attention weights are cast to the dtype of the values before the second product, whose
    result has that dtype.
    """
    (rows, queries, heads, size), (_, columns, kv_heads, _) = q_BTNH.shape, k_BSKH.shape
    per_kv = heads // kv_heads
    q_BTKMH = q_BTNH.reshape(rows, queries, kv_heads, per_kv, size)
    q_BKxH = q_BTKMH.transpose(0, 2, 3, 1, 4).reshape(rows, kv_heads, per_kv * queries, size)
    k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    score_BKxS = scale * jnp.einsum(
        "bkxh,bksh->bkxs", q_BKxH, k_BKSH, preferred_element_type=jnp.float32
    )
    if softcap:
        score_BKxS = softcap * jnp.tanh(score_BKxS / softcap)
    last_T = columns - queries + jnp.arange(queries)
    see_BTS = (jnp.arange(columns) <= last_T[:, None]) & valid_BS[:, None]
    if near_BTS is not None:
        see_BTS &= near_BTS
    score = score_BKxS.reshape(rows, kv_heads, per_kv, queries, columns)
    weight = jax.nn.softmax(jnp.where(see_BTS[:, None, None], score, -1e30), axis=-1)
    weight_BKxS = weight.astype(v_BSKH.dtype).reshape(score_BKxS.shape)
    out = jnp.einsum("bkxs,bksh->bkxh", weight_BKxS, v_BKSH)
    out = out.reshape(rows, kv_heads, per_kv, queries, size).transpose(0, 3, 1, 2, 4)
    return out.reshape(q_BTNH.shape).astype(q_BTNH.dtype)
