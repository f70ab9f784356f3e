"""Keys and values as int8, with a scale for each row, kv head and column.

    scale = max |x| / 127        stored = round(x / scale)        x = scale * stored, about

The scale of a key is a factor of its score, and that of a value a factor of its weight, so that
attention never makes the products scale * stored.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scales(NamedTuple):
    """Scales belong to the int8 keys and values of all layers, own and of the prefixes."""

    k_LBK1S: jax.Array  # float32
    v_LBK1S: jax.Array
    prefix_k_LQK1P: jax.Array
    prefix_v_LQK1P: jax.Array


def quantise(x_KSH: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return x [..., K, S, H] as int8, and its scales [..., K, 1, S] in float32.

    It is rounded to the nearest integer, to the even one of two.  What is not finite shows in the
    scale, which is then infinite or NaN.
    """
    x_KSH = x_KSH.astype(jnp.float32)
    scale_KS = jnp.max(jnp.abs(x_KSH), -1) / 127
    divisor_KS = jnp.where(scale_KS == 0, 1.0, scale_KS)  # 0: all entries are 0
    return jnp.round(x_KSH / divisor_KS[..., None]).astype(jnp.int8), scale_KS[..., None, :]


def restore(x_LXKSH: jax.Array, scale_LXK1S: jax.Array | None) -> jax.Array:
    """Return keys or values in float32; without scales they have not been quantised."""
    x_LXKSH = x_LXKSH.astype(jnp.float32)
    return x_LXKSH if scale_LXK1S is None else x_LXKSH * scale_LXK1S.swapaxes(-1, -2)
