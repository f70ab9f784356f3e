"""Positions of columns, rotary embeddings and sliding windows.

A column's position is the number of columns of its row that exist before it, so padding costs no
position.  Layers are of two kinds.  Kind 0 sees all earlier columns and rotates queries and keys.
Kind 1 sees the columns within a sliding window, or does not rotate: no model has both.  Where a
quantity depends on the kind of layer, its first dimension is the kind.
"""

import math

import jax.numpy as jnp

from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array

# A mask [2, B, T, S] by kind of layer; empty where no layer of the model has a window.
Windows = tuple[Array, ...]


def layer_kinds(cfg: ModelConfig) -> list[int]:
    """Return the kind of each layer: 1 with a sliding window or without rotation, or else 0."""
    numbers = range(1, cfg.layers + 1)
    if cfg.unrotated_every:
        return [int(layer % cfg.unrotated_every == 0) for layer in numbers]
    every = cfg.global_every or cfg.layers + 1
    return [int(cfg.window > 0 and layer % every > 0) for layer in numbers]


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


def rotated(cfg: ModelConfig) -> int:
    """Return how many entries of a head are rotated."""
    return cfg.rope_size or cfg.head_size


def rotary_frequencies(cfg: ModelConfig) -> Array:
    """Return the rotary frequencies in radians per position, [kinds, rotated / 2].

    There are two kinds of layers if the model has a sliding window or layers without rotation,
    else one.  The frequencies are those of RoFormer (arXiv 2104.09864, eq. 15) with base
    `rope_theta`.  `rope_scaling` lowers them for longer contexts: "linear" divides all by
    `rope_factor` (position interpolation, arXiv 2306.15595); "llama3" divides only the low ones,
    with a ramp up to the high ones, as Llama 3.1 does; "yarn" has the ramp of NTK-by-parts (arXiv
    2309.00071, section 3.2) over the numbers of the frequencies, as its authors' code has it;
    "longrope" divides each by its own divisor (arXiv 2402.13753).  If `rope_theta_window`
    is set, kind 1 has this base and no scaling.  A layer without rotation has frequencies 0.
    """
    half = rotated(cfg) // 2
    plain = 1.0 / cfg.rope_theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    stretched = jnp.ones_like(plain)  # to what share each wave is stretched, 0 to 1
    if cfg.rope_scaling == "llama3":
        turns = cfg.rope_original * plain / (2 * jnp.pi)
        stretched = 1 - jnp.clip((turns - cfg.rope_low) / (cfg.rope_high - cfg.rope_low), 0, 1)
    if cfg.rope_scaling == "yarn":
        first, last = _yarn_ramp(cfg)
        stretched = jnp.clip((jnp.arange(half, dtype=jnp.float32) - first) / (last - first), 0, 1)
    if cfg.rope_scaling == "longrope":
        plain = plain / jnp.array(cfg.rope_long if cfg.long_rows else cfg.rope_short, jnp.float32)
    elif cfg.rope_scaling != "none":
        plain = (1 - stretched) * plain + stretched * plain / cfg.rope_factor
    if cfg.unrotated_every:
        return jnp.stack([plain, jnp.zeros_like(plain)])
    if not cfg.window:
        return plain[None]
    theta = cfg.rope_theta_window
    near = 1.0 / theta ** (jnp.arange(half, dtype=jnp.float32) / half) if theta else plain
    return jnp.stack([plain, near])


def _yarn_ramp(cfg: ModelConfig) -> tuple[float, float]:
    """Return between which frequencies, by their numbers, YaRN's ramp rises from 0 to 1.

    A frequency with t turns in `rope_original` tokens has the number
    rotated * ln(rope_original / (2 pi t)) / (2 ln rope_theta); t is `rope_high` at the beginning
    of the ramp and `rope_low` at its end.
    """

    def number(turns: float) -> float:
        waves = cfg.rope_original / (2 * math.pi * turns)
        return rotated(cfg) * math.log(waves) / (2 * math.log(cfg.rope_theta))

    first, last = number(cfg.rope_high), number(cfg.rope_low)
    if cfg.rope_truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotated(cfg) - 1)
    return first, last if last != first else last + 0.001


def cos_sin(position_BT: Array, cfg: ModelConfig) -> Array:
    """Return cosine and sine of each column's rotary angles, [1 or 2, 2, B, T, 1, rotated / 2].

    The first dimension is the kind of layer, the second holds cosine and sine.  Both are multiplied
    by `rope_amplitude` where the frequencies are scaled (YaRN, arXiv 2309.00071, section 3.4).
    """
    frequency = rotary_frequencies(cfg)[:, None, None, None]
    angle = position_BT[..., None, None].astype(jnp.float32) * frequency
    cos_sin_BT = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    if cfg.rope_amplitude == 1:
        return cos_sin_BT
    plain = cfg.unrotated_every or cfg.rope_theta_window  # kind 1 has frequencies of its own
    amplitude = jnp.array([cfg.rope_amplitude, 1.0 if plain else cfg.rope_amplitude], jnp.float32)
    return cos_sin_BT * amplitude[: len(frequency)].reshape(-1, *[1] * angle.ndim)


def rotate(x_BTNH: Array, cos_sin_BT: Array) -> Array:
    """Return queries or keys rotated by their positions (RoFormer, arXiv 2104.09864, eq. 34).

    Entry i of a head is rotated together with entry i + rotated / 2, as Llama lays them out.
    Entries from `rotated` on stay as they are.  `cos_sin_BT` is [2, B, T, 1, rotated / 2]: the
    entry of `cos_sin` for the kind of the layer.
    """
    cos, sin = cos_sin_BT
    half = cos.shape[-1]
    x1, x2, rest = jnp.split(x_BTNH.astype(jnp.float32), [half, 2 * half], axis=-1)
    turned = [x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest]
    return jnp.concatenate(turned, -1).astype(x_BTNH.dtype)
