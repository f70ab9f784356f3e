"""Rules: plain, deterministic functions from a completion to a reward in [0, 1].

    score(completion, reference, kind="math")    one answer against one reference
    score_record(completion, record)             by the record's own task
    judge(completion, record, rule)              by a kind, a user's file or the record's task

None of the three raises or hangs, and all fail closed: what they cannot read scores 0.0.  `math`
and `programs` do what could hang in processes of their own; `pool` runs all of it for a step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from rlvr_jax.host.problems import gym_scorers, task_answers, tasks
from rlvr_jax.host.rules import (
    collection,
    language,
    length,
    programs,
    repetition,
    shape,
    text,
    user_file,
)
from rlvr_jax.host.rules.maths import choice, equivalence, numeric
from rlvr_jax.host.text import answers

Rule = Callable[[str, Mapping[str, Any]], float]

_BY_REFERENCE: dict[str, Callable[[str, str], float]] = {
    "math": equivalence.score,
    "exact": text.exact,
    "text": text.normalised,
    "contains": text.contains,
    "jaccard": text.jaccard,
    "numeric": numeric.score,
    "set": collection.unordered,
    "list": collection.ordered,
}
_BY_RECORD: dict[str, Rule] = {
    "choice": lambda c, r: choice.score(c, r["reference"], r.get("question", "")),
    "regex": lambda c, r: shape.matches(c, _extra(r).get("pattern", r["reference"])),
    "json": lambda c, r: shape.fits(c, _extra(r).get("schema", r["reference"])),
    "format": lambda c, r: shape.thinks(c),
    "language": lambda c, r: language.consistency(c, _extra(r).get("language", r["reference"])),
    "code": lambda c, r: programs.score(c, _extra(r).get("tests", r["reference"])),
    "overlong": lambda c, r: length.soft_overlong(c, **_limits(r)),
    "repetition": lambda c, r: repetition.distinct(c),
    "task": lambda c, r: _by_task(c, r),
}
KINDS = (*_BY_REFERENCE, *_BY_RECORD)
# Kinds that look at the whole completion: a missing answer is nothing special to them.
WHOLE = ("regex", "json", "format", "language", "code", "overlong", "repetition", "task")


def score(completion: str, reference: str, kind: str = "math") -> float:
    """The reward of a completion against a reference; 0.0 for whatever cannot be read.

    Raises nothing; an unknown kind scores 0.0 too: ask `check_rule` once, before a run.
    """
    return judge(completion, {"reference": reference, "answer": reference}, kind)[0]


def score_record(completion: str, record: Mapping[str, str]) -> float:
    """1.0 when the completion's final answer is right by the record's own task, else 0.0."""
    return judge(completion, record, "task")[0]


def judge(completion: str, record: Mapping[str, Any], rule: str = "") -> tuple[float, str]:
    """A reward and its status: ok, none (there is no answer in the text) or crash."""
    if not isinstance(completion, str):
        return 0.0, "none"
    rule = rule or "task"
    try:
        if rule not in WHOLE and rule in KINDS and answers.extract(completion) is None:
            return 0.0, "none"
        value = float(find(rule)(completion, record))
        return (value, "ok") if 0.0 <= value <= 1.0 and math.isfinite(value) else (0.0, "crash")
    except Exception:  # whatever a hostile text or a foreign record breaks: a reward, not a crash
        return 0.0, "crash"


def find(rule: str) -> Rule:
    """The function of a kind, or of a user's file.

    Raises:
      ValueError: there is no such kind, and no such file with a function `score`.
    """
    if rule in _BY_REFERENCE:
        by_reference = _BY_REFERENCE[rule]
        return lambda completion, record: by_reference(completion, record["reference"])
    return _BY_RECORD[rule] if rule in _BY_RECORD else user_file.load(rule, KINDS)


def check_rule(rule: str) -> None:
    """Refuse a rule that is neither a kind nor a file with a function `score`: ValueError."""
    find(rule)


def check(task: str) -> None:
    """Refuse a task that `score_record` could only give 0.0 here: call it once before a run.

    Raises:
      ValueError: a toy task that is not known, or a reasoning-gym one that cannot be scored.
    """
    kind, _, name = task.partition(":")
    if not name:
        tasks.check_task(task)
    elif kind == "gym":
        from rlvr_jax.host.problems.sources import (
            gym as problems,  # which reads and writes data sets
        )

        problems.check_gym_dataset(name, {})


def _by_task(completion: str, record: Mapping[str, Any]) -> float:
    kind, _, name = record["task"].partition(":")
    if not name:
        return task_answers.score(completion, record)
    ending = answers.tail(completion)
    return float(_gym(ending, record, name) if kind == "gym" else _file(ending, record))


def _gym(ending: str, record: Mapping[str, Any], name: str) -> bool:
    gold = record["answer"]
    if (value := answers.number(gold)) is not None:
        found = answers.last_number(ending)
        # Equality is asked for here too: gsm_symbolic's scorer reads "-5" as 5.
        if found is None or answers.number(found) != value:
            return False
        candidates = {found, str(value)}  # many scorers compare letters: 12.0 is not 12 to them
    else:
        line = answers.last_line(ending)
        candidates = {line, line.strip("*` "), answers.bare(line)}
    entry = {"question": record["question"], "answer": gold}
    entry["metadata"] = _extra(record).get("metadata", {})
    return any(gym_scorers.score(name, found, entry) == gym_scorers.FULL for found in candidates)


def _file(ending: str, record: Mapping[str, Any]) -> bool:
    gold, box = record["reference"], answers.boxed(ending)
    if box is None and answers.opens_box(ending):
        return False  # the last box was not finished: nothing before it stands in
    if (value := answers.number(gold)) is not None:
        found = answers.last_number(ending) if box is None else answers.only_number(box)
        return found is not None and answers.number(found) == value
    wanted = text.normal(gold)
    line = answers.last_line(ending) if box is None else box
    return bool(wanted) and wanted in (text.normal(line), text.normal(answers.bare(line)))


def _extra(record: Mapping[str, Any]) -> Any:
    return json.loads(record.get("extra") or "{}")


def _limits(record: Mapping[str, Any]) -> dict[str, int]:
    return {key: int(n) for key, n in _extra(record).items() if key in ("longest", "grace")}
