"""What the functions of the step are given in tests: their types, filled in with defaults."""

import jax.numpy as jnp

from rlvr_jax import advantage, loss, prompt_filter, step
from rlvr_jax.structs import Credit, Outcome, Signals, StepResult


def by_name(rewards):
    """One reward is the outcome, named `reward`."""
    return rewards if isinstance(rewards, dict) else {"reward": rewards}


def credit(rewards, mask, samples, cfg, *, kl_coef=0.0, counted_B=True, **signals) -> Credit:
    """`advantage.assign_credit` of these rewards and of the signals that are named."""
    signals = Signals(by_name(rewards), jnp.zeros(mask.shape), kl_coef, {}, **signals)
    return advantage.assign_credit(signals, mask, samples, cfg, counted_B)


def policy_loss(
    logprob, behaviour, reference, advantages, mask, weight, cfg, *, kl_coef=None, **tokens
):
    """`loss.policy_gradient`: by default the trainer sampled, and entropies are 0."""
    advantage_BR = advantages[:, None] if advantages.ndim == 1 else advantages
    given = {"sampler_BR": behaviour, "entropy_BR": jnp.zeros_like(logprob)} | tokens
    tokens = loss.Tokens(
        logprob_BR=logprob,
        behaviour_BR=behaviour,
        reference_BR=reference,
        advantage_BR=jnp.broadcast_to(advantage_BR, logprob.shape),
        mask_BR=mask,
        **given,
    )
    return loss.policy_gradient(tokens, weight, cfg.kl_coef if kl_coef is None else kl_coef, cfg)


def held(rollout, rewards, greedy=None, decoded=1) -> prompt_filter.Held:
    """A round that keeps all its groups, and its outcome; `greedy` is (answers, rewards)."""
    answers, greedy_rewards = greedy or (None, None)
    outcome = Outcome(by_name(rewards), greedy_rewards)
    return prompt_filter.keep_all(rollout, jnp.int32(decoded), answers, outcome)


def update_on(state, frozen, rollout, rewards, setup, greedy=None, decoded=1) -> StepResult:
    """`step.update` on such a round."""
    return step.update(state, frozen, *held(rollout, rewards, greedy, decoded), setup=setup)
