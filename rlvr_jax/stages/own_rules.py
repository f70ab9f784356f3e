"""Before the first stage, a user's own rules are tried on two rows of the data.

The answer that is tried is the demonstration of a row or, without one, its reference in a box: a
rule has to be able to read it, and may all the same want another form of answers.  A rule that
raises, hangs or leaves [0, 1] there would give 0 to everything, hours later.
"""

from collections.abc import Iterator
from typing import NamedTuple

from rlvr_jax.config import Config, EvaluateStage, PrmStage, RlStage, Stage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.rules import jobs
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.workers import pool
from rlvr_jax.stages.workspace import Workspace

ROWS = 2


class Use(NamedTuple):
    """A Use is a rule of the user's own, and how a stage asks it."""

    rule: str
    split: str
    seconds: float  # of processor time for one answer
    stops: bool  # a rule that fails ends the run


def try_own_rules(ws: Workspace) -> None:
    """Try each rule file of the config on two rows, and print the scores.

    Raises:
      RunError: a rule fails, and `on_error` is `stop`.
    """
    for use in _uses(ws.cfg):
        source = dataset.open_split(ws.data, use.split)
        records = [source[i] for i in sorted({0, len(source) // 2})[:ROWS]]
        with pool.Pool(1, use.seconds) as workers:
            try_rule(use, records, workers)


def try_rule(use: Use, records: list[Record], workers: pool.Pool) -> None:
    """Grade one answer of each record and an empty one; print the scores.

    A failure on the empty answer is a warning, because such answers are rare in some runs.

    Raises:
      RunError: the rule fails on an answer of a record, and the stage stops at that.
    """
    texts = [_answer(record) for record in records]
    *results, empty = workers.map(jobs.grading_jobs([*texts, ""], [*records, records[0]], use.rule))
    for record, text, result in zip(records, texts, results, strict=True):
        if problem := _problem(use, result):
            said = (
                f"the rule {use.rule} {problem}. It was tried on {_short(record['question'])} "
                f"with the answer {_short(text)} and the reference {_short(record['reference'])}"
            )
            if "KeyError" in result.reason:
                said += f"; a record has the keys {', '.join(record)}"
            if use.stops:
                raise RunError(said)
            log.say(f"warning: {said}")
            return
    scores = " and ".join(f"{result.score:g}" for result in results)
    log.say(
        f"the rule {use.rule} gives {scores} to {' and '.join(map(_short, texts))}, right answers "
        f"made of the references of split {use.split}"
    )
    if problem := _problem(use, empty):
        log.say(f"warning: on an empty answer the rule {use.rule} {problem}")


def _problem(use: Use, result: pool.Result) -> str:
    """Return what is wrong with a result, and what to do; "" if it is a score."""
    if result.status == "timeout":
        return (
            f"was not done after {use.seconds:g} s of processor time: mend a loop without an end, "
            "or raise `seconds` beside the rule"
        )
    if result.status == "error":
        more = ", or set reward.on_error: zero" if use.stops else ""
        return f"failed, {result.reason}: mend it{more}"
    if result.status == "crash" and "not in [0, 1]" in result.reason:
        return f"is wrong: {result.reason}, and would count as 0: scale it"
    if result.status == "crash":
        return f"crashed, {result.reason}: it must neither end its process nor fill the memory"
    return ""


def _answer(record: Record) -> str:
    return record["demonstration"] or f"\\boxed{{{record['reference']}}}"


def _uses(cfg: Config) -> Iterator[Use]:
    """Yield the uses of the user's own rules by stages that answer problems of the data."""
    yield from dict.fromkeys(
        Use(rule, stage.problems.split, _seconds(stage), _stops(stage))
        for stage in cfg.stages
        if stage.role == "policy" and stage.problems
        for rule in [*stage.rules, *(judge.rule for judge in stage.judges)]
        if jobs.is_own(rule)
    )


def _seconds(stage: Stage) -> float:
    if isinstance(stage, RlStage | PrmStage):
        return stage.reward.seconds
    return stage.seconds if isinstance(stage, EvaluateStage) else 2.0


def _stops(stage: Stage) -> bool:
    if isinstance(stage, RlStage | PrmStage):
        return stage.reward.on_error == "stop"
    return not isinstance(stage, EvaluateStage) or stage.on_error == "stop"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
