"""Run one job after another in the process of a worker (see `pool`), until its pipe ends.

The process limits its own memory, and its processor time for every job.  The kernel ends it by
SIGPROF when a job has used its time (or by SIGXCPU, should the job have taken the timer away), even
in the middle of a function written in C, and even if the owner is dead.  The programs that a job
starts have limits of their own (`sandbox`); their time is added when the job ends.  All output that
a job prints is discarded.  A job that raises is a crash and scores 0.0.  The process knows no
rules: a job names the function to call.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import queue
import resource
import signal
import sys
import threading
from typing import Any, BinaryIO

from rlvr_jax.host.workers import processor_time


def main() -> None:
    """Run jobs from standard input, one line of JSON each, and answer each job by one line."""
    jobs, results = _take_pipes()
    _limit(resource.RLIMIT_AS, int(os.environ["RLVR_RULE_WORKER"]) << 20)
    _limit(resource.RLIMIT_CORE, 0)
    for end in (signal.SIGPROF, signal.SIGXCPU):
        signal.signal(end, signal.SIG_DFL)  # an owner that ignores them bequeaths that
    sys.setrecursionlimit(2000)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(jobs, lines), daemon=True).start()
    results.write(b"ready\n")
    while True:
        job = json.loads(lines.get())
        results.write(json.dumps(_timed_result(job)).encode() + b"\n")


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes to the owner; a job that prints or reads cannot reach them by accident."""
    jobs, results = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    return os.fdopen(jobs, "rb"), os.fdopen(results, "wb", buffering=0)


def _read(jobs: BinaryIO, lines: queue.SimpleQueue[bytes]) -> None:
    for line in jobs:
        lines.put(line)
    os._exit(0)  # the owner is gone, whatever the main thread does


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(what, (value, hard))
    except (ValueError, OSError):  # macOS has no limit of address space
        pass


def prepare(module: str, function: str = "", *args: Any) -> float:
    """Import a module and call `function`, if any, before the clock of a first job starts."""
    importlib.import_module(module)
    if function:
        _find(function)(*args)
    return 1.0


def _find(function: str) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _timed_result(job: dict[str, Any]) -> tuple[float, str, str]:
    """Return the result of a job, or the status timeout if its processes together took too long.

    A job that itself takes too long does not return from here: the process ends.
    """
    own = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _limit(resource.RLIMIT_CPU, math.ceil(own + job["seconds"]) + 2)
    processor_time.begin(job["seconds"])
    signal.setitimer(signal.ITIMER_PROF, job["seconds"])
    result = _result(job)
    signal.setitimer(signal.ITIMER_PROF, 0)
    if processor_time.left() < 0:
        return 0.0, "timeout", "more processor time than the limit"
    return result


def _result(job: dict[str, Any]) -> tuple[float, str, str]:
    """Call the job's function, which returns a score, or a score, its status and a reason."""
    try:
        result = _find(job["function"])(*job["args"])
        score, status, *reason = result if isinstance(result, tuple) else (result, "ok")
        return float(score), status, "".join(map(str, reason))
    except BaseException as error:  # MemoryError, SystemExit and RecursionError too
        return 0.0, "crash", f"{type(error).__name__}: {error}"[:400]
