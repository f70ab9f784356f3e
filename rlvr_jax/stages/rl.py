"""Stage `rl`: the fused step in a loop, or the split step when the reward is the host's."""

import functools

import jax
import numpy as np

from rlvr_jax import optim, train_step
from rlvr_jax.config import RlStage
from rlvr_jax.host import log, pool, rules
from rlvr_jax.stages import loop
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen

SHOWN = {"reward": "reward/mean", "length": "completion/length_mean", "entropy": "policy/entropy"}


def run(stage: RlStage, ws: Workspace) -> dict:
    cfg = ws.cfg
    tx = optim.make(stage.optim, stage.steps * stage.updates)
    dense = stage.advantage.process_weight > 0
    prm_tx = optim.make(stage.prm.optim, stage.steps) if dense else None
    judged = stage.reward.source == "verifier"
    frozen = Frozen(
        reference=ws.load(stage.policy, cfg.model) if stage.asks_reference else {},
        verifier=ws.load(stage.verifier, cfg.verifier) if judged else {},
        verdict=ws.verdict() if judged else None,  # type: ignore[arg-type]
        newline_V=ws.tokenizer.tables(cfg.model.vocab)[0] if dense else None,
    )
    kl_coef = stage.loss.kl_coef if stage.loss.kl_target else None
    state = ws.new_state(stage.name, cfg.model, tx, stage.policy, prm_tx=prm_tx, kl_coef=kl_coef)

    def advance(state, records):
        number = int(state.step) + 1
        state, rollout, signal_2B, metrics = step(state, records)
        if number % stage.sample_every == 0 or number == stage.steps:
            _show(ws, stage, number, records, jax.device_get((rollout, signal_2B)))
        return state, metrics

    shown = SHOWN | ({"kl": "policy/kl"} if stage.loss.kl_coef else {})
    compiled = "train_step" if judged else "update"
    with pool.Pool(stage.reward.workers, stage.reward.seconds) as workers:  # none is started yet
        if judged:
            step = fused(stage, ws, state, frozen, tx, prm_tx)
        else:
            step = split(stage, ws, state, frozen, tx, prm_tx, workers)
        loop.run(ws, stage, state, ws.problems("train"), stage.prompts, advance, compiled, shown)
    return {"steps": stage.steps}


def fused(stage: RlStage, ws: Workspace, state, frozen: Frozen, tx, prm_tx):
    """records -> one compiled program; nothing comes back to the host before the update."""
    cfg, tok = ws.cfg, ws.tokenizer
    step = ws.jit_step(
        functools.partial(
            train_step.train_step,
            cfg=stage,
            model_cfg=cfg.model,
            verifier_cfg=cfg.verifier,
            columns=cfg.data.response_columns,
            eos=tok.eos,
            tx=tx,
            prm_tx=prm_tx,
        ),
        state,
        4,
    )

    def advance(state, records):
        return step(state, frozen, ws.place(ws.columns(records)))

    return advance


def split(stage: RlStage, ws: Workspace, state, frozen: Frozen, tx, prm_tx, workers: pool.Pool):
    """Generate, reward on the host in a pool of processes, update: two compiled programs."""
    cfg, tok = ws.cfg, ws.tokenizer
    write = jax.jit(
        functools.partial(
            train_step.rollout,
            cfg=stage,
            model_cfg=cfg.model,
            columns=cfg.data.response_columns,
            eos=tok.eos,
        )
    )
    update = ws.jit_step(
        functools.partial(train_step.update, cfg=stage, model_cfg=cfg.model, tx=tx, prm_tx=prm_tx),
        state,
        3,
    )

    def advance(state, records):
        rollout, decoded = write(state, ws.place(ws.columns(records)))
        owners = [record for record in records for _ in range(stage.samples)]
        texts = [tok.decode(row[:n]) for row, n in zip(*_written(rollout), strict=True)]
        judged = workers.map(pool.jobs(texts, owners, stage.reward.rule))
        finished_B = ~np.asarray(rollout.truncated_B)
        reward_B = ws.place(np.array([r.score for r in judged], np.float32) * finished_B)
        state, advantage_B, metrics = update(state, frozen, rollout, decoded, reward_B)
        metrics = {**metrics, **pool.metrics(judged)}
        return state, rollout, np.stack([reward_B, advantage_B]), metrics

    return advance


def _written(rollout) -> tuple[np.ndarray, np.ndarray]:
    return jax.device_get((rollout.response_BR, rollout.length_B))


def _show(ws: Workspace, stage: RlStage, step: int, records, told) -> None:
    """Samples to disk (all rows) and to the terminal (one of each of a few prompts)."""
    rollout, (reward_B, advantage_B) = told
    tok, rows = ws.tokenizer, []
    for i, reward in enumerate(reward_B):
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
