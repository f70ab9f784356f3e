"""Run jobs in a pool of worker processes that can be killed: a bad job costs no other job.

A job names a function and its arguments; a worker calls the function and returns a score.  Every
worker is a fresh interpreter that talks JSON over pipes, so that nothing that a model wrote is ever
unpickled.  A worker does not import the main script again, as multiprocessing's spawn would, so a
pool works from threads, daemons, notebooks and scripts without a guard.

The time limit of a job is a limit of the processor time that the job uses in its worker, so neither
a job that waits for a worker nor a worker that waits for a processor loses time; see
`processor_time`.  A job that times out or crashes scores 0.0 and is counted; its worker is killed
with its whole process group and replaced.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from rlvr_jax.host.workers import processor_time, sandbox, scratch

MEMORY = 2048  # MiB of address space of a worker
START = 60.0  # seconds of processor time to start a worker, and again to import what jobs need
REPLY = 10_000  # bytes; a longer reply is not a score
_INSIDE = "RLVR_RULE_WORKER"
_PREPARE = "rlvr_jax.host.workers.worker:prepare"
_BOOT = (
    "import json,sys;sys.path[:]=json.loads(sys.argv[1]);"  # that of the owner
    "from rlvr_jax.host.workers import worker;worker.main()"
)


class Job(NamedTuple):
    """A Job is a call of a function in a worker.

    The function returns a score, (score, status) or (score, status, reason).  Before its first job
    of a function, a worker imports the function's module and makes the call `prepare`; neither
    counts against the time of a job.
    """

    function: str  # its dotted name, "package.module:name"
    args: Sequence[Any]  # values that JSON can hold
    expected_cost: tuple[int, ...] = ()  # `Pool.map` begins jobs of a higher cost later
    prepare: tuple[Any, ...] = ()  # a function's dotted name and its arguments


class Result(NamedTuple):
    """A Result holds a score in [0, 1], its status and a reason.

    The status is ok, none (no answer), timeout, crash, or error (the user's own function failed).
    The reason says why a job failed, or what a user's function printed.
    """

    score: float
    status: str
    reason: str = ""


TIMEOUT, CRASH = Result(0.0, "timeout"), Result(0.0, "crash", "its worker died")
_OUT_OF_TIME = (-signal.SIGPROF, -signal.SIGXCPU)  # how the kernel ends a worker, see `worker`
STATUSES = ("ok", "none", "timeout", "crash", "error")


def is_worker() -> bool:
    """Return whether this process is a worker, which can be killed if a function hangs."""
    return _INSIDE in os.environ


class Worker:
    """A Worker is one worker process, which its first job starts."""

    def __init__(self, memory: int):
        self.memory = memory
        self.process: subprocess.Popen[bytes] | None = None
        self.rest, self.folder = b"", ""
        self.prepared: set[str] = set()

    def ask(self, job: Job, seconds: float) -> Result:
        """Run a job in this worker and return its result.

        The status is timeout if the job uses more than `seconds` of processor time, or PATIENCE
        times as much on the clock, or if the worker needs that much of START to start or to
        prepare.  It is crash if the job raises or the worker gives no valid answer.  Both kill the
        worker.  If somebody else kills it, as a machine does that runs out of memory, the job is
        run once more: its grade must not depend on that.
        """
        return self._ask(job, seconds) or self._ask(job, seconds) or CRASH

    def _ask(self, job: Job, seconds: float) -> Result | None:
        """Run a job as `ask` does; return None if somebody else killed the worker."""
        try:
            if self.process is None or self.process.poll() is not None:
                self.kill()
                self._start()
                self._line(START)
            failed = self._prepare(job)
            if failed is not None:
                return failed
            return self._call(job.function, job.args, seconds)
        except TimeoutError:
            self.kill()
            return TIMEOUT
        except (OSError, EOFError, ValueError, AssertionError):  # the pool may be closed meanwhile
            code = self._ended()
            self.kill()
            if code == -signal.SIGKILL:
                return None
            return TIMEOUT if code in _OUT_OF_TIME else CRASH

    def _ended(self) -> int | None:
        """Return how the process ended by itself or by others; None if it is still there."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(1) if self.process else None
        return None

    def kill(self) -> None:
        """End the process and all processes that it started, and leave no zombie."""
        process, self.process, self.rest = self.process, None, b""
        if process is None:
            return
        sandbox.kill_group(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        self.prepared.clear()
        self.folder = str(scratch.make_folder("worker_"))
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

    def _prepare(self, job: Job) -> Result | None:
        """Import what a job needs, once per process; return the result if that fails."""
        module, call = job.function.partition(":")[0], list(job.prepare)
        key = json.dumps([module, call])
        if key in self.prepared:
            return None
        result = self._call(_PREPARE, (module, *call), START)
        if result.status != "ok":
            return result
        self.prepared.add(key)
        return None

    def _call(self, function: str, args: Sequence[Any], seconds: float) -> Result:
        self._send({"function": function, "args": args, "seconds": seconds})
        return self._result(self._line(seconds))

    def _send(self, job: dict[str, Any]) -> None:
        assert self.process and self.process.stdin
        self.process.stdin.write(json.dumps(job).encode() + b"\n")  # ASCII: lone surrogates too
        self.process.stdin.flush()

    def _line(self, seconds: float) -> bytes:
        assert self.process and self.process.stdout
        end = time.monotonic() + processor_time.PATIENCE * seconds
        pipe = self.process.stdout.fileno()
        while b"\n" not in self.rest:
            remaining = end - time.monotonic()
            if remaining <= 0 or not select.select([pipe], [], [], remaining)[0]:
                raise TimeoutError
            more = os.read(pipe, 65536)
            if not more or len(self.rest) > REPLY:
                raise EOFError
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _result(self, line: bytes) -> Result:
        try:
            score, status, reason = json.loads(line)
            if status in STATUSES and 0.0 <= float(score) <= 1.0:
                if status == "crash":  # the worker may be out of memory, and a fresh one is cheap
                    self.kill()
                return Result(float(score) if status == "ok" else 0.0, status, str(reason))
        except (ValueError, TypeError):
            pass
        self.kill()
        return CRASH


class Pool:
    """A Pool is a number of workers; each job goes to a free worker.

    `seconds` is the limit of the processor time of a job, and `memory` the address space of a
    worker in MiB.  The workers end with `close`, with the `with` block, or with the process.
    `counts` holds the number of results of each status.

    Raises:
      ValueError: fewer than one worker, or no positive, finite number of seconds for a job.
    """

    def __init__(self, workers: int = 2, seconds: float = 2.0, memory: int = MEMORY):
        if workers < 1 or not 0 < seconds < float("inf"):
            raise ValueError(f"needs workers >= 1 and seconds > 0, not {workers} and {seconds}")
        self.seconds, self.counts = seconds, Counter[str]()
        self._workers = [Worker(memory) for _ in range(workers)]
        self._free, self._waiting = list(self._workers), deque[Future[Worker]]()
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _kill_all, self._workers, os.getpid())

    def run(self, job: Job) -> Result:
        """Run one job, from any thread, and return its result.

        Raises:
          ValueError: the pool is closed.
        """
        worker = self._take()
        try:
            if not self._end.alive:
                raise ValueError("the pool is closed")
            result = worker.ask(job, self.seconds)
        finally:
            self._give(worker)
        with self._lock:
            self.counts[result.status] += 1
        return result

    def _take(self) -> Worker:
        """Wait for a worker, first come, first served.

        (With a plain queue, a thread that gives a worker back takes it again before the thread that
        has waited for it wakes up: a call with many slow jobs would keep all workers.)
        """
        with self._lock:
            if self._free:
                return self._free.pop()
            turn = Future[Worker]()
            self._waiting.append(turn)
        try:
            return turn.result()
        except BaseException:  # as KeyboardInterrupt
            if not turn.cancel():
                self._give(turn.result())
            raise

    def _give(self, worker: Worker) -> None:
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(worker)
                    return
            self._free.append(worker)

    def map(self, jobs: Sequence[Job]) -> list[Result]:
        """Run jobs, the costly ones last, and return their results in the order of the jobs."""
        order = sorted(range(len(jobs)), key=lambda i: jobs[i].expected_cost)
        results: list[Result] = [CRASH] * len(jobs)
        with ThreadPoolExecutor(min(len(self._workers), len(jobs)) or 1) as threads:
            done = threads.map(lambda i: self.run(jobs[i]), order)
            for i, result in zip(order, done, strict=True):
                results[i] = result
        return results

    def close(self) -> None:
        """End all workers; jobs that still run end as crashes."""
        self._end()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shared() -> Pool:
    """Return the pool for single jobs: two workers, each started by its first job."""
    return _shared(os.getpid())  # a fork must not write into its parent's pipes


@functools.lru_cache(1)
def _shared(_: int) -> Pool:
    return Pool(workers=2)


def _kill_all(workers: Sequence[Worker], owner: int) -> None:
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()
