"""Programs that a model wrote, each in a process group of its own, with walls and limits.

`run` gives a program text on its standard input and returns what it printed.  What the answer
should be never enters the process: compare outside, on this side.

Walls, where the kernel permits them (Linux as root or with user namespaces; `walls()` says): no
network, no files but the interpreter's, read-only, and a scratch folder in memory, no sight of
other processes, no survivors.  Elsewhere (containers that forbid it, macOS) only limits hold:
socket calls of Python are refused inside, but a program can read and write the user's files and
could reach the network through C; set walls="required" to score 0.0 instead.
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
    """What a program may use."""

    seconds: float = 5.0  # wall time
    cpu: int = 4  # seconds
    memory: int = 512  # MiB of address space
    files: int = 4  # MiB, of one file and of the scratch folder
    output: int = 1_000_000  # bytes
    processes: int = 8
    walls: str = "wanted"  # or required: nothing runs without them


class Result(NamedTuple):
    """What a program printed, and how it ended: ok, error, timeout, output or refused."""

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
    """Run a Python program and return what it printed; whatever it started is killed at the end.

    Never raises for what a program does.
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
        return _watched(folder, stdin.encode("utf-8", "replace"), limits)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def walls() -> bool:
    """Whether programs run behind walls here, or behind limits only."""
    folder = Path(tempfile.mkdtemp(prefix="rlvr_jax_"))
    try:
        (folder / "root").mkdir()
        (folder / "program.py").write_text("print(7)")
        limits = Limits(walls="required", seconds=20.0)
        return _watched(folder, b"", limits).output == b"7\n"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watched(folder: Path, stdin: bytes, limits: Limits) -> Result:
    ready, ready_in = os.pipe()
    try:
        process = _start(folder, ready_in, limits)
    except OSError:
        os.close(ready)
        os.close(ready_in)
        return Result(b"", "refused")
    os.close(ready_in)
    try:
        # The clock starts when the walls stand: a busy machine must not cost a program its time.
        if not select.select([ready], [], [], 30.0)[0] or not os.read(ready, 1):
            return Result(b"", "refused")
        output, status = _talk(process, stdin, limits)
        if status == "ok" and process.wait() != 0:
            status = "error"
        return Result(output, status)
    except subprocess.TimeoutExpired:
        return Result(b"", "timeout")
    finally:
        os.close(ready)
        kill_group(process)


def _start(folder: Path, ready: int, limits: Limits) -> subprocess.Popen[bytes]:
    asked = {
        **{"folder": str(folder), "root": str(folder / "root"), "ready": ready},
        **{"mounts": _mounts(), "links": _links(), "walls": limits.walls, "cpu": limits.cpu},
        **{"memory": limits.memory << 20, "files": limits.files << 20},
        "processes": limits.processes,
    }
    jail = str(Path(__file__).with_name("jail.py"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", jail, json.dumps(asked)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        pass_fds=(ready,),
        start_new_session=True,
    )


def _talk(process: subprocess.Popen[bytes], stdin: bytes, limits: Limits) -> tuple[bytes, str]:
    """Feed the input, collect the output: both bounded, by time and by size."""
    assert process.stdin and process.stdout
    end = time.monotonic() + limits.seconds
    out, rest = b"", memoryview(stdin)
    os.set_blocking(process.stdin.fileno(), False)
    writing = [process.stdin.fileno()]
    reading = process.stdout.fileno()
    while True:
        left = end - time.monotonic()
        readable, writable, _ = select.select([reading], writing, [], max(0.0, left))
        if left <= 0:
            return out, "timeout"
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
            out += more
            if len(out) > limits.output:
                return out[: limits.output], "output"
            if not more:
                process.wait(max(0.0, end - time.monotonic()))
                return out, "ok"


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its group, and leave no zombie.

    Behind walls, the kernel then kills whatever had left the group.
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
    """Folders that the interpreter needs."""
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
