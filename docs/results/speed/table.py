"""The table of README from `peers.jsonl`: `python docs/results/speed/table.py`."""

import json
from pathlib import Path

LABEL = {
    ("tiny", "S"): "5 M weights, 64 + 64 tokens each",
    ("tiny", "L"): "5 M weights, 16 to 256 tokens, long tail",
    ("smol", "S"): "SmolLM2-135M, 64 + 32 tokens each",
}
TOOL = {"torch": "torch loop", "trl": "TRL 1.16", "rlvr_jax": "rlvr-jax"}


def cell(row: dict | None) -> str:
    if row is None:
        return "-"
    parts = f"{row['step_s']:.1f} ({row['gen_s']:.1f} + {row['update_s']:.1f})"
    return f"{parts}, {row['peak_rss_mb'] / 1024:.1f} GB"


def main() -> None:
    lines = (Path(__file__).parent / "peers.jsonl").read_text().splitlines()
    rows = {(r["size"], r["workload"], r["tool"]): r for r in map(json.loads, lines)}
    print("| workload |", " | ".join(TOOL.values()), "| of torch's time |")
    print("|---" * (len(TOOL) + 2) + "|")
    for key, label in LABEL.items():
        cells = [cell(rows.get((*key, tool))) for tool in TOOL]
        share = rows[*key, "rlvr_jax"]["step_s"] / rows[*key, "torch"]["step_s"]
        print(f"| {label} |", " | ".join(cells), f"| **{share:.2f}** |")


if __name__ == "__main__":
    main()
