"""`python -m rlvr_jax.train --config FILE [key=value ...]`: run the stages of a config.

On several hosts, start the same command on each of them (docs/scale.md).

Exit codes: 0 done; 75 run the same command again: stopped by SIGTERM, by the end of --minutes or by
the death of another process, with a checkpoint saved; 2 a person must change the config, the data
or the run folder; 1 a defect of this program; 130 stopped by Ctrl-C, with a checkpoint saved.
"""

import os
import signal

if __name__ == "__main__":  # the imports take seconds, and there is nothing to save yet
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))


import argparse
import contextlib
import copy
import dataclasses
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from rlvr_jax import sharding
from rlvr_jax.config import Config, Stage
from rlvr_jax.host.processes import agreement, place, start
from rlvr_jax.host.processes.team import Team, TeamError
from rlvr_jax.host.report import command, during
from rlvr_jax.host.runs import changes, compiles, local_files, log, pins, settings, takeover
from rlvr_jax.host.runs.checkpoint import CheckpointError
from rlvr_jax.host.runs.ending import run_process
from rlvr_jax.host.runs.folder import Interrupted, Run, RunError
from rlvr_jax.host.runs.rounds import expand_rounds
from rlvr_jax.host.workers import memory_group, scratch
from rlvr_jax.stages import (
    compare,
    evaluate,
    first_texts,
    label,
    meta,
    own_formulas,
    own_rules,
    prm,
    references,
    rft,
    rl,
    scalar,
    sft,
    tokenizer,
    verifier,
    vote,
)
from rlvr_jax.stages.check import check_config, missing_walls
from rlvr_jax.stages.finished_run import FinishedRun
from rlvr_jax.stages.grm_workspace import GrmWorkspace
from rlvr_jax.stages.workspace import Workspace

STAGES: dict[str, Callable[..., dict]] = {
    "tokenizer": tokenizer.run,
    "sft": sft.run,
    "label": label.run,
    "verifier": verifier.run,
    "rl": rl.run,
    "prm": prm.run,
    "evaluate": evaluate.run,
    "rft": rft.run,
    "meta": meta.run,
    "scalar": scalar.run,
    "compare": compare.run,
    "vote": vote.run,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _arguments(argv)
    compiles.enable_disk_cache()
    team = Team()
    try:
        cfg = settings.load(args.config, args.overrides)
        facts = settings.facts(cfg)
        team = start.start(cfg.processes, facts | {"--as": args.new_name})
        log.console.quiet = not team.first
        if args.new_name:
            cfg = begin_as(cfg, args.new_name, team)
        train(cfg, team, facts, args.minutes)
        team.close()
    except Interrupted as stop:
        return team.end(stop.code, f"{stop}; the same command goes on from here", log.say)
    except (ValueError, RunError, CheckpointError, TeamError, OSError) as error:
        return team.end(2, f"error: {error}", log.say_aside)
    except Exception as error:
        if _lacks_memory(error):
            reason = f"{error}".partition("\n")[0]
            why = f"error: the memory is too small for these sizes: lower them ({reason})"
            return team.end(2, why, log.say_aside)
        if team.count == 1:
            raise
        return team.end(1, f"error: {traceback.format_exc()}", log.say_aside)
    return 0


def begin_as(cfg: Config, name: str, team: Team) -> Config:
    """Return the config of the run `name`, which begins with what the run of `cfg` has finished.

    Raises ValueError, RunError or OSError where the user has to change something.
    """
    new = dataclasses.replace(cfg, name=name)
    check_config(new)
    team.share("the stages taken over", lambda: takeover.take_over(cfg, name) and None)
    return new


def _lacks_memory(error: Exception) -> bool:
    signs = ("RESOURCE_EXHAUSTED", "Out of memory")
    told = isinstance(error, jax.errors.JaxRuntimeError) and any(x in str(error) for x in signs)
    return isinstance(error, MemoryError) or told


def train_here(config: str | Path | Mapping[str, Any] | Config, *overrides: str) -> FinishedRun:
    """Run the stages of a config in this process, as in a notebook, and return the finished run.

    `config` is a config, a YAML file, or the values that such a file has.  Overrides are words as
    on the command line: "rl.steps=20".  JAX may have been used before.  Ctrl-C raises
    KeyboardInterrupt; the same call then goes on from the newest checkpoint.

    `rlvr_jax.train(...)` is this function.

    Raises:
      ValueError, RunError, CheckpointError or OSError: the message says what to change.
    """
    if isinstance(config, str | Path):
        cfg = settings.load(Path(config), overrides)
    else:
        tree = settings.as_tree(config) if isinstance(config, Config) else copy.deepcopy(config)
        cfg = settings.build(expand_rounds(dict(tree)), overrides)
    if cfg.processes.count > 1:
        raise ValueError("a run of several processes needs the command: python -m rlvr_jax.train")
    place.refuse_several("rlvr_jax.train() as a function")
    compiles.enable_disk_cache()
    train(cfg, Team(), settings.facts(cfg), catches_signals=False)
    return FinishedRun(Path(cfg.runs) / cfg.name)


def train(
    cfg: Config,
    team: Team,
    facts: Mapping[str, str],
    minutes: float = 0.0,
    *,
    catches_signals: bool = True,
) -> None:
    """Run all stages in order, without those that are finished; then write summary and report.

    `team` is the processes of the run, `facts` what the config says (`settings.facts`), and
    `minutes` the time after which it saves and stops (0: no limit).  A run that catches signals
    saves and stops at one.

    Raises ValueError, RunError, CheckpointError or OSError where the user has to change something,
    and Interrupted after SIGTERM, Ctrl-C or the end of the minutes.
    """
    check_config(cfg)
    mesh = sharding.claim_mesh(cfg.mesh, team.count)
    start.check_devices(team, mesh, facts)
    if team.count > 1:
        agreement.check_facts(team, "the user's own files", local_files.describe_local(cfg))
    for stage in cfg.stages:
        own_formulas.try_formulas(stage)
    run = Run(cfg, team=team, minutes=minutes)
    if catches_signals:
        run.catch_signals()
    scratch.clean()
    memory_group.clean()
    platform = jax.devices()[0].platform
    log.say(f"{run.folder}: {mesh.size} {platform} device(s), jax {jax.__version__}")
    if missing := missing_walls(cfg.stages):
        log.say(f"programs run without a wall for {' and '.join(missing)} (docs/rewards.md)")
    with contextlib.closing(run), jax.set_mesh(mesh):
        ws = Workspace(run, mesh)
        by_role = {"policy": ws, "grm": GrmWorkspace(ws) if cfg.uses_grm else ws}
        if cfg.data.tasks or cfg.data.sources:
            ws.write_problems()
            if team.first and not run.begun():
                references.check_references(ws)
                own_rules.try_own_rules(ws)
        if cfg.reads_items:
            by_role["grm"].write_problems()
        with _reported(run):
            for stage in cfg.stages:
                _run_stage(stage, by_role[stage.role])
                if signum := run.agree_to_stop():
                    raise Interrupted(signum)
        if team.first:
            evaluate.summarise(ws)
            command.write_report(run.folder)
    log.say(f"report: {run.folder / 'report.html'}")


@contextlib.contextmanager
def _reported(run: Run) -> Iterator[None]:
    """Write the report of a run that stops in the block: its numbers are most wanted then."""
    try:
        yield
    except (Interrupted, RunError):
        if run.team.first and run.begun():
            during.Reporter(run.folder).write()
        raise


def _run_stage(stage: Stage, ws: Workspace) -> None:
    """Run a stage and mark it as finished; only pass over it where it is marked already."""
    run = ws.run
    marker = run.finished(stage.name)
    if marker is None:
        run.team.share("the user's own files", lambda: _pin(run, stage))
        first_texts.show(ws, stage)
        began = time.monotonic()
        result = STAGES[stage.stage](stage, ws)
        result |= {"seconds": time.monotonic() - began, "dropped_problems": ws.dropped}
        marker = run.finish(stage.name, result)
        log.say(f"{stage.name}: done in {marker['seconds']:.0f} s")
        ws.models.forget()
    else:
        run.check_left(stage.name, marker)
        log.say(f"{stage.name}: finished earlier, skipped")
    run.metrics_start = marker["metrics_bytes"]  # the next stage's lines begin here


def _pin(run: Run, stage: Stage) -> None:
    """Record the user's own rules and templates; refuse changed ones in the middle of a stage."""
    if stage.name not in changes.read_progress(run).begun:
        pins.pin(run, stage, run.cfg)
    elif change := pins.describe_change(run, stage, run.cfg):
        raise RunError(
            f"{change}, and the stage has gone some steps with it: put it back, or add --as "
            "NEWNAME for a new run that begins with the stages before"
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr_jax.train",
        description="Run the stages of a config; run again to go on where it stopped.",
        epilog="config keys and their defaults:\n\n" + settings.describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file")
    parser.add_argument(
        "--minutes", type=_minutes, default=0, help="then save and stop, exit code 75 [no limit]"
    )
    parser.add_argument(
        "--as",
        dest="new_name",
        metavar="NEWNAME",
        default="",
        help="begin a new run with what the run of this config has finished; its checkpoints are "
        "hard links (docs/runs.md)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. rl.steps=20")
    return parser.parse_intermixed_args(argv)  # overrides may stand before and after options


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < 1e6:
        raise ValueError
    return minutes


class _Callable(types.ModuleType):
    """Both are called train: the module, for `python -m`, and the function, for a notebook."""

    def __call__(
        self, config: str | Path | Mapping[str, Any] | Config, *overrides: str
    ) -> FinishedRun:
        """Call `train_here`."""
        return train_here(config, *overrides)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    run_process(main)
