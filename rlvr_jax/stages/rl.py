"""Stage `rl` loops over the fused step, or over the split step if the host computes the rewards."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlvr_jax import prompt_filter, step
from rlvr_jax.config import RlStage
from rlvr_jax.host import rules
from rlvr_jax.host.runs import log
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import host_rewards, loop, programs, sampled
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
                extra |= {"oracle/gap": _show_samples(ws, stage, number, placed, result)}
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
        rewards, metrics = reward(records, prompts, rollout, on_error, key)
        outcome = Outcome(rewards, baseline_Q=prompts.baseline_Q)
        if greedy is not None:
            outcome = outcome._replace(greedy=reward(records, prompts, greedy, on_error, key)[0])
        return rollout, decoded, greedy, outcome, ws.fetch(metrics)

    def draw(state: TrainState, records: list[Any]) -> tuple[prompt_filter.Held, dict[str, Any]]:
        """Do the same as `step.draw`, with the host's rewards."""
        if not stage.filter.on:
            rollout, decoded, greedy, outcome, metrics = one_round(state, records, 0)
            return keep_all(rollout, decoded, greedy, outcome), metrics
        rollout, decoded, _, outcome, metrics = one_round(state, records[: stage.prompts], 0)
        held = no_groups(rollout, outcome, stage.filter.rounds)
        held = add_round(held, rollout, decoded, outcome)
        every = [metrics]
        while jax.device_get(more_rounds(held)):
            start = len(every) * stage.prompts
            of_round = records[start : start + stage.prompts]
            rollout, decoded, _, outcome, metrics = one_round(state, of_round, len(every))
            held = add_round(held, rollout, decoded, outcome)
            every.append(metrics)
        return held, {name: np.mean([metrics[name] for metrics in every]) for name in every[0]}

    def take_step(state: TrainState, records: list[Any]) -> StepResult:
        held, metrics = draw(state, records)
        result = update(state, frozen, held.round, held.outcome)
        return result._replace(metrics={**result.metrics, **metrics})

    return take_step


def oracle_score(stage: RlStage, text: str, record: Any, reward: float) -> float:
    """Return the score of the task's own rule, or the reward where that is the truth already.

    A rule of the user's own runs in the pool only, and a judgement of a preference item is rewarded
    by the item's truth.
    """
    if stage.reward.rule or stage.role == "grm":
        return reward
    return rules.score_record(text, record)


def _show_samples(
    ws: Workspace, stage: RlStage, number: int, records: list[Any], result: StepResult
) -> float:
    """Write all rows of a step to disk, and print one row for each of a few prompts.

    Returns the mean reward minus the mean score of the oracle.
    """
    rollout, reward_B, advantage_B = ws.fetch((result.rollout, result.reward_B, result.advantage_B))
    tok, rows = ws.tokenizer, []
    count = len(records) * stage.samples
    texts = [tok.decode(rollout.response_BR[i, : rollout.length_B[i]]) for i in range(count)]
    owners = [record for record in records for _ in range(stage.samples)]
    oracles = ws.divide(
        lambda mine: [oracle_score(stage, texts[i], owners[i], float(reward_B[i])) for i in mine],
        count,
    )
    for i, (reward, text, oracle) in enumerate(zip(reward_B, texts, oracles, strict=False)):
        record, length = owners[i], int(rollout.length_B[i])
        ids = rollout.response_BR[i, :length]
        rows.append(
            {
                "step": number,
                "domain": record["domain"],
                "question": record["question"],
                "reference": record["reference"],
                "response": text,
                "reward": reward,
                "advantage": advantage_B[i],
                "oracle": oracle,
                "truncated": bool(rollout.truncated_B[i]),
                "pieces": tok.pieces(ids),
                "piece_values": rollout.logprob_BR[i, :length],
            }
        )
    ws.run.write_samples(stage.name, number, rows)
    head = ["question", "reference", "response", "reward", "advantage"]
    few = rows[:: stage.samples * max(1, stage.prompts // 4)]
    log.table(f"{stage.name} step {number}", head, [[row[h] for h in head] for row in few])
    return float(np.mean([row["reward"] - row["oracle"] for row in rows]))
