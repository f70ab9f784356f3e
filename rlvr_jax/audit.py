"""`python -m rlvr_jax.audit --config FILE [key=value ...]`: attack the reward of a config.

Exit codes: 0 the reward is within the limits of `audit` in the config; 3 it is not; 2 the config,
the data or the run folder needs a change.
"""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from rlvr_jax import sharding
from rlvr_jax.config import Config
from rlvr_jax.host.hardening import preferences, trials
from rlvr_jax.host.processes import place
from rlvr_jax.host.runs import compiles, log, settings
from rlvr_jax.host.runs.checkpoint import CheckpointError
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import audit, grm_audit
from rlvr_jax.stages.check import check_config
from rlvr_jax.stages.grm_workspace import GrmWorkspace
from rlvr_jax.stages.workspace import Workspace

BEYOND_LIMITS = 3  # exit code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _arguments(argv)
    compiles.enable_disk_cache()
    try:
        place.refuse_several("audit")
        cfg = settings.load(args.config, args.overrides)
        report = run(cfg, args.quick, args.fresh, args.stage)
    except (ValueError, RunError, CheckpointError, OSError) as error:
        log.say_aside(f"error: {error}")
        return 2
    of_grm = "rise" in report
    faults = (preferences if of_grm else trials).faults(report, cfg.audit)
    (grm_audit if of_grm else audit).show_report(report, faults)
    if args.json:
        log.write_json(args.json, report | {"faults": faults})
    return BEYOND_LIMITS if faults else 0


def run(cfg: Config, quick: bool = False, fresh: bool = False, name: str = "") -> dict:
    """Attack the reward of the rl stage `name`, or of the first one, and return the report.

    With `quick` the attacks are those that run before training; with `fresh` the verifier has
    random parameters.  The report is that of `stages.audit.run`.  If a generative reward model
    gives the reward, or if the stage trains one, it is attacked instead and the report is that of
    `stages.grm_audit.run`.

    Raises:
      ValueError: the config cannot run, or has no such stage.
    """
    check_config(cfg)
    stages = [stage for stage in cfg.rl_stages if name in ("", stage.name)]
    if not stages:
        raise ValueError(f"the config has no rl stage {name}: there is no reward to audit".strip())
    stage, mesh = stages[0], sharding.claim_mesh(cfg.mesh)
    with jax.set_mesh(mesh), contextlib.closing(_open_run(cfg)) as folder:
        ws = Workspace(folder, mesh)
        if stage.uses_grm or stage.role == "grm":
            judges = GrmWorkspace(ws)
            judge = grm_audit.load_judge(judges, stage, fresh)
            folder.unlock()
            return grm_audit.run(judges, stage, judge, quick)
        ws.write_problems()
        folder.unlock()  # an audit may take long, and a training run may start meanwhile
        frozen = audit.load_frozen(ws, stage, fresh)
        with pool.Pool(stage.reward.workers, stage.reward.seconds) as workers:
            return audit.run(ws, stage, frozen, workers, quick)


def _open_run(cfg: Config) -> Run:
    """Open the run folder of a config, whose section `audit` may differ from that of the run."""
    resolved = Path(cfg.runs) / cfg.name / "config.resolved.yaml"
    own = settings.load(resolved).audit if resolved.exists() else cfg.audit
    run = Run(dataclasses.replace(cfg, audit=own), reads=True)
    run.cfg = cfg
    return run


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr_jax.audit", description="Attack the reward of a config."
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file")
    parser.add_argument("--quick", action="store_true", help="the form that runs before training")
    parser.add_argument("--stage", default="", help="name of the rl stage; default: the first")
    parser.add_argument(
        "--fresh", action="store_true", help="a verifier or GRM of random parameters"
    )
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. audit.records=4")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
