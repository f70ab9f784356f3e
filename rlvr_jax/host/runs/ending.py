"""The end of a process: by a signal, and in spite of threads that wait for what never comes."""

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, BinaryIO, NoReturn

AGAIN = 75  # exit code: the state is saved, and the same command goes on from there
TIME_UP = signal.SIGALRM  # the time of a run is up
STOPPED = 128 + signal.SIGINT  # exit code after Ctrl-C, as a shell has it
SAVE_BUDGET = 900.0  # seconds from a signal to the end of the process, for the step and the save
PATIENCE = 1.0  # seconds for threads to end by themselves
TOO_LATE = b"error: the checkpoint was not saved in time; the last complete one stays\n"
STOPPING = b"stopping: saving a checkpoint after this step or compile (once more to stop at once)\n"
# Seconds in which a second SIGTERM is the first one: `timeout` and launchers of jobs send it to a
# process and to its group.
ECHO = 1.0


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
    ever saving. A thread sees to both, because Python runs no handler while the main thread waits
    for a compiler or a device.
    """

    def __init__(self, budget: float = SAVE_BUDGET, minutes: float = 0):
        self.seen: int | None = None
        self._budget, self._minutes = budget, minutes
        self._before: dict[int, Any] = {}
        self._arrivals: BinaryIO | None = None  # the interpreter writes the number of each signal

    def catch(self) -> None:
        """Handle the signals from here on."""
        arrivals, out = os.pipe()
        os.set_blocking(out, False)
        self._arrivals = os.fdopen(out, "wb", buffering=0)
        signal.set_wakeup_fd(out)
        threading.Thread(target=self._watch, args=(arrivals,), daemon=True).start()
        for signum in (signal.SIGTERM, signal.SIGINT, TIME_UP):
            self._before[signum] = signal.signal(signum, self._note)
        signal.setitimer(signal.ITIMER_REAL, 60 * self._minutes)

    def free(self) -> None:
        """Put back the handlers that were there before."""
        if self._arrivals is None or threading.current_thread() is not threading.main_thread():
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(-1)
        self._arrivals.close()  # which ends the thread
        self._arrivals = None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.seen is None:
            self.seen = signum

    def _watch(self, arrivals: int) -> None:
        """Read the numbers of signals as they arrive, and end the process where that is due."""
        asked, end, first, echo = 0, None, 0, 0.0
        with os.fdopen(arrivals, "rb", buffering=0) as pipe:
            while True:
                left = None if end is None else max(0.0, end - time.monotonic())
                if not _is_ready(pipe.fileno(), select.POLLIN, left):
                    _tell(2, TOO_LATE)
                    os._exit(exit_code(first))
                said = pipe.read(1)
                if not said:
                    return
                now = time.monotonic()
                if said[0] == signal.SIGTERM:
                    if now < echo:
                        continue
                    echo = now + ECHO
                asked += said[0] != TIME_UP  # the clock and one signal want the same
                if asked == 2:
                    os._exit(exit_code(said[0]))
                if end is None:
                    first, end = said[0], now + self._budget
                    _tell(1, STOPPING)


def _tell(stream: int, text: bytes) -> None:
    """Write where that waits neither for a reader nor for a lock, as `print` may."""
    with contextlib.suppress(OSError):
        if _is_ready(stream, select.POLLOUT, 0.0):
            os.write(stream, text)


def _is_ready(stream: int, event: int, seconds: float | None) -> bool:
    watch = select.poll()  # not `select`, which knows the first 1,024 files of a process only
    watch.register(stream, event)
    return bool(watch.poll(None if seconds is None else 1000 * seconds))


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

    After a failure nothing else of the interpreter is waited for. To take it down takes seconds,
    and after a failed write Orbax leaves threads that wait for 20 minutes. Call this function where
    all that has to be kept is on disk.
    """
    if not code:
        sys.exit(code)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the code is settled; a second signal is late
    end = time.monotonic() + PATIENCE
    others = [x for x in threading.enumerate() if x is not threading.current_thread()]
    lasting = [thread for thread in others if not thread.daemon]
    while any(x.is_alive() for x in lasting) and time.monotonic() < end:
        time.sleep(0.02)  # no join: Orbax's threads replace that by one that raises
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
