"""Where the files of a run lie in its folder.

runs/NAME/config.resolved.yaml  metrics.jsonl  samples/  eval/  checkpoints/  stages/
          data/  tensorboard/  report.html  verdicts/  judge/  collected/  dumps/  began.json
          run.lock  bases.json  files.json  from/
"""

import glob
from pathlib import Path

from rlvr_jax.config import Config
from rlvr_jax.host import weights


def tokenizer_path(cfg: Config, folder: Path) -> str | Path:
    """Return the path of the run's tokenizer.

    The path is that of the config's tokenizer, or else of the pretrained model, or else of the file
    that the tokenizer stage writes to the run folder. The word `byte` names a tokenizer without a
    file.

    Raises:
      WeightsError: the pretrained model is not there.
    """
    if cfg.tokenizer and not cfg.tokenizer.startswith(weights.PACKAGE):
        return cfg.tokenizer
    named = cfg.tokenizer or cfg.model.weights or cfg.grm.weights
    return weights.find_model(named) if named else folder / "tokenizer.model"


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of one step in a folder of checkpoints, as `checkpoint` names it."""
    return checkpoints / f"step_{step:06d}"


class Paths:
    """Paths name the files of a run folder; nothing is read or written."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def config_file(self) -> Path:
        """Return the file of the resolved config."""
        return self.folder / "config.resolved.yaml"

    @property
    def tokenizer_file(self) -> Path:
        """Return the file that a tokenizer stage writes."""
        return self.folder / "tokenizer.model"

    @property
    def data(self) -> Path:
        """Return the folder of the problem set."""
        return self.folder / "data"

    @property
    def preferences(self) -> Path:
        """Return the folder of the preference items, which generative reward models judge."""
        return self.folder / "preferences"

    def origin_file(self, data: Path) -> Path:
        """Return the file that stores the origin of the problem set in the folder `data`."""
        return data / "origin.json"

    def checkpoints(self, stage: str) -> Path:
        """Return the folder of a stage's checkpoints."""
        return self.folder / "checkpoints" / stage

    def verdicts(self, stage: str) -> Path:
        """Return the file of the verdicts of a label stage."""
        return self.folder / "verdicts" / f"{stage}.jsonl"

    def replies(self, stage: str) -> Path:
        """Return the file of an endpoint's replies to a label stage."""
        return self.folder / "judge" / f"{stage}.jsonl"

    def collected(self, stage: str) -> Path:
        """Return the file of the answers that an rl stage collects for a label stage."""
        return self.folder / "collected" / f"{stage}.jsonl"

    def judgements(self, stage: str) -> Path:
        """Return the file of the judgements that an rft stage sampled."""
        return self.folder / "judgements" / f"{stage}.jsonl"

    def items(self, stage: str) -> Path:
        """Return the file of the preference items that a compare stage made."""
        return self.folder / "items" / f"{stage}.jsonl"

    def evaluation(self, name: str) -> Path:
        """Return the file of an evaluation's results."""
        return self.folder / "eval" / f"{name}.json"

    def kept_answers(self, name: str) -> Path:
        """Return the file of the answers of an evaluation, one a line."""
        return self.folder / "eval" / f"{name}.jsonl"

    def left_by(self, stage: str) -> list[Path]:
        """Return the files that a stage may have left, besides checkpoints, metrics and marker."""
        paths = [self.verdicts(stage), self.collected(stage), self.judgements(stage)]
        paths += [self.items(stage), self.evaluation(stage), self.kept_answers(stage)]
        samples = (self.folder / "samples").glob(f"{glob.escape(stage)}_step_*.jsonl")
        return paths + sorted(samples)

    def marker(self, stage: str) -> Path:
        """Return the file that says that a stage is finished."""
        return self.folder / "stages" / f"{stage}.json"
