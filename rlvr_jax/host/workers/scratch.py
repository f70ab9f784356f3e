"""Temporary folders that outlive no process: the next start removes those of killed ones.

Each process has one home in the system's folder for temporary files, and holds a lock on it, which
the operating system releases when the process dies. So a home whose lock is free is rubbish,
whatever happened to its owner; process ids, which are given again, play no part.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import stat
import tempfile
import weakref
from pathlib import Path

PREFIX = "rlvr_jax_home_"
_YOUNG = "rlvr_jax_new_"  # a home gets PREFIX when its lock is held: `clean` never meets it without


def make_folder(prefix: str) -> Path:
    """Make a folder for the use of this process; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_home(os.getpid(), tempfile.gettempdir())))


def clean() -> int:
    """Remove the homes of dead processes of this user, and return their number.

    Homes of live processes, and what other users or programs have there, stay as they are.
    """
    removed = 0
    for home in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is in use, gone, or not ours
            lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(home)
                    removed += 1
            finally:
                os.close(lock)
    return removed


@functools.lru_cache(1)
def _home(process: int, place: str) -> Path:
    """Return the home of this process in the folder `place`; a fork gets one of its own."""
    young = Path(tempfile.mkdtemp(prefix=_YOUNG, dir=place))
    lock = os.open(young, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    home = young.with_name(young.name.replace(_YOUNG, PREFIX))
    young.rename(home)
    weakref.finalize(_home, _leave, home, process)
    return home


def _leave(home: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(home, ignore_errors=True)


def _remove(home: Path) -> None:
    """Delete a folder in which a program may have taken its owner's rights away."""
    for folder, _, _ in os.walk(home):
        with contextlib.suppress(OSError):
            os.chmod(folder, stat.S_IRWXU, follow_symlinks=False)
    shutil.rmtree(home, ignore_errors=True)
