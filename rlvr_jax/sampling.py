"""Sampling: from logits to tokens and their log-probs.

A token's log-prob belongs to the distribution that was sampled, after temperature, top-k and top-p.
"""

import jax
import jax.numpy as jnp

from rlvr_jax.config import SampleConfig
from rlvr_jax.structs import Array

BLOCK = 128  # vocabulary entries in a block; `sample` draws a block first, then a token of it
NEG = -1e30  # log-prob of an excluded token; finite, so that no arithmetic on it gives NaN


def log_distribution(logits_V: Array, cfg: SampleConfig) -> Array:
    """Return the float32 log-probs of the sampling distribution over the last dimension.

    Temperature, top-k and top-p apply in this order.  Temperature 0 puts all probability on the
    largest logit, the first of equal ones.  Top-p (arXiv 1904.09751) keeps the smallest set of most
    probable tokens whose total probability reaches `top_p`.  Tokens tied at the border of top-k or
    top-p are all kept, so the result does not depend on the order of equal logits.  An excluded
    token has a log-prob of about -1e30, which is finite.
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
        before_V = jnp.cumsum(sorted_V, axis=-1) - sorted_V  # probability of all tokens in front
        least = jnp.min(jnp.where(before_V < cfg.top_p, sorted_V, 1.0), axis=-1, keepdims=True)
        logits_V = jnp.where(prob_V < least, NEG, logits_V)
    return jax.nn.log_softmax(logits_V)


def sample(logits_BV: Array, key_B: Array, cfg: SampleConfig) -> tuple[Array, Array]:
    """Return one token id per row, drawn with the row's own key, and its float32 log-prob.

    Tokens are drawn by inversion of the cumulative distribution, with two random numbers per row:
    the first draws a block of the vocabulary, the second a token of that block.  A single number
    would be too coarse: float32 has 2**24 uniform values, so a token of probability 1e-8 would come
    far too often or never.
    """
    logprob_BV = log_distribution(logits_BV, cfg)
    missing = -logprob_BV.shape[-1] % BLOCK
    mass_BV = jnp.pad(jnp.exp(logprob_BV), ((0, 0), (0, missing)))
    mass_BXb = mass_BV.reshape(mass_BV.shape[0], -1, BLOCK)
    uniform_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(key_B)
    block_B1 = _invert(jnp.sum(mass_BXb, -1), uniform_B2[:, 0])[:, None]
    inside_Bb = jnp.take_along_axis(mass_BXb, block_B1[..., None], axis=1)[:, 0]
    token_B1 = block_B1 * BLOCK + _invert(inside_Bb, uniform_B2[:, 1])[:, None]
    return token_B1[:, 0], jnp.take_along_axis(logprob_BV, token_B1, axis=-1)[:, 0]


def _invert(mass_BX: Array, uniform_B: Array) -> Array:
    """Return the entry where the cumulative mass passes the share `uniform_B` of the total.

    An entry without mass is never returned.
    """
    running_BX = jnp.cumsum(mass_BX, -1)
    entry_B = jnp.sum(running_BX <= uniform_B[:, None] * running_BX[:, -1:], -1, dtype=jnp.int32)
    # Rounding may lift the share to the total.  The last entry with mass is then the right one.
    last_B = jnp.max(jnp.where(mass_BX > 0, jnp.arange(mass_BX.shape[-1]), 0), -1)
    return jnp.minimum(entry_B, last_B).astype(jnp.int32)
