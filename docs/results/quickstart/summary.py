"""The table and the picture of the quickstart from raw files.

    python docs/results/quickstart/summary.py

reads seed*/{metrics.jsonl,before.json,after.json,after_oracle.json} beside this file, and writes
table.md and quickstart.png there.  Needs matplotlib, which nothing else here does.
"""

import json
import math
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
COLOURS = ("#2a6fbb", "#c8553d", "#3d8b5f", "#8a5fb0", "#b08a2a")
STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantile, by the number of seeds
PAID = ("rl", "rl2")


def read(folder: Path) -> dict:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["stage"] in PAID]
    names = ("before", "after", "after_oracle")
    return {"rows": rows} | {n: json.loads((folder / f"{n}.json").read_text()) for n in names}


def with_mean(values: list[float], form: str = "{:.1f}") -> list[str]:
    """The value of each seed, and their mean with its 95 % interval."""
    if len(values) < 2:
        return [*map(form.format, values), "-"]
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return [
        *map(form.format, values),
        f"{form.format(statistics.mean(values))} ± {form.replace('+', '').format(half)}",
    ]


def table(runs: dict[str, dict]) -> str:
    lines = ["| held-out accuracy | " + " | ".join([*runs, "mean"]) + " |"]
    lines.append("|---|" + "---|" * (len(runs) + 1))

    def row(title: str, cells: list[str]) -> None:
        lines.append(f"| {title} | " + " | ".join(cells) + " |")

    def points(run: dict, when: str, key: str, domain: str = "all") -> float:
        return 100 * run[when][key][domain]

    every = list(runs.values())
    for key, what in (("accuracy", "sampled"), ("greedy", "greedy")):
        pairs = [(points(r, "before", key), points(r, "after", key)) for r in every]
        row(f"all, {what}", [f"{a:.1f} → {b:.1f}" for a, b in pairs] + ["-"])
        row(f"gain, {what} (points)", with_mean([b - a for a, b in pairs], "{:+.1f}"))
        gaps = [points(r, "after", key) - points(r, "after_oracle", key) for r in every]
        row(f"against the oracle's reward, {what} (points)", with_mean(gaps, "{:+.1f}"))
    for domain in [name for name in every[0]["before"]["accuracy"] if name != "all"]:
        pairs = [[points(r, n, "accuracy", domain) for n in ("before", "after")] for r in every]
        row(f"{domain}, sampled", [f"{a:.1f} → {b:.1f}" for a, b in pairs] + ["-"])
    for when, what in (("before", "before"), ("after", "after")):
        rates = [100 * r[when]["verifier"]["false_positive"] for r in every]
        row(f"wrong answers that the verifier accepts, {what} RL (%)", with_mean(rates))
    for domain in every[0]["after"]["verifier_by_domain"]:
        kappas = [r["after"]["verifier_by_domain"][domain]["kappa"] for r in every]
        row(f"kappa of verifier and oracle after RL, {domain}", with_mean(kappas, "{:.2f}"))
    row(
        "exact match with the reference",
        with_mean([points(r, "after", "exact_match") for r in every]),
    )
    drift = [max(x["mismatch/logprob_diff_max"] for x in r["rows"]) for r in every]
    row("max log-prob difference sampler/trainer", [f"{x:.1e}" for x in drift] + ["-"])
    return "\n".join(lines) + "\n"


def picture(runs: dict[str, dict]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), width_ratios=(3, 2))
    first = sum(row["stage"] == "rl" for row in next(iter(runs.values()))["rows"])
    for (name, run), colour in zip(runs.items(), COLOURS, strict=False):
        reward = [row["reward/mean"] for row in run["rows"]]
        steps = range(1, len(reward) + 1)
        left.plot(steps, reward, color=colour, alpha=0.15, linewidth=0.8)
        means = [statistics.mean(reward[max(0, i - 9) : i + 1]) for i in range(len(reward))]
        left.plot(steps, means, color=colour, linewidth=1.8, label=name)
    left.axvline(first + 0.5, color="grey", linewidth=0.8, linestyle="--")
    left.text(first + 3, 0.04, "second verifier", color="grey", fontsize=8)
    left.set(xlabel="RL step", ylabel="reward of the verifier", ylim=(0, 1), title="training")
    left.legend(frameon=False)
    domains = list(next(iter(runs.values()))["before"]["accuracy"])
    for i, domain in enumerate(domains):
        for j, (run, colour) in enumerate(zip(runs.values(), COLOURS, strict=False)):
            ends = [run[k]["accuracy"][domain] for k in ("before", "after")]
            at = len(domains) - 1 - i + (len(runs) / 2 - j) * 0.15
            right.plot(ends, [at, at], color=colour, linewidth=1.6)
            right.plot(ends[0], at, "o", markersize=4, color=colour, markerfacecolor="white")
            right.plot(ends[1], at, "o", markersize=5, color=colour)
            oracle = run["after_oracle"]["accuracy"][domain]
            right.plot(oracle, at, "|", markersize=8, color="black")
    right.set_yticks(range(len(domains)), domains[::-1])
    right.set(xlim=(0, 1), xlabel="accuracy of samples")
    right.set_title("held out: before (open), after, oracle's reward (|)", fontsize=10)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    figure.tight_layout()
    figure.savefig(HERE / "quickstart.png", dpi=110)


def main() -> None:
    folders = sorted(HERE.glob("seed*"))
    runs = {folder.name.replace("seed", "seed "): read(folder) for folder in folders}
    picture(runs)
    (HERE / "table.md").write_text(table(runs), encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    main()
