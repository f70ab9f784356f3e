"""A stage's goal: which of its steps is the best one, and whether it may end before the last."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rlvr_jax.config import Trained
from rlvr_jax.host.runs.folder import RunError

SOMETIMES = ("oracle/gap",)  # logged in some steps only, beside what an evaluation measures
Rows = Iterable[Mapping[str, Any]]


class Goal:
    """A Goal follows the metrics of a stage, step by step.

    Greater values are better, of equal ones the earlier.  Values are those of metrics.jsonl, with
    the digits that a resumed run reads, so that a resume changes nothing.
    """

    def __init__(self, stage: Trained, rows: Rows):
        """Start from `rows`, the metrics of the stage's earlier steps."""
        self._stage = stage
        self._greatest = -math.inf  # of the metric that decides about the end
        self._waited = 0  # values since then
        self.reached = False  # the stage may end
        self.best: tuple[int, float] | None = None  # step and value
        for row in rows:
            self.look(row["step"], row)

    def refuse_unknown(self, values: Mapping[str, Any]) -> None:
        """Raise RunError if a step, whose metrics are `values`, would never log what is aimed at.

        Metrics eval/NAME are known in a step that evaluates.
        """
        stage, evaluated = self._stage, any(name.startswith("eval/") for name in values)
        for key, metric in (("keep_best", stage.keep_best), ("stop.metric", stage.stop.metric)):
            later = metric in SOMETIMES or metric.startswith("eval/") and not evaluated
            if metric and metric not in values and not later:
                near = difflib.get_close_matches(metric, values, 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise RunError(
                    f"{stage.name}.{key} is {metric!r}, and no step logs such a metric{hint}"
                )

    def look(self, step: int, values: Mapping[str, Any]) -> bool:
        """Take in the metrics of a step, and return whether it is the best one up to here."""
        self._watch_end(number(values, self._stage.stop.metric))
        value = number(values, self._stage.keep_best)
        if value is None or self.best is not None and value <= self.best[1]:
            return False
        self.best = step, value
        return True

    def _watch_end(self, value: float | None) -> None:
        stop = self._stage.stop
        if value is None:
            return
        self._waited = 0 if value > self._greatest else self._waited + 1
        self._greatest = max(self._greatest, value)
        self.reached |= stop.at is not None and value >= stop.at
        self.reached |= 0 < stop.patience <= self._waited


def best_kept(stage: Trained, rows: Rows, steps: Iterable[int]) -> tuple[int, float] | None:
    """Return step and value of the best one of `steps`, whose checkpoints are on disk."""
    kept = set(steps)
    return Goal(stage, [row for row in rows if row["step"] in kept]).best


def number(values: Mapping[str, Any], metric: str) -> float | None:
    """Return a metric where a step has it and it is a finite number."""
    value = values.get(metric)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
