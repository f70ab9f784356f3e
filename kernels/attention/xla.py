"""Attention in plain JAX: two matrix products, batched over rows and kv heads.

M = N / K query heads share a kv head.  Their M * T queries are the rows of one matrix product.
Where the scores [B, N, T, S] would be large, the queries are read in chunks of columns, so that
only the scores of one chunk exist at a time, forward and backward.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

LARGE = 2**28  # bytes of scores on a device above which they are computed in chunks
FEWEST = 16  # columns of a chunk, at least


def xla(q_BTNH, k_BSKH, v_BSKH, valid_BS, scale, softcap, near_BTS=None, *, share=(0, 1)):
    """Return attention [B, T, N, H] with scores and softmax in float32.

    The attention weights are cast to the dtype of the values before the second product, whose
    result has that dtype.  Where there are chunks, the backward pass computes the scores of each
    again, and sums the gradients of keys and values over the chunks in float32.
    """
    (rows, queries, heads, _), columns = q_BTNH.shape, k_BSKH.shape[1]
    number, parts = share
    past = columns - (parts - number) * queries
    wanted = 4 * rows * heads * queries * columns / _devices() / LARGE
    chunk = max(FEWEST, -(-queries // max(1, math.ceil(wanted))))
    if chunk >= queries:
        return _attend(q_BTNH, k_BSKH, v_BSKH, valid_BS, past, near_BTS, scale, softcap)
    k, v = k_BSKH.astype(jnp.float32), v_BSKH.astype(jnp.float32)

    @jax.checkpoint
    def one(part):
        q, past, near = part
        kv = k.astype(k_BSKH.dtype), v.astype(v_BSKH.dtype)
        return _attend(q, *kv, valid_BS, past, near, scale, softcap)

    def chunks(x):
        x = jnp.pad(x, ((0, 0), (0, -queries % chunk), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(rows, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    near = None if near_BTS is None else chunks(near_BTS)
    out = jax.lax.map(one, (chunks(q_BTNH), past + jnp.arange(0, queries, chunk), near))
    return out.swapaxes(0, 1).reshape(rows, -1, *q_BTNH.shape[2:])[:, :queries]


def _attend(q_BTNH, k_BSKH, v_BSKH, valid_BS, past, near_BTS, scale, softcap):
    """Return the attention of queries of which the first sees `past` columns besides its own."""
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
    last_T = past + jnp.arange(queries)
    see_BTS = (jnp.arange(columns) <= last_T[:, None]) & valid_BS[:, None]
    if near_BTS is not None:
        see_BTS &= near_BTS
    score = score_BKxS.reshape(rows, kv_heads, per_kv, queries, columns)
    weight = jax.nn.softmax(jnp.where(see_BTS[:, None, None], score, -1e30), axis=-1)
    weight_BKxS = weight.astype(v_BSKH.dtype).reshape(score_BKxS.shape)
    out = jnp.einsum("bkxs,bksh->bkxh", weight_BKxS, v_BKSH)
    out = out.reshape(rows, kv_heads, per_kv, queries, size).transpose(0, 3, 1, 2, 4)
    return out.reshape(q_BTNH.shape).astype(q_BTNH.dtype)


def _devices() -> int:
    """Return the number of devices that share an array of the ambient mesh.

    Inside `shard_map` it is 1: there the arrays are those of one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.shape.values(), mesh.axis_types, strict=True)
    return math.prod(size for size, kind in axes if kind != AxisType.Manual)
