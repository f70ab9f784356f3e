"""The judge of the label stage: a 0/1 verdict on an answer, given the problem.

`rule` is the task's own scorer.  It stands in for the large model that the paper asks (72B,
arXiv 2503.23829 section 4): what the verifier learns from it, and all that RL ever sees of it, are
the verdicts on the label problems.
"""

from collections.abc import Sequence

from rlvr_jax.host import rules


def rule(answers: Sequence[str], records: Sequence[dict[str, str]]) -> list[int]:
    """1 where the answer is right."""
    return [int(rules.score_record(a, r) >= 0.5) for a, r in zip(answers, records, strict=True)]
