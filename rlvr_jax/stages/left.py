"""What a stage left is found by its name: [RUN:]STAGE[@STEP], of this run or of another one.

The model of another run is taken into this one at its first use (`from/`), by hard links.  From
then on the name means that checkpoint, also if the other run goes on, moves or is deleted.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlvr_jax.config import BEST, Config, Left, Stage, parse_left
from rlvr_jax.host import weights
from rlvr_jax.host.runs import linked, log, settings
from rlvr_jax.host.runs.checkpoint import compute_fingerprint, steps_in
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.host.runs.paths import Paths, step_folder
from rlvr_jax.stages.goal import best_kept


class Found(NamedTuple):
    """A Found is a checkpoint on disk, and the type of the stage that wrote it."""

    folder: Path
    step: int
    kind: str


def is_run(source: str) -> bool:
    """Return whether a source is RUN or RUN:STAGE[@STEP], and not a file or a place of models."""
    path = Path(source).expanduser()
    if path.exists():
        return Paths(path).config_file.is_file()
    return bool(parse_left(source).run) and not source.startswith(weights.PLACES)


def find(run: Run, source: str) -> Found:
    """Return the checkpoint that a stage of this run finds under a name.

    Raises:
      RunError: there is none, or it is not the one that the stage left.
      ValueError: no step of the stage was marked as its best one.
    """
    left = parse_left(source)
    if left.run:
        run.team.share(f"the model {source}", lambda: _take(run, source, left))
        found = taken(run, source)
        assert found is not None  # just taken
        return found
    marker = run.finished(left.stage)
    if marker is None and not left.step:
        raise RunError(
            f"stage {left.stage!r} has not been run: list it before the one that needs it"
        )
    stage = {stage.name: stage for stage in run.cfg.stages}[left.stage]
    if marker is None or left.step.isdecimal():
        step = find_step(run, stage, left.step)
    else:
        best = best_step(source, marker)
        run.check_checkpoint(left.stage, marker, best)
        step = best or find_step(run, stage, "")
    return Found(run.checkpoints(left.stage), step, stage.stage)


def find_step(paths: Paths, stage: Stage, step: str) -> int:
    """Return the step that a number, `best` or "" means among the checkpoints of a stage.

    Raises:
      RunError: there is no such step on disk; the message says which ones there are.
      ValueError: no step of the stage was marked as its best one.
    """
    steps = steps_in(paths.checkpoints(stage.name))
    where = f"{paths.folder}:{stage.name}"
    if not steps:
        raise RunError(
            f"{paths.checkpoints(stage.name)} holds no complete checkpoint of stage {stage.name}"
        )
    marker = _load_marker(paths, stage.name)
    known = ", ".join(map(str, steps))
    if step.isdecimal():
        if int(step) not in steps:
            raise RunError(f"{where} has no checkpoint of step {step}, only of {known}")
        return int(step)
    if not step:
        if marker is None:
            raise RunError(
                f"stage {stage.name} of {paths.folder} has not finished: run it to its end, or "
                f"name one of its steps, such as {where}@{steps[-1]} (it has {known})"
            )
        return steps[-1]
    if marker is not None:
        return best_step(f"{stage.name}@{BEST}", marker) or steps[-1]
    best = best_kept(stage, _load_rows(paths, stage.name), steps)  # type: ignore[arg-type]
    if best is None:
        raise ValueError(f"stage {stage.name} marked no best step: it needs a keep_best")
    return best[0]


def best_step(source: str, marker: Mapping[str, Any]) -> int | None:
    """Return the step that `NAME@best` means, by the marker of the stage; None for other names.

    Raises:
      ValueError: the stage marked no best step.
    """
    left = parse_left(source)
    if left.step != BEST:
        return None
    best = marker.get("best")
    if not best:
        raise ValueError(f"stage {left.stage} marked no best step: it needs a keep_best")
    return int(best["step"])


def describe(folder: Path) -> str:
    """Return a line for each stage of a run that has checkpoints, with their steps.

    Raises:
      ValueError: the folder is no run.
    """
    paths, cfg = Paths(folder), load_config(folder)
    lines = []
    for stage in cfg.stages:
        steps = steps_in(paths.checkpoints(stage.name))
        if not steps:
            continue
        marker = _load_marker(paths, stage.name)
        state = "has not finished" if marker is None else "has finished"
        try:
            best = f", best {find_step(paths, stage, BEST)}"
        except ValueError:
            best = ""
        lines.append(
            f"{folder}:{stage.name} ({stage.stage}) {state}; @{', @'.join(map(str, steps))}{best}"
        )
    return "\n".join(lines) or f"no stage of {folder} has a checkpoint yet"


def load_config(folder: Path) -> Config:
    """Load the config of a run folder.

    Raises:
      ValueError: it is no run folder, or its config is damaged.
    """
    path = Paths(folder.expanduser()).config_file
    if not path.is_file():
        raise ValueError(f"{folder} is no run folder: there is no {path.name} in it")
    return settings.load(path, sizes=None)


def taken(paths: Paths, source: str) -> Found | None:
    """Return the checkpoint of another run that this run has taken under a name, if it has."""
    place = _place(paths, source)
    try:
        note = json.loads((place / "source.json").read_text(encoding="utf-8"))
        found = Found(place, int(note["step"]), str(note["kind"]))
        mark = str(note["checkpoint"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RunError(f"{place / 'source.json'} is damaged: put it back") from None
    if compute_fingerprint(place, found.step) != mark:
        raise RunError(
            f"the checkpoint in {place} is not the one that was taken from {source}: put it back"
        )
    return found


def _take(run: Run, source: str, left: Left) -> None:
    """Link the checkpoint of another run into this one, unless that has been done."""
    if taken(run, source) is not None:
        return
    run.refuse_reader()
    there, cfg = Paths(Path(left.run)), load_config(Path(left.run))
    stage = next((stage for stage in cfg.stages if stage.name == left.stage), None)
    if stage is None:
        raise RunError(f"{left.run} has no stage {left.stage!r}")
    step, place = find_step(there, stage, left.step), _place(run, source)
    origin = step_folder(there.checkpoints(stage.name), step)
    target = step_folder(place, step)
    if not target.exists():
        linked.link_tree(origin, target)
    mark = compute_fingerprint(place, step)
    log.write_json(
        place / "source.json",
        {"source": source, "step": step, "kind": stage.stage, "checkpoint": mark},
    )
    log.say(f"{source}: the checkpoint of step {step} is linked into {place}")


def _place(paths: Paths, source: str) -> Path:
    left = parse_left(source)
    return paths.folder / "from" / f"{left.stage}-{zlib.crc32(source.encode()):08x}"


def _load_marker(paths: Paths, stage: str) -> dict[str, Any] | None:
    path = paths.marker(stage)
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        marker = None
    if not isinstance(marker, dict):
        raise RunError(f"{path} is damaged; remove it and run again: {stage} is redone")
    return marker


def _load_rows(paths: Paths, stage: str) -> list[dict[str, Any]]:
    """Load the metrics of a stage; a last line that is being written is left out."""
    path = paths.folder / "metrics.jsonl"
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("stage") == stage:
            rows.append(row)
    return rows
