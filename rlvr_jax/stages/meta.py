"""Stage `meta` trains the meta RM, which says whether a judgement is sound.

The meta RM reads the prompt of a judgement, the judgement, and a question; it learns to predict the
word that says whether the judgement agrees with the truth (arXiv 2504.02495, section 4.2: binary
cross-entropy on the correctness of non-hinted trajectories).
"""

import functools
import random
from typing import Any

import jax
import numpy as np

from rlvr_jax import adapters, model, optim, supervised
from rlvr_jax.config import MetaStage
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text import template
from rlvr_jax.host.verdicts.agreement import agreement, ece
from rlvr_jax.stages import loop, verdicts
from rlvr_jax.stages.grm_workspace import GrmWorkspace
from rlvr_jax.stages.workspace import chunks, padded
from rlvr_jax.structs import Rollout, UpdateResult

Row = dict[str, Any]


def run(stage: MetaStage, ws: GrmWorkspace) -> dict:
    """Train a meta RM, and return its agreement with held-out judgements."""
    cfg = ws.cfg
    learn_rows, held_rows = _rows(stage, ws)
    accept, reject = ws.tokenizer.verdicts(cfg.data.verdict_words)
    tail = ws.prompter.meta_tail
    columns = cfg.data.prompt_columns + cfg.data.response_columns + len(tail)
    tx = optim.make_optimizer(stage.optim, stage.steps)
    base = ws.base(stage.init, cfg.model)
    state = ws.new_state(stage.name, cfg.model, tx, stage.init)
    step = ws.jit_step(
        functools.partial(supervised.supervised_step, model_cfg=cfg.model, tx=tx),
        state,
        UpdateResult,
    )

    def encode(row: Row) -> tuple[list[int], list[int]]:
        judgement = ws.encode_demonstration(row)[:-1]  # its end belongs to the frame of the tail
        asked = [*ws.encode_prompt(row), *judgement, *tail]
        return asked, [accept if row["verdict"] else reject]

    def encode_rows(rows: list[Row]) -> Rollout:
        return template.build_supervised_rollout([encode(r) for r in rows], columns, 1, "prompt")

    @jax.jit
    def verdict_gap(params, rows: Rollout):
        hidden, _ = model.prefill(params, rows.prompt_QP, rows.prompt_mask_QP, cfg.model)
        logits_QV = model.logits(params, hidden[:, -1], cfg.model)
        return logits_QV[:, accept] - logits_QV[:, reject]

    def advance(state, records: list[Row]):
        return *step(state, ws.place_own(encode_rows(ws.own(records))), base), []

    work = loop.Work(advance, "supervised_step", {"loss": "loss"})
    state = loop.run(ws, stage, state, learn_rows, stage.batch, work)
    params = adapters.over(base, state.params)
    gaps = [
        ws.fetch(verdict_gap(params, ws.place(encode_rows(padded(part, stage.batch)))))[: len(part)]
        for part in chunks(held_rows, stage.batch)
    ]
    gap, truth = np.concatenate(gaps), np.array([row["verdict"] for row in held_rows])
    p1 = 0.5 * (1 + np.tanh(gap / 2))
    result = agreement(gap > 0, truth) | {"ece": ece(p1, truth)}
    log.say(f"{stage.name}: {result['accuracy']:.1%} of {len(held_rows)} held-out judgements")
    return result | {"learnt": len(learn_rows), "held_out": len(held_rows)}


def _rows(stage: MetaStage, ws: GrmWorkspace) -> tuple[list[Row], list[Row]]:
    """Return judgements to learn from and held-out ones, about other items.

    Raises:
      RunError: there are too few judgements.
    """
    rows: list[Row] = [
        row | {"verdict": int(row["right"])}
        for name in stage.judgements
        for row in ws.load_judgements(name)
        if row["hinted"] == "0" and row["truncated"] == "0"
    ]
    learn, held = verdicts.split_by_problem(rows, stage.held_out)
    learn = verdicts.balance(learn, stage.balance, random.Random(f"{ws.cfg.seed}/{stage.name}"))
    if len(held) < stage.held_out or len(learn) < stage.batch:
        raise RunError(
            f"stage {stage.name} finds {len(rows)} judgements, fewer than held_out "
            f"{stage.held_out} + batch {stage.batch} after the split by item: judge more items or "
            f"lower {stage.name}.held_out"
        )
    return learn, held
