"""The run folder records the config that it belongs to, the finished stages, and their results."""

import dataclasses
import datetime
import functools
import json
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr_jax.config import Config
from rlvr_jax.host.files import whole_file
from rlvr_jax.host.processes.team import Team
from rlvr_jax.host.runs import changes, digests, log, pins, settings, sinks
from rlvr_jax.host.runs.changes import Going
from rlvr_jax.host.runs.checkpoint import compute_fingerprint
from rlvr_jax.host.runs.ending import TIME_UP, Signals, exit_code
from rlvr_jax.host.runs.lock import LOCK, HeldError, Lock
from rlvr_jax.host.runs.paths import Paths

MOST_REMARKS = 50


class RunError(RuntimeError):
    """A RunError means that the user has to correct something; the message says what."""


class Interrupted(Exception):
    """An Interrupted means that a signal or the clock stopped a process after it saved its state.

    `code` is the exit code that says so.
    """

    def __init__(self, signum: int):
        name = signal.Signals(signum).name
        super().__init__("its time is up" if signum == TIME_UP else f"stopped by {name}")
        self.code = exit_code(signum)


class Run(Paths):
    """A `Run` is a run folder, opened for a config.

    Opening the folder writes `config.resolved.yaml`, removes half-written files of killed
    processes, and keeps other processes out until `close`. With `reads`, a folder that another
    process works in is opened too: nothing may be written then. Of a `team` of processes the first
    one writes; `minutes` is the time after which `check_signal` asks to stop, 0 for ever.

    Raises:
      RunError: the folder has results of another config, holds files but no config, cannot be
        written, its config is damaged, or another process works in it.
    """

    def __init__(
        self, cfg: Config, reads: bool = False, team: Team | None = None, minutes: float = 0
    ):
        self.cfg = cfg
        self.team = team or Team()
        super().__init__(Path(cfg.runs) / cfg.name)
        self._lock: Lock | None = None
        self.others = ""  # who works in the folder, where this process may only read
        try:
            began = self.team.share("the run folder", lambda: self._open(reads))
            if not self.team.first:
                self._refuse_other_disk(began)
            self.metrics = (log.Metrics if self.team.first else log.OthersMetrics)(self.folder)
        except BaseException:
            self.unlock()
            raise
        names = self.cfg.log if self.team.first else ()
        self.sinks = sinks.Sinks(names, self.folder, self.cfg.name, settings.as_tree(self.cfg))
        self.metrics_start = 0  # byte at which the metrics of the current stage begin
        self._signals = Signals(minutes=minutes)

    def close(self) -> None:
        """Close the files and let other processes into the folder."""
        try:
            self.metrics.close()
            self.sinks.close()
        finally:
            self._signals.free()
            self.unlock()

    def unlock(self) -> None:
        """Let other processes into the folder; from here on this process only reads there."""
        if self._lock:
            self._lock.release()

    def refuse_reader(self) -> None:
        """Raise RunError if another process works in the folder."""
        if self.others:
            raise RunError(f"{self.others}, and its problems are not these: wait for it")

    @functools.cached_property
    def identity(self) -> str:
        """Return the resolved config without the place of its folder, which may be moved."""
        return settings.dump(dataclasses.replace(self.cfg, runs="runs", name="run"))

    @functools.cached_property
    def began(self) -> datetime.datetime:
        """Load the time at which the run began, for chat templates; the first call stores it.

        Raises:
          RunError: the file is damaged.
        """
        path = self.folder / "began.json"
        if not path.exists():
            log.write_json(path, datetime.datetime.now().isoformat(timespec="seconds"))
        try:
            return datetime.datetime.fromisoformat(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError):
            raise RunError(f"{path} is damaged: put it back or remove it") from None

    def origin(self, data: Path) -> dict[str, Any] | None:
        """Load the origin of the problem set (`sources.origin`); None in an older folder.

        Raises:
          RunError: the file is damaged.
        """
        try:
            loaded = json.loads(self.origin_file(data).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            loaded = None
        if not isinstance(loaded, dict):
            raise RunError(
                f"{self.origin_file(data)} is damaged: put it back, or remove {self.folder} to "
                "start over"
            )
        return loaded

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Load the result of a finished stage from its marker file; None if it is not finished.

        Raises:
          RunError: the marker file is damaged.
        """
        path = self.marker(stage)
        try:
            marker = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(marker["metrics_bytes"], int):
                raise TypeError
            if not isinstance(marker.get("files", {}), dict):
                raise TypeError
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise RunError(
                f"{path} is damaged; remove it and run again: {stage} is redone"
            ) from None
        return marker

    def finish(self, stage: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Mark a stage as finished and return its marker.

        Call this method after all other files of the stage are written.
        """
        return self.team.share("a marker", lambda: self._write_marker(stage, result))

    def _write_marker(self, stage: str, result: Mapping[str, Any]) -> dict[str, Any]:
        self.metrics.sync()
        marker = {"metrics_bytes": self.metrics.offset, "metrics_sha256": self.metrics.digest}
        marker |= {"files": digests.compute_digests(self.folder, self._left(stage))}
        marker |= {"checkpoint": compute_fingerprint(self.checkpoints(stage)), **result}
        log.write_json(self.marker(stage), marker)
        return {name: log.plain(value) for name, value in marker.items()}

    def check_left(self, stage: str, marker: Mapping[str, Any]) -> None:
        """Refuse what a finished stage left if it is no longer what its marker says.

        Markers of older versions say nothing about it. Checkpoints are not read here, because not
        every stage is read again: see `check_checkpoint`.

        Raises:
          RunError: a file is missing or has changed.
          ValueError: this is so with metrics.jsonl.
        """
        self.metrics.check(marker["metrics_bytes"], marker.get("metrics_sha256"))
        if change := digests.first_change(self.folder, marker.get("files", {})):
            raise RunError(
                f"{change} since stage {stage} finished: put it back, or remove "
                f"{self.marker(stage)} to do the stage again"
            )

    def check_checkpoint(
        self, stage: str, marker: Mapping[str, Any], step: int | None = None
    ) -> None:
        """Refuse another checkpoint than the one that a finished stage left.

        This is the newest one or, with `step`, the one that the marker calls the best.

        Raises:
          RunError: the message names the folder.
        """
        wanted = marker.get("checkpoint") if step is None else marker["best"].get("checkpoint")
        found = compute_fingerprint(self.checkpoints(stage), step)
        if found and wanted and found != wanted:
            which = "newest checkpoint" if step is None else f"checkpoint of step {step}"
            raise RunError(
                f"the {which} in {self.checkpoints(stage)} is not the one that stage "
                f"{stage} left: put it back, or remove {self.marker(stage)} to do the stage again"
            )

    def check_base(self, name: str, digest: str) -> None:
        """Refuse a pretrained base other than the one that the adapters of this run lie on.

        The first call for a base stores its digest in `bases.json`.

        Raises:
          RunError: the base has changed, or the file is damaged.
        """
        path = self.folder / "bases.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            wanted = known.get(name, digest)
        except (ValueError, AttributeError, RecursionError):
            raise RunError(f"{path} is damaged: put it back") from None
        if wanted != digest and self.begun():
            raise RunError(
                f"the weights of {name} have changed since {self.folder} was begun, and its "
                "adapters lie on what they were: put them back, or choose another folder with "
                "name=..."
            )
        if known.get(name) != digest and not self.others and self.team.first:
            log.write_json(path, known | {name: digest})

    def _left(self, stage: str) -> list[Path]:
        """Return the files that the stage may have left, besides checkpoints and metrics."""
        kinds = {known.name: known.stage for known in self.cfg.stages}
        return self.left_by(stage) + [self.tokenizer_file] * (kinds.get(stage) == "tokenizer")

    def write_samples(self, stage: str, step: int, rows: list[dict[str, Any]]) -> None:
        """Write the sampled rollouts of one step, atomically; only the first process does."""
        if not self.team.first:
            return
        path = self.folder / "samples" / f"{stage}_step_{step:06d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        text = "".join(json.dumps(log.plain(row), ensure_ascii=False) + "\n" for row in rows)
        whole_file.write_whole(path, text)
        self.sinks.show(stage, step, rows)

    def remark(self, text: str) -> bool:
        """Say what stands out in the run, and keep it for the report; once, also over resumes.

        Returns whether the text is new.
        """
        path = self.folder / "remarks.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
            known = [str(x) for x in known]
        except (ValueError, TypeError, RecursionError):  # damaged, and no reason to stop a run
            known = []
        if text in known:
            return False
        log.say(text)
        self.write_json(path, [*known, text][-MOST_REMARKS:])
        return True

    def catch_signals(self) -> None:
        """Turn SIGTERM and Ctrl-C into requests to stop until `close`: see `ending.Signals`."""
        self._signals.catch()

    def check_signal(self) -> int | None:
        """Return the signal that asked this run to stop, or None."""
        return self._signals.seen

    def agree_to_stop(self) -> int | None:
        """Return the signal that asked any process of the run to stop, or None.

        All processes have to call this method at the same points.
        """
        signals = self.team.gather("a signal", self.check_signal())
        return next(filter(None, signals), None)

    def write_json(self, path: Path, tree: Any) -> None:
        """Write a JSON file of the run, atomically; only the first process does."""
        if self.team.first:
            log.write_json(path, tree)

    def _open(self, reads: bool) -> str:
        """Claim the folder, and return what tells it from a folder of this name elsewhere."""
        self._claim(reads)
        return self.began.isoformat() if self.team.count > 1 else ""

    def _refuse_other_disk(self, began: str) -> None:
        try:
            seen = self.began.isoformat() if self.config_file.exists() else ""
        except RunError:
            seen = ""
        if seen != began:
            raise RunError(
                f"{self.folder} is not the folder of process 0: set `runs` to a folder that all "
                "hosts share"
            )

    def _claim(self, reads: bool) -> None:
        resolved = settings.dump(self.cfg)
        part = self.config_file.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._refuse_strangers(part)
            self._take_lock(reads)
            if self.config_file.exists() and not self._adopt(resolved, reads):
                return
            part.write_text(resolved, encoding="utf-8")
            whole_file.put_in_place(part, self.config_file)
        except OSError as error:
            raise RunError(f"cannot use run folder {self.folder}: {error.strerror}") from None
        except ValueError as error:  # a NUL in the path
            raise RunError(f"cannot use run folder {self.folder}: {error}") from None

    def _adopt(self, resolved: str, reads: bool) -> bool:
        """Return whether the config of this folder becomes `resolved`, and prepare the folder.

        Who only reads may not change it.

        Raises:
          RunError: the folder has results that belong to its config.
        """
        begun = self.begun()
        try:
            before = self.config_file.read_text(encoding="utf-8")
            changed = settings.difference(before, resolved)
            going = Going(refused=changed or "")
            if begun and not reads:
                going = changes.compare(before, resolved, changes.read_progress(self))
        except ValueError:  # not UTF-8, or not YAML
            raise RunError(
                f"{self.config_file} is damaged; put it back, or remove {self.folder} to start over"
            ) from None
        if self.others and changed:
            raise RunError(f"{self.others}, with another config: {changed}")
        if not begun:
            if changed:
                self.clear()
            return bool(changed)
        again = [stage for stage in self.cfg.stages if stage.name in going.reopened]
        files = (pins.describe_change(self, stage, self.cfg) for stage in again)
        if refused := going.refused or next(filter(None, files), ""):
            way_out = "add --as NEWNAME for a new run that begins with what this one has finished"
            if going.founded:
                way_out = f"remove {self.folder} to start over"
            raise RunError(
                f"{self.folder} belongs to another config: {refused}; choose another folder with "
                f"name=..., or {way_out}"
            )
        for stage in going.reopened:  # before the new config is there: a kill loses no step
            self.marker(stage).unlink(missing_ok=True)
        if going.said:
            text = f"{self.folder} goes on under a changed config: {going.words()}"
            if not self.remark(text):  # known, as where a change is taken back and made again
                log.say(text)
        return bool(going.said)

    def _refuse_strangers(self, part: Path) -> None:
        """Refuse a folder with files that are not those of a run."""
        ours = (part, self.folder / LOCK)  # a kill can leave these two
        if not self.config_file.exists() and any(p not in ours for p in self.folder.iterdir()):
            raise RunError(
                f"{self.folder} is not empty and holds no config.resolved.yaml; "
                "choose another name=... or empty it"
            )

    def _take_lock(self, reads: bool) -> None:
        """Keep other processes out; with `reads`, remember who was first in `others`."""
        try:
            self._lock = Lock(self.folder)
        except HeldError as held:
            if not reads or not self.config_file.exists():
                text = f"{held}: wait for it or stop it, or choose another folder with name=..."
                raise RunError(text) from None
            self.others = str(held)
            return
        if not self._lock.held:
            log.say_aside(f"{self.folder} cannot be locked: start no second run there")
        for pattern in ("*.part", "*/*.part"):  # a killed process wrote them
            for part in self.folder.glob(pattern):
                part.unlink(missing_ok=True)

    def begun(self) -> bool:
        """Return whether the folder has checkpoints, verdicts, judgements or evaluations."""
        signs = ("checkpoints/*/step_*", "verdicts/*.jsonl", "judgements/*.jsonl", "eval/*.json")
        return any(next(self.folder.glob(sign), None) for sign in signs)

    def clear(self) -> None:
        """Delete the problems, stage markers and tokenizer, which other settings or data made."""
        for folder in (self.data, self.preferences, self.folder / "stages"):
            shutil.rmtree(folder, ignore_errors=True)
        self.tokenizer_file.unlink(missing_ok=True)
        (self.folder / "remarks.json").unlink(missing_ok=True)
