"""The picture and the table of README.md here from the raw files: `python figure.py [RUNS]`.

With RUNS, the folder of the runs, the raw files are taken from there first.  Needs matplotlib.
Intervals are of Student's t with the number of seeds less one degrees of freedom, 95 %.
"""

import json
import math
import shutil
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
T = {2: 12.706, 3: 4.303}  # two-sided 95 %, by the number of seeds
# what is paid: (run, stage, how it is called, colour)
REWARDS = (
    ("rewards", "soft", "verifier, soft", "#2a6fbb"),
    ("rewards", "binary", "verifier, binary", "#7fb2e5"),
    ("rewards", "contains", "rule: contains the reference", "#c8553d"),
    ("rewards", "exact", "rule: exact match", "#e5a08f"),
    ("rewards", "judge", "the tasks' own scorer (the oracle itself)", "#3d8b5f"),
    ("large", "soft", "larger verifier, soft", "#7a4fa3"),
    ("distilled", "soft", "small verifier taught by the larger", "#b796d6"),
)
KEPT = ("stage", "step", "reward/mean", "reward/std", "oracle/gap", "policy/kl", "time/step")
KEPT += ("policy/entropy", "completion/length_mean", "verifier/p1_mean", "perf/compiles")


def gather(runs: Path) -> None:
    """Copies what the tables are made of; of the metrics the rl stages and a few fields."""
    for run in ("rewards", "large", "distilled"):
        for seed in SEEDS:
            source, target = runs / f"{run}{seed}", HERE / f"{run}{seed}"
            if not (source / "eval").is_dir() and not list(source.glob("**/after_soft.json")):
                continue
            target.mkdir(exist_ok=True)
            for path in source.glob("**/*.json"):
                if path.stem == "before" or path.stem.startswith("after_"):
                    shutil.copy(path, target / path.name)
            lines = []
            for line in (source / "metrics.jsonl").read_text().splitlines():
                row = json.loads(line)
                if "reward/mean" in row:
                    lines.append(json.dumps({k: row[k] for k in KEPT if k in row}))
            (target / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            markers = {p.stem: json.loads(p.read_text()) for p in (source / "stages").glob("*")}
            (target / "stages.json").write_text(json.dumps(markers, indent=1) + "\n")


def held_out(run: str, name: str, kind: str = "accuracy") -> list[float]:
    paths = [HERE / f"{run}{seed}" / f"{name}.json" for seed in SEEDS]
    return [100 * json.loads(p.read_text())[kind]["all"] for p in paths if p.exists()]


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def curve(run: str, stage: str) -> dict[int, list[float]]:
    """Step -> the seeds' accuracy of the answers of that step, by the oracle."""
    found: dict[int, list[float]] = {}
    for seed in SEEDS:
        path = HERE / f"{run}{seed}" / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            row = json.loads(line)
            if row["stage"] == stage and "oracle/gap" in row:
                right = 100 * (row["reward/mean"] - row["oracle/gap"])
                found.setdefault(row["step"], []).append(right)
    return found


def picture() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), width_ratios=(3, 2.4))
    shown = [r for r in REWARDS if held_out(r[0], f"after_{r[1]}")]
    for run, stage, label, colour in shown:
        points = curve(run, stage)
        mean = [statistics.mean(v) for v in points.values()]
        left.plot(list(points), mean, color=colour, linewidth=1.7, label=label)
        spread = ([f(v) for v in points.values()] for f in (min, max))
        left.fill_between(list(points), *spread, color=colour, alpha=0.1, linewidth=0)
    left.set(
        xlabel="RL step", ylabel="%", ylim=(0, 100), title="right answers in the step's rollouts"
    )
    bars = [
        ("SFT", "rewards", "before", "#888888"),
        ("SFT, 200 more steps", "rewards", "after_more", "#bbbbbb"),
    ]
    bars += [(label, run, f"after_{stage}", colour) for run, stage, label, colour in shown]
    for i, (_, run, name, colour) in enumerate(reversed(bars)):
        values = held_out(run, name)
        right.barh(i, statistics.mean(values), color=colour, height=0.6)
        right.plot(values, [i] * len(values), "k.", markersize=3)
    right.set_yticks(range(len(bars)), [bar[0] for bar in reversed(bars)], fontsize=7)
    right.set(xlim=(0, 100), xlabel="%", title="held out, sampled: mean and seeds")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    figure.tight_layout()
    figure.savefig(HERE / "rewards.png", dpi=130)


def table() -> str:
    rows = [("SFT", "rewards", "before"), ("SFT, 200 more steps", "rewards", "after_more")]
    rows += [(label, run, f"after_{stage}") for run, stage, label, _ in REWARDS]
    lines = [
        "| reward | sampled, % | gain over SFT of the same seed | greedy, % | seeds |",
        "|---|---|---|---|---|",
    ]
    for label, run, name in rows:
        after, greedy = held_out(run, name), held_out(run, name, "greedy")
        if after:
            gain = [b - a for a, b in zip(held_out(run, "before"), after, strict=True)]
            seeds = ", ".join(f"{x:.1f}" for x in after)
            lines.append(
                f"| {label} | {interval(after)} | {interval(gain)} | {interval(greedy)} | {seeds} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        gather(Path(sys.argv[1]))
    picture()
    print(table())
