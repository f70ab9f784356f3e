"""Table and picture of SmolLM2 from raw run files.

    python docs/results/summary.py docs/results/smollm2

reads seed*/{metrics.jsonl,before.json,after.json} of the folder and writes a picture and
table.md into it.  Needs matplotlib, which nothing else here does.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#2a6fbb", "#c8553d", "#3d8b5f")


def read(folder: Path) -> dict:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["stage"] == "rl"]
    before, after = (json.loads((folder / f"{n}.json").read_text()) for n in ("before", "after"))
    return {"rows": rows, "before": before, "after": after}


def smooth(values: list[float], keep: float = 0.9) -> list[float]:
    out, level = [], values[0]
    for value in values:
        level = keep * level + (1 - keep) * value
        out.append(level)
    return out


def picture(runs: dict[str, dict], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), width_ratios=(3, 2))
    for (name, run), colour in zip(runs.items(), COLOURS, strict=False):
        steps = [row["step"] for row in run["rows"]]
        reward = [row["reward/mean"] for row in run["rows"]]
        left.plot(steps, reward, color=colour, alpha=0.15, linewidth=0.8)
        left.plot(steps, smooth(reward), color=colour, linewidth=1.8, label=name)
    left.set(xlabel="RL step", ylabel="reward", ylim=(0, 1), title="training reward")
    left.legend(frameon=False)
    domains = list(next(iter(runs.values()))["before"]["accuracy"])
    for i, domain in enumerate(domains):
        for j, (run, colour) in enumerate(zip(runs.values(), COLOURS, strict=False)):
            ends = [run[k]["accuracy"][domain] for k in ("before", "after")]
            at = len(domains) - 1 - i + (1 - j) * 0.2
            right.plot(ends, [at, at], color=colour, linewidth=1.6)
            right.plot(ends[0], at, "o", markersize=4, color=colour, markerfacecolor="white")
            right.plot(ends[1], at, "o", markersize=5, color=colour)
    right.set_yticks(range(len(domains)), domains[::-1])
    right.set(xlim=(0, 1), xlabel="oracle accuracy", title="held out: before (open) and after RL")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def table(runs: dict[str, dict]) -> str:
    lines = ["| held-out accuracy | " + " | ".join(runs) + " |", "|---|" + "---|" * len(runs)]

    def row(title: str, cell) -> None:
        lines.append(f"| {title} | " + " | ".join(cell(run) for run in runs.values()) + " |")

    for domain in next(iter(runs.values()))["before"]["accuracy"]:
        for kind, what in (("accuracy", "sampled"), ("greedy", "greedy")):
            if kind == "greedy" and domain != "all":
                continue
            row(
                f"{domain}, {what}",
                lambda r, d=domain, k=kind: (
                    f"{100 * r['before'][k][d]:.1f} → {100 * r['after'][k][d]:.1f}"
                ),
            )
    row(
        "gain, sampled (points)",
        lambda r: (
            f"**{100 * (r['after']['accuracy']['all'] - r['before']['accuracy']['all']):+.1f}**"
        ),
    )
    row("exact match with the reference", lambda r: f"{100 * r['after']['exact_match']['all']:.1f}")
    if all("verifier" in run["after"] for run in runs.values()):
        row(
            "verifier = oracle, before / after RL",
            lambda r: " / ".join(
                f"{100 * r[k]['verifier']['accuracy']:.1f}" for k in ("before", "after")
            ),
        )
    row(
        "generated tokens/s in the step (median)",
        lambda r: f"{sorted(x['perf/tokens_per_s'] for x in r['rows'])[len(r['rows']) // 2]:.0f}",
    )
    row(
        "max log-prob difference sampler/trainer",
        lambda r: f"{max(x['mismatch/logprob_diff_max'] for x in r['rows']):.1e}",
    )
    row("compiles of the step", lambda r: str(max(x["perf/compiles"] for x in r["rows"])))
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    runs = {p.name.replace("seed", "seed "): read(p) for p in sorted(folder.glob("seed*"))}
    picture(runs, folder / f"{folder.name}.png")
    (folder / "table.md").write_text(table(runs), encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
