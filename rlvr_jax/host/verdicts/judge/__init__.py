"""Judges of the label stage: 0/1 verdicts on answers, given the problem; what they learn from it
and all that RL ever sees of them are the verdicts on the label problems.

A judge gives each answer m votes, 1, 0 or None.  None is no verdict: its word could not be read,
or never came.  `words` says what a model is asked and how its reply is read, `endpoint` asks a
server, `rule` is here.  It stands in for the large model that the paper asks (72B, arXiv
2503.23829 section 4).
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
    """Votes on answers, those of one answer in a row; `close` gives back what it holds."""

    def __call__(self, answers: Sequence[str], records: Sequence[Record]) -> list[Votes]: ...

    def close(self) -> None: ...


class Rule:
    """One vote each, by a rule; by the task's own scorer where none is named."""

    def __init__(self, rule: str = ""):
        self._rule, self._workers = rule, pool.Pool()

    def __call__(self, answers: Sequence[str], records: Sequence[Record]) -> list[Votes]:
        if not self._rule:
            pairs = zip(answers, records, strict=True)
            return [[int(rules.score_record(a, r) >= 0.5)] for a, r in pairs]
        # A rule of the user's own may hang or die: that says nothing of the answer.
        results = self._workers.map(jobs.grading_jobs(answers, records, self._rule))
        return [[int(r.score >= 0.5) if r.status in ("ok", "none") else None] for r in results]

    def close(self) -> None:
        self._workers.close()
