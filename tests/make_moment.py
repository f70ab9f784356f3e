"""Waiting for a moment in the life of a process that a test has started."""

import subprocess
import time
from collections.abc import Callable


def wait_for(
    process: subprocess.Popen, seen: Callable[[], object], patience: float, pause: float
) -> bool:
    """Look every `pause` seconds whether the moment is there; False if the process ended first.

    Raises TimeoutError after `patience` seconds.
    """
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if seen():
            return True
        if process.poll() is not None:
            return False
        time.sleep(pause)
    raise TimeoutError
