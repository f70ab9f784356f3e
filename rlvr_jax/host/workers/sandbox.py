"""Run a program that a model wrote, in a process group of its own, with walls and limits.

`run` gives a program text on its standard input and returns what the program printed; `converse`
starts a program that answers lines, one after another.  The expected answer never enters the
process: compare the output in the calling process.

Walls stand where the kernel permits them; `walls()` names those that do:

    namespaces     Linux as root or with user namespaces: a program has no network, reads no files
                   but those of the interpreter, writes to a small folder in memory only, sees no
                   other processes, and nothing that it starts survives
    system calls   Linux on x86_64 and aarch64: no sockets, keyrings, tracing and the like
    memory         a cgroup limits all processes of a program together

Without the first one a program can read and write the user's files.  Without the second one too
(macOS), socket calls of Python are refused, but a program could reach the network through C.  With
walls="required", a program does not run unless the first two stand, and its status is refused.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from rlvr_jax.host.workers import memory_group, processor_time, scratch, system_calls

MAX_SOURCE = 150_000  # characters of a program
MAX_INPUT = 10_000_000
START = 300.0  # seconds on the clock until the walls stand


@dataclass(frozen=True)
class Limits:
    """A Limits holds the limits of a program: time, memory, files, output, processes and walls.

    The time is processor time of each process of the program, which the kernel cuts off at whole
    seconds.  `processor_time.PATIENCE` times as much may pass on the clock.
    """

    seconds: float = 4.0
    memory: int = 512  # MiB of address space of each process, and of all together in a cgroup
    files: int = 4  # MiB, of one file and of the scratch folder
    output: int = 8_000_000  # bytes
    processes: int = 8
    walls: str = "wanted"  # "required": nothing runs without walls; "": limits only


class Result(NamedTuple):
    """A Result holds the output of a program and how the program ended.

    The status is ok; error (an exit code other than 0); timeout; output (too much of it); or
    refused (the program did not run).
    """

    output: bytes
    status: str


# Without walls the network is closed from inside, as well as Python can: hooks cannot be removed.
_GUARD = """import sys as _s
def _refuse(event, _):
    if event.startswith(("socket.", "urllib.", "ftplib.", "smtplib.", "http.")):
        raise PermissionError("no network")
_s.addaudithook(_refuse)
del _s, _refuse
"""


class Conversation:
    """A Conversation is a running program that reads requests and answers with lines.

    `status` is the status of the program as in `Result`; it is "ok" as long as the program runs.
    """

    def __init__(self, process: subprocess.Popen[bytes] | None, limits: Limits):
        self._process, self._limits = process, limits
        self._clock = processor_time.PATIENCE * limits.seconds  # seconds that remain
        self._size = 0  # bytes of output
        self._output = bytearray()
        self.status = "refused" if process is None else "ok"

    def ask(self, request: bytes, mark: bytes) -> bytes | None:
        """Send a request, and return the next output line that begins with `mark`, without it.

        The result is None when the program has ended or reached a limit; `status` tells why.
        """
        rest = memoryview(request)
        while self.status == "ok":
            line, newline, after = self._output.partition(b"\n")
            if newline and not rest:
                self._output = after
                if line.startswith(mark):
                    return bytes(line.removeprefix(mark))
                continue
            rest, ended = self._exchange(rest)
            if ended and b"\n" not in self._output:
                self._wait()  # the program may have run out of processor time
                self.status = "error" if self.status == "ok" else self.status
        return None

    def finish(self, stdin: bytes) -> Result:
        """Write the rest of the program's input, wait for its end and return its result."""
        rest, ended = memoryview(stdin), False
        while self.status == "ok" and not ended:
            rest, ended = self._exchange(rest, close=True)
        if ended:
            self._wait()
        return Result(bytes(self._output), self.status)

    def _exchange(self, rest: memoryview, close: bool = False) -> tuple[memoryview, bool]:
        """Write as much of `rest` as the pipe takes, and read the output that is there.

        Returns the rest that remains to be written, and whether the program has closed its output.
        """
        assert self._process and self._process.stdin and self._process.stdout
        stdin, reading = self._process.stdin, self._process.stdout.fileno()
        if close and not rest and not stdin.closed:
            stdin.close()
        writing = [stdin.fileno()] if rest and not stdin.closed else []
        if writing:
            os.set_blocking(writing[0], False)
        start = time.monotonic()
        readable, writable, _ = select.select([reading], writing, [], max(0.0, self._clock))
        self._clock -= time.monotonic() - start
        if self._clock <= 0:
            self.status = "timeout"
            return rest, False
        if writable:
            rest = _write_some(writing[0], rest)
        if not readable:
            return rest, False
        more = os.read(reading, 65536)
        self._size += len(more)
        self._output += more
        if self._size > self._limits.output:
            self.status = "output"
        return rest, not more

    def _wait(self) -> None:
        assert self._process
        try:
            code = self._process.wait(max(0.0, self._clock))
            out_of_time = code & 0xFF == -signal.SIGXCPU & 0xFF  # of the processor
            self.status = "timeout" if out_of_time else "error" if code else self.status
        except subprocess.TimeoutExpired:
            self.status = "timeout"


def _write_some(pipe: int, data: memoryview) -> memoryview:
    """Write what a pipe takes now, and return the rest; of a closed pipe there is no rest."""
    try:
        return data[os.write(pipe, data[:65536]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[len(data) :]


def run(source: str, stdin: str = "", limits: Limits | None = None) -> Result:
    """Run a Python program and return its output; at the end all its processes are killed.

    No failure of the program raises an exception.  If `limits` is None, those of `Limits()` hold.
    """
    if len(stdin) > MAX_INPUT:
        return Result(b"", "refused")
    with converse(source, limits) as program:
        return program.finish(stdin.encode("utf-8", "replace"))


@contextlib.contextmanager
def converse(source: str, limits: Limits | None = None) -> Iterator[Conversation]:
    """Start a Python program that answers requests; at the end all its processes are killed.

    No failure of the program raises an exception.  If `limits` is None, those of `Limits()` hold.
    """
    limits = limits or Limits()
    guard = "" if limits.walls and walls() & {NAMESPACES, CALLS} else _GUARD
    limits = replace(limits, seconds=min(limits.seconds, processor_time.left()))
    runs = len(source) <= MAX_SOURCE and limits.seconds > 0
    with _started(guard + source, limits) if runs else contextlib.nullcontext() as process:
        if runs:
            processor_time.exempt(_try_out().start_cost)
        conversation = Conversation(process, limits)
        if limits.seconds <= 0:  # earlier programs of this job have used its time
            conversation.status = "timeout"
        yield conversation


NAMESPACES, CALLS, MEMORY = WALLS = "namespaces", "system calls", "memory"


def walls() -> frozenset[str]:
    """Return the names of the walls that stand on this machine; without any, only limits hold."""
    return _try_out().walls


class _Machine(NamedTuple):
    walls: frozenset[str]
    start_cost: float  # seconds of processor time to start a program, which are not the program's


# Prints 7, and whether a socket is refused where only the filter would refuse it.
_PROBE = "import ctypes\nprint(7, ctypes.CDLL(None).socket(1, 1, 0) < 0)"


@functools.cache
def _try_out() -> _Machine:
    """Run small programs to find out about this machine, at no cost for the job that asks first."""
    begin, costs, found = processor_time.used(), [], set()
    if _output(Limits(walls="required")).startswith(b"7"):
        found.add(NAMESPACES)
    if _output(Limits()) == b"7 True\n":
        found.add(CALLS)
    with memory_group.make_group("probe", 1 << 24) as group:
        if group is not None:
            found.add(MEMORY)
    for _ in range(3):
        before = processor_time.used()
        _output(Limits())
        costs.append(processor_time.used() - before)
    processor_time.exempt(processor_time.used() - begin)
    return _Machine(frozenset(found), min(costs))


def _output(limits: Limits) -> bytes:
    with _started(_PROBE, limits) as process:
        return Conversation(process, limits).finish(b"").output


@contextlib.contextmanager
def _started(source: str, limits: Limits) -> Iterator[subprocess.Popen[bytes] | None]:
    """Start a program, in a folder and a memory group of its own; at the end nothing is left."""
    folder = scratch.make_folder("program_")
    size = limits.memory << 20
    with memory_group.make_group(folder.name, size) as group:
        process = None
        try:
            (folder / "root").mkdir()
            (folder / "program.py").write_bytes(source.encode("utf-8", "replace"))
            process = _start_walled(folder, limits, group)
            yield process
        finally:
            if process is not None:
                kill_group(process)
            shutil.rmtree(folder, ignore_errors=True)


def _start_walled(
    folder: Path, limits: Limits, group: Path | None
) -> subprocess.Popen[bytes] | None:
    """Return the process of a program behind its walls; None if it could not be made."""
    ready, ready_in = os.pipe()
    try:
        process = _start(folder, ready_in, limits, group)
    except OSError:
        os.close(ready_in)
        os.close(ready)
        return None
    os.close(ready_in)
    try:
        # The clock starts when the walls stand, so that a busy machine costs a program no time.
        if select.select([ready], [], [], START)[0] and os.read(ready, 1):
            return process
    finally:
        os.close(ready)
    kill_group(process)
    return None


def _start(folder: Path, ready: int, limits: Limits, group: Path | None) -> subprocess.Popen[bytes]:
    settings = {
        **{"folder": str(folder), "root": str(folder / "root"), "ready": ready},
        **{"mounts": _mounts(), "links": _links(), "walls": limits.walls},
        "seconds": math.ceil(limits.seconds),
        **{"memory": limits.memory << 20, "files": limits.files << 20},
        **{"processes": limits.processes, "group": str(group or "")},
        "filter": system_calls.write_filter().hex() if sys.platform == "linux" else "",
        "join_session": system_calls.JOIN_SESSION.get(platform.machine(), 0),
    }
    jail = str(Path(__file__).with_name("jail.py"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", jail, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        pass_fds=(ready,),
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its group, and leave no zombie.

    Behind walls, the kernel then also kills the processes that had left the group.
    """
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe:
                pipe.close()
        except OSError:
            pass
    process.wait()


@functools.cache
def _mounts() -> list[str]:
    """Return the folders that the interpreter needs."""
    prefixes = {sys.base_prefix, sys.base_exec_prefix, sys.prefix, sysconfig.get_path("stdlib")}
    wanted = {os.path.realpath(p) for p in prefixes} | {sys.prefix}
    wanted |= {str(Path(sys.executable).resolve().parent), str(Path(sys.executable).parent)}
    wanted |= {
        p for p in ("/usr", "/lib", "/lib64", "/bin") if os.path.isdir(p) and not os.path.islink(p)
    }
    return sorted(p for p in wanted if not any(p != q and p.startswith(q + "/") for q in wanted))


@functools.cache
def _links() -> list[tuple[str, str]]:
    return [(p, os.readlink(p)) for p in ("/lib", "/lib64", "/bin") if os.path.islink(p)]
