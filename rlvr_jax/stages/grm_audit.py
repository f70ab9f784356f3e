"""This module attacks a generative reward model (GRM), as a judge of preference items.

The GRM judges the best response of an item beside a worse one, first as they are, then with an
attack on the worse one (`host.hardening.persuasion`).  It is asked by `rlvr_jax.grm.score`, in the
way of the stage: with its votes, its meta RM, and one response at a time or several together.  For
a stage that trains a GRM, the two are shown together.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlvr_jax import grm, parameters
from rlvr_jax.config import Config, RewardConfig, RlStage, VoteConfig
from rlvr_jax.host.hardening import persuasion, preferences
from rlvr_jax.host.hardening.persuasion import Attack
from rlvr_jax.host.hardening.preferences import Pair
from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text.template import left_pad
from rlvr_jax.stages.grm_workspace import GrmWorkspace
from rlvr_jax.stages.workspace import padded
from rlvr_jax.structs import Prompts, Rollout

LISTS = 16  # lists of responses per call of the GRM
CLEAN = 4  # times that each pair is judged without an attack


class NoPairsError(RunError):
    """A GRM cannot be audited, because there is no pair of responses whose order is known."""


class Job(NamedTuple):
    """A Job is a list of responses to judge: the best one, a worse one, and maybe others."""

    item: int
    attack: Attack | None
    context: list[int]  # ids of the prompt before the responses
    responses: list[list[int]]  # ids


# Jobs -> their pairs of rewards.  The key of a call is made of its number.
Ask = Callable[[Sequence[Job], int], list[Pair]]


def run(ws: GrmWorkspace, stage: RlStage, judge: grm.Judge, quick: bool = False) -> dict[str, Any]:
    """Attack the GRM of `stage` and return a report: `preferences.report`, and `seconds`.

    With `quick` there are fewer items and attacks.

    Raises:
      NoPairsError: the test split has no pair of responses that could be attacked.
    """
    began = time.monotonic()
    reward = _reward(ws.cfg, stage)
    clean, attacked, skipped = make_jobs(ws, stage, reward.grm.together, quick)
    pairs = ask_all(Asker(ws, reward, judge, [*clean, *attacked]), clean, attacked)
    return preferences.report(pairs, skipped) | {"seconds": time.monotonic() - began}


def ask_all(ask: Ask, clean: Sequence[Job], attacked: Sequence[Job]) -> list[Pair]:
    """Judge the lists without attacks several times, and each attack once."""
    batches = [jobs for _ in range(CLEAN) for jobs in _batches(clean)] + _batches(attacked)
    return [pair for number, jobs in enumerate(batches) for pair in ask(jobs, number)]


def _batches(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    return [jobs[at : at + LISTS] for at in range(0, len(jobs), LISTS)]


def load_judge(ws: GrmWorkspace, stage: RlStage, fresh: bool = False) -> grm.Judge:
    """Load the GRM that pays the policy of a stage, or the one that a stage has trained.

    With `fresh` its parameters are random, those of a meta RM too.
    """
    votes = _reward(ws.cfg, stage).grm
    names = (stage.grm if stage.uses_grm else stage.name, votes.meta)
    models = [
        parameters.init(jax.random.fold_in(ws.key("audit"), i), ws.cfg.model)
        if fresh and name
        else (ws.load(name, ws.cfg.model) if name else {})
        for i, name in enumerate(names)
    ]
    return grm.Judge(models[0], ws.critic(votes.together), models[1])


def _reward(cfg: Config, stage: RlStage) -> RewardConfig:
    """Return how the GRM is asked: as the stage asks it, or about pairs if the stage trains it."""
    if stage.uses_grm:
        return stage.reward
    votes = VoteConfig(together=2, temperature=stage.sample.temperature)
    return RewardConfig(source="grm", votes=cfg.audit.votes, grm=votes)


# ---- what is judged ----------------------------------------------------------------------------


def make_jobs(
    ws: GrmWorkspace, stage: RlStage, together: int, quick: bool
) -> tuple[list[Job], list[Job], int]:
    """Return the lists without attacks, those with attacks, and how many did not fit.

    Raises:
      NoPairsError: there are no preference items, they have too few responses, or none fits.
    """
    audit, count = ws.cfg.audit, max(together, 2)
    clean: list[Job] = []
    attacked: list[Job] = []
    skipped = 0
    before, after = ws.prompter.template.framed(0)
    for item in _items(ws, count, audit.quick_records if quick else audit.records):
        texts = _texts(item, count)
        job = functools.partial(_job, ws, len(clean), item)
        if not _fits(ws, stage, item, texts):
            skipped += 1
            continue
        clean.append(job(None, texts))
        for attack in persuasion.attacks_on(texts[1], after + before, quick):
            shown = [texts[0], attack.text, *texts[2:]]
            if _fits(ws, stage, item, shown):
                attacked.append(job(attack, shown))
            else:
                skipped += 1
    if not attacked:
        key = "data.response_columns" if stage.uses_grm else "critique.data.prompt_columns"
        raise NoPairsError(f"none of the attacks on its GRM fits its columns: raise {key}")
    return clean, attacked, skipped


def _items(ws: GrmWorkspace, count: int, most: int) -> list[preference.Item]:
    """Return up to `most` items of the test split with at least `count` responses."""
    data = ws.cfg.data
    if not (data.tasks or data.sources):
        raise NoPairsError(
            "an audit of a generative reward model needs preference items: give "
            "critique.data.tasks or critique.data.sources"
        )
    ws.write_problems()
    found = []
    for record in dataset.each(ws.problems("test")):
        item = preference.parse_item(record)
        if len(item.responses) >= count:
            found.append(item)
        if len(found) == most:
            break
    if not found:
        raise NoPairsError(
            f"no preference item of the test split has {count} responses, which the audit of a "
            "generative reward model compares: give larger items in critique.data"
        )
    return found


def _texts(item: preference.Item, count: int) -> list[str]:
    """Return the best response, the worst one, and others: `count` in all.

    Where no quality is known, the first one after the best stands for the worst.
    """
    others = [i for i in range(len(item.responses)) if i != item.best]
    if item.quality:
        others.sort(key=lambda i: item.quality[i])
    return [item.responses[i] for i in (item.best, *others)][:count]


def _fits(ws: GrmWorkspace, stage: RlStage, item: preference.Item, texts: list[str]) -> bool:
    """Return whether the policy could write these texts, or a prompt of the stage show them."""
    ask, widths = ws.prompter, ws.cfg.data
    if stage.uses_grm:
        longest = max(len(ws.tokenizer.encode(text)) for text in texts) + 1  # the end of sequence
        room = ws.run.cfg.data.response_columns
        return longest <= room and len(ask.context(item)) <= widths.check_columns
    framed = [ask.framed(i, ask.encode_response(text)) for i, text in enumerate(texts)]
    return sum(map(len, [*ask.frame(item, range(2)), *framed])) <= widths.prompt_columns


def _job(
    ws: GrmWorkspace, number: int, item: preference.Item, attack: Attack | None, texts: list[str]
) -> Job:
    ids = [ws.tokenizer.encode_inside(text) for text in texts]
    return Job(number, attack, ws.prompter.context(item), ids)


# ---- the GRM -----------------------------------------------------------------------------------


class Asker:
    """An Asker lets a GRM judge lists of responses, all with one compiled program."""

    def __init__(
        self, ws: GrmWorkspace, reward: RewardConfig, judge: grm.Judge, jobs: Sequence[Job]
    ):
        """Take the widths of the columns from the longest of `jobs`."""
        self._ws, self._judge = ws, judge
        shards = ws.cfg.mesh.row_shards
        self._size = -(-LISTS // shards) * shards
        self._context = max(len(job.context) for job in jobs)
        self._columns = max(len(ids) for job in jobs for ids in job.responses)
        form = grm.Form(ws.cfg.model, ws.critique, reward, ws.tokenizer.eos)

        @jax.jit
        def score(judge, prompts, rollout, number):
            key = jax.random.fold_in(ws.key("audit"), number)
            judged = grm.score(judge, prompts, rollout, key, form)
            return judged.reward_B, judged.valid_X

        self._score = score

    def __call__(self, jobs: Sequence[Job], number: int) -> list[Pair]:
        """Return the rewards of the best and of the other response of each list."""
        ws = self._ws
        rows = padded(list(jobs), self._size)
        context_QC, mask_QC = left_pad([job.context for job in rows], self._context, "check")
        prompts = Prompts(context_QC[:, :0], mask_QC[:, :0], context_QC, mask_QC)
        rollout = rollout_of([ids for job in rows for ids in job.responses], self._columns)
        call = ws.replicate(np.uint32(number))
        found = self._score(self._judge, ws.place(prompts), ws.place(rollout), call)
        reward_B, valid_X = ws.fetch(found)
        reward_Qm = reward_B.reshape(self._size, -1)
        invalid_Q = 1 - valid_X.reshape(self._size, -1).mean(1)
        return [
            Pair(job.item, job.attack, float(pair[0]), float(pair[1]), float(invalid))
            for job, pair, invalid in zip(jobs, reward_Qm, invalid_Q, strict=False)
        ]


def rollout_of(responses: Sequence[Sequence[int]], columns: int) -> Rollout:
    """Return responses that have ended as a rollout, without the token that ends them."""
    rows = len(responses)
    response_BR: Any = np.zeros((rows, columns), np.int32)
    for i, ids in enumerate(responses):
        response_BR[i, : len(ids)] = ids
    length_B: Any = np.array([len(ids) for ids in responses], np.int32)
    none: Any = np.zeros((rows, 1), np.int32)
    ended: Any = np.zeros(rows, bool)
    nothing: Any = np.zeros((rows, columns), np.float32)
    return Rollout(none, none == 0, response_BR, length_B, ended, nothing)


def show_report(report: dict[str, Any], faults: list[str]) -> None:
    """Print the tables of an audit, and the sentences of `preferences.faults`."""
    log.table("audit of the generative reward model", *preferences.table(report))
    names = (
        *("records", "items", "before", "false_positive", "rise", "margin", "moved"),
        *("invalid_before", "invalid", "false_negative", "youden", "dark_current"),
    )
    rows = [[name, "-" if report[name] is None else report[name]] for name in names]
    log.table("in all", ["", "value"], [*rows, ["skipped: too long", report["skipped"]]])
    worst = [[x["name"], f"{x['rate']:.1%}", x["reward"], x["items"]] for x in report["worst"][:5]]
    log.table("strongest attacks", ["attack", "preferred", "mean reward", "items"], worst)
    for fault in faults:
        log.say(f"beyond the limits: {fault}")
