"""Positions of columns, rotary embeddings and sliding windows.

A column's position is the number of columns of its row that exist before it, so padding costs no
position.  Layers are of two kinds: kind 0 sees all earlier columns, kind 1 sees those within a
sliding window.  Where a quantity depends on the kind of layer, its first dimension is the kind.
"""

import jax.numpy as jnp

from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array

# A mask [2, B, T, S] by kind of layer; empty where no layer of the model has a window.
Windows = tuple[Array, ...]


def layer_kinds(cfg: ModelConfig) -> list[int]:
    """Return the kind of each layer: 1 with a sliding window, 0 without."""
    every = cfg.global_every or cfg.layers + 1
    return [int(cfg.window > 0 and layer % every > 0) for layer in range(1, cfg.layers + 1)]


def from_mask(mask_BT: Array) -> Array:
    """Return the position of each column: how many columns of its row exist before it."""
    return jnp.maximum(jnp.cumsum(mask_BT, -1) - 1, 0)


def windows(query_BT: Array, key_BS: Array, cfg: ModelConfig) -> Windows:
    """Return which keys lie within the sliding window of each query.

    `query_BT` and `key_BS` are positions.  The result is one mask [2, B, T, S], all true for
    kind 0, or an empty tuple where no layer has a window.
    """
    if not cfg.window:
        return ()
    near_BTS = query_BT[:, :, None] - key_BS[:, None] < cfg.window
    return (jnp.stack([jnp.ones_like(near_BTS), near_BTS]),)


def window_of_kind(masks: Windows, kind: Array | int) -> Windows:
    """Return the mask [B, T, S] of one kind of layer, or an empty tuple without windows."""
    return tuple(mask[kind] for mask in masks)


def rotary_frequencies(cfg: ModelConfig) -> Array:
    """Return the rotary frequencies in radians per position, [kinds, H / 2].

    There are two kinds of layers if the model has a sliding window, else one.  The frequencies are
    those of RoFormer (arXiv 2104.09864, eq. 15) with base `rope_theta`.  `rope_scaling` lowers them
    for longer contexts: "linear" divides all by `rope_factor` (position interpolation, arXiv
    2306.15595); "llama3" divides only the low ones, with a ramp up to the high ones, as Llama 3.1
    does.  If `rope_theta_window` is set, kind 1 has this base and no scaling.
    """
    half = cfg.head_size // 2
    plain = 1.0 / cfg.rope_theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    stretched = jnp.ones_like(plain)  # to what share each wave is stretched, 0 to 1
    if cfg.rope_scaling == "llama3":
        turns = cfg.rope_original * plain / (2 * jnp.pi)
        stretched = 1 - jnp.clip((turns - cfg.rope_low) / (cfg.rope_high - cfg.rope_low), 0, 1)
    if cfg.rope_scaling != "none":
        plain = (1 - stretched) * plain + stretched * plain / cfg.rope_factor
    if not cfg.window:
        return plain[None]
    theta = cfg.rope_theta_window
    near = 1.0 / theta ** (jnp.arange(half, dtype=jnp.float32) / half) if theta else plain
    return jnp.stack([plain, near])


def cos_sin(position_BT: Array, cfg: ModelConfig) -> Array:
    """Return cosine and sine of each column's rotary angles, [1 or 2, 2, B, T, 1, H / 2].

    The first dimension is the kind of layer, the second holds cosine and sine.
    """
    frequency = rotary_frequencies(cfg)[:, None, None, None]
    angle = position_BT[..., None, None].astype(jnp.float32) * frequency
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)


def rotate(x_BTNH: Array, cos_sin_BT: Array) -> Array:
    """Return queries or keys rotated by their positions (RoFormer, arXiv 2104.09864, eq. 34).

    Entry i of a head is rotated together with entry i + H / 2, as Llama lays them out.
    `cos_sin_BT` is [2, B, T, 1, H / 2]: the entry of `cos_sin` for the kind of the layer.
    """
    cos, sin = cos_sin_BT
    x1, x2 = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x_BTNH.dtype)
