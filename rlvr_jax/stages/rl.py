"""Stage `rl`: the fused step in a loop, or the split step when the reward is the host's."""

import contextlib
import functools
from typing import Any

import jax
import numpy as np

from rlvr_jax import advantage, optim, prompt_filter, train_step
from rlvr_jax.config import RlStage, Sampling
from rlvr_jax.host import rules
from rlvr_jax.host.hardening import trials
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import audit, host_rewards, loop, verdicts
from rlvr_jax.stages.judged_answers import Collector
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen

SHOWN = {"reward": "reward/mean", "length": "completion/length_mean", "entropy": "policy/entropy"}


def run(stage: RlStage, ws: Workspace) -> dict:
    cfg = ws.cfg
    tx = optim.make(stage.optim, stage.steps * stage.updates)
    dense = stage.advantage.process_weight > 0
    prm_tx = optim.make(stage.prm.optim, stage.steps) if dense else None
    judged = stage.reward.judged
    frozen = Frozen(
        reference=ws.load(stage.policy, cfg.model) if stage.asks_reference else {},
        verifier=ws.load(stage.verifier, cfg.verifier) if judged else {},
        verdict=ws.verdict() if judged else None,  # type: ignore[arg-type]
        newline_V=ws.replicate(ws.tokenizer.tables(cfg.model.vocab)[0]) if dense else None,
    )
    kl_coef = stage.loss.kl_coef if stage.loss.kl_target else None
    more = dict(kl_coef=kl_coef, value_head=stage.advantage.baseline == "value")
    first = stage.prm.init if dense else ""
    state = ws.new_state(stage.name, cfg.model, tx, stage.policy, first, prm_tx=prm_tx, **more)
    problems = unjudged(stage, ws)
    collector = Collector(stage, ws) if stage.collect else None

    def advance(state, records):
        number = int(jax.device_get(state.step)) + 1
        told = audited(ws, stage, frozen, workers) if number == 1 else {}
        state, rollout, signal_2B, metrics, fate_X = step(state, records)
        fates = list(zip(records, fate_X, strict=True))
        placed = [record for record, fate in fates if fate == prompt_filter.PLACED]
        left = [
            record
            for record, fate in fates
            if fate in (prompt_filter.UNTRIED, prompt_filter.SURPLUS)
        ]
        if collector is not None:
            collector.step(number, placed, rollout)
        if placed and (number % stage.sample_every == 0 or number == stage.steps):
            gap = _show(ws, stage, number, placed, jax.device_get((rollout, signal_2B)))
            told |= {"oracle/gap": gap}
        return state, {**metrics, **told}, left

    shown = SHOWN | ({"kl": "policy/kl"} if stage.loss.kl_coef else {})
    hosted = stage.hosted or bool(cfg.verifier_tokenizer)
    compiled = "update" if hosted else "train_step"
    if stage.filter.on:
        shown |= {"reward": "filter/reward"}  # of what it keeps the mean says little
        compiled = "filtered_update" if hosted else "filtered_step"
    with contextlib.ExitStack() as stack:
        if collector is not None:
            stack.callback(collector.close)
        # none of its processes is started yet
        workers = stack.enter_context(pool.Pool(stage.reward.workers, stage.reward.seconds))
        if hosted:
            step = split(stage, ws, state, frozen, tx, prm_tx, workers)
        else:
            step = fused(stage, ws, state, frozen, tx, prm_tx)
        loop.run(ws, stage, state, problems, stage.prompts, advance, compiled, shown)
    return {"steps": stage.steps, "problems": len(problems)}


def unjudged(stage: Sampling, ws: Workspace) -> dataset.RandomAccessSource:
    """The problems of a stage, without those whose verdicts its verifier has learnt: on them it
    would be too sure of itself (the paper keeps its two sets of prompts apart too).
    """
    source = ws.problems(stage.split)
    learnt = verdicts.learnt_problems(ws, stage.verifier) if stage.reward.judged else set()
    if not learnt:
        return source
    fresh = [i for i, record in enumerate(dataset.each(source)) if record["key"] not in learnt]
    if len(fresh) == len(source):
        return source
    if len(fresh) < stage.prompts:
        train = stage.split == "train"
        other = "explore with `split: label`" if train else "take those of `split: train`"
        raise RunError(
            f"{len(source) - len(fresh)} of {len(source)} problems of split {stage.split} are "
            f"those that the verifier of stage {stage.name} learnt from, and {stage.prompts} "
            f"others are needed: {other}, or raise data.{stage.split}"
        )
    log.say(f"{stage.name}: {len(source) - len(fresh)} problems left out, its verifier knows them")
    return dataset.keep(source, fresh)


def fused(stage: RlStage, ws: Workspace, state, frozen: Frozen, tx, prm_tx):
    """records -> one compiled program; nothing comes back to the host before the update."""
    cfg, tok = ws.cfg, ws.tokenizer
    filtered = stage.filter.on
    step = ws.jit_step(
        functools.partial(
            train_step.filtered_step if filtered else train_step.train_step,
            cfg=stage,
            model_cfg=cfg.model,
            verifier_cfg=cfg.verifier,
            columns=cfg.data.response_columns,
            eos=tok.eos,
            tx=tx,
            prm_tx=prm_tx,
        ),
        state,
        5 if filtered else 4,
    )

    def advance(state, records):
        found = step(state, frozen, ws.place(ws.columns(records)))
        if filtered:
            return *found[:4], jax.device_get(found[4])
        return *found, np.full(len(records), prompt_filter.PLACED)

    return advance


def split(stage: RlStage, ws: Workspace, state, frozen: Frozen, tx, prm_tx, workers: pool.Pool):
    """Generate, reward on the host in a pool of processes, update: two compiled programs."""
    write = functools.partial(train_step.rollout, cfg=stage)
    draw = rewarded(write, stage, ws, frozen, workers)
    answer = rewarded(train_step.greedy, stage, ws, frozen, workers)
    filtered = stage.filter.on
    taught = train_step.filtered_update if filtered else train_step.update
    update = ws.jit_step(
        functools.partial(taught, cfg=stage, model_cfg=ws.cfg.model, tx=tx, prm_tx=prm_tx), state, 3
    )

    def advance(state, records):
        rollout, decoded, rewards, told = draw(state, records)
        best = None
        if stage.advantage.baseline == "greedy":
            answers, _, of_answers, _ = answer(state, records)
            best = answers, of_answers
        state, advantage_B, metrics = update(state, frozen, rollout, decoded, rewards, best)
        signal_2B = np.stack(jax.device_get([advantage.outcome(rewards), advantage_B]))
        fate_X = np.full(len(records), prompt_filter.PLACED)
        return state, rollout, signal_2B, {**metrics, **told}, fate_X

    return filtered_split(stage, frozen, draw, update) if filtered else advance


def filtered_split(stage: RlStage, frozen: Frozen, draw, update):
    """The rounds of `train_step.filtered_step`, with the host's rewards."""
    begin = jax.jit(prompt_filter.nothing)
    sift = jax.jit(functools.partial(prompt_filter.sift, samples=stage.samples, cfg=stage.filter))

    def advance(state, records):
        held: Any = None
        decoded, tolds = None, []
        fate_NQ = np.full((stage.filter.rounds, stage.prompts), prompt_filter.UNTRIED)
        for number in range(stage.filter.rounds):
            asked = records[number * stage.prompts : (number + 1) * stage.prompts]
            written, run, rewards, told = draw(state, asked, np.int32(number))
            held = begin(written, rewards) if held is None else held
            held, fate_Q = sift(held, written, rewards)
            fate_NQ[number] = jax.device_get(fate_Q)
            decoded = decoded + run if number else run
            tolds.append(jax.device_get(told))
            if jax.device_get(held.kept) >= stage.prompts:
                break
        state, advantage_B, metrics = update(state, frozen, held, decoded)
        told = {name: np.mean([told[name] for told in tolds]) for name in tolds[0]}
        signal_2B = np.stack(jax.device_get([held.outcome_B, advantage_B]))
        return state, held.written, signal_2B, {**metrics, **told}, fate_NQ.reshape(-1)

    return advance


def rewarded(write, stage: Sampling, ws: Workspace, frozen: Frozen, workers: pool.Pool):
    """(state, records) -> what it writes, rows decoded, reward(s) of the host's, what to log."""
    cfg, tok = ws.cfg, ws.tokenizer
    write = jax.jit(
        functools.partial(
            write, model_cfg=cfg.model, columns=cfg.data.response_columns, eos=tok.eos
        )
    )
    reward = host_rewards.scorer(stage, ws, frozen, workers)
    also = stage.also

    def draw(state, records, *number):
        prompts = ws.place(ws.columns(records))
        rollout, decoded = write(state, prompts, *ws.replicate(number))
        texts = host_rewards.written(ws, rollout)
        reward_B, told = reward(records, prompts, rollout, texts)
        rewards = {"reward": np.asarray(reward_B, np.float32)}
        for name, rule in also.items():
            rewards[name], _ = host_rewards.by_rule(rule, records, texts, rollout, workers)
        return rollout, decoded, ws.place(rewards if also else rewards["reward"]), told

    return draw


def audited(ws: Workspace, stage: Sampling, frozen: Frozen, workers: pool.Pool) -> dict[str, float]:
    """The quick audit of a verifier, as metrics of the first step."""
    if stage.reward.audit == "off" or not stage.reward.judged:
        return {}
    report = audit.run(ws, stage, frozen, workers, quick=True)
    faults = trials.faults(report, ws.cfg.audit)
    if faults:
        said = f"audit of {stage.verifier}: {'; '.join(faults)}"
        if stage.reward.audit == "stop":
            raise RunError(f"{said}. Harden it (docs/audit.md), or set reward.audit: warn")
        log.say(said)
    return trials.metrics(report)


def _show(ws: Workspace, stage: RlStage, step: int, records, told) -> float:
    """Samples to disk (all rows) and to the terminal (one of each of a few prompts).

    Returns by how much the mean reward is above the oracle's.
    """
    rollout, (reward_B, advantage_B) = told
    tok, rows = ws.tokenizer, []
    for i, reward in enumerate(reward_B[: len(records) * stage.samples]):
        record, length = records[i // stage.samples], int(rollout.length_B[i])
        ids = rollout.response_BR[i, :length]
        text = tok.decode(ids)
        rows.append(
            {
                "step": step,
                "domain": record["domain"],
                "question": record["question"],
                "reference": record["reference"],
                "response": text,
                "reward": reward,
                "advantage": advantage_B[i],
                # a rule of the user's own runs in the pool only
                "oracle": reward if stage.reward.rule else rules.score_record(text, record),
                "truncated": bool(rollout.truncated_B[i]),
                "pieces": tok.pieces(ids),
                "piece_values": rollout.logprob_BR[i, :length],
            }
        )
    ws.run.write_samples(stage.name, step, rows)
    head = ["question", "reference", "response", "reward", "advantage"]
    few = rows[:: stage.samples * max(1, stage.prompts // 4)]
    log.table(f"{stage.name} step {step}", head, [[row[h] for h in head] for row in few])
    return float(np.mean([row["reward"] - row["oracle"] for row in rows]))
