"""The lines of metrics.jsonl become the curves of each stage."""

import math
from pathlib import Path
from typing import Any

from rlvr_jax.host.report.records import Json, iterate_rows, number, spread, text

MAX_POINTS = 2000  # points of one curve
MAX_COLUMNS = 240  # columns of a histogram strip: more would be thinner than a pixel
MAX_BINS = 64

Column = list[Any]


def load_metrics(path: Path) -> tuple[list[Json], int]:
    """Load a metrics.jsonl: its stages in order of appearance, and the number of damaged lines."""
    stages: dict[str, dict[float, Json]] = {}
    damaged = 0
    for row in iterate_rows(path):
        if row is None:
            damaged += 1
            continue
        steps = stages.setdefault(text(row.get("stage") or "run"), {})
        step = number(row.get("step"))
        # A resumed run may repeat the steps after its checkpoint; the later line counts.
        steps[len(steps) if step is None else step] = row
    return [_stage(name, steps) for name, steps in stages.items()], damaged


def _stage(name: str, steps: dict[float, Json]) -> Json:
    """Return the curve of every numeric metric of a stage, and its histograms."""
    order = sorted(steps)
    kept = spread(len(order), MAX_POINTS)
    keys = dict.fromkeys(key for step in order for key in steps[step])
    columns = {
        key: [steps[step].get(key) for step in order]
        for key in keys
        if key not in ("stage", "step")
    }
    series: dict[str, Column] = {}
    histograms: dict[str, Json] = {}
    nonfinite: dict[str, int] = {}
    for key, values in columns.items():
        if histogram := _histogram(order, values):
            histograms[key] = histogram
            continue
        column = [number(v) for v in values]
        if key == "time/step":
            column = without_compiling(column, columns)
        if any(v is not None for v in column):
            series[key] = [column[i] for i in kept]
        if count := sum(key in steps[step] and _nonfinite(steps[step][key]) for step in order):
            nonfinite[key] = count
    return {
        "name": name,
        "type": "",
        "lines": len(order),
        "step": [order[i] for i in kept],
        "series": series,
        "histograms": histograms,
        "nonfinite": nonfinite,
    }


def _histogram(order: list[float], values: Column) -> Json | None:
    """Return the counts of a metric that is a list at each step; None if it is a number."""
    places = [i for i, v in enumerate(values) if isinstance(v, list) and v]
    if not places:
        return None
    places = [places[i] for i in spread(len(places), MAX_COLUMNS)]
    bins = [[max(number(x) or 0.0, 0.0) for x in values[i][:MAX_BINS]] for i in places]
    return {"step": [order[i] for i in places], "bins": bins}


def without_compiling(seconds: Column, columns: dict[str, Column]) -> Column:
    """Subtract from the time of each step the time in which programs were compiled.

    Runs of older versions have no `time/compile`; there it is the growth of `perf/compile_s`, which
    begins at 0 again when a run is resumed.  Growth of more than the whole step belongs to what
    happened between two steps.
    """
    spent = columns.get("time/compile")
    if spent is None:
        totals = [number(v) or 0.0 for v in columns.get("perf/compile_s", [0.0] * len(seconds))]
        before = [0.0, *totals[:-1]]
        spent = [b - a if b >= a else b for a, b in zip(before, totals, strict=True)]
    pairs = zip(seconds, (number(v) or 0.0 for v in spent), strict=True)
    return [s if s is None or lost > s else number(s - lost) for s, lost in pairs]


def _nonfinite(value: object) -> bool:
    """Return whether a metric is not finite; the log writes such a number as null."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def late_mean(column: Column) -> float | None:
    """Return the mean of the last tenth: one noisy last step should not be the headline."""
    seen = [v for v in column if v is not None]
    last = seen[-max(1, round(len(seen) / 10)) :] if seen else []
    return sum(last) / len(last) if last else None


def ends(stage: Json, key: str) -> tuple[float, float] | None:
    """Return the first value of a metric and the mean of its last tenth; None without values."""
    seen = [v for v in stage["series"].get(key, []) if v is not None]
    last = late_mean(seen)
    return None if last is None else (seen[0], last)
