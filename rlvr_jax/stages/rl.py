"""Stage `rl` loops over the fused step, or over the split step if the host computes the rewards."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlvr_jax import prompt_filter, step
from rlvr_jax.config import RlStage
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import host_rewards, kept_samples, loop, programs, sampled
from rlvr_jax.stages.examine import Examiner
from rlvr_jax.stages.experience import Experience
from rlvr_jax.stages.judged_answers import Collector
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Outcome, Prompts, Setup, StepResult, TrainState

SHOWN = {"reward": "reward/mean", "length": "completion/length_mean", "entropy": "policy/entropy"}
# (state, records of all rounds that may be drawn) -> result
Step = Callable[[TrainState, list[Any]], StepResult]
# (records, number of the step) -> prompts on the mesh
Place = Callable[[list[Any], int], Prompts]


def run(stage: RlStage, ws: Workspace) -> dict:
    """Train the policy of a stage, and return the result for the stage's marker file."""
    cfg = ws.cfg
    problems = sampled.unjudged_problems(stage, ws)
    stage = loop.counted(stage, len(problems), stage.prompts)
    setup = programs.rl_setup(stage, cfg, ws.tokenizer.eos)
    reference = ws.load(stage.policy, cfg.model) if programs.keeps_reference(stage) else {}
    frozen = sampled.frozen_models(stage, ws, reference)
    start = programs.rl_start(stage, setup)
    prm_init = stage.prm.init if start.prm_tx is not None else ""
    state = ws.new_state(
        stage.name, cfg.model, setup.tx, stage.policy, start=start, prm_init=prm_init
    )
    experience = Experience(stage, problems, ws.seed(stage.name))
    collector = Collector(stage, ws) if stage.collect else None
    keep = kept_samples.keeper(stage, ws, frozen)
    with contextlib.ExitStack() as stack:
        if collector is not None:
            stack.callback(collector.close)
        # A pool starts its processes with its first job.
        workers = stack.enter_context(pool.Pool(stage.reward.workers, stage.reward.seconds))
        hosted = sampled.is_split(stage, ws)
        encode = experience.encoder(sampled.prompt_encoder(stage, ws, problems))
        place = lambda records, number: ws.place_own(encode(ws.own(records), number))  # noqa: E731
        take_step = (
            split_step(setup, ws, state, frozen, workers, place)
            if hosted
            else fused_step(setup, ws, state, frozen, place)
        )

        def advance(state: TrainState, records: list[Any]):
            number = int(jax.device_get(state.step)) + 1
            extra: dict[str, float] = {}
            if number == 1:
                sampled.check_verifier(ws, stage, frozen)
                extra |= sampled.audit_reward(ws, stage, frozen, workers)
            result = take_step(state, records)
            extra |= experience.learn(records, result, ws.fetch)
            fates = list(zip(records, ws.fetch(result.fate_X), strict=True))
            placed = [record for record, fate in fates if fate == prompt_filter.PLACED]
            unused = (prompt_filter.UNTRIED, prompt_filter.SURPLUS)
            waiting = [record for record, fate in fates if fate in unused]
            if collector is not None:
                collector.step(number, placed, result.rollout, result.reward_B)
            if placed and (number % stage.sample_every == 0 or number == stage.steps):
                extra |= {"oracle/gap": keep(number, placed, result)}
            return result.state, {**result.metrics, **extra}, waiting

        compiled = "update" if hosted else "train_step"
        work = loop.Work(advance, compiled, _bar_metrics(stage), stream=experience, frozen=frozen)
        if stage.eval.every:
            work = work._replace(examine=Examiner(stage, ws, frozen, workers))
        state = loop.run(ws, stage, state, problems, stage.prompts, work)
    return {**loop.ended(ws, stage, state), "problems": len(problems)}


def _bar_metrics(stage: RlStage) -> dict[str, str]:
    """Return the names of the metrics on the progress bar, by their short names there."""
    metrics = SHOWN | ({"kl": "policy/kl"} if stage.loss.kl_coef else {})
    if stage.filter.on:  # the mean reward of groups that were selected by reward says little
        metrics |= {"reward": "filter/reward"}
    return metrics


def fused_step(
    setup: Setup[RlStage], ws: Workspace, state: TrainState, frozen: Frozen, place: Place
) -> Step:
    """Return the step as one compiled program: nothing visits the host before the update."""
    train_step = programs.jit_train_step(setup, state, ws.layout)

    def take_step(state: TrainState, records: list[Any]) -> StepResult:
        return train_step(state, frozen, place(records, int(jax.device_get(state.step)) + 1))

    return take_step


def split_step(
    setup: Setup[RlStage],
    ws: Workspace,
    state: TrainState,
    frozen: Frozen,
    workers: pool.Pool,
    place: Place,
) -> Step:
    """Return the step as two compiled programs, with the host's rewards between them."""
    stage = setup.stage
    write = programs.jit_write(setup)
    reward = host_rewards.rewarder(stage, ws, frozen, workers, stage.also)
    update = programs.jit_update(setup, state, ws.layout)
    round_key = jax.jit(lambda state, number: step.round_key(state, number))
    keep_all = jax.jit(prompt_filter.keep_all)
    no_groups = jax.jit(prompt_filter.no_groups, static_argnums=2)
    add_round = jax.jit(functools.partial(prompt_filter.add_round, cfg=stage.filter))
    more_rounds = jax.jit(functools.partial(prompt_filter.more_rounds, cfg=stage.filter))

    def one_round(state: TrainState, records: list[Any], number: int):
        prompts = place(records, int(jax.device_get(state.step)) + 1)
        of_round = ws.replicate(np.int32(number))
        rollout, decoded, greedy = write(state, prompts, of_round, frozen.base)
        on_error = host_rewards.on_rule_error(stage, state)
        key = round_key(state, ws.replicate(np.int32(number)))
        rewards, metrics, parts = reward(records, prompts, rollout, on_error, key)
        outcome = Outcome(rewards, baseline_Q=prompts.baseline_Q)
        if greedy is not None:
            outcome = outcome._replace(greedy=reward(records, prompts, greedy, on_error, key)[0])
        return rollout, decoded, greedy, outcome, (ws.fetch(metrics), parts)

    def draw(state: TrainState, records: list[Any]) -> tuple[prompt_filter.Held, list[Any]]:
        """Do the same as `step.draw`, with the host's rewards: metrics and parts of each round."""
        if not stage.filter.on:
            rollout, decoded, greedy, outcome, told = one_round(state, records, 0)
            return keep_all(rollout, decoded, greedy, outcome), [told]
        rollout, decoded, _, outcome, told = one_round(state, records[: stage.prompts], 0)
        held = no_groups(rollout, outcome, stage.filter.rounds)
        held = add_round(held, rollout, decoded, outcome)
        every = [told]
        while jax.device_get(more_rounds(held)):
            start = len(every) * stage.prompts
            of_round = records[start : start + stage.prompts]
            rollout, decoded, _, outcome, told = one_round(state, of_round, len(every))
            held = add_round(held, rollout, decoded, outcome)
            every.append(told)
        return held, every

    def take_step(state: TrainState, records: list[Any]) -> StepResult:
        held, every = draw(state, records)
        metrics = [metrics for metrics, _ in every]
        means = {name: np.mean([x[name] for x in metrics]) for name in metrics[0]}
        result = update(state, frozen, held.round, held.outcome)
        fate_X = ws.fetch(result.fate_X)
        parts = kept_samples.placed_parts([x for _, x in every], fate_X, stage.samples)
        return result._replace(metrics={**result.metrics, **means}, parts=parts)

    return take_step
