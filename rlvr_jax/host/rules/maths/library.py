"""The library math-verify, called in a worker that can be killed.

Its own timers need the main thread of a process, so they are off.  The library rounds to six
digits, ignores units and percent signs and takes tuples for sets.  So `equivalence` passes it none
of these, and an equality counts only if it holds in both directions.
"""

from __future__ import annotations

from rlvr_jax.host.workers import pool

SECONDS = 1.5  # for one pair
START, WAIT = 2.25, 0.75  # for a worker to start and to be free, when a single score needs one


def are_equal(gold: str, answer: str) -> bool:
    """Return whether math-verify finds two formulas equal.

    False without the library, or if the comparison takes longer than SECONDS.
    """
    if pool.is_worker():
        return verify(gold, answer)
    job = pool.Job("rlvr_jax.host.rules.maths.library:verify", (gold, answer))
    return pool.shared().run(job, SECONDS, START, WAIT).score == 1.0


def verify(gold: str, answer: str) -> bool:
    """Return whether math-verify finds two formulas equal, in this process, without time limit."""
    try:
        import math_verify
    except ModuleNotFoundError:
        return False
    texts = [f"${text}$" for text in (gold, answer)]
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
