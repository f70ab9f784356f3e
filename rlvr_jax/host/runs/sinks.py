"""Metrics and samples also go to trackers that a config names: `log: [wandb, mlflow, trackio]`.

Each tracker has one function here that opens it and returns a `Sink`. Nothing leaves the machine
unless the tracker's own environment variables say so: Weights & Biases is offline without
WANDB_MODE, MLflow writes into the run folder without MLFLOW_TRACKING_URI, and Trackio is local.

metrics.jsonl has everything. A tracker that fails is named once and left, and never ends a run.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.metric_table import METRICS, Metric

PROJECT = "rlvr-jax"
COLUMNS = ("question", "reference", "response", "reward", "advantage", "oracle", "truncated")
NOTES = ("metric", *Metric._fields)  # columns of the table of what metrics are
MOST_ROWS = 64  # of a table of samples: all of them are in samples/

Json = dict[str, Any]


class Sink(NamedTuple):
    """A Sink is an open tracker."""

    write: Callable[[str, int, Mapping[str, float]], None]  # stage, step, numbers by name
    show: Callable[[str, int, list[list[Any]]], None]  # stage, step, rows of COLUMNS
    close: Callable[[], None]


def check_sinks(names: Sequence[str]) -> None:
    """Refuse a tracker that is not installed.

    Raises:
      ValueError: the message says what to install.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"log names {name}, which is not installed: pip install -e '.[{name}]' in the "
                "clone, or leave it out"
            )


def open_wandb(folder: Path, name: str, config: Json) -> Sink:
    """Open a run of Weights & Biases, the same one again after a resume."""
    wandb: Any = importlib.import_module("wandb")
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=name,
        id=place,
        resume="allow",
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        settings=wandb.Settings(console="off"),  # the terminal is ours
        config=config,
    )
    run.log({"notes": wandb.Table(columns=list(NOTES), data=_notes())})
    stages = set[str]()

    def write(stage: str, step: int, numbers: Mapping[str, float]) -> None:
        # Each stage counts its own steps, and the library's own counter only ever grows.
        if stage not in stages:
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            stages.add(stage)
        run.log({f"{stage}/step": step} | {f"{stage}/{key}": x for key, x in numbers.items()})

    def show(stage: str, step: int, rows: list[list[Any]]) -> None:
        table = wandb.Table(columns=list(COLUMNS), data=rows)
        run.log({f"{stage}/step": step, f"{stage}/samples": table})

    return Sink(write, show, run.finish)


def open_mlflow(folder: Path, name: str, config: Json) -> Sink:
    """Open a run of MLflow, in files below the run folder, the same one again after a resume."""
    mlflow: Any = importlib.import_module("mlflow")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # later versions refuse it else
        mlflow.set_tracking_uri((folder / "mlflow").resolve().as_uri())
    if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
        mlflow.set_experiment(PROJECT)
    known = folder / "mlflow_run.txt"
    before = known.read_text(encoding="utf-8").strip() if known.exists() else None
    run = mlflow.start_run(run_id=before, run_name=None if before else name)
    known.write_text(run.info.run_id, encoding="utf-8")
    mlflow.log_dict(config, "config.json")
    mlflow.log_dict({name: metric._asdict() for name, metric in METRICS.items()}, "metrics.json")

    def write(stage: str, step: int, numbers: Mapping[str, float]) -> None:
        named = {f"{stage}/{_mlflow_name(key)}": x for key, x in numbers.items()}
        mlflow.log_metrics(named, step=step)

    def show(stage: str, step: int, rows: list[list[Any]]) -> None:
        table = {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}
        mlflow.log_dict(table, f"samples/{stage}_step_{step:06d}.json")

    return Sink(write, show, mlflow.end_run)


def _mlflow_name(key: str) -> str:
    """Return the name of a metric in MLflow, which refuses some characters.

    It keeps metrics in files of their names, so that eval/accuracy/gsm cannot stand beside
    eval/accuracy.
    """
    group, slash, name = key.partition("/")
    return group + slash + re.sub(r"[^\w.: -]", "_", name.replace("/", "."))


def open_trackio(folder: Path, name: str, config: Json) -> Sink:
    """Open a run of Trackio, which keeps its own files on this machine (TRACKIO_DIR)."""
    trackio: Any = importlib.import_module("trackio")
    trackio.init(project=PROJECT, name=name, config=config, resume="allow", embed=False)
    trackio.log({"notes": trackio.Table(columns=list(NOTES), data=_notes())})

    def write(stage: str, step: int, numbers: Mapping[str, float]) -> None:
        trackio.log({f"{stage}/step": step} | {f"{stage}/{key}": x for key, x in numbers.items()})

    def show(stage: str, step: int, rows: list[list[Any]]) -> None:
        table = trackio.Table(columns=list(COLUMNS), data=rows)
        trackio.log({f"{stage}/step": step, f"{stage}/samples": table})

    return Sink(write, show, trackio.finish)


def _notes() -> list[list[Any]]:
    return [[name, *metric] for name, metric in METRICS.items()]


OPENERS: dict[str, Callable[[Path, str, Json], Sink]] = {
    "wandb": open_wandb,
    "mlflow": open_mlflow,
    "trackio": open_trackio,
}


class Sinks:
    """A `Sinks` object opens the trackers of a run at its first metrics, and writes to them all."""

    def __init__(self, names: Sequence[str], folder: Path, run: str, config: Json):
        self._waiting, self._open = list(names), dict[str, Sink]()
        self._about = (folder, run, config)

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Write the values that are numbers."""
        numbers = {key: x for key, x in values.items() if isinstance(x, int | float)}
        self._each(lambda sink: sink.write(stage, step, numbers))

    def show(self, stage: str, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Write a table of the sampled rollouts of a step."""
        rows = [[log.plain(row.get(name)) for name in COLUMNS] for row in samples[:MOST_ROWS]]
        self._each(lambda sink: sink.show(stage, step, rows))

    def close(self) -> None:
        """Close those trackers that are open."""
        self._waiting.clear()
        self._each(lambda sink: sink.close())
        self._open.clear()

    def _each(self, work: Callable[[Sink], None]) -> None:
        """Do some work with each tracker; one that fails is named once and left."""
        for name in [*self._open, *self._waiting]:
            try:
                if name in self._waiting:
                    self._waiting.remove(name)
                    self._open[name] = OPENERS[name](*self._about)
                work(self._open[name])
            except Exception as error:  # of a library and a network that are not ours
                if sink := self._open.pop(name, None):
                    with contextlib.suppress(Exception):  # MLflow begins no run beside an open one
                        sink.close()
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
                log.say_aside(f"{name} is no longer written, metrics.jsonl is: {reason}")
