"""`attention` in plain JAX and float32, the definition that tests compare with."""

import jax
import jax.numpy as jnp


def reference(q_BTNH, k_BSKH, v_BSKH, valid_BS, scale, softcap, near_BTS=None, *, share=(0, 1)):
    """Return softmax(softcap(scale * q . k)) . v over the columns that each query sees."""
    (_, queries, heads, _), (_, columns, kv_heads, _) = q_BTNH.shape, k_BSKH.shape
    k_BSNH = jnp.repeat(k_BSKH.astype(jnp.float32), heads // kv_heads, axis=2)
    v_BSNH = jnp.repeat(v_BSKH.astype(jnp.float32), heads // kv_heads, axis=2)
    score_BNTS = scale * jnp.einsum("btnh,bsnh->bnts", q_BTNH.astype(jnp.float32), k_BSNH)
    if softcap:
        score_BNTS = softcap * jnp.tanh(score_BNTS / softcap)
    number, parts = share
    last_T = columns - (parts - number) * queries + jnp.arange(queries)
    see_BTS = (jnp.arange(columns) <= last_T[:, None]) & valid_BS[:, None]
    if near_BTS is not None:
        see_BTS &= near_BTS
    weight_BNTS = jax.nn.softmax(jnp.where(see_BTS[:, None], score_BNTS, -1e30), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weight_BNTS, v_BSNH).astype(q_BTNH.dtype)
