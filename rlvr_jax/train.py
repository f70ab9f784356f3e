"""`python -m rlvr_jax.train --config FILE [key=value ...]`: run the stages of a config.

Exit codes: 0 done; 2 the config, the data or the run folder needs a change; 130 and 143 stopped by
Ctrl-C or SIGTERM with a checkpoint saved; 1 a defect of this program.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from rlvr_jax import parameters, sharding
from rlvr_jax.config import (
    Config,
    EvaluateStage,
    LabelStage,
    ModelConfig,
    PrmStage,
    RlStage,
    Sampling,
    Stage,
    reads_verifier,
)
from rlvr_jax.host import rules
from rlvr_jax.host.problems import sources, tasks
from rlvr_jax.host.runs import compiles, log, report, settings
from rlvr_jax.host.runs.checkpoint import CheckpointError
from rlvr_jax.host.runs.folder import Interrupted, Run, RunError
from rlvr_jax.stages import evaluate, judges, label, prm, rl, sft, tokenizer, verifier
from rlvr_jax.stages.workspace import Workspace

STAGES: dict[str, Callable[..., dict]] = {
    "tokenizer": tokenizer.run,
    "sft": sft.run,
    "label": label.run,
    "verifier": verifier.run,
    "rl": rl.run,
    "prm": prm.run,
    "evaluate": evaluate.run,
}


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    compiles.enable_disk_cache()
    try:
        cfg = settings.load(args.config, args.overrides)
        train(cfg)
    except Interrupted as stop:
        log.say(f"{stop}; the same command goes on from here")
        return 128 + stop.signum
    except (ValueError, RunError, CheckpointError, OSError) as error:
        log.say(f"error: {error}")
        return 2
    return 0


def train(cfg: Config) -> None:
    """All stages in order, finished ones skipped; then the summary and the report."""
    check(cfg)
    mesh = sharding.claim_mesh(cfg.mesh)
    run = Run(cfg)
    run.catch_signals()
    platform = jax.devices()[0].platform
    log.say(f"{run.folder}: {mesh.size} {platform} device(s), jax {jax.__version__}")
    with jax.set_mesh(mesh):
        ws = Workspace(run, mesh)
        ws.write_problems()
        offset = 0
        for stage in cfg.stages:
            marker = run.finished(stage.name)
            if marker is None:
                run.metrics_start = offset
                began = time.monotonic()
                result = STAGES[stage.stage](stage, ws)
                result |= {"seconds": time.monotonic() - began, "dropped_problems": ws.dropped}
                marker = run.finish(stage.name, result)
                log.say(f"{stage.name}: done in {marker['seconds']:.0f} s")
            else:
                log.say(f"{stage.name}: finished earlier, skipped")
            offset = marker["metrics_bytes"]
            if signum := run.check_signal():
                raise Interrupted(signum)
    evaluate.summarise(ws)
    run.metrics.close()
    report.write_report(run.folder)
    log.say(f"report: {run.folder / 'report.html'}")


def check(cfg: Config) -> None:
    """Everything that can be refused before any work: tasks, sizes, and who needs whom."""
    if not (cfg.data.tasks or cfg.data.sources):
        raise ValueError("the config names no problems: give data.tasks or data.sources")
    for task in cfg.data.tasks:
        tasks.check_task(task)
    for source in cfg.data.sources:
        sources.check_source(source)
    needs = {"tokenizer": "sft", "sft": "sft", "label": "label", "evaluate": "test"}
    earlier: list[str] = []
    for stage in cfg.stages:
        split = getattr(stage, "split", needs.get(stage.stage))
        if isinstance(stage, LabelStage):
            judges.check(stage.judge)
            _check_answers(stage, cfg.stages, earlier)
            split = None if stage.answers else split
        if stage.stage == "tokenizer" and (cfg.tokenizer or cfg.model.weights):
            raise ValueError(
                "nobody would read what stage tokenizer trains: leave it out, tokenizer or "
                "model.weights brings one"
            )
        rows = getattr(stage, "prompts", getattr(stage, "batch", 1))
        if stage.stage in ("label", "evaluate"):
            rows = 1
        if split and getattr(cfg.data, split) < rows:
            raise ValueError(
                f"stage {stage.name} needs at least {rows} problems and data.{split} is "
                f"{getattr(cfg.data, split)}: raise data.{split}"
            )
        for field in ("policy", "verifier", "verdicts", "init", "prm.init", "prm_reference"):
            _check_source(cfg, stage, field, earlier)
        _check_prm(cfg, stage, earlier)
        for rule in filter(None, _rules(stage)):
            rules.check_rule(rule)
        earlier.append(stage.name)
    shards = cfg.mesh.data * cfg.mesh.fsdp
    parts = {"model": cfg.model} | (
        {"verifier": cfg.verifier} if any(map(reads_verifier, cfg.stages)) else {}
    )
    for name, part in parts.items():
        sharding.check_divides(part.sizes, parameters.names(part), cfg.mesh, name)
    _check_context(cfg, parts)
    for stage in cfg.stages:
        if isinstance(stage, RlStage) and stage.overlong.buffer > cfg.data.response_columns:
            raise ValueError(
                f"{stage.name}.overlong.buffer is {stage.overlong.buffer}, more than "
                f"data.response_columns {cfg.data.response_columns}: lower it"
            )
    for stage in cfg.stages:
        size, field = getattr(stage, "batch", shards), "batch"
        if isinstance(stage, RlStage):
            size, field = stage.prompts // stage.minibatches, "prompts"
            field += " / minibatches" if stage.minibatches > 1 else ""
        if isinstance(stage, PrmStage):
            size, field = stage.prompts, "prompts"
        if stage.stage != "evaluate" and size % shards:
            raise ValueError(
                f"{stage.name}.{field} is {size}, not a multiple of mesh.data x mesh.fsdp = "
                f"{shards}"
            )


def _rules(stage: Stage) -> tuple[str, ...]:
    """The rules that a stage names; empty is what each task says."""
    if isinstance(stage, Sampling):
        also = stage.also if isinstance(stage, RlStage) else {}
        return (stage.reward.rule, *stage.reward.gates, *also.values())
    return (getattr(stage, "rule", ""),)


def _check_context(cfg: Config, parts: dict[str, ModelConfig]) -> None:
    """Refuse rows longer than a pretrained model was made for."""
    data = cfg.data
    rows = {"model": ("prompt_columns", "response_columns")}
    rows["verifier"] = ("check_columns", "response_columns")
    for name, part in parts.items():
        longest = sum(getattr(data, field) for field in rows[name])
        if part.context and longest > part.context:
            raise ValueError(
                f"data.{rows[name][0]} + data.{rows[name][1]} is {longest} and {name} was made for "
                f"{part.context}: lower them"
            )


def _check_source(cfg: Config, stage: Stage, field: str, earlier: list[str]) -> None:
    """Refuse a stage that starts from what will not be there."""
    name: Any = stage
    for part in field.split("."):
        name = getattr(name, part, "")
    if not name or (name, field) == ("fresh", "init"):
        return
    if field == "verifier" and not reads_verifier(stage):
        return
    if isinstance(stage, LabelStage) and stage.answers:
        return
    if name == "pretrained":
        part = "verifier" if "verifier" in (stage.stage, field) else "model"
        if not getattr(cfg, part).weights:
            raise ValueError(
                f"{stage.name}.{field} is `pretrained` and {part}.weights is empty: name a model "
                "folder or a GGUF file there"
            )
    elif name not in earlier:
        hint = ", or leave it empty" if stage.stage == "evaluate" and field == "verifier" else ""
        raise ValueError(
            f"{stage.name}.{field} names the stage {name!r}, which would not have been run by "
            f"then: list it before{hint}"
        )


def _check_prm(cfg: Config, stage: Stage, earlier: list[str]) -> None:
    """Refuse an evaluation by a PRM that no stage will have left."""
    if not (isinstance(stage, EvaluateStage) and stage.prm):
        return
    trains = [
        s.name
        for s in cfg.stages
        if isinstance(s, PrmStage) or isinstance(s, RlStage) and s.advantage.process_weight
    ]
    if stage.prm not in trains or stage.prm not in earlier:
        raise ValueError(
            f"{stage.name}.prm names the stage {stage.prm!r}, which leaves no PRM by then: list a "
            "prm stage, or an rl stage with advantage.process_weight, before; or leave it empty"
        )


def _check_answers(stage: LabelStage, stages: Sequence[Stage], earlier: list[str]) -> None:
    """Refuse a label stage that is to judge what no stage will have left."""
    if not stage.answers:
        return
    if stage.answers not in earlier:
        raise ValueError(
            f"{stage.name}.answers names the stage {stage.answers!r}, which would not have been "
            "run by then: list it before, or leave it empty"
        )
    source = next(other for other in stages if other.name == stage.answers)
    if not (isinstance(source, LabelStage) or isinstance(source, RlStage) and source.collect):
        raise ValueError(
            f"{stage.name}.answers names the stage {stage.answers!r}, which leaves no answers: "
            "name a label stage, or an rl stage with collect above 0"
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr_jax.train",
        description="Run the stages of a config; run again to go on where it stopped.",
        epilog="config keys and their defaults:\n\n" + settings.describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. rl.steps=20")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
