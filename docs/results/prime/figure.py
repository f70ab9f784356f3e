"""The picture and the table of `prime` from the raw files: `python figure.py [RUNS]`.

With RUNS, the folder of the runs `primeN` of each seed N, the raw files are taken from there first.
Needs matplotlib.  Intervals are of Student's t, 95 %.
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
T = {2: 12.706, 3: 4.303, 5: 2.776}  # two-sided 95 %, by the number of seeds
WINDOW = 10  # steps; 2,560 responses
PAIRS = {
    "rloo": ("RLOO", "#2a6fbb"),
    "reinforce": ("REINFORCE", "#c8553d"),
    "grpo": ("GRPO", "#3d8b5f"),
    "ppo": ("PPO", "#6a4c93"),
}
WITH = {"_prm": "with the PRM", "_warm": "with a PRM that learned before"}
KEPT = ("stage", "step", "reward/mean", "reward/std", "policy/entropy", "prm/loss", "prm/acc")
KEPT += ("prm/reward_mean", "advantage/process_std", "advantage/outcome_std", "time/step")
KEPT += (
    "prm/taught_frac",
    "advantage/correlation",
    "completion/length_mean",
    "value/explained",
    "perf/compiles",
)


def gather(runs: Path, name: str, kept: str = "") -> None:
    """Copies the evaluations, and of the metrics the rl and prm stages and a few fields."""
    for source in sorted(runs.glob(f"{name}[0-9]")):
        target = HERE / source.name.replace(name, kept or name)
        target.mkdir(exist_ok=True)
        for path in source.glob("eval/*.json"):  # seeds 3 and 4 have none
            shutil.copy(path, target)
        shutil.copy(source / "config.resolved.yaml", target)
        lines = map(json.loads, (source / "metrics.jsonl").read_text().splitlines())
        rows = [{k: row[k] for k in KEPT if k in row} for row in lines if "reward/mean" in row]
        (target / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        markers = {p.stem: json.loads(p.read_text()) for p in sorted((source / "stages").iterdir())}
        (target / "stages.json").write_text(json.dumps(markers, indent=1) + "\n")


def read(stage: str, key: str = "reward/mean") -> dict[int, list[float]]:
    """Seed -> the values of each step."""
    found = {}
    for folder in sorted(HERE.glob("seed?")):
        rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        values = [row[key] for row in rows if row["stage"] == stage]
        if values:
            found[int(folder.name.removeprefix("seed"))] = values
    return found


def smooth(values: list[float]) -> list[float]:
    """The mean of the last WINDOW steps, from the first step that has so many."""
    return [statistics.mean(values[i - WINDOW : i]) for i in range(WINDOW, len(values) + 1)]


def interval(values: list[float], digits: int = 1) -> str:
    half = T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.{digits}f} ± {half:.{digits}f}"


def reached(stage: str, alone: dict[int, list[float]]) -> str:
    """Steps, by seed, until the reward is what the estimator alone ends with; - for never."""
    told = []
    for seed, values in read(stage).items():
        goal = smooth(alone[seed])[-1]
        over = [i for i, value in enumerate(smooth(values), WINDOW) if value >= goal]
        told.append(str(over[0]) if over else "-")
    return ", ".join(told)


def table() -> str:
    lines = [
        "| estimator | token rewards | reward, last ten steps, % | over the estimator alone | "
        "steps to its last reward, by seed | accuracy of the PRM, % | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (label, _) in PAIRS.items():
        alone = read(name)
        final = {seed: 100 * smooth(values)[-1] for seed, values in alone.items()}
        steps = len(next(iter(alone.values())))
        lines.append(
            f"| {label} | none | {interval([*final.values()])} | | {steps} | | {len(final)} |"
        )
        for suffix, what in WITH.items():
            found = read(name + suffix)
            if not found:
                continue
            mine = {seed: 100 * smooth(values)[-1] for seed, values in found.items()}
            over = interval([mine[seed] - final[seed] for seed in mine])
            right = [100 * smooth(x)[-1] for x in read(name + suffix, "prm/acc").values()]
            lines.append(
                f"| {label} | {what} | {interval([*mine.values()])} | {over} | "
                f"{reached(name + suffix, alone)} | {statistics.mean(right):.0f} | {len(mine)} |"
            )
    return "\n".join(lines) + "\n"


def picture() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), sharey=True)
    for axis, (name, (label, colour)) in zip(axes, PAIRS.items(), strict=True):
        for suffix, style in (("", "--"), ("_prm", "-"), ("_warm", ":")):
            found = read(name + suffix)
            if not found:
                continue
            curves = [[100 * x for x in smooth(values)] for values in found.values()]
            steps = range(WINDOW, WINDOW + len(curves[0]))
            mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
            said = WITH.get(suffix, "outcomes only")
            axis.plot(steps, mean, style, color=colour, linewidth=1.7, label=said)
            low, high = ([pick(v) for v in zip(*curves, strict=True)] for pick in (min, max))
            axis.fill_between(steps, low, high, color=colour, alpha=0.1, linewidth=0)
        axis.set(xlabel="RL step", title=f"{label}, {len(read(name))} seeds")
        axis.legend(frameon=False, fontsize=7, loc="lower right")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("right answers of the last ten steps, %")
    figure.tight_layout()
    figure.savefig(HERE / "prime.png", dpi=130)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        gather(Path(sys.argv[1]), "prime", "seed")
    picture()
    print(table())
