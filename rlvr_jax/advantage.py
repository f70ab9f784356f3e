"""From rewards to advantages.  Float32, over the global batch, constants for the gradient."""

import jax
import jax.numpy as jnp

from rlvr_jax.config import AdvantageConfig
from rlvr_jax.structs import Array


def zscore(x: Array, floor: float, axis: int | None = None) -> Array:
    """(x - mean) / max(std, floor), population std, over `axis` (None: over everything).

    Equal values give exactly 0, as arXiv 2503.23829 section 3.3 asks: rounding of the mean must
    not become a signal.  `floor` is in units of x; below it noise is not blown up to size 1.
    """
    mean = jnp.mean(x, axis, keepdims=True)
    std = jnp.sqrt(jnp.mean((x - mean) ** 2, axis, keepdims=True))
    same = jnp.max(x, axis, keepdims=True) == jnp.min(x, axis, keepdims=True)
    return jnp.where(same, 0.0, (x - mean) / jnp.maximum(std, floor))


def leave_one_out(x_QG: Array) -> Array:
    """x_i minus the mean of its group's others: (G / (G - 1)) (x_i - mean) (RLOO, 2402.14740)."""
    groups = x_QG.shape[1]
    return group_centre(x_QG) * (groups / (groups - 1))


def group_centre(x_QG: Array) -> Array:
    """x_i minus the mean of its group; exactly 0 where the group is equal."""
    same = jnp.max(x_QG, 1, keepdims=True) == jnp.min(x_QG, 1, keepdims=True)
    return jnp.where(same, 0.0, x_QG - jnp.mean(x_QG, 1, keepdims=True))


def combine(reward_B: Array, penalty_B: Array, samples: int, cfg: AdvantageConfig) -> Array:
    """Advantage [B]: rewards normalised, the KL penalty taken off, the baseline subtracted.

    The order is the paper's (arXiv 2503.23829 section 3.3: r~ = zscore(r) - beta * log ratio).
    """
    reward_QG = reward_B.astype(jnp.float32).reshape(-1, samples)
    if cfg.normalise != "none":
        reward_QG = zscore(reward_QG, cfg.std_floor, None if cfg.normalise == "batch" else 1)
    reward_QG = reward_QG - penalty_B.reshape(-1, samples)
    if cfg.baseline == "rloo":
        reward_QG = leave_one_out(reward_QG)
    elif cfg.baseline == "mean":
        reward_QG = group_centre(reward_QG)
    return jax.lax.stop_gradient(reward_QG.reshape(-1))
