"""In stage `prm` a PRM learns alone, from labelled responses of a fixed policy."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from rlvr_jax import optim, prm_step
from rlvr_jax.config import PrmStage
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import host_rewards, loop, sampled
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Setup, TrainState, UpdateResult

SHOWN = {"loss": "prm/loss", "right": "prm/acc", "reward": "reward/mean"}
Step = Callable[[TrainState, list[Any]], UpdateResult]


def run(stage: PrmStage, ws: Workspace) -> dict:
    """Train the PRM of a stage, and return the result for the stage's marker file.

    The PRM takes the place of the policy in the stage's checkpoints, so that later stages load
    it as they load the policy of another stage.
    """
    cfg = ws.cfg
    tx = optim.make_optimizer(stage.optim, stage.steps)
    frozen = sampled.frozen_models(stage, ws, ws.load(stage.policy, cfg.model))
    setup = Setup(stage, cfg.model, cfg.verifier, cfg.data.response_columns, ws.tokenizer.eos, tx)
    state = ws.new_state(stage.name, cfg.model, tx, stage.policy)
    problems = sampled.unjudged_problems(stage, ws)
    hosted = sampled.is_split(stage, ws)
    # A pool starts its processes with its first job.
    with pool.Pool(stage.reward.workers, stage.reward.seconds) as workers:
        take_step = (
            split_step(setup, ws, state, frozen, workers)
            if hosted
            else fused_step(setup, ws, state, frozen)
        )

        def advance(state: TrainState, records: list[Any]):
            first = int(jax.device_get(state.step)) == 0
            extra: dict[str, float] = {}
            if first:
                sampled.check_verifier(ws, stage, frozen)
                extra = sampled.audit_reward(ws, stage, frozen, workers)
            result = take_step(state, records)
            return result.state, {**result.metrics, **extra}, []

        compiled = "prm_update" if hosted else "prm_step"
        work = loop.Work(advance, compiled, SHOWN, frozen=frozen)
        loop.run(ws, stage, state, problems, stage.prompts, work)
    return {"steps": stage.steps, "problems": len(problems)}


def fused_step(setup: Setup, ws: Workspace, state: TrainState, frozen: Frozen) -> Step:
    """Return the step as one compiled program."""
    take_step = ws.jit_step(functools.partial(prm_step.prm_step, setup=setup), state, UpdateResult)
    return lambda state, records: take_step(
        state, frozen, ws.place_own(ws.columns(ws.own(records)))
    )


def split_step(
    setup: Setup, ws: Workspace, state: TrainState, frozen: Frozen, workers: pool.Pool
) -> Step:
    """Return the step as two compiled programs, with the host's rewards between them."""
    write = jax.jit(functools.partial(prm_step.write, setup=setup))
    reward = host_rewards.rewarder(setup.stage, ws, frozen, workers, also={})
    update = ws.jit_step(functools.partial(prm_step.prm_update, setup=setup), state, UpdateResult)

    def take_step(state: TrainState, records: list[Any]) -> UpdateResult:
        prompts = ws.place_own(ws.columns(ws.own(records)))
        rollout, _ = write(state, frozen, prompts)
        rewards, metrics, _ = reward(
            records, prompts, rollout, host_rewards.on_rule_error(setup.stage, state)
        )
        result = update(state, frozen, rollout, rewards["reward"])
        return result._replace(metrics={**result.metrics, **metrics})

    return take_step
