"""This module writes the metrics of a run (metrics.jsonl, TensorBoard), and prints to the terminal.

metrics.jsonl has one line per step. On resume the file is cut to its length at the checkpoint, so
an interrupted run ends with the same lines as an uninterrupted one, except for the measured keys
under `time/` and `perf/`.
"""

import hashlib
import json
import math
import os
import threading
import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rlvr_jax.host.files import whole_file
from rlvr_jax.host.runs.events import Events

# Unicode's classes of control characters, direction marks, surrogates and line separators; and
# what of them is text: tabs, line ends, and the joiners of many scripts.
_ACTING, _TEXT = {"Cc", "Cf", "Cs", "Zl", "Zp"}, "\t\n\u200c\u200d"

LONGEST = 4_000  # characters of a message
PATIENCE = 30.0  # seconds between two signs of life while the first step is compiled

console = Console()
aside = Console(stderr=True)


def plain(value: Any) -> Any:
    """Convert numpy and jax scalars and arrays, inside any containers, to JSON values.

    Floats are rounded to nine significant digits; a number that is not finite becomes None.
    """
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    value = np.asarray(value).tolist() if hasattr(value, "dtype") else value
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def write_json(path: Path, tree: Any) -> None:
    """Write a JSON file atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_file.write_whole(path, json.dumps(plain(tree), indent=1) + "\n")


class Metrics:
    """A `Metrics` object appends metrics to metrics.jsonl and to TensorBoard event files."""

    def __init__(self, run: Path):
        self._path = run / "metrics.jsonl"
        self._file: BinaryIO = self._path.open("ab")
        self._hash = hashlib.sha256(self._path.read_bytes())
        self._events: Events | None = Events(run / "tensorboard")

    @property
    def offset(self) -> int:
        """Return the length of metrics.jsonl in bytes, which checkpoints record."""
        return self._file.tell()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of metrics.jsonl, which checkpoints record."""
        return self._hash.hexdigest()

    def check(self, offset: int, digest: str | None) -> None:
        """Refuse a file that does not begin with the `offset` bytes whose SHA-256 is `digest`.

        Without a digest, as older versions left none, only the length counts.

        Raises:
          ValueError: the file is shorter than `offset`, or other bytes are there.
        """
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < offset:  # truncate would fill the gap with NUL bytes
            change = f"has {size} bytes and {offset} were written"
        elif digest and self._prefix(offset).hexdigest() != digest:
            change = f"has other bytes than the {offset} that were written"
        else:
            return
        raise ValueError(
            f"{self._path} {change} before the point to go on from; put metrics.jsonl back, or "
            f"remove {self._path.parent} to start over"
        )

    def _prefix(self, offset: int) -> Any:
        with self._path.open("rb") as file:
            return hashlib.sha256(file.read(offset))

    def rewind(self, offset: int, digest: str | None = None) -> None:
        """Cut metrics.jsonl to `offset` bytes; the stage computes the later steps again.

        Raises:
          ValueError: `check` refuses the file.
        """
        self.check(offset, digest)
        self._hash = self._prefix(offset)
        self._file.close()
        self._file = self._path.open("r+b")
        self._file.truncate(offset)
        self._file.seek(offset)

    def sync(self) -> None:
        """Force the lines to disk, so that no checkpoint records more bytes than the file has."""
        with whole_file.naming(self._path):
            os.fsync(self._file.fileno())

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append the metrics of one step; TensorBoard gets those that are numbers."""
        row = {"stage": stage, "step": step} | plain(values)
        line = json.dumps(row).encode() + b"\n"
        with whole_file.naming(self._path):
            self._file.write(line)
            self._file.flush()
        self._hash.update(line)
        if self._events is None:
            return
        try:
            self._events.write(stage, step, {k: x for k, x in row.items() if k != "step"})
        except OSError as error:  # metrics.jsonl has everything: no reason to lose the run
            say_aside(f"TensorBoard files are no longer written: {error}")
            self._events = None

    def load_rows(self, stage: str) -> list[dict[str, Any]]:
        """Load the lines of a stage from metrics.jsonl.

        Raises:
          ValueError: a line is damaged; the message names it.
        """
        rows = []
        for number, line in enumerate(self._path.read_bytes().splitlines(), 1):
            try:
                row = json.loads(line)
                if row["stage"] == stage:
                    rows.append(row)
            except (ValueError, TypeError, KeyError, RecursionError):
                raise ValueError(
                    f"{self._path}, line {number}, is damaged: put the file back, or remove "
                    f"{self._path.parent} to start over"
                ) from None
        return rows

    def median(self, stage: str, name: str) -> float:
        """Compute the median of one metric over the lines of a stage."""
        return float(np.median([row[name] for row in self.load_rows(stage)]))

    def close(self) -> None:
        """Close all files."""
        with whole_file.naming(self._path):
            self._file.close()
        if self._events:
            self._events.close()


class OthersMetrics(Metrics):
    """An `OthersMetrics` object writes nothing: the first process of the run has the file."""

    offset, digest = 0, ""

    def __init__(self, run: Path):
        self._path = run / "metrics.jsonl"

    def check(self, offset: int, digest: str | None) -> None:
        """Accept the file: the first process checks it."""

    def rewind(self, offset: int, digest: str | None = None) -> None:
        """Leave the file as it is."""

    def sync(self) -> None:
        """Do nothing, as nothing was written."""

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Do nothing, as no file is open."""


class Bar:
    """A `Bar` shows progress: a bar on a terminal, or else one line every ten seconds.

    The first step of a stage compiles its programs, so that times are told from the second one on.
    Until then a thread tells how long it has taken so far.  `unit` is what is counted.
    """

    def __init__(self, stage: str, steps: int, start: int, unit: str = "step"):
        self._stage, self._steps, self._unit = stage, steps, unit
        self._last, self._first = time.monotonic(), (0, 0.0)  # first step, and when it was done
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[line]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(
            stage, total=steps, completed=start, line="compiling ..."
        )
        self._progress.start()
        self._ready = threading.Event()
        if not console.is_terminal and start < steps:
            console.print(f"{stage}: compiling ...", markup=False, emoji=False)
            threading.Thread(target=self._tell_time, daemon=True).start()

    def _tell_time(self) -> None:
        waited = 0.0
        while not self._ready.wait(PATIENCE):
            waited += PATIENCE
            line = f"{self._stage}: {_duration(waited)} so far; the first {self._unit} compiles"
            console.print(line, markup=False, emoji=False)

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Show that `step` is done, with the given metrics."""
        self._ready.set()
        line = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        line = visible(line.replace("\n", " "))
        self._progress.update(self._task, completed=step, line=line)
        now = time.monotonic()
        due = now - self._last > 10 or step == self._steps or not self._first[0]
        if not self._first[0]:
            self._first = (step, now)
        if not console.is_terminal and due:
            self._last = now
            parts = (f"{self._stage} {step}/{self._steps}", line, self._pace(step, now))
            console.print("  ".join(filter(None, parts)), markup=False, emoji=False)

    def _pace(self, step: int, now: float) -> str:
        """Return the time of a step so far and the time that is left, in words."""
        first, at = self._first
        if step <= first:
            return ""
        seconds = (now - at) / (step - first)
        left = seconds * (self._steps - step)
        return f"{_duration(seconds)} a {self._unit}" + (
            f", {_duration(left)} left" if left else ""
        )

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._ready.set()
        self._progress.stop()


def _duration(seconds: float) -> str:
    """Write a time with the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a small table on the terminal; cells are plain text, never markup."""
    view = Table(title=title, title_justify="left", header_style="bold")
    for i, name in enumerate(head):
        view.add_column(name, justify="left" if i == 0 or len(head) < 4 else "right")
    for row in rows:
        view.add_row(*(_cell(value) for value in row))
    console.print(view)


def visible(text: str) -> str:
    """Write the characters that would act on a terminal, or hide, as their Python escapes.

    Tabs and line ends stay. Names of files, models and keys come from anywhere: they must not move
    the cursor, colour the screen, turn the direction of text, or break an encoder.
    """
    return "".join(
        ch if ch in _TEXT or unicodedata.category(ch) not in _ACTING else ascii(ch)[1:-1]
        for ch in text
    )


def say(text: str) -> None:
    """Print plain text on standard output; further lines are indented."""
    _print(console, text)


def say_aside(text: str) -> None:
    """Print plain text on standard error, which keeps piped results free of messages.

    An error may quote what a file holds: no more than LONGEST characters are shown.
    """
    more = len(text) - LONGEST
    _print(aside, text if more <= 0 else f"{text[:LONGEST]} ... ({more:,} characters more)")


def _print(screen: Console, text: str) -> None:
    # Only the first line begins at the margin: no name with a line end can forge a line of the log.
    text = visible(text).replace("\n", "\n  ")
    screen.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> Text:
    text = f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)
    text = visible(text.replace("\n", " / "))
    return Text(text if len(text) < 70 else text[:67] + "...")
