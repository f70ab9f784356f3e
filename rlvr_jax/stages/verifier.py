"""Stage `verifier`: fine-tune the compact verifier on the judge's verdicts."""

import functools
import json
import random
import zlib
from typing import Any

import jax
import numpy as np

from rlvr_jax import model, optim, supervised
from rlvr_jax.config import NegativesConfig, VerifierStage
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text import template
from rlvr_jax.host.verdicts import negatives
from rlvr_jax.host.verdicts.agreement import agreement, ece
from rlvr_jax.stages import loop, verdicts
from rlvr_jax.stages.verdicts import Row
from rlvr_jax.stages.workspace import Workspace, chunks, padded
from rlvr_jax.structs import Update

# Every verifier is tried with each kind of wrong answer, learnt from or not.
TRIED = NegativesConfig(*[0.25] * len(negatives.KINDS))


def run(stage: VerifierStage, ws: Workspace) -> dict:
    """Learns the token after the template's tail; reports its agreement with held-back verdicts,
    which are about problems that it does not learn from.
    """
    cfg, tok = ws.cfg, ws.tokenizer
    learn, held, wrong = _rows(stage, ws)
    names = cfg.data.check_templates
    tails = [
        template.encode_verifier_prompt(template.EMPTY_RECORD, tok, cfg.data, name)[1]
        for name in names
    ]
    accept, reject = tok.verdicts(cfg.data.verdict_words)
    columns = cfg.data.check_columns + cfg.data.response_columns + max(map(len, tails))

    def pair(r):
        # Of several templates each verdict is learnt in one, by its text: the same on every rerun.
        way = zlib.crc32(json.dumps(r["answer_ids"]).encode()) % len(names)
        asked, _ = template.encode_verifier_prompt(r, tok, cfg.data, names[way])
        return [*asked, *r["answer_ids"], *tails[way]], [accept if r["verdict"] else reject]

    def rows(records):
        pairs = [pair(r) for r in records]
        return template.build_supervised_rollout(pairs, columns, 1, "check")

    tx = optim.make_optimizer(stage.optim, stage.steps)
    state = ws.new_state(stage.name, cfg.verifier, tx, stage.init)
    step = ws.jit_step(
        functools.partial(supervised.supervised_step, model_cfg=cfg.verifier, tx=tx), state, Update
    )

    @jax.jit
    def gap(params, asked):
        hidden, _ = model.prefill(params, asked.prompt_QP, asked.prompt_mask_QP, cfg.verifier)
        logits_QV = model.logits(params, hidden[:, -1], cfg.verifier)
        return logits_QV[:, accept] - logits_QV[:, reject]

    def ask(params, records: list[Row]) -> np.ndarray:
        """log p(1) - log p(0) of each."""
        said = [
            jax.device_get(gap(params, ws.place(rows(padded(part, stage.batch)))))[: len(part)]
            for part in chunks(records, stage.batch)
        ]
        return np.concatenate([np.zeros(0), *said])

    def advance(state, records):
        state, metrics = step(state, ws.place(rows(records)))
        if (
            int(jax.device_get(state.step)) == stage.steps
        ):  # on the last line, which a resumed run has too
            result = measure(functools.partial(ask, state.params), held, wrong)
            metrics |= {f"verifier/{name}": value for name, value in _flat(result).items()}
        return state, metrics, []

    state = loop.run(
        ws, stage, state, learn, stage.batch, advance, "supervised_step", {"loss": "loss"}
    )
    result = measure(functools.partial(ask, state.params), held, wrong)
    log.say(f"{stage.name}: {result['accuracy']:.1%} of {len(held)} held-back verdicts")
    accepted = float(np.mean([row["verdict"] for row in learn]))
    return result | {"learnt": len(learn), "learnt_accepted": accepted, "held_out": len(held)}


def measure(ask, held: list[Row], wrong: dict[str, list[Row]]) -> dict[str, Any]:
    """Agreement with the judge, calibration, and the share of each kind of wrong answer that is
    accepted; `ask` gives log p(1) - log p(0) of rows.
    """
    gap, truth = ask(held), np.array([r["verdict"] for r in held])
    p1 = 0.5 * (1 + np.tanh(gap / 2))  # the logistic function, where exp would overflow
    fooled = {kind: float((ask(rows) > 0).mean()) for kind, rows in wrong.items() if rows}
    return agreement(gap > 0, truth) | {"ece": ece(p1, truth), "fooled_by": fooled}


def _flat(result: dict[str, Any]) -> dict[str, float]:
    flat = {f"fooled_by_{kind}": rate for kind, rate in result["fooled_by"].items()}
    return {name: value for name, value in result.items() if name != "fooled_by"} | flat


def _rows(stage: VerifierStage, ws: Workspace) -> tuple[list[Row], list[Row], dict[str, list]]:
    """Rows to learn, rows held back, and wrong answers by kind to the problems held back."""
    found = verdicts.load_verdicts(ws, stage.verdicts)
    learn, held = verdicts.split_by_problem(found, stage.held_out)
    rng = random.Random(f"{ws.cfg.seed}/{stage.name}")
    encode, longest = ws.tokenizer.encode, ws.cfg.data.response_columns
    mixed = negatives.make_negatives(learn, stage.negatives, encode, longest, rng)
    learn = learn + [row for rows in mixed.values() for row in rows]
    learn = verdicts.balance(learn, stage.balance, rng)
    if len(held) < stage.held_out or len(learn) < stage.batch:
        raise RunError(
            f"{ws.run.verdicts(stage.verdicts)} holds {len(found)} verdicts, fewer than held_out "
            f"{stage.held_out} + batch {stage.batch} after the split by problem: label more "
            f"answers or lower {stage.name}.held_out"
        )
    if any(mixed.values()):
        told = ", ".join(f"{len(rows)} {kind}" for kind, rows in mixed.items() if rows)
        log.say(f"{stage.name}: wrong answers mixed in: {told}")
    return learn, held, negatives.make_negatives(held, TRIED, encode, longest, rng)
