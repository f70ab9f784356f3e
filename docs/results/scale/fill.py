"""Fill the table of docs/scale.md: each row of rows.txt is planned, and replaces its older row.

    python docs/results/scale/fill.py [--page PAGE] [WORD ...]

plans the rows that hold all of the words, or all rows.  Each is compiled in a process of its own
with `python -m rlvr_jax.plan --quick`, which takes minutes to an hour on two cores.  A row that
does not fit is a result; a row that cannot be planned is printed and left out.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from rlvr_jax.host.plans.table import HEAD

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "scale.md")
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    for line in (HERE / "rows.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not all(word in line for word in args.words):
            continue
        topology, config, *overrides = line.split()
        file = ROOT / "configs" / f"{config}.yaml"
        command = [sys.executable, "-m", "rlvr_jax.plan", "--config", str(file), "--quick", "--row"]
        command += ["--topology", topology, *overrides]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        rows = [row for row in done.stdout.splitlines() if row.startswith("| ")]
        if done.returncode not in (0, 2) or len(rows) != 1:
            print(f"{line}: {done.stderr.strip().splitlines()[-1:]}")
            continue
        print(rows[0], flush=True)
        text = args.page.read_text(encoding="utf-8")
        args.page.write_text(replace_row(text, rows[0]), encoding="utf-8")


def replace_row(page: str, row: str) -> str:
    """Put a row into the table of a page, in place of the row with its config, slice and mesh."""
    before, head, after = page.partition(HEAD)
    if not head:
        raise ValueError("the page has no table of plans")
    lines = after.lstrip("\n").split("\n")
    count = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    rows, rest = lines[:count], lines[count:]
    keys = [line.split("|")[1:4] for line in rows]
    key = row.split("|")[1:4]
    if key in keys:
        rows[keys.index(key)] = row
    else:
        rows.append(row)
    return "\n".join([before + head, *rows, *rest])


if __name__ == "__main__":
    main()
