"""From an optimizer config to an optax transformation, and one step of it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlvr_jax.config import OptimConfig
from rlvr_jax.structs import Array, Params


def schedule(cfg: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate of update number n, counted from 0: warm-up, then constant or decay."""
    after = max(steps - cfg.warmup - 1, 1)
    body = {
        "constant": optax.constant_schedule(cfg.lr),
        "linear": optax.linear_schedule(cfg.lr, cfg.lr * cfg.final, after),
        "cosine": optax.cosine_decay_schedule(cfg.lr, after, cfg.final),
    }[cfg.decay]
    if not cfg.warmup:
        return body
    # Update 0 already moves: the ramp starts at lr / warmup, not at 0.
    ramp = optax.linear_schedule(cfg.lr / cfg.warmup, cfg.lr, max(cfg.warmup - 1, 1))
    return optax.join_schedules([ramp, body], [cfg.warmup])


def make(cfg: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW; weight decay for matrices only, not for a value head."""

    def matrices(params):
        return {name: not name.startswith(("norm", "bias", "value")) for name in params}

    return optax.chain(
        optax.clip_by_global_norm(cfg.grad_clip),
        optax.adamw(
            schedule(cfg, steps),
            cfg.beta1,
            cfg.beta2,
            cfg.eps,
            weight_decay=cfg.weight_decay,
            mask=matrices,
        ),
    )


def step(
    params: Params,
    opt_state: Any,
    grads: Params,
    value: Array,
    tx: optax.GradientTransformation,
    taught: Array | None = None,
) -> tuple[Params, Any, Array, Array]:
    """Parameters and optimizer after one update, which is left out where loss or gradient is not
    finite, or nobody was `taught`; the gradient's norm, and whether it was finite.
    """
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    updates, after = tx.update(grads, opt_state, params)
    moved = (optax.apply_updates(params, updates), after)
    kept = (params, opt_state)
    moves = finite if taught is None else finite & taught
    params, opt_state = jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, kept)
    return params, opt_state, norm, finite
