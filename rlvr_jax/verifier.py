"""The generative verifier: reads question, reference and final answer, and says `1` or `0`.

The reward is read from the logits of its verdict (Crossing the Reward Bridge, arXiv 2503.23829,
section 3).  Its prompt is assembled from token ids - template and question, the answer's ids,
template tail - so an answer can never create a role marker.  Everything fails closed: what is not
clearly a verdict on a finished answer is a reward of 0, and counted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import extract, model, ragged
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
    """[B, R] bool: what the verifier is shown of each response, without EOS.

    The last non-empty line (work A, section 3.2), or the marked answer where the verdict brings
    the spelling of the vocabulary.
    """
    if verdict.spelling is None:
        return extract.last_line(rollout, verdict)
    return extract.final_answer(rollout, verdict, verdict.spelling)


def score(
    params: Params,
    prompts: Prompts,
    rollout: Rollout,
    verdict: Verdict,
    reward_cfg: RewardConfig,
    cfg: ModelConfig,
) -> Score:
    """The verifier's reward for each response; no gradient flows into or through it."""
    answer_BR = answer_mask(rollout, verdict)
    # Moved to the front of its row: positions are counted, so that no verdict changes.
    order_BR = jnp.argsort(~answer_BR, axis=1, stable=True)
    token_BR = jnp.take_along_axis(rollout.response_BR, order_BR, 1)
    length_B = jnp.sum(answer_BR, -1, dtype=jnp.int32)
    return judge(params, prompts, token_BR, length_B, rollout.truncated_B, verdict, reward_cfg, cfg)


def judge(
    params: Params,
    prompts: Prompts,
    token_BR: Array,
    length_B: Array,
    cut_B: Array,
    verdict: Verdict,
    reward_cfg: RewardConfig,
    cfg: ModelConfig,
) -> Score:
    """The reward of answers that stand at the front of their rows; empty and cut ones are blocked.

    The context of a group (template, question, reference) is run once for its G answers.  Each
    answer is a row in each of J templates.
    """
    params = model.unstack(jax.lax.stop_gradient(params), cfg)
    prefix, _ = ragged.read_prompts(params, prompts.check_QC, prompts.check_mask_QC, cfg)
    blocked_B = cut_B | (length_B == 0)
    ways = verdict.tail_JC.shape[0]
    samples = length_B.shape[0] * ways // prompts.check_QC.shape[0]
    length_X = jnp.repeat(length_B, ways)  # X: B rows times J templates, those of a row adjacent

    def of_part(part):
        answers = part._replace(index_SM=part.index_SM // ways)
        way_SM = part.index_SM % ways
        way_X = way_SM.reshape(-1)
        mask_XR = jnp.arange(part.columns) < answers.pick(length_B)[:, None]
        mask_XR &= part.exists(length_X)[:, None]
        hidden_XSD = model.extend(
            params,
            jnp.concatenate([answers.pick(token_BR), jnp.take(verdict.tail_JC, way_X, 0)], 1),
            jnp.concatenate([mask_XR, jnp.take(verdict.tail_mask_JC, way_X, 0)], 1),
            prefix,
            answers.index_SM // samples * ways + way_SM,
            cfg,
        )
        logits_XV = model.logits(params, hidden_XSD[:, -1], cfg)
        return read(logits_XV, answers.pick(blocked_B), verdict, reward_cfg)

    zero_X, no_X = jnp.zeros(length_X.shape, jnp.float32), jnp.zeros(length_X.shape, bool)
    nothing = Score(zero_X, zero_X, zero_X, ~no_X, ~no_X)
    each = ragged.map_rows(of_part, nothing, length_X, token_BR.shape[1], cfg)
    return combine(Score(*(x.reshape(-1, ways) for x in each)), reward_cfg)


def combine(each: Score, cfg: RewardConfig) -> Score:
    """[B, J] verdicts of J templates as one [B]: their mean, or 1 where at least half accept.

    Majority is work A's rule for m graders (arXiv 2503.23829, section 4).
    """
    if cfg.votes == "majority":
        accepted_B = jnp.mean((each.reward_B > 0.5).astype(jnp.float32), 1)
        reward_B = (accepted_B >= 0.5).astype(jnp.float32)
    else:
        reward_B = jnp.mean(each.reward_B, 1)
    return Score(
        jnp.where(reward_B >= cfg.threshold, reward_B, 0.0),
        jnp.mean(each.p1_B, 1),
        jnp.mean(each.mass_B, 1),
        jnp.all(each.ambiguous_B, 1),
        jnp.all(each.blocked_B, 1),
    )


def read(logits_BV: Array, blocked_B: Array, verdict: Verdict, cfg: RewardConfig) -> Score:
    """From the logits of the verdict's column to rewards.

    soft: p(1) / (p(1) + p(0)) where the two hold at least `min_mass`; binary: whether 1 beats 0,
    under the same condition; paper: p(1) if 1 is the most probable token, 1 - p(0) if 0 is, else
    0 (arXiv 2503.23829, the two branches of its soft reward).  The temperature acts on these
    values; mass and p1 are told at temperature 1.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    logprob_BV = jax.nn.log_softmax(logits_BV)
    log1_B, log0_B = logprob_BV[:, verdict.accept], logprob_BV[:, verdict.reject]
    p1_B, mass_B = jnp.exp(log1_B), jnp.exp(log1_B) + jnp.exp(log0_B)
    if cfg.mode == "paper":
        top_B = jnp.argmax(logprob_BV, -1)
        clear_B = (top_B == verdict.accept) | (top_B == verdict.reject)
        warm_BV = jax.nn.softmax(logits_BV / cfg.temperature)
        accepted_B = top_B == verdict.accept
        value_B = jnp.where(accepted_B, warm_BV[:, verdict.accept], 1 - warm_BV[:, verdict.reject])
    else:
        clear_B = mass_B >= cfg.min_mass
        soft_B = jax.nn.sigmoid((log1_B - log0_B) / cfg.temperature)
        value_B = soft_B if cfg.mode == "soft" else (soft_B > 0.5).astype(jnp.float32)
    clear_B &= jnp.isfinite(value_B)
    reward_B = jnp.where(clear_B & ~blocked_B, value_B, 0.0)
    finite_B = jnp.isfinite(mass_B)
    p1_B, mass_B = jnp.where(finite_B, p1_B, 0.0), jnp.where(finite_B, mass_B, 0.0)
    return Score(reward_B, p1_B, mass_B, ~clear_B, blocked_B)
