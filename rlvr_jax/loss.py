"""Policy losses.  Sums come out, divided once by global counts, so that parts of a batch add up."""

import jax
import jax.numpy as jnp

from rlvr_jax.config import LossConfig
from rlvr_jax.structs import Array, Metrics


def row_weights(mask_BR: Array, cfg: LossConfig) -> Array:
    """[B] weight of each of a row's tokens, such that the loss is the weighted sum of all tokens.

    Computed once over the whole batch: with it, neither the mesh nor micro-batches change a loss.
    token-mean: 1 / all tokens (DAPO).  seq-mean-token-mean: 1 / (rows * own tokens) (GRPO).
    seq-mean-token-sum: 1 / rows.  constant: 1 / (rows * R) (Dr.GRPO).
    """
    rows, columns = mask_BR.shape
    length_B = jnp.sum(mask_BR, -1).astype(jnp.float32)
    if cfg.aggregate == "token-mean":
        return jnp.ones(rows) / jnp.maximum(jnp.sum(length_B), 1)
    if cfg.aggregate == "seq-mean-token-mean":
        return 1 / (rows * jnp.maximum(length_B, 1))
    if cfg.aggregate == "seq-mean-token-sum":
        return jnp.ones(rows) / rows
    return jnp.ones(rows) / (rows * columns)


def k3(logprob_BR: Array, reference_BR: Array) -> Array:
    """exp(-d) + d - 1 with d = log pi - log ref: non-negative estimate of the KL per token."""
    d_BR = jnp.clip(logprob_BR - reference_BR, -20, 20)
    return jnp.exp(-d_BR) + d_BR - 1


def policy_gradient(
    logprob_BR: Array,
    behaviour_BR: Array,
    reference_BR: Array,
    advantage_B: Array,
    mask_BR: Array,
    weight_B: Array,
    cfg: LossConfig,
) -> tuple[Array, Metrics]:
    """-sum of weight * min(ratio A, clip(ratio) A), plus the KL term: a scalar and sums to log.

    `behaviour_BR` are the log-probs of the policy that sampled; on-policy it is `logprob_BR`
    itself behind a stop-gradient, and the ratio is 1 with the score function as its gradient.
    """
    weight_BR = jnp.where(mask_BR, weight_B[:, None], 0.0)
    log_ratio_BR = jnp.clip(logprob_BR - behaviour_BR, -20, 20)
    ratio_BR = jnp.exp(log_ratio_BR)
    clipped_BR = jnp.clip(ratio_BR, 1 - cfg.clip_low, 1 + cfg.clip_high)
    gain_BR = ratio_BR * advantage_B[:, None]
    bounded_BR = clipped_BR * advantage_B[:, None]
    loss = -jnp.sum(weight_BR * jnp.minimum(gain_BR, bounded_BR))
    if cfg.kl_coef and cfg.kl_in == "loss":
        loss = loss + cfg.kl_coef * jnp.sum(weight_BR * k3(logprob_BR, reference_BR))
    tokens = {
        "policy/clip_frac": (bounded_BR < gain_BR).astype(jnp.float32),
        "policy/approx_kl": -log_ratio_BR,
    }
    if cfg.kl_coef:
        tokens["policy/kl"] = logprob_BR - reference_BR
    sums = {k: jnp.sum(jnp.where(mask_BR, v, 0.0)) for k, v in tokens.items()}
    return loss, jax.lax.stop_gradient(sums)
