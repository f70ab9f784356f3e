"""The run folder: which config it belongs to, which stages are finished, and where things lie.

runs/NAME/config.resolved.yaml  metrics.jsonl  samples/  eval/  checkpoints/  stages/
          data/  tensorboard/  report.html  verdicts/  judge/  collected/
"""

import json
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr_jax.config import Config
from rlvr_jax.host import weights
from rlvr_jax.host.runs import log, settings


class RunError(RuntimeError):
    """Something about the run that the user can mend; the message says how."""


class Interrupted(Exception):
    """SIGTERM or Ctrl-C arrived and the state is saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def tokenizer_path(cfg: Config, folder: Path) -> str | Path:
    """The config's tokenizer, else the pretrained model's, else what a stage left in `folder`."""
    if cfg.tokenizer and not cfg.tokenizer.startswith(weights.PACKAGE):
        return cfg.tokenizer
    named = cfg.tokenizer or cfg.model.weights
    return weights.find(named) if named else folder / "tokenizer.model"


class Run:
    """One run folder, opened for a config."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.folder = Path(cfg.runs) / cfg.name
        self._claim()
        self.metrics = log.Metrics(self.folder)
        self.metrics_start = 0  # where the lines of the stage in hand begin
        self._signal: int | None = None

    @property
    def config_file(self) -> Path:
        return self.folder / "config.resolved.yaml"

    @property
    def tokenizer_file(self) -> Path:
        """What a tokenizer stage writes."""
        return self.folder / "tokenizer.model"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def checkpoints(self, stage: str) -> Path:
        return self.folder / "checkpoints" / stage

    def verdicts(self, stage: str) -> Path:
        return self.folder / "verdicts" / f"{stage}.jsonl"

    def replies(self, stage: str) -> Path:
        """What an endpoint said to a label stage."""
        return self.folder / "judge" / f"{stage}.jsonl"

    def collected(self, stage: str) -> Path:
        """Answers of an rl stage that a label stage is to judge."""
        return self.folder / "collected" / f"{stage}.jsonl"

    def evaluation(self, name: str) -> Path:
        return self.folder / "eval" / f"{name}.json"

    def finished(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage left in its marker; None while it is not finished."""
        path = self.folder / "stages" / f"{stage}.json"
        try:
            marker = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(marker["metrics_bytes"], int):
                raise TypeError
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            raise RunError(
                f"{path} is damaged; remove it and run again: {stage} is redone"
            ) from None
        return marker

    def finish(self, stage: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Mark a stage as done; written last, so that a marker means everything is there."""
        marker = {"metrics_bytes": self.metrics.offset, **result}
        log.write_json(self.folder / "stages" / f"{stage}.json", marker)
        return marker

    def write_samples(self, stage: str, step: int, rows: list[dict[str, Any]]) -> None:
        path = self.folder / "samples" / f"{stage}_step_{step:06d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(path.name + ".part")
        text = "".join(json.dumps(log.plain(row), ensure_ascii=False) + "\n" for row in rows)
        part.write_text(text, encoding="utf-8", errors="replace")
        part.replace(path)

    def catch_signals(self) -> None:
        """From here on SIGTERM and Ctrl-C ask for a checkpoint; a second one ends at once."""

        def note(signum, _):
            if self._signal is not None:
                raise SystemExit(128 + signum)
            self._signal = signum
            log.say("\nstopping: saving a checkpoint (once more to stop at once)")

        signal.signal(signal.SIGTERM, note)
        signal.signal(signal.SIGINT, note)

    def check_signal(self) -> int | None:
        """The signal that asks this run to stop, if one came."""
        return self._signal

    def _claim(self) -> None:
        resolved = settings.dump(self.cfg)
        part = self.config_file.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.config_file.exists():
                changed = self._changed(resolved)
                if not changed:
                    return
                if self._begun():
                    raise RunError(
                        f"{self.folder} belongs to another config: {changed}; choose another "
                        f"folder with name=..., or remove {self.folder} to start over"
                    )
                self._clear()
            elif any(path != part for path in self.folder.iterdir()):  # a part: killed right here
                raise RunError(
                    f"{self.folder} is not empty and holds no config.resolved.yaml; "
                    "choose another name=... or empty it"
                )
            part.write_text(resolved, encoding="utf-8")
            part.replace(self.config_file)
        except OSError as error:
            raise RunError(f"cannot use run folder {self.folder}: {error.strerror}") from None

    def _begun(self) -> bool:
        """Whether something was trained, judged or measured that another config would spoil."""
        signs = ("checkpoints/*/step_*", "verdicts/*.jsonl", "eval/*.json")
        return any(next(self.folder.glob(sign), None) for sign in signs)

    def _clear(self) -> None:
        """What a config that was refused after it was read has left: problems and a tokenizer."""
        for folder in (self.data, self.folder / "stages"):
            shutil.rmtree(folder, ignore_errors=True)
        self.tokenizer_file.unlink(missing_ok=True)

    def _changed(self, resolved: str) -> str | None:
        """In what the config of this folder differs from `resolved`."""
        try:
            return settings.difference(self.config_file.read_text(encoding="utf-8"), resolved)
        except ValueError:  # bytes that are no text, or no YAML
            raise RunError(
                f"{self.config_file} is damaged; put it back, or remove {self.folder} to start over"
            ) from None
