"""A run folder -> the data of its page."""

import re
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rlvr_jax.host.report import evaluations, findings, rollouts, words
from rlvr_jax.host.report.curves import load_metrics
from rlvr_jax.host.report.records import MAX_TEXT, Json, load_json, load_text, text

MAX_REMARKS = 50
SIGNS = ("config.resolved.yaml", "metrics.jsonl", "eval")  # of a run folder
_SECRET = re.compile(r"(?im)^([^:#\n]*(?:api_?key|secret|password|auth_?token)[^:\n]*:[ \t]*)\S.*$")


def load_run(run: Path) -> Json:
    """Load all of a run that its page shows, except the rollouts.

    Raises:
      FileNotFoundError: `run` is not a folder, or has no config, metrics and evaluations.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"no run folder at {run}")
    if not any((run / name).exists() for name in SIGNS):
        raise FileNotFoundError(f"{run} is not a run folder: no config, metrics or evaluations")
    config = load_text(run / "config.resolved.yaml")
    planned = planned_stages(config)
    stages, damaged = load_metrics(run / "metrics.jsonl")
    for stage in stages:
        stage["type"] = _type(stage, planned)
    evals = evaluations.load_evaluations(run / "eval")
    data: Json = {
        "kind": "run",
        "name": run.resolve().name,
        "written": _written(run),
        "config": None if config is None else _SECRET.sub(r"\1(hidden)", config),
        "damaged": damaged,
        "stages": stages,
        "evals": evals,
        "ways": evaluations.shown_ways(evals),
        "audits": evaluations.audits(stages, evals),
        "remarks": load_remarks(run / "remarks.json"),
    }
    data |= findings.notes(k for s in stages for k in (*s["series"], *s["histograms"]))
    starts = {name: text(stage.get("policy")) for name, stage in planned.items()}
    found = findings.changes(stages, evals, starts)
    finished = {path.stem for path in (run / "stages").glob("*.json")}
    data["state"] = state(stages, planned, finished)
    data["learned"] = findings.learned(stages, evals, found)
    data["trust"] = findings.trust(stages, evals, found)
    data["attention"] = findings.attention(data)
    data["tiles"] = tiles(stages)
    return data


def load_sets(run: Path) -> Iterator[Json]:
    """Load the sets of rollouts of a run: those of its training steps, then its evaluations'."""
    yield from rollouts.load_samples(run / "samples")
    yield from rollouts.load_answers(run / "eval")


def planned_stages(config: str | None) -> dict[str, Json]:
    """Return the stages of a resolved config by name; none if it cannot be read."""
    try:
        tree = yaml.safe_load(config or "")
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    stages = tree.get("stages") if isinstance(tree, dict) else None
    listed = [s for s in stages if isinstance(s, dict)] if isinstance(stages, list) else []
    return {text(stage.get("name") or stage.get("stage")): stage for stage in listed}


def _type(stage: Json, planned: dict[str, Json]) -> str:
    """Return the type of a stage; without a config, one that earns rewards counts as `rl`."""
    if stage["name"] in planned:
        return text(planned[stage["name"]].get("stage"))
    return "rl" if "reward/mean" in stage["series"] else ""


def state(stages: list[Json], planned: dict[str, Json], finished: set[str]) -> Json:
    """Say how far the run is."""
    left = [name for name in planned if name not in finished]
    if planned and not left:
        return {"done": True, "text": "finished"}
    if not stages:
        return {"done": False, "text": "no metrics yet"}
    last = stages[-1]
    steps = planned.get(last["name"], {}).get("steps")
    of = f" of {steps:,}" if isinstance(steps, int) else ""
    told = f"stage {last['name']}, step {last['step'][-1]:,.0f}{of}"
    if last["name"] in finished and left:
        told = f"stage {left[0]} is next"
    return {"done": False, "text": told if not planned else f"not finished: {told}"}


def tiles(stages: list[Json]) -> list[list[str]]:
    """Return (label, value, note) of a few numbers of the last stage that earns rewards."""
    stage = next((s for s in reversed(stages) if s["type"] == "rl"), stages[-1] if stages else None)
    if stage is None:
        return []

    def seen(key: str) -> list[Any]:
        return [v for v in stage["series"].get(key, []) if v is not None]

    found: list[list[str]] = []
    for key, label in (("reward/mean", "Reward"), ("loss", "Loss")):
        pair = findings.ends(stage, key)
        if pair and not found:
            note = f"from {words.amount(pair[0])}; mean of the last tenth"
            found.append([label, words.amount(pair[1]), note])
    if length := findings.ends(stage, "completion/length_mean"):
        note = f"from {words.amount(length[0])}"
        found.append(["Tokens of an answer", words.amount(length[1]), note])
    times = seen("time/step")
    middle = f"{words.seconds(statistics.median(times))} a step" if times else ""
    found.append([f"Steps of {stage['name']}", f"{stage['step'][-1]:,.0f}", middle])
    if speed := seen("perf/tokens_per_s"):
        found.append(["Tokens per second", words.amount(statistics.median(speed)), "median step"])
    if compiles := seen("perf/compiles"):
        at = stage["step"][stage["series"]["perf/compiles"].index(compiles[-1])]
        found.append(["Compiles", f"{compiles[-1]:.0f}", f"the last at step {at:,.0f}"])
    return found


def load_remarks(path: Path) -> list[str]:
    """Load what the run said that stands out (`folder.Run.remark`); nothing if it is damaged."""
    remarks = load_json(path)
    listed = remarks if isinstance(remarks, list) else []
    return [text(remark)[:MAX_TEXT] for remark in listed[:MAX_REMARKS]]


def _written(run: Path) -> str:
    """Return the time of the last change of the metrics, in UTC, to the minute."""
    path = run / "metrics.jsonl"
    stamp = (path if path.exists() else run).stat().st_mtime
    return datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%d %H:%M UTC")
