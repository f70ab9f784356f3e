"""Decoding attention in plain JAX.

A prefix is read once for all rows of its prompt.  The cache is read in chunks, up to the last
column that any row sees, since it may be much longer than the responses are so far.  Layer and
chunk are sliced from the stack in one step: XLA reads such a slice where it stands, and copies a
layer that is taken out of the stack first.  Of int8 keys and values, only what is sliced is ever
cast.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from rlvr_kernels.decode_attention.places import to_places, to_rows

READ = 4096  # rows times columns of a chunk, about
NARROW, WIDE = 64, 512  # columns of a chunk, at least and at most


def xla(q_BNH, own, prefix, layer, places, scale, softcap):
    """Return attention with sums and softmax in float32.

    The attention weights are cast to the dtype of the values before the second product, or to that
    of the queries if the values are int8.
    """
    (rows, heads, size), (_, prompts, kv_heads, width, _) = q_BNH.shape, prefix.k_LXKSH.shape
    if prefix.k_scale_LXK1S is not None and len(prefix.k_LXKSH) == 1:
        # Else XLA casts a prefix once before the loop over columns, and holds it in `dtype`.
        prefix, q_BNH = jax.lax.optimization_barrier((prefix, q_BNH))
    q_BKMH = q_BNH.reshape(rows, kv_heads, heads // kv_heads, size)
    score = partial(_score, scale=scale, softcap=softcap)

    def by_prompt(x_BKMy):  # [Q, K, G * M, y]
        x = to_places(x_BKMy, prompts, places).swapaxes(1, 2)
        return x.reshape(prompts, kv_heads, -1, x.shape[-1])

    def by_row(x_QKxy):  # [B, K, M, y]
        x = x_QKxy.reshape(prompts, kv_heads, -1, heads // kv_heads, x_QKxy.shape[-1])
        return to_rows(x.swapaxes(1, 2), places)

    see_QG1P = to_places(prefix.see_BS, prompts, places)[:, :, None]
    see_QGMP = jnp.broadcast_to(see_QG1P, (*see_QG1P.shape[:2], q_BKMH.shape[2], width))
    see_Q1xP = see_QGMP.reshape(prompts, 1, -1, width)
    dtype = q_BNH.dtype
    prefix_QKxP = score(by_prompt(q_BKMH), _keys(prefix, layer, 0, width, dtype), see_Q1xP)
    first_QKx = prefix_QKxP.shape[:3]
    nothing = jnp.full((*first_QKx, 1), -1e30), jnp.zeros((*first_QKx, 1))
    sums = tuple(by_row(x) for x in _add(nothing, prefix_QKxP))
    out_BKMH, sums = _attend_own(q_BKMH, own, layer, sums, score)
    sums_Q = tuple(by_prompt(x) for x in sums)
    prefix_values = _values(prefix, layer, 0, width, dtype)
    out_BKMH += by_row(_weigh(prefix_QKxP, prefix_values, sums_Q))
    return out_BKMH.reshape(q_BNH.shape).astype(q_BNH.dtype)


def _attend_own(q_BKMH, own, layer, sums, score):
    """Return the part of the output that comes from the rows' own columns, and the final sums.

    `sums` are those of the prefix.
    """
    (rows, columns), dtype = own.see_BS.shape, q_BKMH.dtype
    chunk = math.gcd(columns, max(NARROW, min(WIDE, 1 << (READ // rows).bit_length() >> 1)))
    if chunk < NARROW or chunk == columns:
        keys = _keys(own, layer, 0, columns, dtype)
        own_BKMS = score(q_BKMH, keys, own.see_BS[:, None, None])
        sums = _add(sums, own_BKMS)
        return _weigh(own_BKMS, _values(own, layer, 0, columns, dtype), sums), sums

    def read(i, carry):
        own_BKMS, sums = carry
        see = jax.lax.dynamic_slice_in_dim(own.see_BS, i * chunk, chunk, 1)[:, None, None]
        new = score(q_BKMH, _keys(own, layer, i * chunk, chunk, dtype), see)
        own_BKMS = jax.lax.dynamic_update_slice_in_dim(own_BKMS, new, i * chunk, 3)
        return own_BKMS, _add(sums, new)

    def sum_up(i, out_BKMH):
        new = jax.lax.dynamic_slice_in_dim(own_BKMS, i * chunk, chunk, 3)
        return out_BKMH + _weigh(new, _values(own, layer, i * chunk, chunk, dtype), sums)

    seen = jnp.max(jnp.where(own.see_BS, jnp.arange(1, columns + 1, dtype=jnp.int32), 0))
    chunks = (seen + chunk - 1) // chunk
    room = jnp.zeros((*q_BKMH.shape[:3], columns))
    # Half of the chunks on average, while a cache fills: `plan` reads the scope.
    with jax.named_scope(f"passes_{-(-columns // chunk) // 2 + 1}"):
        own_BKMS, sums = jax.lax.fori_loop(0, chunks, read, (room, sums))
        out_BKMH = jax.lax.fori_loop(0, chunks, sum_up, jnp.zeros(q_BKMH.shape, jnp.float32))
    return out_BKMH, sums


def _keys(held, layer, start, count, dtype):
    """Return `count` keys of a layer, [X, K, count, H], and their scales [X, K, 1, count] or None.

    Keys that are int8 are returned in `dtype`, which holds them exactly.
    """
    if held.k_scale_LXK1S is None:
        return _columns(held.k_LXKSH, layer, start, count), None
    k_XKSH = _columns(held.k_LXKSH, layer, start, count).astype(dtype)
    return k_XKSH, _columns(held.k_scale_LXK1S, layer, start, count, axis=3)


def _values(held, layer, start, count, dtype):
    """Return what `_keys` does, of the values."""
    of_values = held._replace(k_LXKSH=held.v_LXKSH, k_scale_LXK1S=held.v_scale_LXK1S)
    return _keys(of_values, layer, start, count, dtype)


def _columns(x_LXKSH, layer, start, count, axis=2):
    """Return `count` columns of a layer; `axis` is that of the columns, behind that of layers."""
    if len(x_LXKSH) == 1:  # unrolled layers: XLA's CPU backend takes longer for the other slice
        return jax.lax.dynamic_slice_in_dim(x_LXKSH[0], start, count, axis)
    at, size = [layer, 0, 0, 0, 0], [1, *x_LXKSH.shape[1:]]
    at[axis + 1], size[axis + 1] = start, count
    return jax.lax.dynamic_slice(x_LXKSH, at, size)[0]


def _score(q_XKxH, keys, see, *, scale, softcap):
    """Return scores [X, K, x, S] in float32; what is not seen has -1e30."""
    k_XKSH, scale_XK1S = keys
    raw = jnp.einsum("bkmh,bksh->bkms", q_XKxH, k_XKSH, preferred_element_type=jnp.float32) * scale
    raw = raw if scale_XK1S is None else raw * scale_XK1S
    raw = softcap * jnp.tanh(raw / softcap) if softcap else raw
    return jnp.where(see, raw, -1e30)


def _add(sums, score_XKxS):
    """Add scores to an online softmax: the largest score, and the sum of exp(score - largest)."""
    most = jnp.maximum(sums[0], jnp.max(score_XKxS, -1, keepdims=True))
    total = sums[1] * jnp.exp(sums[0] - most)
    return most, total + jnp.sum(jnp.exp(score_XKxS - most), -1, keepdims=True)


def _weigh(score_XKxS, values, sums):
    """Return weighted values; weights are normalised before the cast, as in training."""
    v_XKSH, scale_XK1S = values
    weight = jnp.exp(score_XKxS - sums[0]) / sums[1]
    weight = (weight if scale_XK1S is None else weight * scale_XK1S).astype(v_XKSH.dtype)
    return jnp.einsum("bkms,bksh->bkmh", weight, v_XKSH, preferred_element_type=jnp.float32)
