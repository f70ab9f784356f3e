"""The judges of a label stage vote on answers to problems.

A judge takes the place of the 72B model that labels answers in arXiv 2503.23829, section 4.  It
gives each answer one or more votes of 1, 0 or None; None means that a reply was unreadable or
missing.  RL sees nothing of a judge but the verdicts on the label problems.

`Rule` judges by a rule.  `endpoint` asks the model of a server and keeps its replies in `replies`.
`words` has the prompt for a judging model and reads its replies.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from rlvr_jax.host import rules
from rlvr_jax.host.rules import jobs
from rlvr_jax.host.verdicts.agreement import Vote
from rlvr_jax.host.workers import pool

Votes = list[Vote]
Record = Mapping[str, str]


class Judge(Protocol):
    """A `Judge` returns a list of votes for each answer; `close` frees its resources."""

    def __call__(self, answers: Sequence[str], records: Sequence[Record]) -> list[Votes]: ...

    def close(self) -> None: ...


class Rule:
    """A `Rule` gives each answer one vote: by a named rule, or by the scorer of the task."""

    def __init__(self, rule: str = ""):
        self._rule, self._workers = rule, pool.Pool()

    def __call__(self, answers: Sequence[str], records: Sequence[Record]) -> list[Votes]:
        if not self._rule:
            pairs = zip(answers, records, strict=True)
            return [[int(rules.score_record(a, r) >= 0.5)] for a, r in pairs]
        # A rule of the user may hang or crash, which is no vote against the answer.
        results = self._workers.map(jobs.grading_jobs(answers, records, self._rule))
        return [[int(r.score >= 0.5) if r.status in ("ok", "none") else None] for r in results]

    def close(self) -> None:
        """Stop the worker processes."""
        self._workers.close()
