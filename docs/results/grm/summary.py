"""The table and the picture of the small generative reward model, from raw run files.

    python docs/results/grm/summary.py

reads seed*/vote_*.json beside this file and writes grm.png and table.md.  Needs
matplotlib.
"""

import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # half width of a 95 % interval, by seeds
STAGES = {"cold": "cold start", "tuned": "+ rejective fine-tuning", "grm": "+ rule-based RL"}
COLOURS = {"cold": "#8a8a8a", "tuned": "#2a6fbb", "grm": "#3d8b5f"}
Json = dict


def load(seed: Path) -> dict[str, Json]:
    return {path.stem: json.loads(path.read_text()) for path in seed.glob("vote_*.json")}


def mean(values: list[float]) -> tuple[float, float]:
    """Return the mean in percent and half a 95 % interval over seeds."""
    values = [100 * value for value in values]
    centre = sum(values) / len(values)
    if len(values) < 2:
        return centre, math.nan
    spread = math.sqrt(sum((x - centre) ** 2 for x in values) / (len(values) - 1))
    return centre, T95[len(values)] * spread / math.sqrt(len(values))


def cell(values: list[float]) -> str:
    centre, half = mean(values)
    return f"{centre:.1f} ± {half:.1f}" if math.isfinite(half) else f"{centre:.1f}"


def of(result: Json, votes: int | None, way: str, how: str = "expected") -> float:
    place = result["greedy"] if votes is None else result["votes"][str(votes)][way]
    return place["all"][how]


def rows(runs: list[dict[str, Json]]) -> list[list[str]]:
    table = []
    for stage, label in STAGES.items():
        several = [run[f"vote_{stage}"] for run in runs if f"vote_{stage}" in run]
        if len(several) < len(runs):
            continue
        counts = [None, *(int(k) for k in several[0]["votes"])]
        for votes in counts:
            cells = [cell([of(r, votes, "plain", how) for r in several]) for how in HOW]
            table.append([label, "greedy" if votes is None else f"{votes}", *cells])
    for stage, name in (("tuned", "vote_tuned_meta"), ("grm", "vote_grm")):
        several = [run[name] for run in runs if name in run]
        if len(several) < len(runs):
            continue
        for votes in several[0]["votes"]:
            for way in several[0]["votes"][votes]:
                if way != "plain" and int(votes) >= 4:
                    cells = [cell([of(r, int(votes), way, how) for r in several]) for how in HOW]
                    keep = f"{float(way.split()[1]):.0%}" if "0.01" not in way else "the best"
                    table.append([f"{STAGES[stage]}, meta RM keeps {keep}", votes, *cells])
    scalar = [run["vote_scalar"] for run in runs if "vote_scalar" in run]
    if len(scalar) == len(runs):
        cells = [cell([of(r, None, "plain", how) for r in scalar]) for how in HOW]
        table.append(["scalar reward model (Bradley-Terry)", "", *cells])
    return table


HOW = ("expected", "strict", "tied")


def picture(runs: list[dict[str, Json]]) -> None:
    figure, axes = plt.subplots(figsize=(5.5, 3.4))
    for stage, label in STAGES.items():
        several = [run[f"vote_{stage}"] for run in runs if f"vote_{stage}" in run]
        if len(several) < len(runs):
            continue
        counts = sorted(int(k) for k in several[0]["votes"])
        for k in counts:
            axes.plot(
                [k] * len(several),
                [100 * of(r, k, "plain") for r in several],
                ".",
                color=COLOURS[stage],
            )
        points = [mean([of(r, k, "plain") for r in several])[0] for k in counts]
        axes.plot(counts, points, "o-", color=COLOURS[stage], label=label)
        greedy = mean([of(r, None, "") for r in several])[0]
        axes.axhline(greedy, ls=":", lw=1, color=COLOURS[stage])
    axes.set(xscale="log", xlabel="votes (dotted: greedy)", ylabel="accuracy, ties shared, %")
    axes.set_xticks(counts, [str(k) for k in counts])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "grm.png", dpi=130)


def main() -> None:
    seeds = sorted(HERE.glob("seed*"))
    runs = [load(seed) for seed in seeds]
    picture(runs)
    head = ["model", "votes", "accuracy, ties shared", "ties wrong", "share of ties"]
    lines = [head, ["---"] * len(head), *rows(runs)]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    (HERE / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
