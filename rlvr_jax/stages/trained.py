"""A model that a stage of a run left, named on a command line as RUN or RUN:STAGE."""

import datetime
import functools
from pathlib import Path
from typing import NamedTuple

from rlvr_jax.config import Config, Part, stage_of
from rlvr_jax.host.processes.team import Team
from rlvr_jax.host.runs import log, settings
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.host.runs.paths import Paths


class Trained(NamedTuple):
    """Trained names what a stage left, in the folder of its run."""

    folder: Path
    cfg: Config
    left: str  # the stage, as configs name it


def find_trained(source: str, part: Part = "model") -> Trained | None:
    """Return what RUN or RUN:STAGE names; None if the source names no run.

    RUN alone means the last finished stage that trained the model `part` of its config.

    Raises:
      ValueError: the run has no such stage, or the stage has not finished or leaves another model.
    """
    folder, left = Path(source).expanduser(), ""
    if not _is_run(folder):
        name, _, left = source.rpartition(":")
        folder = Path(name).expanduser()
        if not name or not _is_run(folder):
            return None
    cfg = settings.load(Paths(folder).config_file)
    fitting = [s.name for s in cfg.stages if "model" in s.leaves and s.trains == part]
    finished = [name for name in fitting if Paths(folder).marker(name).exists()]
    if not finished:
        raise ValueError(
            f"no stage of {folder} that trains the {part} has finished: run it to its end first"
        )
    left = left or finished[-1]
    if stage_of(left) not in finished:
        raise ValueError(
            f"{folder} has no finished stage {stage_of(left)!r} that trains the {part}: name one "
            f"of {', '.join(finished)}"
        )
    return Trained(folder, cfg, left)


def _is_run(folder: Path) -> bool:
    return Paths(folder).config_file.is_file()


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

    def remark(self, text: str) -> None:
        """Say what stands out."""
        log.say(text)
