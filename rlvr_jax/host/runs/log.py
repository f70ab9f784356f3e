"""What a run tells: metrics.jsonl, TensorBoard events, a progress bar and sample tables.

metrics.jsonl is the record: a line a step, cut back on resume to where the checkpoint was taken,
so that an interrupted run leaves the same lines as an uninterrupted one (keys under `time/` and
`perf/` aside, which are measurements).
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from tensorboardX import SummaryWriter

console = Console()


def plain(value: Any) -> Any:
    """numpy / jax scalars and arrays -> JSON; nine digits, a non-finite number becomes null."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    value = np.asarray(value).tolist() if hasattr(value, "dtype") else value
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def write_json(path: Path, tree: Any) -> None:
    """Atomic: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(plain(tree), indent=1) + "\n", encoding="utf-8")
    part.replace(path)


class Metrics:
    """Appends to metrics.jsonl and TensorBoard."""

    def __init__(self, run: Path):
        self._path = run / "metrics.jsonl"
        self._file: BinaryIO = self._path.open("ab")
        self._folder = run / "tensorboard"
        self._events: dict[str, SummaryWriter] = {}

    @property
    def offset(self) -> int:
        """Bytes written so far; goes into checkpoints."""
        return self._file.tell()

    def rewind(self, offset: int) -> None:
        """Forget what was written after `offset` (it will be computed again)."""
        size = self._path.stat().st_size
        if size < offset:  # truncate would fill the gap with NUL bytes
            raise ValueError(
                f"{self._path} has {size} bytes and {offset} were written before the point to go "
                f"on from; put metrics.jsonl back, or remove {self._path.parent} to start over"
            )
        self._file.close()
        self._file = self._path.open("r+b")
        self._file.truncate(offset)
        self._file.seek(offset)

    def sync(self) -> None:
        """To the disk, so that a checkpoint never knows more lines than there are."""
        os.fsync(self._file.fileno())

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        row = {"stage": stage, "step": step} | plain(values)
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        if stage not in self._events:
            self._events[stage] = SummaryWriter(
                str(self._folder / stage), purge_step=step, write_to_disk=True
            )
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self._events[stage].add_scalar(name, value, step)

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """What was written for a stage so far."""
        rows = map(json.loads, self._path.read_text(encoding="utf-8").splitlines())
        return [row for row in rows if row["stage"] == stage]

    def median(self, stage: str, name: str) -> float:
        """Median of one metric over the lines of a stage."""
        return float(np.median([row[name] for row in self.rows(stage)]))

    def close(self) -> None:
        self._file.close()
        for writer in self._events.values():
            writer.close()


class Bar:
    """A progress bar on a terminal, and a line every ten seconds elsewhere."""

    def __init__(self, stage: str, steps: int, start: int):
        self._stage, self._steps, self._last = stage, steps, time.monotonic()
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[line]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(stage, total=steps, completed=start, line="")
        self._progress.start()

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        line = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        self._progress.update(self._task, completed=step, line=line)
        if not console.is_terminal and (time.monotonic() - self._last > 10 or step == self._steps):
            self._last = time.monotonic()
            console.print(f"{self._stage} {step}/{self._steps}  {line}", markup=False, emoji=False)

    def close(self) -> None:
        self._progress.stop()


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A small table on the terminal; cells from a model are text, never markup."""
    view = Table(title=title, title_justify="left", header_style="bold")
    for i, name in enumerate(head):
        view.add_column(name, justify="left" if i == 0 or len(head) < 4 else "right")
    for row in rows:
        view.add_row(*(_cell(value) for value in row))
    console.print(view)


def say(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> Text:
    text = f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)
    text = "".join(ch if ch.isprintable() else "\ufffd" for ch in text.replace("\n", " / "))
    return Text(text if len(text) < 70 else text[:67] + "...")
