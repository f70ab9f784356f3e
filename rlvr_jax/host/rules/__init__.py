"""Rules: plain, deterministic functions that grade a completion with a reward in [0, 1].

    score(completion, reference, kind="math")    by one reference
    score_record(completion, record)             by the record's own task
    judge(completion, record, rule)              by a kind, a user's file or the record's task

A grade goes from text to score in three steps.  `judge` finds the function of the rule.  That
function extracts the final answer (`text/answers.py`), unless the rule looks at the whole
completion, and compares it with the reference.  `judge` turns the result into a score and a status.
None of the three functions above raises or hangs, and all fail closed: whatever cannot be read
scores 0.0.  Work that could hang runs in processes of its own (`workers/`); `jobs` makes the jobs
of a whole step.

    maths/         `math` and `numeric`; the folder's docstring shows the way of a formula
    choice         `choice`: the letter or the text of an option
    free_text      `exact`, `text`, `contains`, `jaccard`: answers in words
    collection     `list`, `set`: several items
    programs/      `code`: programs that must pass tests, in a sandbox
    shape          `regex`, `json`, `format`: the form of a completion
    language, length, repetition    properties of the text as a whole
    by_task        `task`: the scorer of the task that made the problem
    user_file      a user's rule, a Python file named by its path
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from rlvr_jax.host.rules import (
    by_task,
    choice,
    collection,
    free_text,
    language,
    length,
    programs,
    repetition,
    shape,
    user_file,
)
from rlvr_jax.host.rules.by_task import check_task as check_task
from rlvr_jax.host.rules.maths import equivalence, numeric
from rlvr_jax.host.text import answers

Rule = Callable[[str, Mapping[str, Any]], float]

_BY_REFERENCE: dict[str, Callable[[str, str], float]] = {
    "math": equivalence.score,
    "exact": free_text.exact,
    "text": free_text.normalised,
    "contains": free_text.contains,
    "jaccard": free_text.jaccard,
    "numeric": numeric.score,
    "set": collection.unordered,
    "list": collection.ordered,
}
_BY_RECORD: dict[str, Rule] = {
    "choice": lambda c, r: choice.score(c, r["reference"], r.get("question", "")),
    "regex": lambda c, r: shape.matches_pattern(c, _extra(r).get("pattern", r["reference"])),
    "json": lambda c, r: shape.fits_schema(c, _extra(r).get("schema", r["reference"])),
    "format": lambda c, r: shape.has_thoughts(c),
    "language": lambda c, r: language.consistency(c, _extra(r).get("language", r["reference"])),
    "code": lambda c, r: programs.score(c, programs.find_tests(_extra(r), r["reference"])),
    "overlong": lambda c, r: length.soft_overlong(c, **_length_limits(r)),
    "repetition": lambda c, r: repetition.distinct_share(c),
    "task": by_task.score,
}
KINDS = (*_BY_REFERENCE, *_BY_RECORD)
# Kinds that look at the whole completion and need no answer in it.
WHOLE = ("regex", "json", "format", "language", "code", "overlong", "repetition", "task")


def score(completion: str, reference: str, kind: str = "math") -> float:
    """Return the reward of a completion against a reference, in [0, 1].

    Raises nothing: what cannot be read and an unknown kind score 0.0.  `check_rule` refuses an
    unknown kind before a run.
    """
    return judge(completion, {"reference": reference, "answer": reference}, kind)[0]


def score_record(completion: str, record: Mapping[str, str]) -> float:
    """Return 1.0 if the completion's final answer is right by the record's own task, else 0.0."""
    return judge(completion, record, "task")[0]


def judge(completion: str, record: Mapping[str, Any], rule: str = "") -> tuple[float, str]:
    """Return a reward in [0, 1] and its status: ok, none (the text has no answer) or crash."""
    if not isinstance(completion, str):
        return 0.0, "none"
    rule = rule or "task"
    try:
        if rule not in WHOLE and rule in KINDS and answers.extract(completion) is None:
            return 0.0, "none"
        value = float(find_rule(rule)(completion, record))
        return (value, "ok") if 0.0 <= value <= 1.0 and math.isfinite(value) else (0.0, "crash")
    except Exception:  # a hostile text or a foreign record may break anything: no run ends by it
        return 0.0, "crash"


def find_rule(rule: str) -> Rule:
    """Return the function of a kind, or that of a user's file.

    Raises:
      ValueError: the rule is neither a kind nor a Python file with a function `score`.
    """
    if rule in _BY_REFERENCE:
        by_reference = _BY_REFERENCE[rule]
        return lambda completion, record: by_reference(completion, record["reference"])
    return _BY_RECORD[rule] if rule in _BY_RECORD else user_file.load_score(rule, KINDS)


def check_rule(rule: str) -> None:
    """Refuse a rule that is neither a kind nor a Python file with a function `score`.

    Raises:
      ValueError: there is no such kind and no such file.
    """
    find_rule(rule)


def check_record(record: Mapping[str, Any], rule: str) -> None:
    """Refuse a record by which a rule can grade no completion: code without tests.

    Raises:
      ValueError: the rule is `code` and there are no tests, or none that can be evaluated.
    """
    if rule == "code":
        programs.check_tests(programs.find_tests(_extra(record), record["reference"]))


def _extra(record: Mapping[str, Any]) -> Any:
    return json.loads(record.get("extra") or "{}")


def _length_limits(record: Mapping[str, Any]) -> dict[str, int]:
    return {key: int(n) for key, n in _extra(record).items() if key in ("longest", "grace")}
