"""Which tokens of an update are learned from, where that depends on all tokens of the update.

Quantiles and means here are over the whole update: the tokens of all its rows, on all devices.  The
log-probs and entropies come from a pass over these rows before the gradient, so that the choice
depends neither on the parts in which the rows are read nor on the mesh.

    top_entropy         the tokens with the largest entropy (2506.01939)
    clip-cov, kl-cov    tokens whose log-prob and advantage vary together (2505.22617)
    correct_normalise   importance weights, divided by their mean
"""

from typing import NamedTuple

import jax.numpy as jnp

from rlvr_jax import loss, ratios
from rlvr_jax.config import LossConfig
from rlvr_jax.structs import Array


class Choice(NamedTuple):
    """A Choice says what the loss does with each token, [B, R]; None where it has no part."""

    chosen_BR: Array | None = None  # bool, tokens that get a policy gradient
    held_BR: Array | None = None  # bool, tokens that kl-cov holds back
    correct_BR: Array | None = None  # float32, importance weights of mean 1


def choose(tokens: loss.Tokens, draw_BR: Array | None, cfg: LossConfig) -> Choice:
    """Choose among all tokens of an update; constants for the gradient.

    `draw_BR` holds random numbers in [0, 1), by which clip-cov draws among its candidates.

    Raises:
      ValueError: clip-cov has nothing to draw by.
    """
    choice = Choice()
    mask_BR = tokens.mask_BR
    if cfg.objective == "clip-cov":
        if draw_BR is None:
            raise ValueError("objective clip-cov needs a random number for each token")
        choice = choice._replace(chosen_BR=~clipped_by_covariance(tokens, draw_BR, cfg))
    if cfg.objective == "kl-cov":
        cov_BR = covariance(tokens.logprob_BR, tokens.advantage_BR, mask_BR)
        count = share_of(mask_BR, cfg.cov_share)
        choice = choice._replace(held_BR=smallest(-cov_BR, mask_BR, count))
    if cfg.top_entropy < 1:
        high_BR = high_entropy(tokens.entropy_BR, mask_BR, cfg.top_entropy)
        both_BR = high_BR if choice.chosen_BR is None else high_BR & choice.chosen_BR
        choice = choice._replace(chosen_BR=both_BR)
    if cfg.correct_normalise:
        weight_BR = ratios.correction(tokens.behaviour_BR, tokens.sampler_BR, mask_BR, cfg)
        by_row = cfg.correct.startswith("sequence")
        choice = choice._replace(correct_BR=ratios.with_mean_one(weight_BR, mask_BR, by_row))
    return choice


def high_entropy(entropy_BR: Array, mask_BR: Array, share: float) -> Array:
    """Return bool [B, R], true for tokens at or above the (1 - `share`) quantile of the entropy.

    The quantile is interpolated linearly between the two nearest tokens.
    """
    sorted_X = jnp.sort(jnp.where(mask_BR, entropy_BR, jnp.inf).reshape(-1))
    place = jnp.maximum(jnp.sum(mask_BR) - 1, 0).astype(sorted_X.dtype) * (1 - share)
    below = jnp.floor(place).astype(jnp.int32)
    above = jnp.ceil(place).astype(jnp.int32)
    step = jnp.where(above > below, sorted_X[above] - sorted_X[below], 0.0)
    threshold = sorted_X[below] + step * (place - below.astype(place.dtype))
    return mask_BR & (entropy_BR >= threshold)


def covariance(logprob_BR: Array, advantage_BR: Array, mask_BR: Array) -> Array:
    """Compute each token's part of cov(log pi, A) over all tokens (2505.22617).

    This is (log pi - its mean) * (A - its mean).
    """
    count = jnp.maximum(jnp.sum(mask_BR), 1)

    def centred(x_BR: Array) -> Array:
        return x_BR - jnp.sum(jnp.where(mask_BR, x_BR, 0.0)) / count.astype(x_BR.dtype)

    return centred(logprob_BR) * centred(advantage_BR)


def clipped_by_covariance(tokens: loss.Tokens, draw_BR: Array, cfg: LossConfig) -> Array:
    """Return bool [B, R], true for the tokens that clip-cov leaves out (2505.22617).

    Candidates are tokens with a covariance between `cov_low` and `cov_high` whose ratio is not
    clipped.  `cov_share` of all tokens, and at least one, are drawn among them.
    """
    cov_BR = covariance(tokens.logprob_BR, tokens.advantage_BR, tokens.mask_BR)
    log_ratio_BR = tokens.logprob_BR - tokens.behaviour_BR
    _, cut_BR = loss.clip(log_ratio_BR, tokens.advantage_BR, cfg)
    candidate_BR = tokens.mask_BR & ~cut_BR & (cov_BR > cfg.cov_low) & (cov_BR < cfg.cov_high)
    return smallest(draw_BR, candidate_BR, share_of(tokens.mask_BR, cfg.cov_share))


def share_of(mask_BR: Array, share: float) -> Array:
    """Return the number of tokens that a share of all tokens is: rounded down, at least 1."""
    count = jnp.sum(mask_BR).astype(jnp.float32) * share
    return jnp.maximum(jnp.floor(count), 1).astype(jnp.int32)


def smallest(x_BR: Array, among_BR: Array, count: Array) -> Array:
    """Return bool [B, R], true for the `count` smallest entries among those that are marked."""
    order_X = jnp.argsort(jnp.where(among_BR, x_BR, jnp.inf).reshape(-1), stable=True)
    first_X = jnp.zeros(order_X.shape, bool).at[order_X].set(jnp.arange(order_X.size) < count)
    return among_BR & first_X.reshape(among_BR.shape)
