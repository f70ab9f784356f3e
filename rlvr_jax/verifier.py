"""The generative verifier: a language model whose next token says whether an answer is correct.

The reward comes from the logits of that token ("Crossing the Reward Bridge", arXiv 2503.23829,
section 3).  A response is judged in these steps:

1. Context.  The host writes template, question and reference as token ids, left-padded
   (`Prompts.check_QC`).  The context is read once for all G responses to a prompt.
2. Answer.  `answer_mask` marks which tokens of the response are its final answer, and those ids
   follow the context as they are.  They are never decoded to text and encoded again, and
   control tokens are left out, so no answer can create a role marker.
3. Tail.  The rest of the template follows the answer and ends where the verdict is due.  It is
   `Verdict.tail_JC`, or `Prompts.tail_QC` if it depends on the problem.  The verdict is the
   distribution of the token after the last column.
4. Reward.  `score_logits` compares the probabilities of the accept token ("1") and of the
   reject token ("0").  The soft reward is p(1) / (p(1) + p(0)); `RewardConfig.mode` names the
   others.
5. Templates.  With J templates every answer gets J verdicts, and `combine_templates` makes
   them one reward.

Every doubt gives reward 0.  A response that is truncated or has no final answer is `blocked`,
whatever the model says of it.  A verdict is `ambiguous` when a logit is not finite, or when the
two tokens together have too little probability.  In mode `paper` it is ambiguous when a logit
is not finite, or when the most probable token is neither of the two.  Both cases are reported,
so that they can be counted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import context, extract, model, parameters, ragged, sharding
from rlvr_jax.config import ModelConfig, RewardConfig
from rlvr_jax.structs import Array, Params, Prompts, Rollout, Verdict


class Score(NamedTuple):
    """A Score holds the reward of each response and the probabilities behind it, in float32."""

    reward_B: Array  # in [0, 1]
    p1_B: Array  # probability of the accept token
    mass_B: Array  # probability of accept and reject token together
    ambiguous_B: Array  # bool, no clear verdict: the mass is too small or a number is not finite
    blocked_B: Array  # bool, the response is truncated or has no answer: no verdict counts


class Answers(NamedTuple):
    """Answers holds final answers as token ids, each at the front of its row."""

    token_BR: Array  # int32
    length_B: Array  # int32, tokens of the answer
    truncated_B: Array  # bool, the response ended before EOS


def answer_mask(rollout: Rollout, verdict: Verdict) -> Array:
    """Return which tokens of each response are its final answer: bool [B, R], without EOS.

    Without `verdict.spelling` this is the last non-empty line (arXiv 2503.23829, section 3.2).
    With it, the answer is the one that a marker such as \\boxed{...} shows; see
    `extract.final_answer`.
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
    """Return the verifier's reward for each response of a rollout.

    No gradient flows into the verifier or through the reward.
    """
    answer_BR = answer_mask(rollout, verdict)
    # Positions count existing columns only, so a move to the front changes no verdict.  It lets
    # short answers be read at their own length.
    order_BR = jnp.argsort(~answer_BR, axis=1, stable=True)
    token_BR = jnp.take_along_axis(rollout.response_BR, order_BR, 1)
    length_B = jnp.sum(answer_BR, -1, dtype=jnp.int32)
    answers = Answers(token_BR, length_B, rollout.truncated_B)
    return score_answers(params, prompts, answers, verdict, reward_cfg, cfg)


def score_answers(
    params: Params,
    prompts: Prompts,
    answers: Answers,
    verdict: Verdict,
    reward_cfg: RewardConfig,
    cfg: ModelConfig,
) -> Score:
    """Return the verifier's reward for each answer; empty and truncated answers are blocked."""
    params = parameters.unstack(jax.lax.stop_gradient(params), cfg)
    prefix, _ = ragged.read_prompts(params, prompts.check_QC, prompts.check_mask_QC, cfg)
    blocked_B = answers.truncated_B | (answers.length_B == 0)
    templates = verdict.tail_JC.shape[0]
    samples = answers.length_B.shape[0] * templates // prompts.check_QC.shape[0]
    # X: B answers times J templates; the templates of an answer are adjacent.
    length_X = jnp.repeat(answers.length_B, templates)

    def score_part(part):
        of_answer = part._replace(index_SM=part.index_SM // templates)
        template_SM = part.index_SM % templates
        context_SM = of_answer.index_SM // samples * templates + template_SM
        template_X = template_SM.reshape(-1)
        mask_XR = jnp.arange(part.columns) < of_answer.pick(answers.length_B)[:, None]
        mask_XR &= part.exists(length_X)[:, None]
        if prompts.tail_QC is None or prompts.tail_mask_QC is None:
            tail_XC = jnp.take(verdict.tail_JC, template_X, 0)
            tail_mask_XC = jnp.take(verdict.tail_mask_JC, template_X, 0)
        else:
            tail_XC = sharding.take(prompts.tail_QC, context_SM)
            tail_mask_XC = sharding.take(prompts.tail_mask_QC, context_SM)
        tail_XC, tail_mask_XC = (
            context.pad_front(x, part.columns) for x in (tail_XC, tail_mask_XC)
        )
        hidden_XSD = model.extend(
            params,
            jnp.concatenate([of_answer.pick(answers.token_BR), tail_XC], 1),
            jnp.concatenate([mask_XR, tail_mask_XC], 1),
            prefix,
            context_SM,
            cfg,
        )
        logits_XV = model.logits(params, hidden_XSD[:, -1], cfg)
        accept_X, reject_X = (jnp.take(x, template_X) for x in (verdict.accept_J, verdict.reject_J))
        blocked_X = of_answer.pick(blocked_B)
        return score_logits(logits_XV, blocked_X, accept_X, reject_X, reward_cfg)

    # Rows that are never read, since they hold no answer, keep the score of a blocked one.
    zero_X, false_X = jnp.zeros(length_X.shape, jnp.float32), jnp.zeros(length_X.shape, bool)
    unread = Score(zero_X, zero_X, zero_X, ~false_X, ~false_X)
    score_X = ragged.map_rows(score_part, unread, length_X, answers.token_BR.shape[1], cfg)
    return combine_templates(Score(*(x.reshape(-1, templates) for x in score_X)), reward_cfg)


def combine_templates(score_BJ: Score, cfg: RewardConfig) -> Score:
    """Return one score [B] from the scores [B, J] of J templates.

    The reward is the mean over the templates.  With `votes: majority` it is 1 where at least half
    of the templates accept (reward above 0.5), and 0 elsewhere, which is the rule of arXiv
    2503.23829, section 4, for several graders.  A reward below `cfg.threshold` then becomes 0.
    `p1_B` and `mass_B` are means; a response is ambiguous or blocked if it is so for all templates.
    """
    if cfg.votes == "majority":
        accepted_B = jnp.mean((score_BJ.reward_B > 0.5).astype(jnp.float32), 1)
        reward_B = (accepted_B >= 0.5).astype(jnp.float32)
    else:
        reward_B = jnp.mean(score_BJ.reward_B, 1)
    return Score(
        jnp.where(reward_B >= cfg.threshold, reward_B, 0.0),
        jnp.mean(score_BJ.p1_B, 1),
        jnp.mean(score_BJ.mass_B, 1),
        jnp.all(score_BJ.ambiguous_B, 1),
        jnp.all(score_BJ.blocked_B, 1),
    )


def score_logits(
    logits_BV: Array, blocked_B: Array, accept_B: Array, reject_B: Array, cfg: RewardConfig
) -> Score:
    """Return the scores of verdicts, given the logits of the token that follows the last column.

    `accept_B` and `reject_B` are the ids of the two verdict words.

    `cfg.mode` chooses the reward of a verdict that is neither ambiguous nor blocked:

    - soft: p(1) / (p(1) + p(0)); a verdict is clear when p(1) + p(0) is at least `min_mass`;
    - binary: 1 where p(1) > p(0), else 0; clear as in soft;
    - paper: the soft reward of arXiv 2503.23829, section 3: p(1) where 1 is the most probable
      token, 1 - p(0) where 0 is; any other most probable token is no clear verdict.

    `cfg.temperature` changes the reward only; `p1_B` and `mass_B` are at temperature 1.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    logprob_BV = jax.nn.log_softmax(logits_BV)
    log1_B, log0_B = _of_word(logprob_BV, accept_B), _of_word(logprob_BV, reject_B)
    p1_B, mass_B = jnp.exp(log1_B), jnp.exp(log1_B) + jnp.exp(log0_B)
    if cfg.mode == "paper":
        top_B = jnp.argmax(logprob_BV, -1)
        clear_B = (top_B == accept_B) | (top_B == reject_B)
        warm_BV = jax.nn.softmax(logits_BV / cfg.temperature)
        warm1_B, warm0_B = _of_word(warm_BV, accept_B), _of_word(warm_BV, reject_B)
        value_B = jnp.where(top_B == accept_B, warm1_B, 1 - warm0_B)
    else:
        clear_B = mass_B >= cfg.min_mass
        soft_B = jax.nn.sigmoid((log1_B - log0_B) / cfg.temperature)
        value_B = soft_B if cfg.mode == "soft" else (soft_B > 0.5).astype(jnp.float32)
    clear_B &= jnp.isfinite(value_B)
    reward_B = jnp.where(clear_B & ~blocked_B, value_B, 0.0)
    finite_B = jnp.isfinite(mass_B)
    p1_B, mass_B = jnp.where(finite_B, p1_B, 0.0), jnp.where(finite_B, mass_B, 0.0)
    return Score(reward_B, p1_B, mass_B, ~clear_B, blocked_B)


def _of_word(x_BV: Array, word_B: Array) -> Array:
    """Return one value of each row, which needs no gather where the vocabulary is split."""
    chosen_BV = jnp.arange(x_BV.shape[1]) == word_B[:, None]
    return jnp.sum(jnp.where(chosen_BV, x_BV, 0), 1)
