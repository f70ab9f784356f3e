"""A new run may begin with what another one has finished: `--as NEWNAME` of rlvr_jax.train.

Taken over are, from the first stage on, the finished stages that the new config lists unchanged in
the same places.  The first stage that differs only in its number of steps, or in keys that may
change anyway, goes on from its checkpoints, if nothing that it stands on has changed; every other
one is done anew.  Checkpoints and problems are hard links, and the rest is copied: neither run ever
changes the other one.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from rlvr_jax.config import Config, Stage
from rlvr_jax.host.files import whole_file
from rlvr_jax.host.runs import changes, linked, log, pins, settings
from rlvr_jax.host.runs.changes import Change, Progress
from rlvr_jax.host.runs.checkpoint import steps_in
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.runs.lock import HeldError, Lock
from rlvr_jax.host.runs.paths import Paths, step_folder

COPIED = ("began.json", "bases.json", "tokenizer.model", pins.FILE)


class Plan(NamedTuple):
    """A Plan names what is taken over, and says in words what is done anew and why."""

    stages: tuple[Stage, ...]  # finished ones
    going_on: str  # the stage that goes on from its checkpoints; empty: none
    steps: tuple[int, ...]  # of these checkpoints
    said: str


def take_over(cfg: Config, name: str) -> Config:
    """Make the run `name` of what the run that `cfg` names has finished; return its config.

    A run of that name that is there already is left as it is: the same command goes on with it.

    Raises:
      RunError: nothing can be taken over; the message says why and what to do.
      ValueError: the config of the other run is damaged.
    """
    new = dataclasses.replace(cfg, name=name)
    there, here = (Paths(Path(cfg.runs) / x) for x in (cfg.name, name))
    if here.config_file.exists():
        return new
    if here.folder.exists() and any(here.folder.iterdir()):
        raise RunError(f"{here.folder} is not empty: choose another name for --as")
    if not there.config_file.is_file():
        raise RunError(
            f"there is no run {there.folder} to begin with: leave --as out, or name the run by "
            "name=..."
        )
    if name == cfg.name:
        raise RunError(f"--as {name} is the name of the run itself: choose another one")
    try:
        lock = Lock(there.folder)
    except HeldError as held:
        raise RunError(f"{held}: wait for it or stop it") from None
    try:
        plan = make_plan(there, settings.load(there.config_file, sizes=None), new)
        _build(there, here, new, plan)
    finally:
        lock.release()
    log.say(f"{here.folder}: {plan.said}")
    return new


def make_plan(there: Paths, old: Config, new: Config) -> Plan:
    """Decide what a new run takes over from the run in `there`, whose config is `old`.

    Raises:
      RunError: the new run has other problems, another model or another tokenizer.
    """
    found = list(changes.find(old, new))
    taken: list[Stage] = []
    why = ""
    for before, stage in zip(old.stages, new.stages, strict=False):
        if why := _anew(there, before, stage, new, found):
            break
        taken.append(stage)
    if founding := next((x for x in found if _stands_on(x, taken)), None):
        raise RunError(
            f"nothing of {there.folder} can be taken over: {founding.there}, and its stages stand "
            "on that: leave --as out and choose another name=..."
        )
    done = f"begins with {', '.join(x.name for x in taken)} of {there.folder}" if taken else ""
    kept = [x.was for x in found if not x.stage and not x.key.startswith(settings.PLACE)]
    if kept and taken:
        done += f", which were made when {'; '.join(kept[: changes.MOST])}"
    steps = _checkpoints_to_go_on(there, old, new, taken, found)
    following = new.stages[len(taken)].name if len(taken) < len(new.stages) else ""
    if steps:
        done += f"{'; ' if done else ''}{following} goes on from its checkpoint of step {steps[-1]}"
        done += f" ({why})" if why else ""
        going = next(x for x in new.stages if x.name == following)
        if decays := changes.schedules(going):
            done += f", and the learning rate follows {' and '.join(decays)} from there"
    elif following and why:
        done += f"{'; ' if done else ''}{following} is done anew: {why}"
    if not taken and not steps:
        raise RunError(
            f"nothing of {there.folder} can be taken over ({why}): leave --as out and choose "
            "another name=..."
        )
    return Plan(tuple(taken), following if steps else "", steps, done)


def _anew(there: Paths, before: Stage, stage: Stage, new: Config, found: list[Change]) -> str:
    """Return why a stage is not taken over as it is; "" if it is."""
    if before.name != stage.name:
        return f"stage {before.name} stands there in its place"
    own = [x for x in found if x.stage == stage.name and not changes.may_change(x.own)]
    if own:
        return "; ".join(x.was for x in own[: changes.MOST])
    if change := pins.describe_change(there, stage, new):
        return change
    return "" if there.marker(stage.name).exists() else "it has not finished there"


def _stands_on(change: Change, taken: list[Stage]) -> bool:
    """Return whether stages that are taken over stand on a key that has changed."""
    if not changes.is_founding(change.key):
        return False
    if change.key.startswith("verifier"):
        return any(stage.uses_verifier for stage in taken)
    if change.key.startswith(("grm.", "critique.")):
        return any(stage.uses_grm or stage.role == "grm" for stage in taken)
    return True


def _checkpoints_to_go_on(
    there: Paths, old: Config, new: Config, taken: list[Stage], found: list[Change]
) -> tuple[int, ...]:
    """Return the steps of the checkpoints from which the first stage not taken over goes on.

    There are none if more than steps and keys that may change have changed for that stage.  A
    checkpoint of its new last step is not enough where an earlier one is there: the last step has
    measurements of its own.
    """
    place = len(taken)
    if place >= min(len(old.stages), len(new.stages)):
        return ()
    stage: Any = new.stages[place]
    if old.stages[place].name != stage.name or pins.describe_change(there, stage, new):
        return ()
    names = [x.name for x in (*taken, stage)]
    progress = Progress(frozenset(names[:-1]), {stage.name: 0})
    same = dataclasses.replace(new, stages=(*taken, stage))
    before = dataclasses.replace(old, stages=old.stages[: place + 1])
    if changes.compare(settings.dump(before), settings.dump(same), progress).refused:
        return ()
    steps = [x for x in steps_in(there.checkpoints(stage.name)) if x <= stage.steps]
    fewer = [x for x in steps if x < stage.steps]
    shorter = any(x.stage == stage.name and x.own == "steps" for x in found)
    return tuple(fewer if shorter and fewer else steps)


def _build(there: Paths, here: Paths, new: Config, plan: Plan) -> None:
    """Write the new folder; it appears whole or not at all."""
    part = Paths(here.folder.with_name(here.folder.name + ".part"))
    shutil.rmtree(part.folder, ignore_errors=True)
    part.folder.mkdir(parents=True)
    for name in COPIED:
        if (there.folder / name).exists():
            shutil.copy2(there.folder / name, part.folder / name)
    for data in ("data", "preferences"):
        if (there.folder / data).exists():
            linked.link_tree(there.folder / data, part.folder / data)
            if (path := part.origin_file(part.folder / data)).exists():
                _keep_seed(path)
    if (there.folder / "from").exists():
        linked.link_tree(there.folder / "from", part.folder / "from")
    for stage in plan.stages:
        _copy_files(there, part, stage.name)
        if there.checkpoints(stage.name).exists():
            linked.link_tree(there.checkpoints(stage.name), part.checkpoints(stage.name))
    if plan.going_on:
        _copy_files(there, part, plan.going_on)
        part.marker(plan.going_on).unlink(missing_ok=True)
        folders = (there.checkpoints(plan.going_on), part.checkpoints(plan.going_on))
        for step in plan.steps:
            linked.link_tree(*(step_folder(folder, step) for folder in folders))
    _copy_metrics(there, part, plan)
    log.write_json(part.folder / "remarks.json", [f"{here.folder}: {plan.said}"])
    whole_file.write_whole(part.config_file, settings.dump(new))
    if here.folder.exists():
        here.folder.rmdir()
    os.replace(part.folder, here.folder)


def _keep_seed(path: Path) -> None:
    """Note in the origin of the problems that they keep their seed, whatever that of the run is."""
    origin = json.loads(path.read_text(encoding="utf-8"))
    log.write_json(path, origin | {"keeps_seed": True})


def _copy_files(there: Paths, part: Paths, stage: str) -> None:
    """Copy what a stage left besides checkpoints and metrics."""
    files = [there.marker(stage), there.replies(stage), *there.left_by(stage)]
    board = there.folder / "tensorboard" / stage
    files += sorted(board.glob("*"))
    for file in files:
        if file.is_file():
            target = part.folder / file.relative_to(there.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)


def _copy_metrics(there: Paths, part: Paths, plan: Plan) -> None:
    """Copy metrics.jsonl, without what later stages wrote.

    A stage that goes on cuts the file to the length that its checkpoint says.
    """
    data = (there.folder / "metrics.jsonl").read_bytes()
    if not plan.going_on:
        marker = json.loads(there.marker(plan.stages[-1].name).read_text(encoding="utf-8"))
        data = data[: int(marker["metrics_bytes"])]
    (part.folder / "metrics.jsonl").write_bytes(data)
