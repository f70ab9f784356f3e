"""The library math-verify, asked in a killable worker: its own timers need the main thread.

It rounds to six digits, reads past units and percent signs and calls tuples sets, so `equivalence`
asks it about nothing of the kind, and believes only a verdict that holds in both directions.
"""

from __future__ import annotations

from rlvr_jax.host.workers import pool

SECONDS = 1.5  # for one pair
START, WAIT = 2.25, 0.75  # for a worker to start and to be free, when a single score asks for one


def verify(gold: str, found: str) -> bool:
    """Whether math-verify finds two formulas equal; False without it, or after SECONDS."""
    if pool.inside():
        return _verify(gold, found)
    job = {"call": "rlvr_jax.host.rules.maths.library:_verify", "args": [gold, found]}
    return pool.shared().run(job, SECONDS, START, WAIT).score == 1.0


def _verify(gold: str, found: str) -> bool:
    try:
        import math_verify
    except ModuleNotFoundError:
        return False
    texts = [f"${text}$" for text in (gold, found)]
    parsed = [
        math_verify.parse(t, parsing_timeout=None, fallback_mode="no_fallback") for t in texts
    ]
    if not all(parsed):
        return False
    pairs = (parsed, parsed[::-1])
    return all(
        math_verify.verify(a, b, float_rounding=12, numeric_precision=30, timeout_seconds=None)
        for a, b in pairs
    )
