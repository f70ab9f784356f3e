"""This module limits the memory of all processes of a program together, by a cgroup of their own.

The address space of each process is limited anyway; a cgroup limits their sum, and also what they
write to files in memory.  It needs the right to make a group below that of this process, which root
has on most machines and in few containers.
"""

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
LIMITS = {1: "memory.limit_in_bytes", 2: "memory.max"}
PREFIX = "rlvr_jax_"
REMOVAL = 2.0  # seconds that killed processes may take to leave a group


@contextlib.contextmanager
def make_group(name: str, size: int) -> Iterator[Path | None]:
    """Make a group with a limit in bytes and remove it at the end; None where none can be made.

    A process enters the group by writing its number to `cgroup.procs` in the folder.
    """
    group = _make(name, size)
    try:
        yield group
    finally:
        end = time.monotonic() + REMOVAL
        while group is not None and group.is_dir() and time.monotonic() < end:
            try:
                group.rmdir()
            except OSError:  # a killed process is still in it
                time.sleep(0.005)


def clean() -> int:
    """Remove the groups of dead processes, which have no process any more; return their number."""
    removed = 0
    parent = _parent()[1]
    for group in parent.glob(f"{PREFIX}*") if parent else ():
        owner = group.name.removeprefix(PREFIX).partition("_")[0]
        if not Path("/proc", owner).exists():
            with contextlib.suppress(OSError):
                group.rmdir()
                removed += 1
    return removed


def _make(name: str, size: int) -> Path | None:
    version, parent = _parent()
    if parent is None:
        return None
    group = parent / f"{PREFIX}{os.getpid()}_{name}"
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        (group / LIMITS[version]).write_text(f"{size}")
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        return None
    return group


@functools.cache
def _parent() -> tuple[int, Path | None]:
    """Return the version of cgroups that counts memory here, and the group of this process."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 1, None
    for number, controllers, path in (line.split(":", 2) for line in lines):
        if "memory" in controllers.split(","):
            return 1, ROOT / "memory" / path.lstrip("/")
        if number == "0" and (ROOT / "cgroup.controllers").exists():
            return 2, ROOT / path.lstrip("/")
    return 1, None
