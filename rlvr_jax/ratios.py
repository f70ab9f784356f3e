"""Ratios of the probabilities that two policies give to the same tokens, [rows, columns].

A ratio of the policy that learns to the policy before the update carries the gradient of clipped
objectives.  A ratio of the trainer to the sampler corrects for a sampler that computes other
probabilities from the same parameters; no gradient flows through it.
"""

import jax
import jax.numpy as jnp

from rlvr_jax.config import LossConfig
from rlvr_jax.structs import Array

FAR = 20.0  # log-ratios beyond it are a bug elsewhere; they must not become infinities


def row_mean(x_BR: Array, mask_BR: Array) -> Array:
    """Compute the mean [B, 1] over the tokens of each row; 0 for a row without tokens."""
    length_B1 = jnp.sum(mask_BR, -1, keepdims=True).astype(x_BR.dtype)
    return jnp.sum(jnp.where(mask_BR, x_BR, 0.0), -1, keepdims=True) / jnp.maximum(length_B1, 1)


def log_ratios(logprob_BR: Array, behaviour_BR: Array, mask_BR: Array, ratio: str) -> Array:
    """Compute log pi - log behaviour for every token, [B, R].

    With ratio `sequence` each token has the mean over its response (GSPO).  `sequence-token` has
    the same value with the gradient of the token's own log-prob (GSPO-token).  `product` is the sum
    over the response.
    """
    token_BR = jnp.clip(logprob_BR - behaviour_BR, -FAR, FAR)
    if ratio == "token":
        return token_BR
    if ratio == "product":
        sum_B1 = jnp.sum(jnp.where(mask_BR, token_BR, 0.0), -1, keepdims=True)
        return jnp.broadcast_to(jnp.clip(sum_B1, -FAR, FAR), token_BR.shape)
    mean_BR = jnp.broadcast_to(row_mean(token_BR, mask_BR), token_BR.shape)
    if ratio == "sequence":
        return mean_BR
    return jax.lax.stop_gradient(mean_BR - logprob_BR) + logprob_BR


# ---- rows that another policy wrote ----------------------------------------------------------


def sampler_ratios(behaviour_BR: Array, sampler_BR: Array, mask_BR: Array, level: str) -> Array:
    """Compute the trainer's probability over the sampler's, [B, R], without a gradient.

    `level` is `token`, or `sequence` or `geometric`: the product or the geometric mean over the
    row, for each of its tokens.  The ratio is 1 in padding at level `token`.
    """
    log_BR = jnp.where(mask_BR, jnp.clip(behaviour_BR - sampler_BR, -FAR, FAR), 0.0)
    if level == "sequence":
        log_BR = log_ratios(log_BR, jnp.zeros_like(log_BR), mask_BR, "product")
    elif level == "geometric":
        log_BR = log_ratios(log_BR, jnp.zeros_like(log_BR), mask_BR, "sequence")
    return jax.lax.stop_gradient(jnp.exp(log_BR))


def correction(behaviour_BR: Array, sampler_BR: Array, mask_BR: Array, cfg: LossConfig) -> Array:
    """Compute the weight [B, R] that corrects for a sampler with other probabilities.

    w is the trainer's probability of a token divided by the sampler's.  The range is [correct_low,
    correct_high].  No gradient flows through the weight, which `cfg.correct` chooses:

        truncate            w, clipped to the range (TIS, truncated importance sampling)
        mask                w, or 0 where it is outside the range (IcePop)
        sequence-truncate   the product of w over the row, clipped to the range
        sequence-mask       the product of w over the row, or 0 where it is outside the range
        geometric-mask      1, or 0 where the geometric mean of w over the row is outside the range
    """
    level, _, kind = cfg.correct.rpartition("-")
    ratio_BR = sampler_ratios(behaviour_BR, sampler_BR, mask_BR, level or "token")
    if kind == "truncate":
        return jnp.clip(ratio_BR, cfg.correct_low, cfg.correct_high)
    inside_BR = (ratio_BR >= cfg.correct_low) & (ratio_BR <= cfg.correct_high)
    kept_BR = jnp.ones_like(ratio_BR) if level == "geometric" else ratio_BR
    return jnp.where(inside_BR, kept_BR, 0.0)


def with_mean_one(weight_BR: Array, mask_BR: Array, by_row: bool) -> Array:
    """Divide weights by their mean over all tokens or, with `by_row`, over all rows with tokens.

    With `by_row` all tokens of a row have the same weight.  Weights whose mean is 0 stay 0.
    """
    count_BR = mask_BR.astype(weight_BR.dtype)
    if by_row:
        count_BR = count_BR / jnp.maximum(jnp.sum(count_BR, -1, keepdims=True), 1)
    mean = jnp.sum(weight_BR * count_BR) / jnp.maximum(jnp.sum(count_BR), 1)
    return weight_BR / jnp.where(mean > 1e-8, mean, 1.0)


def rejected(behaviour_BR: Array, sampler_BR: Array, mask_BR: Array, cfg: LossConfig) -> Array:
    """Return bool [B, R], true where the ratio of trainer to sampler is outside `cfg.reject_*`.

    `cfg.reject` is the level of the ratio, as in `sampler_ratios`: at the levels `sequence` and
    `geometric` all tokens of a row are rejected together.
    """
    ratio_BR = sampler_ratios(behaviour_BR, sampler_BR, mask_BR, cfg.reject)
    return (ratio_BR < cfg.reject_low) | (ratio_BR > cfg.reject_high)


def stale(logprob_BR: Array, sampler_BR: Array, advantage_BR: Array, mask_BR: Array, most: float):
    """Return bool [B, R], true for tokens with A < 0 in rows that have become too unlikely.

    These are rows whose mean of log(sampler / pi) over their tokens is above `most`
    (DeepSeek-V3.2).
    """
    drift_BR = sampler_BR - jax.lax.stop_gradient(logprob_BR)
    return (advantage_BR < 0) & (row_mean(drift_BR, mask_BR) > most)
