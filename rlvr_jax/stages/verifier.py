"""Stage `verifier` trains the compact verifier on the verdicts of a judge."""

import functools
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax import adapters, model, optim
from rlvr_jax.config import NegativesConfig, VerifierStage
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text import template
from rlvr_jax.host.verdicts import forms, negatives
from rlvr_jax.host.verdicts.agreement import agreement, ece, kappa
from rlvr_jax.stages import loop, programs, verdicts
from rlvr_jax.stages.verdicts import Row
from rlvr_jax.stages.workspace import Workspace, chunks, padded
from rlvr_jax.structs import Array, Frozen, Params, Rollout, TrainState

# Each kind of wrong answer is tried on every verifier, whether it was trained on that kind or not.
TRIED = NegativesConfig(*[0.25] * len(negatives.KINDS))
TRIED_FORMS = 0.5


def run(stage: VerifierStage, ws: Workspace) -> dict:
    """Train a verifier on verdicts, and return its agreement with held-back verdicts.

    The model learns to predict the verdict token after the tail of the template.  Verdicts are held
    back by problem: none is about a problem that the model is trained on.
    """
    cfg = ws.cfg
    train_rows, held_rows, wrong_rows, pairs = _rows(stage, ws)
    stage = loop.counted(stage, len(train_rows), stage.batch)
    rows_of = _Rows(ws)
    tx = optim.make_optimizer(stage.optim, stage.steps)
    base = ws.base(stage.init, cfg.verifier)
    state = ws.new_state(stage.name, cfg.verifier, tx, stage.init)
    step = programs.jit_supervised(cfg.verifier, tx, state, ws.layout)

    @jax.jit
    def verdict_gap(params: Params, rows: Rollout, words_Q2: Array) -> Array:
        hidden, _ = model.prefill(params, rows.prompt_QP, rows.prompt_mask_QP, cfg.verifier)
        logits_QV = model.logits(params, hidden[:, -1], cfg.verifier)
        accept_Q, reject_Q = jnp.take_along_axis(logits_QV, words_Q2, 1).T
        return accept_Q - reject_Q

    def ask(params: Params, records: list[Row]) -> np.ndarray:
        """Return log p(accept) - log p(reject) of each record."""
        gaps = [np.zeros(0)]
        for part in chunks(records, stage.batch):
            own = ws.own(padded(part, stage.batch))
            placed = ws.place_own((rows_of.encode(own), rows_of.words(own)))
            gap_B = verdict_gap(adapters.over(base, params), *placed)
            gaps.append(ws.fetch(gap_B)[: len(part)])
        return np.concatenate(gaps)

    def advance(state: TrainState, records: list[Row]):
        state, metrics = step(state, ws.place_own(rows_of.encode(ws.own(records))), base)
        # On the last line of the metrics, which a resumed run has too.
        if int(jax.device_get(state.step)) == stage.steps:
            result = measure(functools.partial(ask, state.params), held_rows, wrong_rows, pairs)
            metrics |= {f"verifier/{name}": value for name, value in _flat(result).items()}
        return state, metrics, []

    work = loop.Work(advance, "supervised_step", {"loss": "loss"}, frozen=Frozen({}, {}, base=base))
    state = loop.run(ws, stage, state, train_rows, stage.batch, work)
    result = measure(functools.partial(ask, state.params), held_rows, wrong_rows, pairs)
    log.say(
        f"{stage.name}: {result['accuracy']:.1%} of {len(held_rows)} held-back verdicts, "
        f"J {result['youden']:.2f}, calibration error {result['ece']:.3f}"
    )
    accepted = float(np.mean([row["verdict"] for row in train_rows]))
    counts = {"learnt": len(train_rows), "learnt_accepted": accepted, "held_out": len(held_rows)}
    return result | counts


class _Rows:
    """_Rows encodes verdicts as prompts of the verifier with one-token answers.

    Each verdict is learned in one of the templates, chosen by its text: the same on a rerun.
    """

    def __init__(self, ws: Workspace):
        self._asked, data = ws.verifier_prompt, ws.cfg.data
        columns = data.check_columns + data.response_columns + self._asked.tail_columns
        self._columns = ws.cfg.mesh.even(columns)

    def encode(self, rows: list[Row]) -> Rollout:
        """Return the rows of verdicts as a supervised rollout (numpy arrays)."""
        pairs = [self._encode(row) for row in rows]
        return template.build_supervised_rollout(pairs, self._columns, 1, "check")

    def words(self, rows: list[Row]) -> np.ndarray:
        """Return the ids of the words for right and wrong of each row, int32 [Q, 2]."""
        return np.array([self._words(row) for row in rows], np.int32)

    def _encode(self, row: Row) -> tuple[list[int], list[int]]:
        context, tail = self._asked.around(row)[self._number(row)]
        accept, reject = self._words(row)
        return [*context, *row["answer_ids"], *tail], [accept if row["verdict"] else reject]

    def _words(self, row: Row) -> tuple[int, int]:
        number = self._number(row)
        return self._asked.accept_J[number], self._asked.reject_J[number]

    def _number(self, row: Row) -> int:
        return zlib.crc32(json.dumps(row["answer_ids"]).encode()) % len(self._asked.words_J)


def measure(
    ask: Callable[[list[Row]], np.ndarray],
    held_rows: list[Row],
    wrong_rows: dict[str, list[Row]],
    pairs: list[Row],
) -> dict[str, Any]:
    """Measure a verifier: agreement with the judge, calibration, and accepted wrong answers.

    `ask` returns log p(accept) - log p(reject) for each row.  `wrong_rows` holds wrong answers by
    kind; the result has the share of each kind that the verifier accepts.  `pairs` are right and
    wrong answers in other forms; the result has Youden's J on them.
    """
    gap, truth = ask(held_rows), np.array([row["verdict"] for row in held_rows])
    p1 = 0.5 * (1 + np.tanh(gap / 2))  # the logistic function, where exp would overflow
    domain = np.array([row.get("domain", "") for row in held_rows])
    domains = {}
    for name in sorted({*domain.tolist()}):
        among = domain == name
        domains[name] = _calibration(gap[among], p1[among], truth[among])
    fooled = {kind: float((ask(rows) > 0).mean()) for kind, rows in wrong_rows.items() if rows}
    every = agreement(gap > 0, truth) | _calibration(gap, p1, truth)
    if pairs:
        right = np.array([row["verdict"] for row in pairs])
        every["youden_forms"] = _youden(ask(pairs) > 0, right)
    return every | {"domains": domains, "fooled_by": fooled}


def _calibration(gap: np.ndarray, p1: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return Youden's J, Cohen's kappa, the calibration error, and the number of verdicts."""
    accepted = gap > 0
    rates = {"youden": _youden(accepted, truth), "kappa": kappa(accepted, truth)}
    return rates | {"ece": ece(p1, truth), "verdicts": len(truth)}


def _youden(accepted: np.ndarray, truth: np.ndarray) -> float:
    """Return Youden's J, which is 1 minus both error rates."""
    rates = agreement(accepted, truth)
    return 1 - rates["false_positive"] - rates["false_negative"]


def _flat(result: dict[str, Any]) -> dict[str, float]:
    flat = {f"fooled_by_{kind}": rate for kind, rate in result["fooled_by"].items()}
    for domain, rates in result["domains"].items():
        flat |= {f"youden/{domain}": rates["youden"], f"ece/{domain}": rates["ece"]}
        flat[f"kappa/{domain}"] = rates["kappa"]
    return {name: value for name, value in result.items() if not isinstance(value, dict)} | flat


def _rows(
    stage: VerifierStage, ws: Workspace
) -> tuple[list[Row], list[Row], dict[str, list[Row]], list[Row]]:
    """Return training rows and held-back rows, and synthetic answers to the held-back problems.

    The synthetic answers are wrong ones by kind, and pairs in other forms.
    """
    rows = [row for name in stage.labels for row in verdicts.load_verdicts(ws, name)]
    learn, held = verdicts.split_by_problem(rows, stage.held_out)
    rng = random.Random(f"{ws.cfg.seed}/{stage.name}")
    encode, longest = ws.tokenizer.encode, ws.cfg.data.response_columns
    mixed = negatives.make_negatives(learn, stage.negatives, encode, longest, rng)
    pairs = forms.make_forms(learn, stage.forms, encode, longest, rng)
    learn = [*learn, *(row for group in mixed.values() for row in group), *pairs]
    learn = verdicts.balance(learn, stage.balance, rng)
    if len(held) < stage.held_out or len(learn) < stage.batch:
        raise RunError(
            f"{' and '.join(stage.labels)} left {len(rows)} verdicts, fewer than held_out "
            f"{stage.held_out} + batch {stage.batch} after the split by problem: label more "
            f"answers or lower {stage.name}.held_out"
        )
    counts = [f"{len(group)} {kind}" for kind, group in mixed.items() if group]
    if pairs:
        counts.append(f"{len(pairs) // 2} pairs of a right and a wrong answer in other forms")
    if counts:
        log.say(f"{stage.name}: synthetic answers mixed in: {', '.join(counts)}")
    wrong = negatives.make_negatives(held, TRIED, encode, longest, rng)
    return learn, held, wrong, forms.make_forms(held, TRIED_FORMS, encode, longest, rng)
