"""A training process that a test starts, strikes and starts again."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import make_command


class Training:
    """The command that trains, on a config file, with more words, as a process group.

    What is printed goes to the file `log`.  A process that stands still for `patience` seconds
    fails the test.
    """

    def __init__(self, config: Path, folder: Path, log: Path, patience: float, *more: str):
        self.config, self.folder, self._log, self._patience = config, folder, log, patience
        self._words = [*make_command.train(), "--config", str(config), *more]
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["RLVR_TEST_XLA_FLAGS"],
        }

    def start(self) -> None:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._words, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, seconds: float | None = None) -> tuple[int, str]:
        """The exit code and all that was printed; a process that does not end fails the test."""
        try:
            code = self.process.wait(seconds or self._patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run does not end:\n{self.said()}") from None
        finally:
            self.kill()
        return code, self.said()

    def said(self) -> str:
        return " ".join(self._log.read_text(encoding="utf-8", errors="replace").split())

    def kill(self) -> None:
        if self.process.poll() is None:
            self.send(signal.SIGKILL)
            self.process.wait()

    def send(self, signum: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signum)

    def until(self, seen: Callable[[], object]) -> bool:
        """Watch the run closely for a moment of it; False when it ended first."""
        end = time.monotonic() + self._patience
        while time.monotonic() < end:
            if seen():
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.003)
        self.kill()
        raise AssertionError(f"the run stands still:\n{self.said()}")

    def lines(self, stage: str) -> int:
        """The complete lines of a stage in metrics.jsonl."""
        try:
            text = (self.folder / "metrics.jsonl").read_bytes()
        except OSError:
            return 0
        return text.count(b'{"stage": "%s"' % stage.encode())
