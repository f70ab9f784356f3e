"""Where a column stands, what it sees from there, and how that turns its queries and keys.

Layers are of up to two kinds, those that see everything and those with a sliding window; what
differs between them comes stacked by kind.
"""

import jax.numpy as jnp

from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array


def kinds(cfg: ModelConfig) -> list[int]:
    """Of each layer: 1 where it has a sliding window, 0 where it sees everything."""
    every = cfg.global_every or cfg.layers + 1
    return [int(cfg.window > 0 and layer % every > 0) for layer in range(1, cfg.layers + 1)]


def of(mask_BT: Array) -> Array:
    """Position of each column: how many columns of its row exist before it."""
    return jnp.maximum(jnp.cumsum(mask_BT, -1) - 1, 0)


def near(query_BT: Array, key_BS: Array, cfg: ModelConfig) -> Array | None:
    """What is within a column's window, by kind of layer: [2, B, T, S]; None without windows."""
    if not cfg.window:
        return None
    near_BTS = query_BT[:, :, None] - key_BS[:, None] < cfg.window
    return jnp.stack([jnp.ones_like(near_BTS), near_BTS])


def frequencies(cfg: ModelConfig) -> Array:
    """Radians per position, by kind of layer: [1 or 2, H / 2].

    RoFormer eq. 15, stretched as position interpolation (linear) or as Llama 3.1 does: long
    waves by `rope_factor`, short ones not at all, a ramp between.
    """
    half = cfg.head_size // 2
    plain = 1.0 / cfg.rope_theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    share = jnp.ones_like(plain)  # of a wave that is stretched
    if cfg.rope_scaling == "llama3":
        turns = cfg.rope_original * plain / (2 * jnp.pi)
        share = 1 - jnp.clip((turns - cfg.rope_low) / (cfg.rope_high - cfg.rope_low), 0, 1)
    if cfg.rope_scaling != "none":
        plain = (1 - share) * plain + share * plain / cfg.rope_factor
    if not cfg.window:
        return plain[None]
    theta = cfg.rope_theta_window
    near = 1.0 / theta ** (jnp.arange(half, dtype=jnp.float32) / half) if theta else plain
    return jnp.stack([plain, near])


def turns(position_BT: Array, cfg: ModelConfig) -> Array:
    """Cosine and sine of every column's angles, by kind of layer: [1 or 2, 2, B, T, 1, H / 2]."""
    angle = position_BT[..., None, None].astype(jnp.float32) * frequencies(cfg)[:, None, None, None]
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)


def rotate(x_BTNH: Array, turn_BT: Array) -> Array:
    """Rotary positions, halves convention (RoFormer eq. 34 as Llama lays it out)."""
    cos, sin = turn_BT
    x1, x2 = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x_BTNH.dtype)
