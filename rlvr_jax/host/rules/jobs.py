"""Make the grading jobs of a batch of completions, and compute the metrics of their results.

`workers.pool` runs any function that a job names.  The jobs of this module name `rules.grade`.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rlvr_jax.host.workers.pool import Job, Result

GRADE = "rlvr_jax.host.rules:grade"
_SLOW = re.compile(r"\^|\*\*|!|\\(?:int|sum|prod|lim)|while|import")


def grading_jobs(
    completions: Sequence[str], records: Sequence[Mapping[str, str]], rule: str = ""
) -> list[Job]:
    """Return the jobs for `Pool.map` that grade the completions, one job for each completion.

    The rule is a kind or the path of a user's file.  If it is empty, each record's own task grades.
    """
    prepare: tuple[str, ...] = ()
    if is_own(rule):
        rule = os.path.abspath(rule)
        prepare = ("rlvr_jax.host.rules.user_file:prepare", rule)
    elif rule == "language":
        prepare = ("rlvr_jax.host.rules.language:prepare",)
    elif rule == "math_verify":
        prepare = ("rlvr_jax.host.rules.published:prepare",)
    return [
        Job(GRADE, (completion, dict(record), rule), _expected_cost(completion), prepare)
        for completion, record in zip(completions, records, strict=True)
    ]


def is_own(rule: str) -> bool:
    """Return whether a rule is a file of the user, not a kind."""
    return rule.endswith(".py")


def first_reason(results: Sequence[Result], completions: Sequence[str], status: str) -> str:
    """Return the first reason given for a status, with the completion that caused it.

    A long completion is cut to its last 300 characters.  The text is "" if no result has the status
    and a reason.
    """
    for result, completion in zip(results, completions, strict=True):
        if result.status == status and result.reason:
            text = completion if len(completion) <= 300 else f"...{completion[-300:]}"
            return f"{result.reason}, on the answer {text!r}"
    return ""


def _expected_cost(completion: str) -> tuple[int, int]:
    """Return a key that sorts the completions that may be slow after the others.

    Only the order of work depends on it.
    """
    ending = str(completion)[-4096:]
    return sum(1 for _ in itertools.islice(_SLOW.finditer(ending), 9)), len(ending)


def status_metrics(results: Sequence[Result]) -> dict[str, float]:
    """Return the shares of the results that have no answer, timed out or crashed.

    Their names are rule/no_answer, rule/timeout and rule/crash.  Errors of a user's rule count as
    crashes.
    """
    counts = Counter(result.status for result in results)
    counts["crash"] += counts["error"]
    names = {"none": "no_answer", "timeout": "timeout", "crash": "crash"}
    return {f"rule/{name}": counts[status] / max(1, len(results)) for status, name in names.items()}
