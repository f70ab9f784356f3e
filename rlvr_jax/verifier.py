"""The generative verifier: reads question, reference and final answer, and says `1` or `0`.

The reward is read from the logits of its verdict (Crossing the Reward Bridge, arXiv 2503.23829,
section 3).  Its prompt is assembled from token ids - template and question, the answer's ids,
template tail - so an answer can never create a role marker.  Everything fails closed: what is not
clearly a verdict on a finished answer is a reward of 0, and counted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import model, reading
from rlvr_jax.config import ModelConfig, RewardConfig
from rlvr_jax.structs import Array, Params, Prompts, Rollout, Verdict


class Score(NamedTuple):
    """One float32 number or bool per row."""

    reward_B: Array  # in [0, 1]
    p1_B: Array  # probability of the accept token
    mass_B: Array  # probability of accept and reject together
    ambiguous_B: Array  # bool: the mass is below the threshold, or not finite
    blocked_B: Array  # bool: no finished, non-empty answer, the model's word does not count


def answer_mask(rollout: Rollout, verdict: Verdict) -> Array:
    """[B, R] bool: the last non-empty line of each response (work A, section 3.2), without EOS.

    A line is non-empty when it holds a token of visible text.  Control tokens are never shown.
    """
    mask_BR = rollout.response_mask_BR
    newline_BR = verdict.newline_V[rollout.response_BR] & mask_BR
    visible_BR = ~verdict.blank_V[rollout.response_BR] & ~newline_BR & mask_BR
    line_BR = jnp.cumsum(newline_BR, -1)
    last_B1 = jnp.max(jnp.where(visible_BR, line_BR, -1), -1, keepdims=True)
    # Leading and trailing blanks of the line go too: the answer is the span of its visible tokens.
    on_line_BR = (line_BR == last_B1) & mask_BR & ~newline_BR
    on_line_BR &= ~verdict.control_V[rollout.response_BR]
    shown_BR = on_line_BR & visible_BR
    begun_BR = jnp.cumsum(shown_BR, -1) > 0
    more_BR = jnp.cumsum(shown_BR[:, ::-1], -1)[:, ::-1] > 0
    return on_line_BR & begun_BR & more_BR


def score(
    params: Params,
    prompts: Prompts,
    rollout: Rollout,
    verdict: Verdict,
    reward_cfg: RewardConfig,
    cfg: ModelConfig,
) -> Score:
    """The verifier's reward for each response; no gradient flows into or through it.

    The context of a group (template, question, reference) is run once for its G answers.
    """
    params = model.unstack(jax.lax.stop_gradient(params), cfg)
    prefix, _ = reading.prompts(params, prompts.check_QC, prompts.check_mask_QC, cfg)
    answer_BR = answer_mask(rollout, verdict)
    # Moved to the front of its row: positions are counted, so that no verdict changes.
    order_BR = jnp.argsort(~answer_BR, axis=1, stable=True)
    token_BR = jnp.take_along_axis(rollout.response_BR, order_BR, 1)
    length_B = jnp.sum(answer_BR, -1, dtype=jnp.int32)
    samples = length_B.shape[0] // prompts.check_QC.shape[0]

    def of_part(part):
        token_BR_ = part.pick(token_BR)
        tail_BC = jnp.broadcast_to(verdict.tail_C, (token_BR_.shape[0], *verdict.tail_C.shape))
        mask_BR = jnp.arange(part.columns) < part.pick(length_B)[:, None]
        mask_BR &= part.exists(length_B)[:, None]
        hidden_BSD = model.extend(
            params,
            jnp.concatenate([token_BR_, tail_BC], 1),
            jnp.concatenate([mask_BR, jnp.ones_like(tail_BC, bool)], 1),
            prefix,
            part.index_SM // samples,
            cfg,
        )
        logits_BV = model.logits(params, hidden_BSD[:, -1], cfg)
        blocked_B = part.pick(rollout.truncated_B) | (part.pick(length_B) == 0)
        return read(logits_BV, blocked_B, verdict, reward_cfg)

    zero_B, no_B = jnp.zeros(length_B.shape, jnp.float32), jnp.zeros(length_B.shape, bool)
    nothing = Score(zero_B, zero_B, zero_B, ~no_B, ~no_B)
    return reading.rows(of_part, nothing, length_B, answer_BR.shape[1], cfg)[0]


def read(logits_BV: Array, blocked_B: Array, verdict: Verdict, cfg: RewardConfig) -> Score:
    """From the logits of the verdict's column to rewards.

    soft: p(1) / (p(1) + p(0)) where the two hold at least `min_mass`; binary: whether 1 beats 0,
    under the same condition; paper: p(1) if 1 is the most probable token, 1 - p(0) if 0 is, else
    0 (arXiv 2503.23829, the two branches of its soft reward).
    """
    logprob_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32))
    log1_B, log0_B = logprob_BV[:, verdict.accept], logprob_BV[:, verdict.reject]
    p1_B, mass_B = jnp.exp(log1_B), jnp.exp(log1_B) + jnp.exp(log0_B)
    if cfg.mode == "paper":
        top_B = jnp.argmax(logprob_BV, -1)
        clear_B = (top_B == verdict.accept) | (top_B == verdict.reject)
        value_B = jnp.where(top_B == verdict.accept, p1_B, 1 - jnp.exp(log0_B))
    else:
        clear_B = mass_B >= cfg.min_mass
        soft_B = jax.nn.sigmoid(log1_B - log0_B)
        value_B = soft_B if cfg.mode == "soft" else (soft_B > 0.5).astype(jnp.float32)
    clear_B &= jnp.isfinite(value_B)
    reward_B = jnp.where(clear_B & ~blocked_B, value_B, 0.0)
    finite_B = jnp.isfinite(mass_B)
    p1_B, mass_B = jnp.where(finite_B, p1_B, 0.0), jnp.where(finite_B, mass_B, 0.0)
    return Score(reward_B, p1_B, mass_B, ~clear_B, blocked_B)
