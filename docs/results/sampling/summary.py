"""The table of problems drawn evenly and by their pass rates.

    python docs/results/sampling/summary.py

reads seed*/{metrics.jsonl,before.json,after_uniform.json,after_weighted.json} beside this file and
writes table.md.
"""

import json
import math
from pathlib import Path

HERE = Path(__file__).parent
# Half width of a 95 % interval over its standard error, by the number of seeds.
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
ARMS = ("uniform", "weighted")


def read(folder: Path) -> dict:
    names = ("before", *(f"after_{arm}" for arm in ARMS))
    run = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return run | {arm: [row for row in rows if row["stage"] == arm] for arm in ARMS}


def spread(values: list[float]) -> str:
    centre, n = sum(values) / len(values), len(values)
    deviation = math.sqrt(sum((x - centre) ** 2 for x in values) / (n - 1))
    return f"{centre:.1f} ± {T95[n] * deviation / math.sqrt(n):.1f}"


def accuracies(runs: list[dict], name: str, kind: str, domain: str) -> list[float]:
    return [100 * run[name][kind][domain] for run in runs]


def means(runs: list[dict], arm: str, metric: str) -> list[float]:
    """The mean of a metric over all steps of each run, in percent."""
    return [100 * sum(row[metric] for row in run[arm]) / len(run[arm]) for run in runs]


def table(runs: list[dict]) -> str:
    head = ["points", "before", "uniform", "weighted", "weighted - uniform"]
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|"]
    for domain in runs[0]["before"]["accuracy"]:
        for kind, what in (("accuracy", "sampled"), ("greedy", "greedy")):
            if kind == "greedy" and domain != "all":
                continue
            before, *after = (
                accuracies(runs, name, kind, domain)
                for name in ("before", "after_uniform", "after_weighted")
            )
            gain = [b - a for a, b in zip(*after, strict=True)]
            cells = [spread(values) for values in (before, *after, gain)]
            lines.append(f"| {domain}, {what} | {' | '.join(cells)} |")
    silent = [means(runs, arm, "reward/frac_zero_std") for arm in ARMS]
    fewer = [b - a for a, b in zip(*silent, strict=True)]
    cells = [spread(values) for values in (*silent, fewer)]
    lines.append(f"| groups of equal rewards, all steps | | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    runs = [read(folder) for folder in sorted(HERE.glob("seed*"))]
    (HERE / "table.md").write_text(table(runs))
    print(table(runs))


if __name__ == "__main__":
    main()
