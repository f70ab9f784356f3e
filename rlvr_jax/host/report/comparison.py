"""Several run folders -> the data of one page that compares them.

Runs whose configs differ only in what cannot change a result (NEUTRAL), or in the seed, are one
group; a group is shown by the mean over its runs and the interval of that mean.
"""

import os.path
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from rlvr_jax.host.report import evaluations, findings, paired, run_data, words
from rlvr_jax.host.report.curves import late_mean
from rlvr_jax.host.report.records import Json, iterate_rows, load_text, number, text

NEUTRAL = ("name", "seed", "runs", "log", "mesh", "processes")
FINALS = (
    *("eval/accuracy", "eval/greedy", "reward/mean", "oracle/gap", "policy/entropy", "policy/kl"),
    *("completion/length_mean", "completion/truncated_frac", "time/step", "perf/tokens_per_s"),
)
MAX_VALUE = 200  # characters of a value of a config


class Compared(NamedTuple):
    """A Compared is a run as the comparison sees it."""

    name: str
    seed: str
    settings: dict[str, str]  # of the config, by dotted key, without NEUTRAL
    stages: list[Json]
    evals: list[Json]
    answers: dict[tuple[str, str], dict[str, float]]  # (evaluation, way) -> problem -> mean score


def load(folder: Path) -> Compared:
    """Load a run.

    Raises:
      FileNotFoundError: `folder` is no run folder.
    """
    data = run_data.load_run(folder)
    try:
        tree = yaml.safe_load(load_text(folder / "config.resolved.yaml") or "")
    except (yaml.YAMLError, ValueError, RecursionError):
        tree = {}
    tree = tree if isinstance(tree, dict) else {}
    kept = {key: value for key, value in tree.items() if key not in NEUTRAL}
    answers: dict[tuple[str, str], dict[str, float]] = {}
    for path in sorted((folder / "eval").glob("*.jsonl")):
        for way, scores in load_scores(path).items():
            answers[path.stem, way] = scores
    seed = text(tree.get("seed"))
    return Compared(data["name"], seed, flat(kept), data["stages"], data["evals"], answers)


def load_scores(path: Path) -> dict[str, dict[str, float]]:
    """Load the kept answers of an evaluation: way -> problem -> mean score of its answers."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in iterate_rows(path):
        score = number(row.get("score")) if row else None
        if row is None or score is None:
            continue
        way = "greedy" if row.get("greedy") is True else "accuracy"
        problem = text(row.get("problem")) or text(row.get("question"))
        found.setdefault(way, {}).setdefault(problem, []).append(score)
    return {
        way: {problem: sum(scores) / len(scores) for problem, scores in problems.items()}
        for way, problems in found.items()
    }


def flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """Return the leaves of a config by dotted key; a stage of a list goes by its name."""
    if isinstance(tree, dict) and tree:
        parts = [(text(key), value) for key, value in tree.items()]
    elif isinstance(tree, list) and tree and all(isinstance(x, dict) for x in tree):
        parts = [(text(x.get("name")) or str(i), x) for i, x in enumerate(tree)]
    else:
        return {prefix: text(tree)[:MAX_VALUE]}
    found: dict[str, str] = {}
    for key, value in parts:
        found |= flat(value, f"{prefix}.{key}" if prefix else key)
    return found


def group(runs: list[Compared]) -> list[list[Compared]]:
    """Group runs of the same settings, in order of appearance."""
    groups: list[list[Compared]] = []
    for run in runs:
        same = next((g for g in groups if g[0].settings == run.settings), None)
        if same is None:
            groups.append([run])
        else:
            same.append(run)
    return groups


def label(runs: list[Compared], others: list[str]) -> str:
    """Name a group: by its run, or by what the names of its runs begin with."""
    name = runs[0].name
    if len(runs) > 1:
        shared = os.path.commonprefix([run.name for run in runs])
        name = re.sub(r"[-_. ]+(seed|s)?[-_. ]*$", "", shared) or name
        name = f"{name} ({words.count(len(runs), 'seed')})"
    return name if name not in others else f"{name} [{len(others) + 1}]"


def compare(folders: list[Path]) -> tuple[Json, list[Json]]:
    """Return the data of the page, and the rows of the table beside it.

    Raises:
      FileNotFoundError: one of them is no run folder.
    """
    groups = group([load(folder) for folder in folders])
    labels: list[str] = []
    for runs in groups:
        labels.append(label(runs, labels))
    tests = [
        test | {"baseline": labels[0], "group": labels[i]}
        for i in range(1, len(groups))
        for test in compare_answers(groups[0], groups[i])
    ]
    data: Json = {
        "kind": "comparison",
        "name": " · ".join(labels)[:200],
        "groups": [
            {"label": name, "runs": [run.name for run in runs], "seeds": [r.seed for r in runs]}
            for name, runs in zip(labels, groups, strict=True)
        ],
        "learned": [_sentence(test) for test in _headlines(tests)] or _of_seeds(groups),
        "tests": tests,
        "finals": finals(groups),
        "curves": curves(groups, labels),
        "settings": differing(groups),
        "ways": evaluations.WAYS,
    }
    data |= findings.notes(plot["key"] for curve in data["curves"] for plot in curve["plots"])
    return data, table(groups, labels)


def _headlines(tests: list[Json]) -> list[Json]:
    """Return one test of each group: of the last evaluation, exact where that can be."""
    found: dict[str, Json] = {}
    for test in tests:
        known = found.get(test["group"])
        same = known is not None and known["evaluation"] == test["evaluation"]
        if not (same and known and known["test"] == "McNemar"):
            found[test["group"]] = test
    return list(found.values())


def _of_seeds(groups: list[list[Compared]]) -> list[str]:
    """Say what seeds of one config have in common."""
    scored = [row for row in finals(groups) if row["metric"] == "eval accuracy"]
    if len(groups) > 1 or not scored:
        return []
    last = scored[-1]
    cell, where = last["groups"][0], last["where"]
    half = f" \u00b1 {100 * cell['half']:.1f}" if cell["half"] is not None else ""
    return [
        f"The same config with {words.count(cell['runs'], 'seed')}. {where}: "
        f"{words.percent(cell['mean'])}{half} of the answers to held-out problems are right."
    ]


def curves(groups: list[list[Compared]], labels: list[str]) -> list[Json]:
    """Return for each stage its plots: one line for each group, the mean and its interval."""
    names = dict.fromkeys(s["name"] for runs in groups for run in runs for s in run.stages)
    found = []
    for name in names:
        members = [[s for run in runs for s in run.stages if s["name"] == name] for runs in groups]
        keys = dict.fromkeys(key for stages in members for s in stages for key in s["series"])
        plots = []
        for key in keys:
            lines: list[Json] = [
                {"label": label, "colour": i} | _line(stages, key)
                for i, (label, stages) in enumerate(zip(labels, members, strict=True))
            ]
            lines = [line for line in lines if line["step"]]
            values = {v for line in lines for v in line["column"]}
            if len(values) > 1 and not key.startswith("audit/"):
                plots.append({"key": key, "lines": lines})
        found.append({"name": name, "plots": plots})
    return found


def _line(stages: list[Json], key: str) -> Json:
    """Return the mean of a metric over runs at each step, and the interval of that mean."""
    tables = [
        {s: v for s, v in zip(stage["step"], stage["series"].get(key, []), strict=False)}
        for stage in stages
    ]
    by_step: dict[float, list[float]] = {}
    for values in tables:
        for step, value in values.items():
            if value is not None:
                by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    means = [sum(by_step[s]) / len(by_step[s]) for s in steps]
    line: Json = {"step": steps, "column": [number(mean) for mean in means]}
    halves = [paired.t_interval(by_step[s]) for s in steps]
    if any(half is not None for half in halves):
        pairs = [(m, h) for m, h in zip(means, halves, strict=True)]
        line["band"] = {
            "low": [None if h is None else number(m - h) for m, h in pairs],
            "high": [None if h is None else number(m + h) for m, h in pairs],
        }
    return line


def run_finals(run: Compared) -> dict[tuple[str, str], float]:
    """Return the final numbers of a run: (stage or evaluation, metric) -> value."""
    found = {
        (entry["name"], f"eval {way}"): values["all"]
        for entry in run.evals
        for way, values in entry["ways"].items()
        if "all" in values
    }
    for stage in run.stages:
        for key in FINALS:
            value = late_mean(stage["series"].get(key, []))
            if value is not None:
                found[stage["name"], key] = value
    return found


def finals(groups: list[list[Compared]]) -> list[Json]:
    """Return the rows of the table of final numbers: a mean, half an interval, runs, by group."""
    per_run = [[run_finals(run) for run in runs] for runs in groups]
    keys = dict.fromkeys(key for tables in per_run for values in tables for key in values)
    rows = []
    for where, metric in keys:
        cells: list[Json | None] = []
        for tables in per_run:
            values = [table[where, metric] for table in tables if (where, metric) in table]
            half = paired.t_interval(values)
            mean = number(sum(values) / len(values)) if values else None
            cells.append({"mean": mean, "half": number(half), "runs": len(values)})
        rows.append({"where": where, "metric": metric, "groups": cells})
    return rows


def differing(groups: list[list[Compared]]) -> list[Json]:
    """Return the keys of the configs whose values differ between groups, with these values."""
    settings = [runs[0].settings for runs in groups]
    keys = dict.fromkeys(key for table in settings for key in table)
    return [
        {"key": key, "values": [table.get(key) for table in settings]}
        for key in keys
        if len({table.get(key) for table in settings}) > 1
    ]


def compare_answers(first: list[Compared], second: list[Compared]) -> list[Json]:
    """Compare two groups on the held-out problems that both answered, for each evaluation."""
    names = dict.fromkeys(e["file"] for run in first for e in run.evals)
    found = []
    for name in names:
        for way in ("greedy", "accuracy"):
            tables = [[r.answers[name, way] for r in g if (name, way) in r.answers]
                      for g in (first, second)]  # fmt: skip
            test = _paired(*tables) if all(tables) else _unpaired(first, second, name, way)
            if test:
                found.append({"evaluation": name, "way": way} | test)
    return found


def _paired(first: list[dict[str, float]], second: list[dict[str, float]]) -> Json | None:
    """Compare the mean scores of problems; those that not every run answered are left out."""
    common = sorted(set.intersection(*(set(table) for table in first + second)))
    if not common:
        return None
    a, b = (np.mean([[table[p] for p in common] for table in side], 0) for side in (first, second))
    difference = b - a
    low, high = paired.bootstrap(difference)
    binary = len(first) == len(second) == 1 and set(np.unique([a, b])) <= {0.0, 1.0}
    p = (
        paired.mcnemar(int((difference < 0).sum()), int((difference > 0).sum()))
        if binary
        else paired.sign_flips(difference)
    )
    return {
        "problems": len(common),
        "first": number(float(a.mean())),
        "second": number(float(b.mean())),
        "low": number(low),
        "high": number(high),
        "p": number(p, 3),
        "test": "McNemar" if binary else "sign flips",
    }


def _unpaired(first: list[Compared], second: list[Compared], name: str, way: str) -> Json | None:
    """Compare two shares by the normal approximation, where the answers were not kept."""
    entries = [[e for run in g for e in run.evals if e["file"] == name and way in e["ways"]]
               for g in (first, second)]  # fmt: skip
    if not all(entries):
        return None
    shares = [sum(e["ways"][way].get("all", 0.0) for e in side) / len(side) for side in entries]
    counts = [min(e["n"] or 0 for e in side) for side in entries]
    if not all(counts):
        return None
    pairs = zip(shares, counts, strict=True)
    half = 1.96 * sum(max(share * (1 - share), 0) / n for share, n in pairs) ** 0.5
    gain = shares[1] - shares[0]
    return {
        "problems": min(counts),
        "first": number(shares[0]),
        "second": number(shares[1]),
        "low": number(gain - half),
        "high": number(gain + half),
        "p": None,
        "test": "not paired",
    }


def _sentence(test: Json) -> str:
    gain = test["second"] - test["first"]
    chance = "" if test["p"] is None else f", p = {words.amount(test['p'])} by {test['test']}"
    way = "greedy answers" if test["way"] == "greedy" else "sampled answers"
    return (
        f"{test['evaluation']}, {way}: {words.percent(test['second'])} right in {test['group']}, "
        f"{words.percent(test['first'])} in {test['baseline']}: {words.points(gain)} points (95 % "
        f"interval {words.points(test['low'])} to {words.points(test['high'])}{chance})."
    )


def table(groups: list[list[Compared]], labels: list[str]) -> list[Json]:
    """Return the final numbers of each run, a row for each, for a file beside the page."""
    return [
        {"group": label, "run": run.name, "seed": run.seed, "where": where, "metric": metric}
        | {"value": number(value)}
        for label, runs in zip(labels, groups, strict=True)
        for run in runs
        for (where, metric), value in run_finals(run).items()
    ]
