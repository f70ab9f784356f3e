"""The table and the picture of the small generative reward model, from raw run files.

    python docs/results/grm/summary.py

reads seed*/vote_*.json beside this file and writes grm.png and table.md.  Needs matplotlib.
"""

import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # half width of a 95 % interval, by seeds
# file, way of counting, label
ROWS = (
    ("cold", "plain", "cold start"),
    ("tuned", "plain", "+ rejective fine-tuning"),
    ("grm", "plain", "+ rule-based RL"),
    ("grm", "meta 0.5", "the same, meta RM keeps half of the votes"),
    ("grm", "meta 0.25", "the same, a quarter"),
    ("grm", "meta 0.01", "the same, one vote"),
    ("tuned_meta", "meta 0.5", "rejective fine-tuning, meta RM keeps half"),
    ("rl_only", "plain", "cold start + RL, no rejective fine-tuning"),
    ("unhinted", "plain", "rejective fine-tuning without hints"),
    ("own_only", "plain", "rejective fine-tuning without demonstrations"),
    ("none", "plain", "cold start without criteria"),
    ("query", "plain", "cold start, criteria from the query"),
    ("large", "plain", "cold start of a judge with 2.8 M weights"),
    ("pick", "plain", "cold start that picks the best (lists of 2 and 3)"),
    ("pick", "weighted", "the same, verdicts weighted by probability"),
    ("scalar", "plain", "scalar reward model (Bradley-Terry)"),
    ("semi", "plain", "semi-scalar: critique, then a value"),
)
CURVES = {
    ("cold", "plain"): ("#8a8a8a", "o-"),
    ("tuned", "plain"): ("#2a6fbb", "o-"),
    ("grm", "plain"): ("#3d8b5f", "o-"),
    ("grm", "meta 0.5"): ("#c2571a", "s--"),
}
COUNTS = ("1", "2", "4", "8", "16", "32")
# label, then the two places that are compared within each seed: file, votes ("" is greedy), way
GAINS = (
    ("8 votes over 1, cold start", ("cold", "8", "plain"), ("cold", "1", "plain")),
    ("8 votes over 1, after RL", ("grm", "8", "plain"), ("grm", "1", "plain")),
    ("32 votes over greedy, after RL", ("grm", "32", "plain"), ("grm", "", "plain")),
    ("fine-tuning over cold start, greedy", ("tuned", "", "plain"), ("cold", "", "plain")),
    ("fine-tuning over cold start, 8 votes", ("tuned", "8", "plain"), ("cold", "8", "plain")),
    ("RL over fine-tuning, greedy", ("grm", "", "plain"), ("tuned", "", "plain")),
    ("RL over fine-tuning, 8 votes", ("grm", "8", "plain"), ("tuned", "8", "plain")),
    ("both over cold start, greedy", ("grm", "", "plain"), ("cold", "", "plain")),
    ("both over cold start, 8 votes", ("grm", "8", "plain"), ("cold", "8", "plain")),
    (
        "fine-tuned judge, 1 vote, drawn twice",
        ("tuned_meta", "1", "plain"),
        ("tuned", "1", "plain"),
    ),
    (
        "fine-tuned judge, 8 votes, drawn twice",
        ("tuned_meta", "8", "plain"),
        ("tuned", "8", "plain"),
    ),
    ("meta RM's choice of 2 over 1 vote", ("grm", "2", "meta 0.5"), ("grm", "1", "plain")),
    ("meta RM's best of 8 over 1 vote", ("grm", "8", "meta 0.01"), ("grm", "1", "plain")),
    ("meta RM's best of 32 over 1 vote", ("grm", "32", "meta 0.01"), ("grm", "1", "plain")),
    ("meta RM's half of 8 votes over all 8", ("grm", "8", "meta 0.5"), ("grm", "8", "plain")),
    ("meta RM's half of 32 votes over all 32", ("grm", "32", "meta 0.5"), ("grm", "32", "plain")),
    ("32 votes after RL over the scalar model", ("grm", "32", "plain"), ("scalar", "", "plain")),
    ("RL alone over the cold start, greedy", ("rl_only", "", "plain"), ("cold", "", "plain")),
    ("RL alone over the cold start, 8 votes", ("rl_only", "8", "plain"), ("cold", "8", "plain")),
    ("both over RL alone, greedy", ("grm", "", "plain"), ("rl_only", "", "plain")),
    ("both over RL alone, 8 votes", ("grm", "8", "plain"), ("rl_only", "8", "plain")),
    ("no hints over hints, greedy", ("unhinted", "", "plain"), ("tuned", "", "plain")),
    ("no hints over hints, 8 votes", ("unhinted", "8", "plain"), ("tuned", "8", "plain")),
    ("no demonstrations over some, greedy", ("own_only", "", "plain"), ("tuned", "", "plain")),
    ("no demonstrations over some, 8 votes", ("own_only", "8", "plain"), ("tuned", "8", "plain")),
    ("no criteria over criteria, greedy", ("none", "", "plain"), ("cold", "", "plain")),
    ("no criteria over criteria, 8 votes", ("none", "8", "plain"), ("cold", "8", "plain")),
    ("criteria from the query over all, greedy", ("query", "", "plain"), ("cold", "", "plain")),
    ("criteria from the query over all, 8 votes", ("query", "8", "plain"), ("cold", "8", "plain")),
    ("picks, 8 weighted votes over plain ones", ("pick", "8", "weighted"), ("pick", "8", "plain")),
    ("picks, 4 weighted votes over plain ones", ("pick", "4", "weighted"), ("pick", "4", "plain")),
    ("picks, 8 weighted votes over greedy", ("pick", "8", "weighted"), ("pick", "", "plain")),
    ("semi-scalar over scalar", ("semi", "", "plain"), ("scalar", "", "plain")),
    ("semi-scalar, 8 critiques over greedy", ("semi", "8", "plain"), ("semi", "", "plain")),
)
Json = dict


def load(seed: Path) -> dict[str, Json]:
    return {path.stem[5:]: json.loads(path.read_text()) for path in seed.glob("vote_*.json")}


def mean(values: list[float]) -> tuple[float, float]:
    """Return the mean in percent and half a 95 % interval over seeds."""
    values = [100 * value for value in values]
    centre = sum(values) / len(values)
    if len(values) < 2:
        return centre, math.nan
    spread = math.sqrt(sum((x - centre) ** 2 for x in values) / (len(values) - 1))
    return centre, T95[len(values)] * spread / math.sqrt(len(values))


def cell(places: list[Json | None], how: str) -> str:
    if not all(places):
        return ""
    centre, half = mean([place["all"][how] for place in places])
    return f"{centre:.1f} ± {half:.1f}" if math.isfinite(half) else f"{centre:.1f}"


def votes(result: Json, count: str, way: str) -> Json | None:
    return result["votes"].get(count, {}).get(way)


def table(runs: list[dict[str, Json]]) -> str:
    lines = [["judge", "seeds", "greedy", *COUNTS, "ties of 8 votes"]]
    lines.append(["---"] * len(lines[0]))
    for name, way, label in ROWS:
        results = [run[name] for run in runs if name in run]
        if not results or not any(votes(results[0], count, way) for count in COUNTS):
            continue
        greedy = cell([r["greedy"] for r in results], "expected") if way == "plain" else ""
        cells = [cell([votes(r, count, way) for r in results], "expected") for count in COUNTS]
        tied = cell([votes(r, "8", way) for r in results], "tied")
        if name == "scalar":
            cells[0] = ""
        lines.append([label, f"{len(results)}", greedy, *cells, tied])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def gains(runs: list[dict[str, Json]]) -> str:
    """Return differences in points, paired by seed."""

    def share(run: dict[str, Json], name: str, count: str, way: str) -> float:
        place = votes(run[name], count, way) if count else run[name]["greedy"]
        return place["all"]["expected"]

    lines = [["difference, points", "mean ± 95 %", "each seed"], ["---"] * 3]
    for label, one, other in GAINS:
        both = [run for run in runs if one[0] in run and other[0] in run]
        values = [share(run, *one) - share(run, *other) for run in both]
        centre, half = mean(values)
        each = ", ".join(f"{100 * value:+.1f}" for value in values)
        lines.append([label, f"{centre:+.1f} ± {half:.1f}", each])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def picture(runs: list[dict[str, Json]]) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.8))
    labels = {(name, way): label for name, way, label in ROWS}
    for (name, way), (colour, style) in CURVES.items():
        results = [run[name] for run in runs if name in run]
        counts = [count for count in COUNTS if results and votes(results[0], count, way)]
        points = {
            int(count): [100 * votes(r, count, way)["all"]["expected"] for r in results]
            for count in counts
        }
        for count, values in points.items():
            axes.plot([count] * len(values), values, ".", color=colour, alpha=0.5)
        means = [sum(values) / len(values) for values in points.values()]
        axes.plot(list(points), means, style, color=colour, label=labels[name, way])
        if way == "plain":
            greedy = mean([r["greedy"]["all"]["expected"] for r in results])[0]
            axes.axhline(greedy, ls=":", lw=1, color=colour)
    scalar = [run["scalar"]["greedy"]["all"]["expected"] for run in runs if "scalar" in run]
    if scalar:
        axes.axhline(mean(scalar)[0], ls="-.", lw=1, color="black", label="scalar reward model")
    axes.set(xscale="log", xlabel="votes (dotted: greedy)", ylabel="accuracy, ties shared, %")
    axes.set_xticks([int(count) for count in COUNTS], COUNTS)
    axes.minorticks_off()
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(HERE / "grm.png", dpi=130)


def main() -> None:
    runs = [load(seed) for seed in sorted(HERE.glob("seed*"))]
    picture(runs)
    text = table(runs) + "\n" + gains(runs)
    (HERE / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
