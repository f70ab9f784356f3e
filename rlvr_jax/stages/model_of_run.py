"""A model of a run that a command reads: RUN, RUN:STAGE, RUN:STAGE@STEP or RUN:STAGE@best."""

import datetime
import functools
from pathlib import Path
from typing import NamedTuple

from rlvr_jax.config import Config, Part, parse_left
from rlvr_jax.host.processes.team import Team
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.host.runs.paths import Paths
from rlvr_jax.stages import left


class ModelOfRun(NamedTuple):
    """A ModelOfRun names what a stage left, in the folder of its run."""

    folder: Path
    cfg: Config
    left: str  # the stage, as configs name it


def find_model_of_run(source: str, part: Part = "model") -> ModelOfRun | None:
    """Return the model that a source names; None if the source names no run.

    RUN alone means the last finished stage that trained the model `part` of its config.

    Raises:
      ValueError: the run has no such stage, or the stage leaves another model.
      RunError: the stage has not finished and no step is named, or it has no such step.
    """
    if not left.is_run(source):
        return None
    folder, name = Path(source).expanduser(), ""
    if not folder.exists():
        run = parse_left(source).run
        folder, name = Path(run).expanduser(), source.removeprefix(f"{run}:")
    cfg, paths = left.load_config(folder), Paths(folder)
    fitting = {s.name: s for s in cfg.stages if "model" in s.leaves and s.trains == part}
    if not name:
        finished = [stage for stage in fitting if paths.marker(stage).exists()]
        if not finished:
            raise ValueError(
                f"no stage of {folder} that trains the {part} has finished: run it to its end "
                "first, or name a step, RUN:STAGE@STEP"
            )
        return ModelOfRun(folder, cfg, finished[-1])
    stage, step = parse_left(name)[1:]
    if stage not in fitting:
        raise ValueError(
            f"{folder} has no stage {stage!r} that trains the {part}: name one of "
            f"{', '.join(fitting) or 'another run'}"
        )
    left.find_step(paths, fitting[stage], step)
    return ModelOfRun(folder, cfg, name)


class Reader(Run):
    """A Reader is a run folder, or none, of which the models are read: it writes nothing."""

    def __init__(self, folder: Path, cfg: Config):
        Paths.__init__(self, folder)
        self.cfg, self.team = cfg, Team()
        self.others = "an evaluation reads it"  # so that no digest of a base is stored

    @functools.cached_property
    def began(self) -> datetime.datetime:
        """Return the time that chat templates see: that at which the run began, or now."""
        if not (self.folder / "began.json").exists():
            return datetime.datetime.now()
        return super().began

    def remark(self, text: str) -> bool:
        """Say what stands out."""
        log.say(text)
        return True
