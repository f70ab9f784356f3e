"""The outcome reward of responses, computed on the device.

    verifier     its verdict on each final answer (`verifier.score`)
    grm          the votes of a generative reward model (`grm.score`)
    preference   the response is a judgement of a preference item: right or wrong by its truth

Rewards from rules are computed on the host (`stages/host_rewards.py`).
"""

import jax
import jax.numpy as jnp

from rlvr_jax import adapters, box_scores, grm, step_metrics, verifier
from rlvr_jax.config import ModelConfig, RewardConfig, RlStage
from rlvr_jax.structs import Array, Frozen, Metrics, Prompts, Rollout, Setup


def judge(
    frozen: Frozen, prompts: Prompts, rollout: Rollout, key: Array, setup: Setup[RlStage]
) -> tuple[Array, Metrics]:
    """Reward each response on the device: rewards [B] in [0, 1], and metrics of the verdicts.

    The verifier judges it, or a generative reward model does.  If the stage trains a generative
    reward model, the response is a judgement, and right or wrong by the truth in `prompts.ranking`.

    Raises:
      ValueError: at trace time, if `frozen` lacks the model or the tables that are needed.
    """
    cfg = setup.stage.reward
    if cfg.source == "preference":
        return _check_judgements(frozen, prompts, rollout, setup)
    if not cfg.by_grm:
        return verify(frozen, prompts, rollout, cfg, setup.verifier)
    form = grm.Form(setup.grm, setup.critique, cfg, setup.eos)
    return ask_grm(frozen, prompts, rollout, key, form=form)


def ask_grm(
    frozen: Frozen, prompts: Prompts, rollout: Rollout, key: Array, *, form: grm.Form
) -> tuple[Array, Metrics]:
    """Let a generative reward model judge each response: rewards [B] in [0, 1], and metrics.

    Raises:
      ValueError: at trace time, if `frozen` holds no tables with which the model is asked.
    """
    if frozen.critic is None:
        raise ValueError("source grm needs the tables with which a GRM is asked")
    asked = grm.Judge(
        adapters.over(frozen.base, frozen.grm),
        frozen.critic,
        adapters.over(frozen.base, frozen.meta) if frozen.meta else {},
    )
    judged = grm.score(asked, prompts, rollout, key, form)
    return judged.reward_B, step_metrics.of_judged(judged)


@jax.named_scope("verify")
def verify(
    frozen: Frozen,
    prompts: Prompts,
    rollout: Rollout,
    cfg: RewardConfig,
    verifier_cfg: ModelConfig,
) -> tuple[Array, Metrics]:
    """Let the verifier judge each response: rewards [B] in [0, 1], and metrics of the verdicts.

    Raises:
      ValueError: at trace time, if `frozen` holds no verifier.
    """
    if frozen.verdict is None:
        raise ValueError("the fused step needs a verifier: without one the host gives the rewards")
    params = adapters.over(frozen.base, frozen.verifier)
    score = verifier.score(params, prompts, rollout, frozen.verdict, cfg, verifier_cfg)
    return score.reward_B, step_metrics.of_verdicts(score)


@jax.named_scope("verify")
def _check_judgements(
    frozen: Frozen, prompts: Prompts, rollout: Rollout, setup: Setup[RlStage]
) -> tuple[Array, Metrics]:
    """Return 1 for each judgement that agrees with the truth of its preference item, else 0."""
    if frozen.critic is None or prompts.ranking is None:
        raise ValueError("source preference needs preference items and tables to read scores")
    form = setup.critique
    samples = rollout.length_B.shape[0] // prompts.prompt_QP.shape[0]
    ranking = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), prompts.ranking)
    votes = box_scores.read_scores(
        rollout, ranking, frozen.critic.spelling, form.clamp, form.form == "pick"
    )
    right_B = box_scores.is_right(votes, ranking).astype(jnp.float32)
    tied_B = box_scores.is_tied(votes, ranking)
    return right_B, step_metrics.of_votes(votes.valid_B, tied_B)
