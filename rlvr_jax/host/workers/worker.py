"""The other side of `pool`: a process that scores one job after another until its pipe ends.

It limits its own memory, and its processor time for every job: should its owner die, it ends too.
A rule's own printing goes nowhere.  What a rule raises is a crash, and scores 0.0.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import queue
import resource
import sys
import threading
from typing import Any, BinaryIO


def main() -> None:
    """Serve jobs from standard input; a line of JSON each, answered by one."""
    jobs, out = _take_pipes()
    _limit(resource.RLIMIT_AS, int(os.environ["RLVR_RULE_WORKER"]) << 20)
    _limit(resource.RLIMIT_CORE, 0)
    sys.setrecursionlimit(2000)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(jobs, lines), daemon=True).start()
    out.write(b"ready\n")
    while True:
        job = json.loads(lines.get())
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _limit(resource.RLIMIT_CPU, math.ceil(used + job["seconds"]) + 2)
        out.write(json.dumps(_result(job)).encode() + b"\n")


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the owner, where a rule that prints or reads cannot reach them by accident."""
    jobs, out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    return os.fdopen(jobs, "rb"), os.fdopen(out, "wb", buffering=0)


def _read(jobs: BinaryIO, lines: queue.SimpleQueue[bytes]) -> None:
    for line in jobs:
        lines.put(line)
    os._exit(0)  # the owner is gone, whatever the main thread is at


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(what, (value, hard))
    except (ValueError, OSError):  # macOS has no limit of address space
        pass


def _result(job: dict[str, Any]) -> tuple[float, str]:
    try:
        if "call" in job:
            module, _, name = job["call"].partition(":")
            return float(getattr(importlib.import_module(module), name)(*job["args"])), "ok"
        rules = importlib.import_module("rlvr_jax.host.rules")
        return rules.judge(job["completion"], job["record"], job.get("rule", ""))
    except BaseException:  # MemoryError, SystemExit and RecursionError too
        return 0.0, "crash"
