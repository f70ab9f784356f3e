"""Grade completions by rules: plain, deterministic functions that return a reward in [0, 1].

    score(completion, reference, kind="math")    by one reference
    score_record(completion, record)             by the record's own task
    judge(completion, record, rule)              by a kind, a user's file or the record's task
    grade(completion, record, rule)              as `judge`, with the reason of a failure

A grade goes from text to score in three steps.  `grade` finds the function of the rule.  That
function extracts the final answer (`text/answers.py`), unless the rule looks at the whole
completion, and compares it with the reference.  `grade` turns the result into a score and a status.
Only `score` raises an exception, for a kind that does not exist.  All fail closed: a completion
that cannot be read scores 0.0.  The rules of this package take a bounded time, but a user's file
may hang, so a run grades in worker processes (`workers/`); `jobs` makes the jobs of a whole step.

    maths/         `math` and `numeric`; the docstring of the folder lists the steps of a grade
    choice         `choice`: the label or the text of an option; `chosen_label` reads labels
    free_text      `exact`, `text`, `contains`, `jaccard`: answers in words
    collection     `list`, `set`: several items
    programs/      `code`: programs that must pass tests, in a sandbox
    shape          `regex`, `format`: the form of a completion
    json_schema    `json`: a JSON value that fits a JSON Schema
    pattern        regular expressions with a time limit
    language       `language`: the share of a language; `languages` lists them
    published      `math_verify`: the library math-verify
    length, repetition    properties of the text as a whole
    by_task        `task`: the scorer of the task that the record names
    user_file      a user's rule, a Python file named by its path
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlvr_jax.host.rules import (
    by_task,
    choice,
    collection,
    free_text,
    json_schema,
    language,
    length,
    pattern,
    programs,
    published,
    repetition,
    shape,
    user_file,
)
from rlvr_jax.host.rules.by_task import check_task as check_task
from rlvr_jax.host.rules.maths import equivalence, numeric
from rlvr_jax.host.text import answers
from rlvr_jax.host.text.accepted import accepted, as_listed
from rlvr_jax.host.workers import pool

Rule = Callable[[str, Mapping[str, Any]], float]

_BY_REFERENCE: dict[str, Callable[[str, str], float]] = {
    "math": equivalence.score,
    "exact": free_text.exact,
    "text": free_text.normalised,
    "contains": free_text.contains,
    "jaccard": free_text.jaccard,
    "numeric": numeric.score,
    "math_verify": published.score,
    "set": collection.unordered,
    "list": collection.ordered,
}
_BY_RECORD: dict[str, Rule] = {
    "choice": lambda c, r: choice.score(c, r["reference"], r.get("question") or ""),
    "regex": lambda c, r: shape.matches_pattern(c, _extra(r).get("pattern", r["reference"])),
    "json": lambda c, r: json_schema.fits_schema(c, _extra(r).get("schema", r["reference"])),
    "format": lambda c, r: shape.has_thoughts(c),
    "language": lambda c, r: language.consistency(c, _extra(r).get("language", r["reference"])),
    "code": lambda c, r: programs.score(c, programs.find_tests(_extra(r), r["reference"])),
    "overlong": lambda c, r: length.soft_overlong(c, **_length_limits(r)),
    "repetition": lambda c, r: repetition.distinct_share(c),
    "task": by_task.score,
}
# What a kind needs of a record, for the kinds that read more of it than a reference.
RECORD_CHECKS: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "code": lambda r: programs.check_tests(programs.find_tests(_extra(r), r["reference"])),
    "json": lambda r: json_schema.check_schema(_extra(r).get("schema", r["reference"])),
    "regex": lambda r: pattern.compile_pattern(_extra(r).get("pattern", r["reference"])),
    "language": lambda r: language.check_language(_extra(r).get("language", r["reference"])),
}
KINDS = (*_BY_REFERENCE, *_BY_RECORD)
IMPORT_SECONDS = 20.0  # of processor time, to import a user's file
# Kinds for which any of several accepted answers is right.
ANY_OF = (
    "math",
    "exact",
    "text",
    "contains",
    "jaccard",
    "numeric",
    "choice",
    "task",
    "math_verify",
)
# Kinds that look at the whole completion and need no answer in it.
WHOLE = (
    "math_verify",
    "regex",
    "json",
    "format",
    "language",
    "code",
    "overlong",
    "repetition",
    "task",
)


def score(completion: str, reference: str, kind: str = "math") -> float:
    """Return the reward of a completion against a reference, in [0, 1].

    A completion that cannot be read scores 0.0.

    Raises:
      ValueError: there is no such kind, and no such file.
    """
    if kind not in KINDS:
        find_rule(kind)
    return judge(completion, {"reference": reference, "answer": reference}, kind)[0]


def score_record(completion: str, record: Mapping[str, str]) -> float:
    """Return 1.0 if the final answer of a completion is right by its record's task, else 0.0."""
    return judge(completion, record, "task")[0]


class Grade(NamedTuple):
    """A Grade holds a score in [0, 1], its status and a reason.

    The status is ok; none (the text has no answer); timeout; crash; or error (a user's rule cannot
    be loaded, raised an exception or returned no number).  The reason says why a grade failed, or
    what a user's rule printed.
    """

    score: float
    status: str
    reason: str = ""


def judge(completion: str, record: Mapping[str, Any], rule: str = "") -> tuple[float, str]:
    """Return the reward of a completion in [0, 1] and its status; see `grade`."""
    return grade(completion, record, rule)[:2]


def grade(completion: str, record: Mapping[str, Any], rule: str = "") -> Grade:
    """Grade a completion by a kind, a user's file or, without a rule, by its record's task."""
    if not isinstance(completion, str):
        return Grade(0.0, "none")
    rule = rule or "task"
    if rule not in KINDS:
        return _grade_by_file(completion, record, rule)
    try:
        if rule not in WHOLE and answers.extract(completion) is None:
            return Grade(0.0, "none")
        return _checked(find_rule(rule)(completion, record))
    except TimeoutError as error:
        return Grade(0.0, "timeout", str(error))
    except Exception as error:  # a hostile text or a foreign record may break anything
        return Grade(0.0, "crash", user_file.describe(error, os.path.realpath(rule)))


def _grade_by_file(completion: str, record: Mapping[str, Any], rule: str) -> Grade:
    try:
        score = find_rule(rule)
        with user_file.captured_output() as printed:
            value = user_file.to_number(score(completion, record))
    except MemoryError as error:
        return Grade(0.0, "crash", user_file.describe(error, os.path.realpath(rule)))
    except (Exception, SystemExit) as error:
        return Grade(0.0, "error", user_file.describe(error, os.path.realpath(rule)))
    checked = _checked(value)
    text = printed.getvalue().strip()[:200]
    return checked._replace(reason=checked.reason or text and f"printed: {text}")


def _checked(value: float) -> Grade:
    value = float(value)
    if 0.0 <= value <= 1.0 and math.isfinite(value):
        return Grade(value, "ok")
    return Grade(0.0, "crash", f"the score {value} is not in [0, 1]")


def find_rule(rule: str) -> Rule:
    """Return the function that grades by a rule, which is a kind or the path of a user's file.

    Of a problem with several accepted answers, the kinds of ANY_OF give the best score, and the
    others read the list as the data file wrote it.

    Raises:
      ValueError: the rule is neither a kind nor a Python file that `user_file` can load.
    """
    grade_one = _find_plain(rule)
    if rule not in ANY_OF:
        return lambda completion, record: grade_one(completion, as_listed(record))

    def grade_best(completion: str, record: Mapping[str, Any]) -> float:
        if len(choices := accepted(record)) == 1:
            return grade_one(completion, record)
        return max(grade_one(completion, {**record, "reference": x}) for x in choices)

    return grade_best


def _find_plain(rule: str) -> Rule:
    if rule in _BY_REFERENCE:
        by_reference = _BY_REFERENCE[rule]
        return lambda completion, record: by_reference(completion, record["reference"])
    return _BY_RECORD[rule] if rule in _BY_RECORD else user_file.load_score(rule, KINDS)


def check_rule(rule: str) -> None:
    """Refuse a rule that is neither a kind nor a Python file that `user_file` can load.

    The file is imported in a worker process: an import may hang, or end its process.

    Raises:
      ValueError: there is no such kind and no such file, or it cannot be imported in time; or the
        library of the rule is not installed.
    """
    if rule == "math_verify":
        published.check()
    if rule in KINDS:
        return
    user_file.check_path(rule, KINDS)
    with pool.Pool(1, IMPORT_SECONDS) as workers:
        checked = workers.run(pool.Job("rlvr_jax.host.rules.user_file:check", (rule,)))
    if checked.status == "timeout":
        raise ValueError(
            f"the rule {rule} is not imported after {IMPORT_SECONDS:g} s of processor time: move "
            "what takes long into the function, or mend a loop without an end"
        )
    if checked.status == "error":
        raise ValueError(checked.reason)
    if checked.status != "ok":
        raise ValueError(
            f"the rule {rule} cannot be imported: {checked.reason}. Leave out what ends the process"
        )
    if checked.reason:
        print(checked.reason, file=sys.stderr)


def check_record(record: Mapping[str, Any], rule: str) -> None:
    """Refuse a record that a rule cannot grade, whatever the completion is.

    Raises:
      ValueError: the tests, the schema, the pattern or the language of the record cannot be used.
    """
    if rule not in RECORD_CHECKS:
        return
    try:
        RECORD_CHECKS[rule](as_listed(record))
    except Exception as error:  # whatever a foreign row makes a check raise
        question = str(record.get("question", ""))[:60]
        raise ValueError(f"rule {rule} cannot grade the problem {question!r}: {error}") from error


def _extra(record: Mapping[str, Any]) -> Any:
    return json.loads(record.get("extra") or "{}")


def _length_limits(record: Mapping[str, Any]) -> dict[str, int]:
    return {key: int(n) for key, n in _extra(record).items() if key in ("longest", "grace")}
