"""The picture and the tables of the longer sums from the raw files: `python long.py [RUNS]`.

With RUNS, the folder of the runs `longN` of each seed N, the raw files are taken from there first.
Needs matplotlib.  Intervals are of Student's t, 95 %.
"""

import json
import statistics
import sys
from pathlib import Path

import figure
import matplotlib.pyplot as plt

RL = {
    "rloo": ("none", "#2a6fbb", "--"),
    "rloo_prm": ("of a PRM that begins as the policy", "#2a6fbb", "-"),
    "rloo_warm": ("of a PRM that learned before", "#c8553d", "-"),
    "rloo_share": ("the same, from a quarter of the rows", "#3d8b5f", "-"),
    "fast": ("none", "#888888", "--"),
    "fast_warm": ("of a PRM that learned before", "#888888", "-"),
}
ALONE = {
    "prm": ("all rows, frozen reference", "chosen"),
    "quarter": ("a quarter, policy as reference", "chosen_quarter"),
    "eighth": ("an eighth, policy as reference", "chosen_eighth"),
}
COLOURS = ("#2a6fbb", "#3d8b5f", "#c8553d")
CHOICES = ("accuracy", "majority", "weighted", "best_of_k_min", "best_of_k_sum")


def read(stage: str, key: str) -> dict[str, list[float]]:
    """Seed -> the values of each step."""
    found = {}
    for folder in sorted(figure.HERE.glob("long?")):
        rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        found[folder.name] = [row[key] for row in rows if row["stage"] == stage]
    return found


def last(stage: str, key: str) -> dict[str, float]:
    """Seed -> the mean of the last ten steps, in %."""
    return {seed: 100 * figure.smooth(values)[-1] for seed, values in read(stage, key).items()}


def seconds(stage: str) -> float:
    """Of the median step after the first, which compiles."""
    return statistics.median(x for values in read(stage, "time/step").values() for x in values[1:])


def table() -> str:
    lines = [
        "| policy lr | token rewards | reward, last ten steps, % | over none | steps to the last "
        "reward of none, by seed | accuracy of the PRM, % |",
        "|---|---|---|---|---|---|",
    ]
    for stage, (label, *_) in RL.items():
        base = "fast" if stage.startswith("fast") else "rloo"
        alone, mine = last(base, "reward/mean"), last(stage, "reward/mean")
        over = right = ""
        if stage != base:
            over = figure.interval([mine[seed] - alone[seed] for seed in mine])
            right = f"{statistics.mean(last(stage, 'prm/acc').values()):.0f}"
        reached = []
        for seed, values in read(stage, "reward/mean").items():
            ten = [100 * x for x in figure.smooth(values)]
            when = [i for i, x in enumerate(ten, figure.WINDOW) if x >= alone[seed]]
            reached.append(str(when[0]) if when else "-")
        lr = "3e-4" if base == "fast" else "1e-4"
        final = figure.interval([*mine.values()])
        lines.append(f"| {lr} | {label} | {final} | {over} | {', '.join(reached)} | {right} |")
    return "\n".join(lines) + "\n"


def judges() -> str:
    head = (
        "one sample | majority of eight | weighted votes | best of eight, worst line | by the sum"
    )
    lines = [f"| the PRM learns from | its accuracy, % | step, s | {head} |", "|---" * 8 + "|"]
    for stage, (label, evaluation) in ALONE.items():
        told = [
            json.loads((folder / f"{evaluation}.json").read_text())
            for folder in sorted(figure.HERE.glob("long?"))
        ]
        cells = [f"{100 * statistics.mean(x[name]['all'] for x in told):.1f}" for name in CHOICES]
        right = figure.interval([*last(stage, "prm/acc").values()])
        lines.append(f"| {label} | {right} | {seconds(stage):.1f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture() -> None:
    drawn, axes = plt.subplots(1, 2, figsize=(11, 3.6))
    for axis, key, stages in (
        (axes[0], "reward/mean", RL),
        (
            axes[1],
            "prm/acc",
            {k: (v[0], c, "-") for (k, v), c in zip(ALONE.items(), COLOURS, strict=True)},
        ),
    ):
        for stage, (label, colour, style) in stages.items():
            curves = [[100 * x for x in figure.smooth(v)] for v in read(stage, key).values()]
            steps = range(figure.WINDOW, figure.WINDOW + len(curves[0]))
            mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
            label += ", lr 3e-4" if stage.startswith("fast") else ""
            axis.plot(steps, mean, style, color=colour, linewidth=1.7, label=label)
            low, high = ([pick(v) for v in zip(*curves, strict=True)] for pick in (min, max))
            axis.fill_between(steps, low, high, color=colour, alpha=0.1, linewidth=0)
        title = "token rewards" if key == "reward/mean" else "learns from"
        axis.legend(frameon=False, fontsize=7, title=title, title_fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    axes[0].set(xlabel="RL step", ylabel="right answers of the last ten steps, %")
    axes[1].set(xlabel="step of the PRM alone", ylabel="its accuracy over the last ten steps, %")
    drawn.tight_layout()
    drawn.savefig(figure.HERE / "long.png", dpi=130)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        figure.gather(Path(sys.argv[1]), "long")
    picture()
    print(table())
    print(judges())
