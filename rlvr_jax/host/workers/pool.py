"""Killable workers for rules: a hung, crashed or greedy item costs itself and nobody else.

Every worker is a fresh interpreter (as multiprocessing's spawn makes them, but without importing
the main script again, so it works from threads, daemons, notebooks and scripts without a guard)
that talks JSON over pipes: nothing that a model wrote is ever unpickled.  An item's clock starts
when a worker begins it, never while it is queued.  What times out or crashes scores 0.0, is
counted, and its worker is killed with its whole process group and replaced.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import queue
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rlvr_jax.host.workers import sandbox

Job = Mapping[str, Any]

MEMORY = 2048  # MiB of address space of a worker
START = 60.0  # seconds until a worker that is starting counts as crashed
REPLY = 10_000  # bytes; a longer reply is not a score
_INSIDE = "RLVR_RULE_WORKER"
_BOOT = (
    "import json,sys;sys.path[:]=json.loads(sys.argv[1]);"  # the owner's, not the folder it is in
    "from rlvr_jax.host.workers import worker;worker.main()"
)
# What makes an item slow: tried last, so that it does not hold up the others.
_SUSPECT = re.compile(r"\^|\*\*|!|\\(?:int|sum|prod|lim)|while|import")


class Result(NamedTuple):
    """A score in [0, 1] and how it came: ok, none (no answer), timeout or crash."""

    score: float
    status: str


TIMEOUT, CRASH = Result(0.0, "timeout"), Result(0.0, "crash")


def inside() -> bool:
    """Whether this process is a worker: there a rule may do directly what needs to be killable."""
    return _INSIDE in os.environ


class Worker:
    """One process.  Made in an instant; started by its first job."""

    def __init__(self, memory: int):
        self.memory = memory
        self.process: subprocess.Popen[bytes] | None = None
        self.rest, self.folder = b"", ""

    def ask(self, job: Job, seconds: float, start: float) -> Result:
        """The result of a job; TIMEOUT or CRASH, with the worker killed, when there is none."""
        try:
            if self.process is None or self.process.poll() is not None:
                self.kill()
                self._start()
                if self._line(start) is None:
                    raise TimeoutError
            self._send({**job, "seconds": seconds})
            line = self._line(seconds)
        except TimeoutError:
            self.kill()
            return TIMEOUT
        except (OSError, EOFError, ValueError, AssertionError):  # or closed meanwhile
            self.kill()
            return CRASH
        return self._result(line)

    def kill(self) -> None:
        """End the worker and all that it started, and leave no zombie."""
        process, self.process, self.rest = self.process, None, b""
        if process is None:
            return
        sandbox.kill_group(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="rlvr_jax_worker_")  # goes with what is in it
        env = {
            **os.environ,
            "TMPDIR": self.folder,
            _INSIDE: str(self.memory),
            "PYTHONHASHSEED": "0",
        }
        env |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps([os.path.abspath(p) for p in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            start_new_session=True,
        )

    def _send(self, job: Job) -> None:
        assert self.process and self.process.stdin
        self.process.stdin.write(json.dumps(job).encode() + b"\n")  # ASCII: lone surrogates too
        self.process.stdin.flush()

    def _line(self, seconds: float) -> bytes:
        assert self.process and self.process.stdout
        end = time.monotonic() + seconds
        pipe = self.process.stdout.fileno()
        while b"\n" not in self.rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise TimeoutError
            more = os.read(pipe, 65536)
            if not more or len(self.rest) > REPLY:
                raise EOFError
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _result(self, line: bytes) -> Result:
        try:
            score, status = json.loads(line)
            if status in ("ok", "none", "crash") and 0.0 <= float(score) <= 1.0:
                if status == "crash":  # it may be out of memory: a fresh one is cheap
                    self.kill()
                return Result(float(score) if status == "ok" else 0.0, status)
        except (ValueError, TypeError):
            pass
        self.kill()
        return CRASH


class Pool:
    """Workers, and jobs that go to whichever is free.  `close` it, or let the process end."""

    def __init__(self, workers: int = 2, seconds: float = 2.0, memory: int = MEMORY):
        if workers < 1 or not 0 < seconds < float("inf"):
            raise ValueError(f"needs workers >= 1 and seconds > 0, not {workers} and {seconds}")
        self.seconds, self.counts = seconds, Counter[str]()
        self._workers = [Worker(memory) for _ in range(workers)]
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _kill_all, self._workers, os.getpid())

    def run(
        self,
        job: Job,
        seconds: float | None = None,
        start: float = START,
        wait: float | None = None,
    ) -> Result:
        """One job, in any thread; waits for a free worker without using up its own time.

        `wait` bounds that too, for a caller who has to have an answer: a TIMEOUT without a try.
        """
        try:
            worker = self._free.get(timeout=wait)
        except queue.Empty:
            return TIMEOUT
        try:
            if not self._end.alive:
                raise ValueError("the pool is closed")
            result = worker.ask(job, seconds or self.seconds, start)
        finally:
            self._free.put(worker)
        with self._lock:
            self.counts[result.status] += 1
        return result

    def map(self, jobs: Sequence[Job]) -> list[Result]:
        """The results in the order of the jobs; suspicious jobs are begun last."""
        order = sorted(range(len(jobs)), key=lambda i: suspicion(jobs[i]))
        results: list[Result] = [CRASH] * len(jobs)
        with ThreadPoolExecutor(min(len(self._workers), len(jobs)) or 1) as threads:
            done = threads.map(lambda i: self.run(jobs[i]), order)
            for i, result in zip(order, done, strict=True):
                results[i] = result
        return results

    def close(self) -> None:
        """End all workers; jobs that are running score as crashes."""
        self._end()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def jobs(
    completions: Sequence[str], records: Sequence[Mapping[str, str]], rule: str = ""
) -> list[dict[str, Any]]:
    """Jobs for `Pool.map`: each completion, its record, and the rule of `rules.judge`."""
    if rule.endswith(".py"):
        rule = os.path.abspath(rule)
    pairs = zip(completions, records, strict=True)
    return [{"completion": text, "record": dict(row), "rule": rule} for text, row in pairs]


def suspicion(job: Job) -> tuple[int, int]:
    """Sorts the jobs that may be slow behind the others; only the order of work depends on it."""
    text = str(job.get("completion", ""))[-4096:]
    return sum(1 for _ in itertools.islice(_SUSPECT.finditer(text), 9)), len(text)


def metrics(results: Sequence[Result]) -> dict[str, float]:
    """Shares of results without an answer, timed out and crashed."""
    counts = Counter(result.status for result in results)
    names = {"none": "no_answer", "timeout": "timeout", "crash": "crash"}
    return {f"rule/{name}": counts[s] / max(1, len(results)) for s, name in names.items()}


def shared() -> Pool:
    """The pool of single scores: two workers, started by the first job that needs one."""
    return _shared(os.getpid())  # a fork must not talk into its parent's pipes


@functools.lru_cache(1)
def _shared(_: int) -> Pool:
    return Pool(workers=2)


def _kill_all(workers: Sequence[Worker], owner: int) -> None:
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()
