"""Turn a run folder into one offline page: `python -m rlvr_jax.report RUN_FOLDER`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlvr_jax.host.report import run_data
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


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of the run folder in `argv`; return the exit code, 2 if there is no run."""
    parser = argparse.ArgumentParser(prog="python -m rlvr_jax.report", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="the folder of a run")
    try:
        print(write_report(parser.parse_args(argv).run))
    except OSError as error:
        log.say_aside(f"error: {error}")
        return 2
    return 0
