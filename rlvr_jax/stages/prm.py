"""Stage `prm`: an implicit PRM learns alone, from labelled rollouts of a fixed policy."""

import dataclasses
import functools

import jax

from rlvr_jax import optim, train_step
from rlvr_jax.config import PrmStage
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import loop, rl
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen

SHOWN = {"loss": "prm/loss", "right": "prm/acc", "reward": "reward/mean"}


def run(stage: PrmStage, ws: Workspace) -> dict:
    """The PRM is the policy of its state, and is read as a policy is."""
    cfg = ws.cfg
    tx = optim.make(stage.optim, stage.steps)
    judged = stage.reward.judged
    frozen = Frozen(
        reference=ws.load(stage.policy, cfg.model),
        verifier=ws.load(stage.verifier, cfg.verifier) if judged else {},
        verdict=ws.verdict() if judged else None,  # type: ignore[arg-type]
    )
    state = ws.new_state(stage.name, cfg.model, tx, stage.policy)
    problems = rl.unjudged(stage, ws)
    hosted = stage.reward.hosted or bool(cfg.verifier_tokenizer)
    # none of its processes is started yet
    with pool.Pool(stage.reward.workers, stage.reward.seconds) as workers:
        make = split if hosted else fused
        step = make(stage, ws, state, frozen, tx, workers)

        def advance(state, records):
            first = int(jax.device_get(state.step)) == 0
            told = rl.audited(ws, stage, frozen, workers) if first else {}
            state, metrics = step(state, records)
            return state, {**metrics, **told}, []

        compiled = "prm_update" if hosted else "prm_step"
        loop.run(ws, stage, state, problems, stage.prompts, advance, compiled, SHOWN)
    return {"steps": stage.steps, "problems": len(problems)}


def fused(stage: PrmStage, ws: Workspace, state, frozen: Frozen, tx, workers: pool.Pool):
    """records -> one compiled program, as in stage `rl`."""
    del workers  # nothing is asked of the host
    cfg, tok = ws.cfg, ws.tokenizer
    step = ws.jit_step(
        functools.partial(
            train_step.prm_step,
            cfg=stage,
            model_cfg=cfg.model,
            verifier_cfg=cfg.verifier,
            columns=cfg.data.response_columns,
            eos=tok.eos,
            tx=tx,
        ),
        state,
        2,
    )
    return lambda state, records: step(state, frozen, ws.place(ws.columns(records)))


def split(stage: PrmStage, ws: Workspace, state, frozen: Frozen, tx, workers: pool.Pool):
    """Generate, reward on the host, update: two compiled programs, as in stage `rl`."""
    write = functools.partial(train_step.rollout, cfg=stage)
    draw = rl.rewarded(write, stage, ws, frozen, workers)
    update = ws.jit_step(
        functools.partial(train_step.prm_update, cfg=stage, model_cfg=ws.cfg.model, tx=tx),
        state,
        2,
    )

    def advance(state, records):
        writer = dataclasses.replace(state, policy=frozen.reference)
        rollout, _, reward_B, told = draw(writer, records)
        state, metrics = update(state, frozen, rollout, reward_B)
        return state, {**metrics, **told}

    return advance
