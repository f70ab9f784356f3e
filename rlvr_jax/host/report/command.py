"""Turn a run folder into one offline page, or compare several: `python -m rlvr_jax.report RUN ...`.

With one run the page is report.html in its folder.  With several it is comparison.html beside the
first one, with the final numbers in comparison.csv.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rlvr_jax.host.files import whole_file
from rlvr_jax.host.report import comparison, run_data
from rlvr_jax.host.report.page import write_page
from rlvr_jax.host.runs import log


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Raises:
      FileNotFoundError: `run` is not a folder, or has no config, metrics and evaluations.
    """
    run = Path(run)
    data = run_data.load_run(run)
    write_page(run / "report.html", data, run_data.load_sets(run))
    return run / "report.html"


def write_comparison(runs: Sequence[Path], target: Path) -> Path:
    """Write a page that compares runs, and its table as CSV; return the path of the page.

    Raises:
      FileNotFoundError: one of `runs` is no run folder.
    """
    data, rows = comparison.compare([Path(run) for run in runs])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["group", "run"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    whole_file.write_whole(target.with_suffix(".csv"), text.getvalue())
    write_page(target, data, [])
    return target


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the run folders in `argv`; return the exit code, 2 if one is no run."""
    parser = argparse.ArgumentParser(prog="python -m rlvr_jax.report", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", nargs="+", help="the folder of a run")
    runs = parser.parse_args(argv).run
    try:
        if len(runs) == 1:
            print(write_report(runs[0]))
        else:
            print(write_comparison(runs, runs[0].resolve().parent / "comparison.html"))
    except OSError as error:
        log.say_aside(f"error: {error}")
        return 2
    return 0
