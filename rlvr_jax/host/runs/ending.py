"""The end of a process: by a signal, and in spite of threads that wait for what never comes."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

AGAIN = 75  # exit code: the state is saved, and the same command goes on from there
TIME_UP = signal.SIGALRM  # the time of a run is up
STOPPED = 128 + signal.SIGINT  # exit code after Ctrl-C, as a shell has it
SAVE_BUDGET = 900.0  # seconds from a signal to the end of the process, for the step and the save
PATIENCE = 1.0  # seconds for threads to end by themselves
TOO_LATE = b"error: the checkpoint was not saved in time; the last complete one stays\n"
STOPPING = b"stopping: saving a checkpoint (once more to stop at once)\n"


def exit_code(signum: int) -> int:
    """Return the exit code of a process that a signal stopped.

    SIGTERM comes from a machine that is taken away: the run wants to go on elsewhere, as it does
    when its time is up.
    """
    return STOPPED if signum == signal.SIGINT else AGAIN


class Signals:
    """A `Signals` object turns SIGTERM and Ctrl-C into a request to stop, from `catch` to `free`.

    With `minutes` above 0, so does the end of that time. A second signal ends the process at once,
    and so does the end of `budget` seconds: a disk that does not answer can keep a process from
    ever saving.
    """

    def __init__(self, budget: float = SAVE_BUDGET, minutes: float = 0):
        self.seen: int | None = None
        self._budget, self._minutes = budget, minutes
        self._before: dict[int, Any] = {}
        self._clock: threading.Timer | None = None

    def catch(self) -> None:
        """Handle the signals from here on."""
        for signum in (signal.SIGTERM, signal.SIGINT, TIME_UP):
            self._before[signum] = signal.signal(signum, self._note)
        signal.setitimer(signal.ITIMER_REAL, 60 * self._minutes)

    def free(self) -> None:
        """Put back the handlers that were there before."""
        if self._clock is not None:
            self._clock.cancel()
        if threading.current_thread() is threading.main_thread():
            if self._before:
                signal.setitimer(signal.ITIMER_REAL, 0)
            for signum, handler in self._before.items():
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.seen is not None and signum != TIME_UP and self.seen != TIME_UP:
            os._exit(exit_code(signum))
        if self.seen is not None:  # the clock and one signal: both want the same
            return
        self.seen = signum
        self._clock = threading.Timer(self._budget, _give_up, (exit_code(signum),))
        self._clock.daemon = True
        self._clock.start()
        # Not `print`, which fails where the signal has interrupted another one.
        with contextlib.suppress(OSError):
            os.write(1, STOPPING)


def _give_up(code: int) -> None:
    with contextlib.suppress(OSError):
        os.write(2, TOO_LATE)
    os._exit(code)


def run_process(main: Callable[[], int]) -> NoReturn:
    """Call the main function of a command, and end this process with the exit code it returns.

    A defect ends with its traceback and the exit code 1. See `end_process`.
    """
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    end_process(code)


def end_process(code: int) -> NoReturn:
    """End this process with an exit code, after its `atexit` functions.

    After a failed write Orbax leaves threads that wait for 20 minutes, and the interpreter would
    wait for them. Call this function where all that has to be kept is on disk.
    """
    end = time.monotonic() + PATIENCE
    others = [x for x in threading.enumerate() if x is not threading.current_thread()]
    lasting = [thread for thread in others if not thread.daemon]
    while code and any(x.is_alive() for x in lasting) and time.monotonic() < end:
        time.sleep(0.02)  # no join: Orbax's threads replace that by one that raises
    if not code or not any(x.is_alive() for x in lasting):
        sys.exit(code)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
