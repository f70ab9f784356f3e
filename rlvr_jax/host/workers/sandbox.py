"""Run a program that a model wrote, in a process group of its own, with walls and limits.

`run` gives a program text on its standard input and returns what the program printed.  The expected
answer never enters the process: compare the output on this side.

Walls stand where the kernel permits them, on Linux as root or with user namespaces; `walls()`
returns whether they do.  Behind walls a program has no network, reads no files but those of the
interpreter, writes to a small folder in memory only, sees no other processes, and nothing that it
starts survives.  Elsewhere (containers that forbid namespaces, macOS) only the limits hold: socket
calls of Python are refused, but a program can read and write the user's files, and could reach the
network through C.  With walls="required", a program does not run there, and scores 0.0.
"""

from __future__ import annotations

import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAX_SOURCE = 100_000  # characters of a program
MAX_INPUT = 1_000_000


@dataclass(frozen=True)
class Limits:
    """The limits of a program: time, memory, files, output and processes."""

    seconds: float = 5.0  # wall time
    cpu: int = 4  # seconds
    memory: int = 512  # MiB of address space
    files: int = 4  # MiB, of one file and of the scratch folder
    output: int = 1_000_000  # bytes
    processes: int = 8
    walls: str = "wanted"  # "required": nothing runs without walls; "": limits only


class Result(NamedTuple):
    """The output of a program and how it ended.

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


def run(source: str, stdin: str = "", limits: Limits | None = None) -> Result:
    """Run a Python program and return its output; all that it started is killed at the end.

    Nothing that a program does raises here.  `limits` are those of `Limits()` if None.
    """
    limits = limits or Limits()
    if len(source) > MAX_SOURCE or len(stdin) > MAX_INPUT:
        return Result(b"", "refused")
    folder = Path(tempfile.mkdtemp(prefix="rlvr_jax_"))
    try:
        (folder / "root").mkdir()
        encoded = source.encode("utf-8", "replace")
        guard = b"" if limits.walls and walls() else _GUARD.encode()
        (folder / "program.py").write_bytes(guard + encoded)
        return _run_in(folder, stdin.encode("utf-8", "replace"), limits)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def walls() -> bool:
    """Return whether programs run behind walls on this machine, or within limits only."""
    folder = Path(tempfile.mkdtemp(prefix="rlvr_jax_"))
    try:
        (folder / "root").mkdir()
        (folder / "program.py").write_text("print(7)")
        limits = Limits(walls="required", seconds=20.0)
        return _run_in(folder, b"", limits).output == b"7\n"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_in(folder: Path, stdin: bytes, limits: Limits) -> Result:
    ready, ready_in = os.pipe()
    try:
        process = _start(folder, ready_in, limits)
    except OSError:
        os.close(ready)
        os.close(ready_in)
        return Result(b"", "refused")
    os.close(ready_in)
    try:
        # The clock starts when the walls stand, so that a busy machine costs a program no time.
        if not select.select([ready], [], [], 30.0)[0] or not os.read(ready, 1):
            return Result(b"", "refused")
        output, status = _communicate(process, stdin, limits)
        if status == "ok" and process.wait() != 0:
            status = "error"
        return Result(output, status)
    except subprocess.TimeoutExpired:
        return Result(b"", "timeout")
    finally:
        os.close(ready)
        kill_group(process)


def _start(folder: Path, ready: int, limits: Limits) -> subprocess.Popen[bytes]:
    settings = {
        **{"folder": str(folder), "root": str(folder / "root"), "ready": ready},
        **{"mounts": _mounts(), "links": _links(), "walls": limits.walls, "cpu": limits.cpu},
        **{"memory": limits.memory << 20, "files": limits.files << 20},
        "processes": limits.processes,
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


def _communicate(
    process: subprocess.Popen[bytes], stdin: bytes, limits: Limits
) -> tuple[bytes, str]:
    """Write the input and collect the output, within the limits of time and size."""
    assert process.stdin and process.stdout
    end = time.monotonic() + limits.seconds
    output, rest = b"", memoryview(stdin)
    os.set_blocking(process.stdin.fileno(), False)
    writing = [process.stdin.fileno()]
    reading = process.stdout.fileno()
    while True:
        remaining = end - time.monotonic()
        readable, writable, _ = select.select([reading], writing, [], max(0.0, remaining))
        if remaining <= 0:
            return output, "timeout"
        if writable:
            try:
                rest = rest[os.write(writing[0], rest[:65536]) :] if rest else rest
            except BlockingIOError:
                pass
            except BrokenPipeError:
                rest = rest[len(rest) :]
            if not rest:
                process.stdin.close()
                writing = []
        if readable:
            more = os.read(reading, 65536)
            output += more
            if len(output) > limits.output:
                return output[: limits.output], "output"
            if not more:
                process.wait(max(0.0, end - time.monotonic()))
                return output, "ok"


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its group, and leave no zombie.

    Behind walls, the kernel then kills the processes that had left the group, too.
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
