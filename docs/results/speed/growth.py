"""What a step's time grows with: `python docs/results/speed/growth.py` measures, `... plot` draws.

Each point is a process of its own: `python -m rlvr_jax.bench` on the tiny model, 3 timed steps.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RUNS = {  # what is varied: workload, flag, values, longest response
    "samples per prompt, G": ("S", "--samples", (2, 8, 32), 0),
    "response columns, R, at the same tokens": ("L", "--new", (64, 256, 1024), 64),
    "prompts, Q": ("S", "--prompts", (2, 8, 32), 0),
    "layers, L": ("S", "--layers", (2, 4, 8), 0),
}


def measure() -> None:
    with (HERE / "growth.jsonl").open("w") as out:
        for name, (workload, flag, values, longest) in RUNS.items():
            for value in values:
                command = [sys.executable, "-m", "rlvr_jax.bench", "tiny", workload]
                command += [flag, str(value), "--steps", "3", "--warmup", "1"]
                command += ["--longest", str(longest)] if longest else []
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                row = {"varied": name, "value": value} | json.loads(told)
                out.write(json.dumps(row) + "\n")
                out.flush()
                print(name, value, row["step_s"], row["gen_s"], row["update_s"], flush=True)


def plot() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in (HERE / "growth.jsonl").read_text().splitlines()]
    figure, axes = plt.subplots(1, len(RUNS), figsize=(14, 3.6), layout="constrained")
    for axis, name in zip(axes, RUNS, strict=True):
        points = [row for row in rows if row["varied"] == name]
        x = [row["value"] for row in points]
        axis.plot(x, [row["step_s"] for row in points], "o-", color="black", label="step")
        axis.plot(x, [row["gen_s"] for row in points], "s--", color="tab:blue", label="generation")
        axis.plot(x, [row["update_s"] for row in points], "^--", color="tab:orange", label="update")
        axis.set_xscale("log", base=2)
        axis.set_xticks(x, [str(v) for v in x])
        axis.set_xlabel(name)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds per step")
    axes[0].legend(frameon=False)
    figure.savefig(HERE / "growth.png", dpi=110)


if __name__ == "__main__":
    plot() if sys.argv[1:] == ["plot"] else measure()
