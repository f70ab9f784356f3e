"""The tables and the picture of flipped verdicts from raw files.

    python docs/results/flipped/summary.py

reads seed*/results.json beside this file, and writes table.md and flipped.png there.  Needs
matplotlib, which nothing else here does.
"""

import json
import math
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantile, by the number of seeds
SHARES = (0, 10, 30)
MODES = {"soft": "#2a6fbb", "binary": "#c8553d", "paper": "#3d8b5f"}


def half_width(values: list[float]) -> float:
    """Half of the width of the 95 % interval of a mean, by Student's t."""
    if len(values) < 2:
        return math.nan
    return STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def with_mean(values: list[float], form: str = "{:+.1f}") -> str:
    """The value of each seed, and their mean with its 95 % interval, as cells of a table."""
    half = form.replace("+", "").format(half_width(values))
    mean = f"{form.format(statistics.mean(values))} ± {half}"
    return " | ".join([*map(form.format, values), mean])


def points(run: dict, stage: str, key: str = "accuracy") -> float:
    return 100 * run[stage][key]


def gains(runs: list[dict], mode: str, share: int, key: str) -> list[float]:
    return [points(r, f"after_{mode}{share}", key) - points(r, "before", key) for r in runs]


def table(runs: dict[str, dict]) -> str:
    every = list(runs.values())
    lines = ["| flipped | quantity | " + " | ".join([*runs, "mean"]) + " |"]
    lines.append("|---|---|" + "---|" * (len(runs) + 1))

    def row(share: object, title: str, cells: str) -> None:
        lines.append(f"| {share} | {title} | {cells} |")

    for key, what in (("accuracy", "sampled"), ("greedy", "greedy")):
        cells = with_mean([points(r, "before", key) for r in every], "{:.1f}")
        row("-", f"accuracy before RL, {what}", cells)
    for share in SHARES:
        name = f"{share} %"
        for key, what in (("kappa", "kappa"), ("false_positive", "false positives")):
            values = [r[f"judged{share}"]["verifier"][key] for r in every]
            row(name, f"verifier on answers before RL, {what}", with_mean(values, "{:.2f}"))
        for key, what in (("accuracy", "sampled"), ("greedy", "greedy")):
            for mode in MODES:
                row(name, f"gain of {mode}, {what}", with_mean(gains(every, mode, share, key)))
        for other in ("binary", "paper"):
            one, two = (gains(every, mode, share, "accuracy") for mode in ("soft", other))
            cells = with_mean([a - b for a, b in zip(one, two, strict=True)])
            row(name, f"soft against {other}, sampled", cells)
        for mode in MODES:
            values = [r[f"after_{mode}{share}"]["verifier"]["false_positive"] for r in every]
            row(name, f"false positives after RL by {mode}", with_mean(values, "{:.2f}"))
    return "\n".join(lines) + "\n"


def picture(runs: list[dict]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
    for axis, (key, title) in zip(
        axes, (("accuracy", "sampled"), ("greedy", "greedy")), strict=True
    ):
        for i, (mode, colour) in enumerate(MODES.items()):
            values = [gains(runs, mode, share, key) for share in SHARES]
            at = [place + 0.15 * (i - 1) for place in range(len(SHARES))]
            means, bars = map(statistics.mean, values), list(map(half_width, values))
            axis.errorbar(at, list(means), bars, fmt="o", color=colour, capsize=3, label=mode)
            for place, own in zip(at, values, strict=True):
                axis.plot([place + 0.05] * len(own), own, ".", color=colour, alpha=0.35)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set_xticks(range(len(SHARES)), [f"{share} % flipped" for share in SHARES])
        axis.set_title(f"gain in held-out accuracy, {title}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("points")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "flipped.png", dpi=110)


def main() -> None:
    folders = sorted(HERE.glob("seed*"))
    runs = {
        folder.name.replace("seed", "seed "): json.loads((folder / "results.json").read_text())
        for folder in folders
    }
    picture(list(runs.values()))
    (HERE / "table.md").write_text(table(runs), encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    main()
