"""Measure the processor time that a job uses, and tell how much of its limit is left.

A limit on the clock would cut a job off sooner on a busy machine than on an idle one, so that the
load would decide a grade.  Processor time is the time in which a processor works for the job: it
stands still while the job waits for its turn.  It also stands still while a job sleeps, so the
clock bounds each job too, PATIENCE times as high: a job that only waits ends there.

The time of a job is that of this process (all threads) and of the processes that it started and
that have ended.
"""

from __future__ import annotations

import math
import resource

PATIENCE = 10  # seconds on the clock for one second of processor time

_end = math.inf  # the value of `used` at which the time of the job is spent


def used() -> float:
    """Return the seconds that this process and its ended children have used so far."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(who)[:2]) for who in whose)


def begin(seconds: float) -> None:
    """Begin a job that may use a number of seconds."""
    global _end
    _end = used() + seconds


def exempt(seconds: float) -> None:
    """Do not count seconds that the job uses, as for the start of an interpreter."""
    global _end
    _end += seconds


def left() -> float:
    """Return the seconds that the job may still use; infinity in a process that runs no job."""
    return _end - used()
