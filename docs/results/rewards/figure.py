"""The picture and the table of `rewards` from the raw files: `python figure.py [RUNS]`.

With RUNS, the folder of the runs `rewardsN`, `largerN` and `distilledN` of each seed N, the raw
files are taken from there first.  Needs matplotlib.
Intervals are of Student's t with two degrees of freedom, 95 %.
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
SEEDS = [HERE / f"seed{seed}" for seed in (0, 1, 2)]
RUNS = ("rewards", "larger", "distilled")
T = 4.303  # two-sided 95 %, three seeds
REWARDS = {  # stage: how it is called, colour
    "soft": ("verifier, soft", "#2a6fbb"),
    "binary": ("verifier, binary", "#7fb2e5"),
    "contains": ("rule: contains the reference", "#c8553d"),
    "exact": ("rule: exact match", "#e5a08f"),
    "judge": ("the tasks' own scorer, which is the oracle", "#3d8b5f"),
    "larger": ("larger verifier", "#6a4c93"),
    "distilled": ("verifier distilled from the larger one", "#b39bc8"),
}
EVALUATIONS = {"before": ("SFT", "#888888"), "after_more": ("SFT, 200 more steps", "#bbbbbb")}
EVALUATIONS |= {f"after_{stage}": shown for stage, shown in REWARDS.items()}
KEPT = ("stage", "step", "reward/mean", "reward/std", "oracle/gap", "policy/kl", "time/step")
KEPT += ("policy/entropy", "completion/length_mean", "verifier/p1_mean", "perf/compiles")
KEPT += ("mismatch/logprob_diff_max",)


def gather(runs: Path) -> None:
    """Copies the evaluations, and of the metrics the rl stages and a few fields."""
    for target in SEEDS:
        target.mkdir(exist_ok=True)
        rows, markers = [], {}
        for name in RUNS:
            source = runs / target.name.replace("seed", name)
            for path in sorted((source / "eval").iterdir()):
                # each of the runs evaluates the same policy before rl, this one first
                if path.stem != "before" or name == RUNS[0]:
                    shutil.copy(path, target)
            shutil.copy(source / "config.resolved.yaml", target / f"{name}.resolved.yaml")
            lines = map(json.loads, (source / "metrics.jsonl").read_text().splitlines())
            rows += [{k: row[k] for k in KEPT if k in row} for row in lines if "reward/mean" in row]
            found = {p.stem: json.loads(p.read_text()) for p in (source / "stages").iterdir()}
            markers[name] = dict(sorted(found.items()))
        (target / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (target / "stages.json").write_text(json.dumps(markers, indent=1) + "\n")


def held_out(name: str, kind: str = "accuracy", domain: str = "all") -> list[float]:
    found = [json.loads((folder / f"{name}.json").read_text()) for folder in SEEDS]
    return [100 * evaluation[kind][domain] for evaluation in found]


def interval(values: list[float]) -> str:
    half = T * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def curve(stage: str) -> dict[int, list[float]]:
    """Step -> the seeds' accuracy of the answers of that step, by the oracle."""
    found: dict[int, list[float]] = {}
    for folder in SEEDS:
        for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
            if row["stage"] == stage and "oracle/gap" in row:
                right = 100 * (row["reward/mean"] - row["oracle/gap"])
                found.setdefault(row["step"], []).append(right)
    return found


def picture() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), width_ratios=(3, 2.4))
    for stage in (
        "soft",
        "binary",
        "judge",
        "larger",
        "distilled",
    ):  # of a rule stage its own rule is logged as oracle
        (label, colour), points = REWARDS[stage], curve(stage)
        mean = [statistics.mean(values) for values in points.values()]
        left.plot(list(points), mean, color=colour, linewidth=1.7, label=label)
        low, high = ([pick(values) for values in points.values()] for pick in (min, max))
        left.fill_between(list(points), low, high, color=colour, alpha=0.1, linewidth=0)
    left.set(xlabel="RL step", ylabel="%", ylim=(0, 100), title="right answers in the rollouts")
    left.legend(frameon=False, fontsize=7, loc="lower right")
    for at, (name, (_, colour)) in enumerate(reversed(EVALUATIONS.items())):
        values = held_out(name)
        right.barh(at, statistics.mean(values), color=colour, height=0.6)
        right.plot(values, [at] * len(values), "k.", markersize=3)
    labels = [label for label, _ in reversed(EVALUATIONS.values())]
    right.set_yticks(range(len(labels)), labels, fontsize=7)
    right.set(xlim=(0, 100), xlabel="%", title="held out, sampled: mean and seeds")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    figure.tight_layout()
    figure.savefig(HERE / "rewards.png", dpi=130)


def table() -> str:
    lines = ["| reward | sampled, % | over SFT of the same seed | greedy, % | sampled, by seed |"]
    lines += ["|---|---|---|---|---|"]
    for name, (label, _) in EVALUATIONS.items():
        after, greedy = held_out(name), interval(held_out(name, "greedy"))
        gain = [b - a for a, b in zip(held_out("before"), after, strict=True)]
        seeds = ", ".join(f"{x:.1f}" for x in after)
        over = "" if name == "before" else interval(gain)
        lines.append(f"| {label} | {interval(after)} | {over} | {greedy} | {seeds} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        gather(Path(sys.argv[1]))
    picture()
    print(table())
