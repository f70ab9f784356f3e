"""From logits to tokens, and the log-probability of exactly the distribution that was sampled."""

import jax
import jax.numpy as jnp

from rlvr_jax.config import SampleConfig
from rlvr_jax.structs import Array

NEG = -1e30  # finite: a row whose every entry is masked stays free of NaN


def log_distribution(logits_V: Array, cfg: SampleConfig) -> Array:
    """Log-probabilities, float32, after temperature, top-k and top-p over the last axis.

    Temperature 0 is the greedy distribution: all mass on the first largest logit.  Top-p keeps
    the smallest set of most probable tokens whose mass reaches `top_p`; ties at the border of
    top-k or top-p are kept, so the result does not depend on the order of equal logits.
    """
    logits_V = logits_V.astype(jnp.float32)
    if cfg.temperature == 0:
        greedy_V = jax.nn.one_hot(jnp.argmax(logits_V, -1), logits_V.shape[-1])
        return jnp.where(greedy_V > 0, 0.0, NEG)
    logits_V = logits_V / cfg.temperature
    if cfg.top_k:
        kth = jax.lax.top_k(logits_V, min(cfg.top_k, logits_V.shape[-1]))[0][..., -1:]
        logits_V = jnp.where(logits_V < kth, NEG, logits_V)
    if cfg.top_p < 1:
        prob_V = jax.nn.softmax(logits_V)
        sorted_V = -jnp.sort(-prob_V, axis=-1)
        before_V = jnp.cumsum(sorted_V, axis=-1) - sorted_V  # mass of all more probable tokens
        least = jnp.min(jnp.where(before_V < cfg.top_p, sorted_V, 1.0), axis=-1, keepdims=True)
        logits_V = jnp.where(prob_V < least, NEG, logits_V)
    return jax.nn.log_softmax(logits_V)


def sample(logits_BV: Array, key_B: Array, cfg: SampleConfig) -> tuple[Array, Array]:
    """One token per row, each with its own key, and its float32 log-probability."""
    logprob_BV = log_distribution(logits_BV, cfg)
    noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, logits_BV.shape[-1:]))(key_B)
    token_B = jnp.argmax(logprob_BV + noise_BV, axis=-1).astype(jnp.int32)
    return token_B, jnp.take_along_axis(logprob_BV, token_B[:, None], axis=-1)[:, 0]
