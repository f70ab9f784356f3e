"""A lock keeps a run folder for one process; the operating system releases it when that dies.

The lock is `flock` on the file `run.lock` of the folder, which also says who holds it. Nobody
deletes that file: a process that waits for the old file and one that makes a new file would both
have a lock. Reading needs no lock.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

LOCK = "run.lock"
_REFUSED = (BlockingIOError, PermissionError)  # how file systems say that another process has it


class HeldError(RuntimeError):
    """A HeldError means that another process has the lock; the message says which."""


class Lock:
    """A `Lock` is held from its creation to `release`, or to the death of the process.

    Where the file system has no locks, `held` is False and nothing is refused.

    Raises:
      HeldError: another process has the lock.
      OSError: the file cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder, self.held = folder, True
        self._file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except _REFUSED:
            self._close()
            raise HeldError(f"{folder} is in use by {_holder(folder)}") from None
        except OSError:
            self.held = False
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._write({"host": socket.gethostname(), "process": os.getpid(), "since": now})

    def release(self) -> None:
        """Give the folder back, and empty the file; a second call does nothing."""
        if self._file >= 0:
            with contextlib.suppress(OSError):  # a full or read-only disk does not keep the lock
                os.ftruncate(self._file, 0)
            self._close()

    def _write(self, holder: dict[str, str | int]) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(holder).encode() + b"\n", 0)

    def _close(self) -> None:
        os.close(self._file)
        self._file, self.held = -1, False


def _holder(folder: Path) -> str:
    """Describe the process that holds the lock, from the file that it wrote."""
    try:
        found = json.loads((folder / LOCK).read_bytes()[:1000])
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # damaged, or yet to come
        return "another process"
