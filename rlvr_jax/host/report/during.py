"""The report of a run that goes on is written every few minutes, and where the run stops.

No report is worth a run: what goes wrong while one is written is said once, and the run goes on.
"""

import time
from pathlib import Path

from rlvr_jax.host.report import command
from rlvr_jax.host.runs import log

MINUTES = 5.0  # between two reports
SHARE = 0.02  # of the time that may go into reports


class Reporter:
    """A Reporter writes the report of a run when it is due; only the first process has one."""

    def __init__(self, folder: Path, clock=time.monotonic):
        self._folder, self._clock = folder, clock
        self._due = clock() + 60 * MINUTES
        self._failed = False

    def write_if_due(self) -> None:
        """Write the report if MINUTES have passed, and longer if writing takes long."""
        if self._clock() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the report now; the next one is due by the time that this one took."""
        began = self._clock()
        try:
            command.write_report(self._folder)
        except Exception as error:  # a defect of the report, or a full disk: no reason to stop
            if not self._failed:
                log.say_aside(f"the report could not be written, and the run goes on: {error}")
            self._failed = True
        now = self._clock()
        self._due = now + max(60 * MINUTES, (now - began) / SHARE)
