"""`decode_attention` in plain JAX and float32, the definition that tests compare with."""

import jax
import jax.numpy as jnp

from rlvr_kernels.decode_attention.int8 import restore


def reference(q_BNH, own, prefix, layer, places, scale, softcap):
    """Return softmax(softcap(scale * q . k)) . v, with a copy of the prefix for every row."""
    (rows, heads, _), (_, prompts, kv_heads, _, _) = q_BNH.shape, prefix.k_LXKSH.shape
    owner_B = jnp.arange(rows) // (rows // prompts) if places is None else _owners(places)

    def whole(prefix_LQKPH, own_LBKSH):
        prefix_BKPH = prefix_LQKPH[layer][owner_B]
        both = jnp.concatenate([prefix_BKPH, own_LBKSH[layer]], axis=2)
        return jnp.repeat(both, heads // kv_heads, axis=1)

    k_BNCH, v_BNCH = (
        whole(*(restore(x, scale) for x, scale in held))
        for held in (
            ((prefix.k_LXKSH, prefix.k_scale_LXK1S), (own.k_LXKSH, own.k_scale_LXK1S)),
            ((prefix.v_LXKSH, prefix.v_scale_LXK1S), (own.v_LXKSH, own.v_scale_LXK1S)),
        )
    )
    see_BC = jnp.concatenate([prefix.see_BS, own.see_BS], axis=1)
    score_BNC = scale * jnp.einsum("bnh,bnch->bnc", q_BNH.astype(jnp.float32), k_BNCH)
    if softcap:
        score_BNC = softcap * jnp.tanh(score_BNC / softcap)
    weight_BNC = jax.nn.softmax(jnp.where(see_BC[:, None], score_BNC, -1e30), axis=-1)
    return jnp.einsum("bnc,bnch->bnh", weight_BNC, v_BNCH).astype(q_BNH.dtype)


def _owners(places):
    """Return the prompt of each row, numbered among all prompts."""
    parts, prompts, group = places.row_ZQG.shape
    owner_ZM = jnp.minimum(places.place_ZM // group, prompts - 1)
    return (owner_ZM + prompts * jnp.arange(parts)[:, None]).reshape(-1)
