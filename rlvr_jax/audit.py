"""`python -m rlvr_jax.audit --config FILE [key=value ...]`: attack the reward of a config.

Exit codes: 0 the reward is within the limits of `audit` in the config; 3 it is not; 2 the config,
the data or the run folder needs a change.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from rlvr_jax import sharding, train
from rlvr_jax.config import Config, RlStage
from rlvr_jax.host.hardening import trials
from rlvr_jax.host.runs import compiles, log, settings
from rlvr_jax.host.runs.checkpoint import CheckpointError
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import audit
from rlvr_jax.stages.workspace import Workspace

BEYOND = 3


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    compiles.enable_disk_cache()
    try:
        cfg = settings.load(args.config, args.overrides)
        report = run(cfg, args.quick, args.fresh, args.stage)
    except (ValueError, RunError, CheckpointError, OSError) as error:
        log.say(f"error: {error}")
        return 2
    faults = trials.faults(report, cfg.audit)
    audit.show(report, faults)
    if args.json:
        log.write_json(args.json, report | {"faults": faults})
    return BEYOND if faults else 0


def run(cfg: Config, quick: bool = False, fresh: bool = False, name: str = "") -> dict:
    """The report on the reward of an rl stage: of the first, or of the one of that name."""
    train.check(cfg)
    stages = [s for s in cfg.stages if isinstance(s, RlStage) and name in ("", s.name)]
    if not stages:
        raise ValueError(f"the config has no rl stage {name}: there is no reward to audit".strip())
    mesh = sharding.claim_mesh(cfg.mesh)
    reward = stages[0].reward
    with jax.set_mesh(mesh), pool.Pool(reward.workers, reward.seconds) as workers:
        ws = Workspace(Run(cfg), mesh)
        ws.write_problems()
        frozen = audit.frozen(ws, stages[0], fresh)
        return audit.run(ws, stages[0], frozen, workers, quick)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr_jax.audit", description="Attack the reward of a config."
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file")
    parser.add_argument("--quick", action="store_true", help="the form that runs before training")
    parser.add_argument("--stage", default="", help="name of the rl stage; default: the first")
    parser.add_argument("--fresh", action="store_true", help="a verifier of random parameters")
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. audit.records=4")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
