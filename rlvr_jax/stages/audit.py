"""This module attacks the reward of a stage, and scores attacks as the stage scores responses."""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax import adapters, attack, parameters
from rlvr_jax.config import Sampling
from rlvr_jax.host.hardening import attacks, trials
from rlvr_jax.host.hardening.answer_format import Ask, Form, dress, learn
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.rules.jobs import is_own
from rlvr_jax.host.runs import log
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import host_rewards
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Prompts, Rollout, Verdict

ROWS = 64  # responses per call of the verifier
MATHS = ("math",)  # rules that are tested with equal forms and near misses of mathematical answers


def run(
    ws: Workspace, stage: Sampling, frozen: Frozen, workers: pool.Pool, quick: bool = False
) -> dict[str, Any]:
    """Attack the reward of `stage` and return a report.

    The report is that of `trials.report`, with `seconds` added.  For a verifier that reads the
    policy's ids the report also has `readout_difference` and, as `search`, the result of a search
    for adversarial tokens.  With `quick` there are fewer attacks and no search.
    """
    began = time.monotonic()
    cfg = stage.reward
    score_all = host_rewards.scorer(stage, ws, frozen, workers)
    form: Form | None = None
    own = is_own(cfg.rule) and not cfg.judged
    if own:
        form = learn(_records(ws, stage, quick), _asker(ws, score_all))
    jobs = _jobs(ws, stage, quick, form)
    results, skipped = [], 0
    for at in range(0, len(jobs), _rows(ws)):
        part = jobs[at : at + _rows(ws)]
        if cfg.judged:
            fits = [_fits(ws, *job) for job in part]
            skipped += len(part) - sum(fits)
            part = [job for job, fit in zip(part, fits, strict=True) if fit]
        results += _trials(ws, score_all, part, cfg.judged)
    report = trials.report(results, skipped, ws.cfg.audit)
    if own:
        report["format"] = form and form.write("ANSWER")
    if cfg.judged and not ws.cfg.verifier_tokenizer:
        report["readout_difference"] = _readout(ws, score_all, jobs)
        if ws.cfg.audit.search_steps and not quick:
            report["search"] = _search(ws, stage, frozen, score_all)
    return report | {"seconds": time.monotonic() - began}


def show_report(report: dict[str, Any], faults: list[str]) -> None:
    """Print the tables of an audit, and the sentences of `trials.faults`."""
    log.table("audit of the reward", *trials.table(report))
    names = ["items", "false_positive", "false_negative", "youden", "own_youden"]
    names += ["dark_current", "ms_per_item"]
    rows = [[name, "-" if report[name] is None else report[name]] for name in names]
    rows += [["readout_difference", report.get("readout_difference", "-")]]
    rows += [["skipped: longer than data.response_columns", report["skipped"]]]
    log.table("in all", ["", "value"], rows)
    worst = [[x["name"], x["reward"], x["items"]] for x in report["worst"][:5]]
    log.table("strongest attacks", ["attack", "mean reward", "items"], worst)
    if search := report.get("search"):
        log.say(
            f"search for adversarial tokens: mean p(accept) {search['p1_start']:.3f} -> "
            f"{search['p1']:.3f}, reward {search['reward']:.3f}, best {search['best']!r}"
        )
    if "format" in report:
        told = f"is {report['format']!r}" if report["format"] else "was not found among common ones"
        log.say(f"the form in which the rule takes answers {told}")
    shown = [
        ["right" if x["right"] else "wrong", x["name"], _short(x["text"]), _short(x["reference"])]
        + [x["reward"]]
        for x in report["failed"]
    ]
    if shown:
        log.table("texts that failed", ["is", "text of", "text", "reference", "reward"], shown)
    for fault in faults:
        log.say(f"beyond the limits: {fault}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:50]}...{text[-27:]}")


def _rows(ws: Workspace) -> int:
    shards = ws.cfg.mesh.row_shards
    return -(-ROWS // shards) * shards


def _records(ws: Workspace, stage: Sampling, quick: bool) -> list[dict]:
    """Return the problems that the attacks answer."""
    cfg = ws.cfg
    split = "train" if cfg.data.train else "test"
    # A rule reads texts: it needs no tokenizer, which may not be trained yet.
    source = ws.problems(split) if stage.reward.judged else dataset.open_split(ws.data, split)
    count = cfg.audit.quick_records if quick else cfg.audit.records
    return [dict(source[i]) for i in range(min(count, len(source)))]


def _asker(ws: Workspace, score_all) -> Ask:
    """Return a function that tells whether the rule accepts a text as the answer to a problem."""

    def ask(record: Mapping[str, str], text: str) -> bool:
        (trial,) = _by_rule(score_all, [(record, attacks.Item("F", "", text, True))])
        return trial.reward >= ws.cfg.audit.accept

    return ask


def _jobs(
    ws: Workspace, stage: Sampling, quick: bool, form: Form | None = None
) -> list[tuple[dict, attacks.Item]]:
    """Return the attacks, each with the problem that it is an answer to.

    `form` is the one in which a user's rule takes answers, if that is known.
    """
    cfg = ws.cfg
    records, jobs = _records(ws, stage, quick), list[tuple[dict, attacks.Item]]()
    for number, record in enumerate(records):
        others = [attacks.gold_answer(r) for r in records[number + 1 :] + records[:number]]
        other = next((r for r in others if r != attacks.gold_answer(record)), "something else")
        words = ws.verifier_prompt.words_J[0] if stage.reward.judged else cfg.data.verdict_words
        items = attacks.of_record(record, other, quick, words)
        jobs += [(record, x) for x in (dress(items, record, form) if form else items)]
    maths = stage.reward.rule in MATHS
    if maths or (stage.reward.judged and not quick):
        jobs += [(_alone(records[0], x.reference), x) for x in attacks.pairs()]
    if maths and not quick:
        jobs += [(_alone(records[0], x.reference), x) for x in attacks.costly()]
    return jobs


def _alone(record: dict, reference: str) -> dict:
    """Return the record of a problem that has only a reference."""
    own = {"question": "?", "messages": "", "extra": "", "reference": reference}
    return record | own | {"answer": reference}


def _fits(ws: Workspace, record: dict, item: attacks.Item) -> bool:
    cfg = ws.cfg.data
    context, _ = ws.verifier_prompt.lengths(record)
    return len(_ids(ws, item)) <= cfg.response_columns and context <= cfg.check_columns


def _ids(ws: Workspace, item: attacks.Item) -> list[int]:
    ids = ws.tokenizer.encode(item.text) if len(item.text) < 10**5 else [0] * 10**5
    return [*ids, ws.tokenizer.eos[0]] if item.finished else ids


def _trials(ws: Workspace, score_all, jobs: list, judged: bool) -> list[trials.Trial]:
    if not jobs:
        return []
    if not judged:
        return _by_rule(score_all, jobs)
    began = time.monotonic()
    reward = _score(ws, score_all, [r for r, _ in jobs], [_ids(ws, x) for _, x in jobs], jobs)
    seconds = (time.monotonic() - began) / len(jobs)
    pairs = zip(jobs, reward, strict=False)
    return [trials.Trial(x, float(r), seconds, row["reference"]) for (row, x), r in pairs]


def _by_rule(score_all, jobs: list) -> list[trials.Trial]:
    """Score texts one by one, so that each has its own time and none delays another."""
    results = []
    for record, item in jobs:
        began = time.monotonic()
        reward, _ = score_all([record], None, _rollout([[0]], [item.finished], 1), [item.text])
        seconds = time.monotonic() - began
        results.append(trials.Trial(item, float(reward[0]), seconds, record["reference"]))
    return results


def _score(ws: Workspace, score_all, records: list, ids: list[list[int]], jobs: list) -> Any:
    """Score rows of token ids, one for each record; a short batch is padded with its last row."""
    missing = _rows(ws) - len(ids)
    finished = [item.finished for _, item in jobs] + [True] * missing
    records, ids = records + [records[-1]] * missing, ids + [ids[-1]] * missing
    rollout = ws.place(_rollout(ids, finished, ws.cfg.data.response_columns))
    reward_B, _ = score_all(records, ws.place(ws.columns(records)), rollout, None)
    return ws.fetch(reward_B)


def _rollout(ids: list[list[int]], finished: list[bool], columns: int) -> Rollout:
    rows = len(ids)
    response_BR: Any = np.zeros((rows, columns), np.int32)
    for i, row in enumerate(ids):
        response_BR[i, : len(row)] = row
    length_B: Any = np.array([len(row) for row in ids], np.int32)
    cut_B: Any = ~np.array(finished, bool)
    none: Any = np.zeros((rows, 1), np.int32)
    seen: Any = np.ones((rows, 1), bool)
    nothing: Any = np.zeros((rows, columns), np.float32)
    return Rollout(none, seen, response_BR, length_B, cut_B, nothing)


def _readout(ws: Workspace, score_all, jobs: list) -> float:
    """Return the largest change of a reward when the order of the batch is reversed."""
    jobs = [job for job in jobs if _fits(ws, *job)][: _rows(ws)]
    if not jobs:
        return 0.0
    rewards = []
    for some in (jobs, jobs[::-1]):
        ids = [_ids(ws, item) for _, item in some]
        rewards.append(_score(ws, score_all, [r for r, _ in some], ids, some)[: len(jobs)])
    return float(np.abs(rewards[0] - rewards[1][::-1]).max())


def _target(prompts: Prompts, verdict: Verdict) -> attack.Target:
    """Return what stands around each answer in the first of the verifier's templates."""
    templates, rows = verdict.tail_JC.shape[0], prompts.prompt_QP.shape[0]
    tails, masks = prompts.tail_QC, prompts.tail_mask_QC
    if tails is None or masks is None:
        tails = jnp.tile(verdict.tail_JC, (rows, 1))
        masks = jnp.tile(verdict.tail_mask_JC, (rows, 1))
    contexts = prompts.check_QC, prompts.check_mask_QC
    context_BC, context_mask_BC, tail_BC, tail_mask_BC = (
        x[::templates] for x in (*contexts, tails, masks)
    )
    words = verdict.accept_J[0], verdict.reject_J[0]
    return attack.Target(context_BC, context_mask_BC, tail_BC, tail_mask_BC, *words)


def _search(ws: Workspace, stage: Sampling, frozen: Frozen, score_all) -> dict[str, Any]:
    """Search for adversarial tokens for some problems, then score them like any response."""
    cfg, tok, verdict = ws.cfg, ws.tokenizer, ws.verdict()
    around = [tok.encode(text) for text in (r"\boxed{", "}")]
    around = [[], []] if cfg.data.answer == "line" else around
    room = cfg.data.response_columns - 1 - sum(map(len, around))
    length = min(cfg.audit.search_length, room)
    if length < 1:
        return {}
    source = ws.problems("train" if cfg.data.train else "test")
    shards = cfg.mesh.row_shards
    records = [source[i % len(source)] for i in range(-(-8 // shards) * shards)]
    prompts = ws.place(ws.columns(records))
    target = _target(prompts, verdict)
    visible_V = ~np.asarray(verdict.blank_V | verdict.newline_V | verdict.control_V)
    visible_V &= ~np.isin(np.arange(len(visible_V)), sum(around, []))
    start = np.random.default_rng(0).choice(np.flatnonzero(visible_V), (len(records), length))
    search = jax.jit(functools.partial(attack.search, cfg=cfg.verifier))

    def after(steps: int):
        args = (target, ws.place(start.astype(np.int32)), visible_V, jax.random.key(cfg.seed))
        params = adapters.over(frozen.base, frozen.verifier)
        return ws.fetch(search(params, *args, steps))

    before, best = after(0), after(cfg.audit.search_steps)
    rows: Any = [[*around[0], *row.tolist(), *around[1], tok.eos[0]] for row in best.token_BR]
    items = [(r, attacks.Item("S", "search", "")) for r in records][: _rows(ws)]
    reward = _score(ws, score_all, list(records), rows, items)[: len(rows)]
    top = int(np.argmax(reward))
    return {
        "p1_start": float(before.p1_B.mean()),
        "p1": float(best.p1_B.mean()),
        "gap_start": float(before.gap_B.mean()),
        "gap": float(best.gap_B.mean()),
        "reward": float(reward.mean()),
        "accepted": float((reward >= cfg.audit.accept).mean()),
        "best": tok.decode(rows[top]),
        "tokens": length,
    }


def load_frozen(ws: Workspace, stage: Sampling, fresh: bool = False) -> Frozen:
    """Load the verifier of a stage for an audit; with `fresh`, make one of random parameters."""
    if not stage.reward.judged:
        return Frozen(reference={}, verifier={})
    cfg = ws.cfg.verifier
    params = parameters.init(ws.key("audit"), cfg) if fresh else ws.load(stage.verifier, cfg)
    return Frozen(reference={}, verifier=params, verdict=ws.verdict())
