"""Grading in worker processes: the jobs of a batch of completions, and the metrics of its results.

`workers.pool` runs any function that a job names.  Here the function is `rules.grade`.
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
    """Return one job for `Pool.map` for each completion and its record.

    The rule is a kind or the path of a user's file; empty, it is the record's own task.
    """
    prepare: tuple[str, ...] = ()
    if is_own(rule):
        rule = os.path.abspath(rule)
        prepare = ("rlvr_jax.host.rules.user_file:prepare", rule)
    elif rule == "language":
        prepare = ("rlvr_jax.host.rules.language:prepare",)
    return [
        Job(GRADE, (completion, dict(record), rule), _expected_cost(completion), prepare)
        for completion, record in zip(completions, records, strict=True)
    ]


def is_own(rule: str) -> bool:
    """Return whether a rule is a file of the user's own."""
    return rule.endswith(".py")


def first_reason(results: Sequence[Result], completions: Sequence[str], status: str) -> str:
    """Return the first reason of a status with the completion that caused it; "" without one."""
    for result, completion in zip(results, completions, strict=True):
        if result.status == status and result.reason:
            text = completion if len(completion) <= 300 else f"...{completion[-300:]}"
            return f"{result.reason}, on the answer {text!r}"
    return ""


def _expected_cost(completion: str) -> tuple[int, int]:
    """Return a key that sorts the completions that may be slow behind the others.

    Only the order of work depends on it.
    """
    ending = str(completion)[-4096:]
    return sum(1 for _ in itertools.islice(_SLOW.finditer(ending), 9)), len(ending)


def status_metrics(results: Sequence[Result]) -> dict[str, float]:
    """Return the shares of results without an answer, timed out and crashed."""
    counts = Counter(result.status for result in results)
    counts["crash"] += counts["error"]
    names = {"none": "no_answer", "timeout": "timeout", "crash": "crash"}
    return {f"rule/{name}": counts[status] / max(1, len(results)) for status, name in names.items()}
