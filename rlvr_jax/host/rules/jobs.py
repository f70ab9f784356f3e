"""Grading in worker processes: the jobs of a batch of completions, and the metrics of its results.

`workers.pool` runs any function that a job names.  Here the function is `rules.judge`.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rlvr_jax.host.workers.pool import Job, Result

JUDGE = "rlvr_jax.host.rules:judge"
_SLOW = re.compile(r"\^|\*\*|!|\\(?:int|sum|prod|lim)|while|import")


def grading_jobs(
    completions: Sequence[str], records: Sequence[Mapping[str, str]], rule: str = ""
) -> list[Job]:
    """Return one job for `Pool.map` for each completion and its record.

    The rule is a kind or the path of a user's file; empty, it is the record's own task.
    """
    if rule.endswith(".py"):
        rule = os.path.abspath(rule)
    return [
        Job(JUDGE, (completion, dict(record), rule), _expected_cost(completion))
        for completion, record in zip(completions, records, strict=True)
    ]


def _expected_cost(completion: str) -> tuple[int, int]:
    """Return a key that sorts the completions that may be slow behind the others.

    Only the order of work depends on it.
    """
    ending = str(completion)[-4096:]
    return sum(1 for _ in itertools.islice(_SLOW.finditer(ending), 9)), len(ending)


def status_metrics(results: Sequence[Result]) -> dict[str, float]:
    """Return the shares of results without an answer, timed out and crashed."""
    counts = Counter(result.status for result in results)
    names = {"none": "no_answer", "timeout": "timeout", "crash": "crash"}
    return {f"rule/{name}": counts[status] / max(1, len(results)) for status, name in names.items()}
