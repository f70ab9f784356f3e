"""The optimizer: its learning rate schedule, AdamW, and one update that skips bad gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import moments, parameters
from rlvr_jax.config import OptimConfig
from rlvr_jax.structs import Array, Params


class Update(NamedTuple):
    """An Update holds parameters and optimizer state after a step, and the norm of its gradient."""

    params: Params
    opt_state: Any
    grad_norm: Array  # global norm of the gradient before clipping
    finite: Array  # bool, whether loss and gradient were finite
    moved: Array  # bool, whether the update was done: the gradient was finite and not 0


def learning_rate_schedule(cfg: OptimConfig, steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the update's number, which starts at 0.

    The rate rises linearly during the warm-up, then stays constant or decays until `steps`.
    """
    after = max(steps - cfg.warmup - 1, 1)
    body = {
        "constant": optax.constant_schedule(cfg.lr),
        "linear": optax.linear_schedule(cfg.lr, cfg.lr * cfg.final, after),
        "cosine": optax.cosine_decay_schedule(cfg.lr, after, cfg.final),
    }[cfg.decay]
    if not cfg.warmup:
        return body
    # The ramp starts at lr / warmup and not at 0, so that update 0 has an effect.
    ramp = optax.linear_schedule(cfg.lr / cfg.warmup, cfg.lr, max(cfg.warmup - 1, 1))
    return optax.join_schedules([ramp, body], [cfg.warmup])


def make_optimizer(cfg: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Return AdamW (arXiv 1711.05101) with gradients clipped by their global norm.

    Weight decay applies to matrices only: not to norm scales, biases and the value head.  Moments
    of fewer bits, and parameters in bfloat16, are rounded as `moments` says.
    """

    def matrices(params):
        return {name: not parameters.is_vector(name) for name in params}

    rate, betas = learning_rate_schedule(cfg, steps), (cfg.beta1, cfg.beta2, cfg.eps)
    if cfg.moments == "float32":
        adamw = optax.adamw(rate, *betas, weight_decay=cfg.weight_decay, mask=matrices)
    else:
        adamw = optax.chain(
            moments.scale_by_adam(*betas, cfg.moments),
            optax.add_decayed_weights(cfg.weight_decay, matrices),
            optax.scale_by_learning_rate(rate),
        )
    return optax.chain(optax.clip_by_global_norm(cfg.grad_clip), adamw)


def init(params: Params, tx: optax.GradientTransformation) -> Any:
    """Return the optimizer's state before the first update.

    The moments' dtype does not follow that of the parameters.
    """
    return tx.init({name: x.astype(jnp.float32) for name, x in params.items()})


def step(
    params: Params,
    opt_state: Any,
    grads: Params,
    loss: Array,
    tx: optax.GradientTransformation,
) -> Update:
    """Return parameters and optimizer state after one update, or unchanged ones.

    The update is skipped where the loss or the gradient is not finite.  It is also skipped where
    the gradient is exactly 0, because no row taught anything: momentum and weight decay would still
    move the parameters.
    """
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, new_state = tx.update(grads, opt_state, params)
    new = (moments.add(params, updates, opt_state), new_state)
    moved = finite & (norm > 0)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(moved, new, old), new, (params, opt_state)
    )
    return Update(params, opt_state, norm, finite, moved)
