"""This training step updates a PRM alone, from labelled responses of a fixed policy.

    Prompts --write--> Rollout --verify--> labels --prm.update--> TrainState

`prm_step` is all of it in one jitted program.  Where the host gives the labels, `write` and
`prm_update` are two programs with the host between them.
"""

import dataclasses

import jax.numpy as jnp

from rlvr_jax import adapters, advantage, engine, judging, likelihood, prm, step, step_metrics
from rlvr_jax.config import PrmStage
from rlvr_jax.structs import (
    Array,
    Frozen,
    Learner,
    Prompts,
    Rollout,
    Setup,
    TrainState,
    UpdateResult,
)


def prm_step(
    state: TrainState, frozen: Frozen, prompts: Prompts, *, setup: Setup[PrmStage]
) -> UpdateResult:
    """Update the PRM once, from Q prompts: write, verify, and learn.

    The PRM is `state.params`; the fixed policy `frozen.reference` writes the responses.

    Raises:
      ValueError: at trace time, if `frozen` holds no verifier.
    """
    rollout, _ = write(state, frozen, prompts, setup=setup)
    reward_B, verdict_metrics = judging.verify(
        frozen, prompts, rollout, setup.stage.reward, setup.verifier
    )
    result = prm_update(state, frozen, rollout, reward_B, setup=setup)
    return result._replace(metrics=result.metrics | verdict_metrics)


def write(
    state: TrainState, frozen: Frozen, prompts: Prompts, *, setup: Setup[PrmStage]
) -> tuple[Rollout, Array]:
    """Write the responses of one step with `frozen.reference`; see `engine.generate`."""
    stage = setup.stage
    sampler = engine.Sampler(
        step.step_key(state), setup.eos, stage.samples, setup.columns, stage.sample
    )
    policy = adapters.over(frozen.base, frozen.reference)
    return engine.generate(policy, prompts, sampler, setup.model)


def prm_update(
    state: TrainState, frozen: Frozen, rollout: Rollout, reward_B: Array, *, setup: Setup[PrmStage]
) -> UpdateResult:
    """Update the PRM once from rewarded responses of `frozen.reference`."""
    stage = setup.stage
    whole = stage.sample.whole
    reference_BR = rollout.logprob_BR
    if stage.prm.reference == "frozen":
        reference = adapters.over(frozen.base, frozen.reference)
        reference_BR, _ = likelihood.logprobs(reference, rollout, whole, setup.model)
    reward_B, bad = advantage.finite(reward_B)
    learner, _, metrics = prm.update(
        Learner(state.params, state.opt_state),
        prm.Labelled(rollout, reference_BR, reward_B),
        frozen.newline_V,
        step.step_key(state),
        prm.PrmSetup(stage.prm, whole, setup.model, setup.tx),
        frozen.base,
    )
    skipped = metrics["prm/skipped"]
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=learner.params,
        opt_state=learner.opt_state,
        skipped=state.skipped + skipped,
        skipped_in_row=jnp.where(skipped > 0, state.skipped_in_row + 1, 0),
    )
    metrics |= {"reward/nonfinite": bad}
    return UpdateResult(
        new_state, metrics | step_metrics.of_rollout(rollout, reward_B, stage.samples)
    )
