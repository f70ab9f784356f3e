"""Decoding attention in plain JAX.

A prefix is read once for all rows of its prompt.  The cache is read in chunks, up to the last
column that any row sees, since it may be much longer than the responses are so far.  Layer and
chunk are sliced from the stack in one step: XLA reads such a slice where it stands, and copies a
layer that is taken out of the stack first.
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

    The attention weights are cast to the dtype of the values before the second product.
    """
    (rows, heads, size), (_, prompts, kv_heads, width, _) = q_BNH.shape, prefix.k_LXKSH.shape
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
    prefix_k_QKPH = _columns(prefix.k_LXKSH, layer, 0, width)
    prefix_QKxP = score(by_prompt(q_BKMH), prefix_k_QKPH, see_Q1xP)
    first_QKx = prefix_QKxP.shape[:3]
    nothing = jnp.full((*first_QKx, 1), -1e30), jnp.zeros((*first_QKx, 1))
    sums = tuple(by_row(x) for x in _add(nothing, prefix_QKxP))
    out_BKMH, sums = _attend_own(q_BKMH, own, layer, sums, score)
    sums_Q = tuple(by_prompt(x) for x in sums)
    prefix_v_QKPH = _columns(prefix.v_LXKSH, layer, 0, width)
    out_BKMH += by_row(_values(prefix_QKxP, prefix_v_QKPH, sums_Q))
    return out_BKMH.reshape(q_BNH.shape).astype(q_BNH.dtype)


def _attend_own(q_BKMH, own, layer, sums, score):
    """Return the part of the output that comes from the rows' own columns, and the final sums.

    `sums` are those of the prefix.
    """
    rows, columns = own.see_BS.shape
    chunk = math.gcd(columns, max(NARROW, min(WIDE, 1 << (READ // rows).bit_length() >> 1)))
    if chunk < NARROW or chunk == columns:
        k_BKSH = _columns(own.k_LXKSH, layer, 0, columns)
        own_BKMS = score(q_BKMH, k_BKSH, own.see_BS[:, None, None])
        sums = _add(sums, own_BKMS)
        return _values(own_BKMS, _columns(own.v_LXKSH, layer, 0, columns), sums), sums

    def read(i, carry):
        own_BKMS, sums = carry
        see = jax.lax.dynamic_slice_in_dim(own.see_BS, i * chunk, chunk, 1)[:, None, None]
        new = score(q_BKMH, _columns(own.k_LXKSH, layer, i * chunk, chunk), see)
        own_BKMS = jax.lax.dynamic_update_slice_in_dim(own_BKMS, new, i * chunk, 3)
        return own_BKMS, _add(sums, new)

    def sum_up(i, out_BKMH):
        new = jax.lax.dynamic_slice_in_dim(own_BKMS, i * chunk, chunk, 3)
        return out_BKMH + _values(new, _columns(own.v_LXKSH, layer, i * chunk, chunk), sums)

    seen = jnp.max(jnp.where(own.see_BS, jnp.arange(1, columns + 1, dtype=jnp.int32), 0))
    chunks = (seen + chunk - 1) // chunk
    room = jnp.zeros((*q_BKMH.shape[:3], columns))
    # Half of the chunks on average, while a cache fills: `plan` reads the scope.
    with jax.named_scope(f"passes_{-(-columns // chunk) // 2 + 1}"):
        own_BKMS, sums = jax.lax.fori_loop(0, chunks, read, (room, sums))
        out_BKMH = jax.lax.fori_loop(0, chunks, sum_up, jnp.zeros(q_BKMH.shape, jnp.float32))
    return out_BKMH, sums


def _columns(x_LXKSH, layer, start, count):
    """Return `count` columns of a layer, [X, K, count, H]."""
    if len(x_LXKSH) == 1:  # unrolled layers: XLA's CPU backend takes longer for the other slice
        return jax.lax.dynamic_slice_in_dim(x_LXKSH[0], start, count, 2)
    size = (1, *x_LXKSH.shape[1:3], count, x_LXKSH.shape[4])
    return jax.lax.dynamic_slice(x_LXKSH, (layer, 0, 0, start, 0), size)[0]


def _score(q_XKxH, k_XKSH, see, *, scale, softcap):
    """Return scores [X, K, x, S] in float32; what is not seen has -1e30."""
    raw = jnp.einsum("bkmh,bksh->bkms", q_XKxH, k_XKSH, preferred_element_type=jnp.float32) * scale
    raw = softcap * jnp.tanh(raw / softcap) if softcap else raw
    return jnp.where(see, raw, -1e30)


def _add(sums, score_XKxS):
    """Add scores to an online softmax: the largest score, and the sum of exp(score - largest)."""
    most = jnp.maximum(sums[0], jnp.max(score_XKxS, -1, keepdims=True))
    total = sums[1] * jnp.exp(sums[0] - most)
    return most, total + jnp.sum(jnp.exp(score_XKxS - most), -1, keepdims=True)


def _values(score_XKxS, v_XKSH, sums):
    """Return weighted values; weights are normalised before the cast, as in training."""
    weight = (jnp.exp(score_XKxS - sums[0]) / sums[1]).astype(v_XKSH.dtype)
    return jnp.einsum("bkms,bksh->bkmh", weight, v_XKSH, preferred_element_type=jnp.float32)
