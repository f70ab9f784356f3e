"""The table and the picture of policies that votes, a verifier and a rule have paid.

    python docs/results/grm_reward/summary.py

reads seed*/*.json beside this file and writes grm_reward.png and table.md.  Needs matplotlib.
"""

import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
T95 = 4.303  # half width of a 95 % interval of three seeds
PAID = (  # file, label
    ("before", "demonstrations alone"),
    ("paid_by_verifier", "verifier, 60 steps"),
    ("paid_by_votes", "votes of the judge, 60 steps"),
    ("paid_twice", "the same, 30 more steps paid by the judge of round 1"),
    ("paid_by_rule", "rule, 60 steps"),
)
ROUNDS = (
    ("vote_before", "answers after 60 steps, judge before round 1"),
    ("vote_after", "the same answers, judge after round 1"),
    ("vote_before2", "answers after 90 steps, judge before round 2"),
    ("vote_after2", "the same answers, judge after round 2"),
)
COLOURS = ("#8a8a8a", "#c8553d", "#2a6fbb", "#174a80", "#3d8b5f")


def spread(values: list[float]) -> str:
    centre = sum(values) / len(values)
    deviation = math.sqrt(sum((x - centre) ** 2 for x in values) / (len(values) - 1))
    return f"{centre:.1f} ± {T95 * deviation / math.sqrt(len(values)):.1f}"


def each(values: list[float]) -> str:
    return ", ".join(f"{x:.1f}" for x in values)


def policies(runs: list[dict]) -> dict[str, list[list[float]]]:
    return {
        name: [[100 * run[name][kind]["all"] for run in runs] for kind in ("accuracy", "greedy")]
        for name, _ in PAID
    }


def judges(runs: list[dict]) -> dict[str, list[list[float]]]:
    return {
        name: [
            [100 * run[name]["greedy"]["all"]["expected"] for run in runs],
            [100 * run[name]["votes"]["2"]["plain"]["all"]["expected"] for run in runs],
        ]
        for name, _ in ROUNDS
    }


def table(head: list[str], rows: tuple, values: dict[str, list[list[float]]]) -> str:
    lines = [head, ["---"] * len(head)]
    for name, label in rows:
        cells = [text for column in values[name] for text in (spread(column), each(column))]
        lines.append([label, *cells])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def picture(paid: dict, judged: dict) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for place, ((name, _), colour) in enumerate(zip(PAID, COLOURS, strict=True)):
        values = paid[name][0]
        left.bar(place, sum(values) / len(values), color=colour, width=0.7, alpha=0.85)
        left.plot([place] * len(values), values, "k.", markersize=5)
    words = ("before", "verifier", "votes", "votes,\nco-trained", "rule")
    left.set_xticks(range(len(words)), words, fontsize=8)
    left.set(ylabel="held-out accuracy of the policy, %", ylim=(0, 100))
    for seed in range(len(judged["vote_before"][0])):
        for start in (0, 2):
            names = [name for name, _ in ROUNDS[start : start + 2]]
            values = [judged[name][0][seed] for name in names]
            right.plot([start, start + 1], values, "o-", color="#2a6fbb", alpha=0.7)
    words = ("before\nround 1", "after\nround 1", "before\nround 2", "after\nround 2")
    right.set_xticks(range(4), words, fontsize=8)
    right.set(ylabel="judge on the policy's own answers, %", ylim=(50, 100))
    figure.tight_layout()
    figure.savefig(HERE / "grm_reward.png", dpi=130)


def main() -> None:
    folders = sorted(HERE.glob("seed*"))
    runs = [{p.stem: json.loads(p.read_text()) for p in f.glob("*.json")} for f in folders]
    paid, judged = policies(runs), judges(runs)
    picture(paid, judged)
    policy = ["policy paid by", "sampled, %", "each seed", "greedy, %", "each seed"]
    judge = ["judge on held-out items of the policy's answers", "greedy, %", "each seed"]
    text = table(policy, PAID, paid) + "\n"
    text += table([*judge, "2 votes, %", "each seed"], ROUNDS, judged)
    (HERE / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
