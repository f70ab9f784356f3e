"""Decoding attention in plain JAX.

A prefix is read once for all rows of its prompt.  The cache is read in chunks, up to the last
column that any row sees, since it may be much longer than the responses are so far.  Layer and
chunk are sliced from the stack in one step: XLA reads such a slice where it stands, and copies a
layer that is taken out of the stack first.
"""

import math

import jax
import jax.numpy as jnp

from rlvr_kernels.decode_attention.places import to_places, to_rows

READ = 4096  # rows times columns of a chunk, about
NARROW, WIDE = 64, 512  # columns of a chunk, at least and at most


def xla(
    q_BNH,
    k_LBKSH,
    v_LBKSH,
    see_BS,
    prefix_k_LQKPH,
    prefix_v_LQKPH,
    see_BP,
    layer,
    places,
    scale,
    softcap,
):
    """Return attention with sums and softmax in float32.

    The attention weights are cast to the dtype of the values before the second product.
    """
    (rows, heads, size), (_, _, kv_heads, columns, _) = q_BNH.shape, k_LBKSH.shape
    prompts, prefix = prefix_k_LQKPH.shape[1], prefix_k_LQKPH.shape[3]
    q_BKMH = q_BNH.reshape(rows, kv_heads, heads // kv_heads, size)

    def by_prompt(x_BKMy):  # [Q, K, G * M, y]
        x = to_places(x_BKMy, prompts, places).swapaxes(1, 2)
        return x.reshape(prompts, kv_heads, -1, x.shape[-1])

    def by_row(x_QKxy):  # [B, K, M, y]
        x = x_QKxy.reshape(prompts, kv_heads, -1, heads // kv_heads, x_QKxy.shape[-1])
        return to_rows(x.swapaxes(1, 2), places)

    def of_layer(x_LBKSH, start, count):
        if len(x_LBKSH) == 1:  # unrolled layers: XLA's CPU backend takes longer for the other slice
            return jax.lax.dynamic_slice_in_dim(x_LBKSH[0], start, count, 2)
        size = (1, *x_LBKSH.shape[1:3], count, x_LBKSH.shape[4])
        return jax.lax.dynamic_slice(x_LBKSH, (layer, 0, 0, start, 0), size)[0]

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

    see_QG1P = to_places(see_BP, prompts, places)[:, :, None]
    see_QGMP = jnp.broadcast_to(see_QG1P, (*see_QG1P.shape[:2], q_BKMH.shape[2], prefix))
    see_Q1xP = see_QGMP.reshape(prompts, 1, -1, prefix)
    prefix_QKxP = score(by_prompt(q_BKMH), of_layer(prefix_k_LQKPH, 0, prefix), see_Q1xP)
    first_QKx = prefix_QKxP.shape[:3]
    nothing = jnp.full((*first_QKx, 1), -1e30), jnp.zeros((*first_QKx, 1))
    sums = tuple(by_row(x) for x in add(nothing, prefix_QKxP))
    chunk = math.gcd(columns, max(NARROW, min(WIDE, 1 << (READ // rows).bit_length() >> 1)))
    if chunk < NARROW or chunk == columns:
        own_BKMS = score(q_BKMH, of_layer(k_LBKSH, 0, columns), see_BS[:, None, None])
        sums = add(sums, own_BKMS)
        out_BKMH = values(own_BKMS, of_layer(v_LBKSH, 0, columns), sums)
    else:

        def read(i, carry):
            own_BKMS, sums = carry
            see = jax.lax.dynamic_slice_in_dim(see_BS, i * chunk, chunk, 1)[:, None, None]
            new = score(q_BKMH, of_layer(k_LBKSH, i * chunk, chunk), see)
            own_BKMS = jax.lax.dynamic_update_slice_in_dim(own_BKMS, new, i * chunk, 3)
            return own_BKMS, add(sums, new)

        def sum_up(i, out_BKMH):
            new = jax.lax.dynamic_slice_in_dim(own_BKMS, i * chunk, chunk, 3)
            return out_BKMH + values(new, of_layer(v_LBKSH, i * chunk, chunk), sums)

        seen = jnp.max(jnp.where(see_BS, jnp.arange(1, columns + 1, dtype=jnp.int32), 0))
        chunks = (seen + chunk - 1) // chunk
        room = jnp.zeros((*q_BKMH.shape[:3], columns))
        # Half of the chunks on average, while a cache fills: `plan` reads the scope.
        with jax.named_scope(f"passes_{-(-columns // chunk) // 2 + 1}"):
            own_BKMS, sums = jax.lax.fori_loop(0, chunks, read, (room, sums))
            out_BKMH = jax.lax.fori_loop(0, chunks, sum_up, jnp.zeros(q_BKMH.shape, jnp.float32))
    sums_Q = tuple(by_prompt(x) for x in sums)
    prefix_v_QKPH = of_layer(prefix_v_LQKPH, 0, prefix)
    out_BKMH += by_row(values(prefix_QKxP, prefix_v_QKPH, sums_Q))
    return out_BKMH.reshape(q_BNH.shape).astype(q_BNH.dtype)
