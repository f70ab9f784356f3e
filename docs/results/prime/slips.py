"""Longer sums with demonstrations that slip: `python slips.py runs/slips.jsonl`.

Sums of seven to nine terms of one digit, a line for each partial sum.  One line in five of a
demonstration is off by one or two, and what follows goes on from there, so about one demonstration
in five ends right.  The reference is the true sum.
"""

import json
import random
import sys
from pathlib import Path

ROWS, SLIP = 70_000, 0.2


def problem(rng: random.Random) -> dict[str, str]:
    count = rng.randint(7, 9)
    terms = [rng.randint(1, 9)]
    terms += [rng.choice((-1, 1)) * rng.randint(1, 9) for _ in range(count - 1)]
    question, total, lines = str(terms[0]), terms[0], []
    for term in terms[1:]:
        step = f"{'-' if term < 0 else '+'} {abs(term)}"
        found = total + term + (rng.choice((-2, -1, 1, 2)) if rng.random() < SLIP else 0)
        question += f" {step}"
        lines.append(f"{total} {step} = {found}")
        total = found
    solution = "\n".join([*lines, str(total)])
    return {"question": question, "solution": solution, "final_answer": str(sum(terms))}


if __name__ == "__main__":
    rng, rows = random.Random(0), {}
    while len(rows) < ROWS:
        row = problem(rng)
        rows[row["question"]] = row
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
