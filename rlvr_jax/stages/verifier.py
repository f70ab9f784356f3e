"""Stage `verifier`: fine-tune the compact verifier on the judge's verdicts."""

import functools
import json
import zlib

import jax
import numpy as np

from rlvr_jax import model, optim, train_step
from rlvr_jax.config import VerifierStage
from rlvr_jax.host import log, template
from rlvr_jax.host.run import RunError
from rlvr_jax.stages import loop
from rlvr_jax.stages.label import chunks, padded
from rlvr_jax.stages.workspace import Workspace

FIELDS = {"question", "reference", "answer_ids", "verdict"}


def run(stage: VerifierStage, ws: Workspace) -> dict:
    """Learns the token after the template's tail; reports its agreement with held-back verdicts."""
    cfg, tok = ws.cfg, ws.tokenizer
    verdicts = _read(ws, stage)
    learn, held = verdicts[: -stage.held_out], verdicts[-stage.held_out :]
    asked_how = ws.verdict()
    accept, reject = int(asked_how.accept), int(asked_how.reject)
    names = cfg.data.check_templates
    tails = [x.tolist() for x in (asked_how.tail_C, *asked_how.more)]
    tail = max(tails, key=len)
    columns = cfg.data.check_columns + cfg.data.response_columns + len(tail)

    def pair(r):
        # Of several templates each verdict is learnt in one, by its text: the same on every rerun.
        way = zlib.crc32(json.dumps(r["answer_ids"]).encode()) % len(names)
        asked, _ = template.check(r, tok, cfg.data, names[way])
        return [*asked, *r["answer_ids"], *tails[way]], [accept if r["verdict"] else reject]

    def rows(records):
        pairs = [pair(r) for r in records]
        return template.supervised(pairs, columns, 1, "check")

    tx = optim.make(stage.optim, stage.steps)
    state = ws.new_state(stage.name, cfg.verifier, tx, stage.init)
    step = ws.jit_step(
        functools.partial(train_step.supervised_step, model_cfg=cfg.verifier, tx=tx), state, 2
    )

    def advance(state, records):
        return step(state, ws.place(rows(records)))

    state = loop.run(
        ws, stage, state, learn, stage.batch, advance, "supervised_step", {"loss": "loss"}
    )

    @jax.jit
    def accepts(params, asked):
        hidden, _ = model.prefill(params, asked.prompt_QP, asked.prompt_mask_QP, cfg.verifier)
        logits_QV = model.logits(params, hidden[:, -1], cfg.verifier)
        return logits_QV[:, accept] > logits_QV[:, reject]

    said = [
        np.asarray(accepts(state.policy, ws.place(rows(padded(part, stage.batch)))))[: len(part)]
        for part in chunks(held, stage.batch)
    ]
    result = agreement(np.concatenate(said), np.array([r["verdict"] for r in held]))
    log.say(f"verifier: {result['accuracy']:.1%} of {len(held)} held-back verdicts")
    return result


def agreement(said: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Accuracy, false-positive and false-negative rate of bool verdicts."""
    said, truth = said.astype(bool), truth.astype(bool)

    def rate(hit, of):
        return float((hit & of).sum() / max(of.sum(), 1))

    return {
        "accuracy": float((said == truth).mean()),
        "false_positive": rate(said, ~truth),
        "false_negative": rate(~said, truth),
    }


def _read(ws: Workspace, stage: VerifierStage) -> list[dict]:
    path = ws.run.verdicts(stage.verdicts)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        verdicts = [json.loads(line) for line in lines]
        if any(FIELDS - row.keys() for row in verdicts):
            raise ValueError
    except FileNotFoundError:
        raise RunError(f"there is no {path}: put a `label` stage before the verifier") from None
    except (ValueError, AttributeError):
        raise RunError(f"{path} is damaged: remove it and its marker in stages/") from None
    if len(verdicts) < stage.held_out + stage.batch:
        raise RunError(
            f"{path} holds {len(verdicts)} verdicts, fewer than held_out {stage.held_out} + batch "
            f"{stage.batch}: label more answers or lower {stage.name}.held_out"
        )
    return verdicts
