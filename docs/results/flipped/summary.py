"""The table of the flipped verdicts from raw files.

    python docs/results/flipped/summary.py

reads seed*/*.json beside this file, and writes table.md there.
"""

import json
import math
import statistics
from pathlib import Path

HERE = Path(__file__).parent
STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantile, by the number of seeds
SHARES, MODES = (0, 10, 30), ("soft", "binary", "paper")


def with_interval(values: list[float], form: str = "{:.1f}") -> str:
    """The mean over the seeds with its 95 % interval."""
    if len(values) < 2:
        return form.format(values[0])
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{form.format(statistics.mean(values))} ± {half:.1f}"


def table(seeds: list[Path]) -> str:
    def of(seed: Path, name: str) -> dict:
        return json.loads((seed / f"{name}.json").read_text())

    def values(name: str, key: str) -> list[float]:
        return [100 * of(seed, name)[key]["all"] for seed in seeds]

    head = "| flipped | reward | sampled | greedy | sampled, to soft | accepted wrong answers |"
    lines = [head, "|---|---|---|---|---|---|"]
    begin = [with_interval(values("before", key)) for key in ("accuracy", "greedy")]
    lines.append(f"| - | before RL | {begin[0]} | {begin[1]} | - | - |")
    for share in SHARES:
        soft = values(f"after_soft{share}", "accuracy")
        for mode in MODES:
            name = f"after_{mode}{share}"
            sampled, greedy = values(name, "accuracy"), values(name, "greedy")
            gaps = [a - b for a, b in zip(sampled, soft, strict=True)]
            against = "-" if mode == "soft" else with_interval(gaps, "{:+.1f}")
            fooled = [100 * of(seed, name)["verifier"]["false_positive"] for seed in seeds]
            cells = [with_interval(sampled), with_interval(greedy), against, with_interval(fooled)]
            lines.append(f"| {share} % | {mode} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = table(sorted(HERE.glob("seed*")))
    (HERE / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
