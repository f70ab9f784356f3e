"""Stage `verifier` trains the compact verifier on the verdicts of a judge."""

import functools
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlvr_jax import adapters, model, optim
from rlvr_jax.config import NegativesConfig, VerifierStage
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text import template
from rlvr_jax.host.verdicts import negatives
from rlvr_jax.host.verdicts.agreement import agreement, ece
from rlvr_jax.stages import loop, programs, verdicts
from rlvr_jax.stages.verdicts import Row
from rlvr_jax.stages.workspace import Workspace, chunks, padded
from rlvr_jax.structs import Array, Params, Rollout, TrainState

# Each kind of wrong answer is tried on every verifier, whether it was trained on that kind or not.
TRIED = NegativesConfig(*[0.25] * len(negatives.KINDS))


def run(stage: VerifierStage, ws: Workspace) -> dict:
    """Train a verifier on verdicts, and return its agreement with held-back verdicts.

    The model learns to predict the verdict token after the tail of the template.  Verdicts are held
    back by problem: none is about a problem that the model is trained on.
    """
    cfg = ws.cfg
    train_rows, held_rows, wrong_rows = _rows(stage, ws)
    encode_rows = _row_encoder(ws)
    accept, reject = ws.tokenizer.verdicts(cfg.data.verdict_words)
    tx = optim.make_optimizer(stage.optim, stage.steps)
    base = ws.base(stage.init, cfg.verifier)
    state = ws.new_state(stage.name, cfg.verifier, tx, stage.init)
    step = programs.jit_supervised(cfg.verifier, tx, state, ws.layout)

    @jax.jit
    def verdict_gap(params: Params, rows: Rollout) -> Array:
        hidden, _ = model.prefill(params, rows.prompt_QP, rows.prompt_mask_QP, cfg.verifier)
        logits_QV = model.logits(params, hidden[:, -1], cfg.verifier)
        return logits_QV[:, accept] - logits_QV[:, reject]

    def ask(params: Params, records: list[Row]) -> np.ndarray:
        """Return log p(accept) - log p(reject) of each record."""
        gaps = [np.zeros(0)]
        for part in chunks(records, stage.batch):
            rows = ws.place_own(encode_rows(ws.own(padded(part, stage.batch))))
            gap_B = verdict_gap(adapters.over(base, params), rows)
            gaps.append(ws.fetch(gap_B)[: len(part)])
        return np.concatenate(gaps)

    def advance(state: TrainState, records: list[Row]):
        state, metrics = step(state, ws.place_own(encode_rows(ws.own(records))), base)
        # On the last line of the metrics, which a resumed run has too.
        if int(jax.device_get(state.step)) == stage.steps:
            result = measure(functools.partial(ask, state.params), held_rows, wrong_rows)
            metrics |= {f"verifier/{name}": value for name, value in _flat(result).items()}
        return state, metrics, []

    work = loop.Work(advance, "supervised_step", {"loss": "loss"})
    state = loop.run(ws, stage, state, train_rows, stage.batch, work)
    result = measure(functools.partial(ask, state.params), held_rows, wrong_rows)
    log.say(f"{stage.name}: {result['accuracy']:.1%} of {len(held_rows)} held-back verdicts")
    accepted = float(np.mean([row["verdict"] for row in train_rows]))
    counts = {"learnt": len(train_rows), "learnt_accepted": accepted, "held_out": len(held_rows)}
    return result | counts


def _row_encoder(ws: Workspace) -> Callable[[list[Row]], Rollout]:
    """Return a function that encodes verdicts as prompts of the verifier with one-token answers."""
    cfg, tok = ws.cfg, ws.tokenizer
    names = cfg.data.check_templates
    tails = [
        template.encode_verifier_prompt(template.EMPTY_RECORD, tok, cfg.data, name)[1]
        for name in names
    ]
    accept, reject = tok.verdicts(cfg.data.verdict_words)
    columns = cfg.data.check_columns + cfg.data.response_columns + max(map(len, tails))

    def encode(row: Row) -> tuple[list[int], list[int]]:
        # Each verdict is learned in one of the templates, chosen by its text: the same on a rerun.
        number = zlib.crc32(json.dumps(row["answer_ids"]).encode()) % len(names)
        context, _ = template.encode_verifier_prompt(row, tok, cfg.data, names[number])
        verdict = accept if row["verdict"] else reject
        return [*context, *row["answer_ids"], *tails[number]], [verdict]

    def encode_rows(rows: list[Row]) -> Rollout:
        return template.build_supervised_rollout([encode(r) for r in rows], columns, 1, "check")

    return encode_rows


def measure(
    ask: Callable[[list[Row]], np.ndarray],
    held_rows: list[Row],
    wrong_rows: dict[str, list[Row]],
) -> dict[str, Any]:
    """Measure a verifier: agreement with the judge, calibration, and accepted wrong answers.

    `ask` returns log p(accept) - log p(reject) for each row.  `wrong_rows` holds wrong answers by
    kind; the result has the share of each kind that the verifier accepts.
    """
    gap, truth = ask(held_rows), np.array([row["verdict"] for row in held_rows])
    p1 = 0.5 * (1 + np.tanh(gap / 2))  # the logistic function, where exp would overflow
    fooled = {kind: float((ask(rows) > 0).mean()) for kind, rows in wrong_rows.items() if rows}
    return agreement(gap > 0, truth) | {"ece": ece(p1, truth), "fooled_by": fooled}


def _flat(result: dict[str, Any]) -> dict[str, float]:
    flat = {f"fooled_by_{kind}": rate for kind, rate in result["fooled_by"].items()}
    return {name: value for name, value in result.items() if name != "fooled_by"} | flat


def _rows(stage: VerifierStage, ws: Workspace) -> tuple[list[Row], list[Row], dict[str, list]]:
    """Return training rows, held-back rows, and wrong answers to the held-back problems by kind."""
    rows = verdicts.load_verdicts(ws, stage.verdicts)
    learn, held = verdicts.split_by_problem(rows, stage.held_out)
    rng = random.Random(f"{ws.cfg.seed}/{stage.name}")
    encode, longest = ws.tokenizer.encode, ws.cfg.data.response_columns
    mixed = negatives.make_negatives(learn, stage.negatives, encode, longest, rng)
    learn = learn + [row for group in mixed.values() for row in group]
    learn = verdicts.balance(learn, stage.balance, rng)
    if len(held) < stage.held_out or len(learn) < stage.batch:
        raise RunError(
            f"{ws.run.verdicts(stage.verdicts)} holds {len(rows)} verdicts, fewer than held_out "
            f"{stage.held_out} + batch {stage.batch} after the split by problem: label more "
            f"answers or lower {stage.name}.held_out"
        )
    if any(mixed.values()):
        counts = ", ".join(f"{len(group)} {kind}" for kind, group in mixed.items() if group)
        log.say(f"{stage.name}: wrong answers mixed in: {counts}")
    return learn, held, negatives.make_negatives(held, TRIED, encode, longest, rng)
