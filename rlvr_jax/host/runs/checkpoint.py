"""Checkpoints hold the device state and the host's counters; Orbax writes them atomically.

    with Checkpoints(folder) as checkpoints:       # leaving the block waits for the last write
        checkpoints.save(step, state, host)        # device -> host copy now, disk in the background
        step = checkpoints.latest()                # newest complete step, or None
        state, host = checkpoints.restore(step, like)
    params = restore_params(other_folder, like)    # only the parameters of another stage

`like` is the state with a `jax.ShapeDtypeStruct` and its sharding for every array. Restored arrays
get the shardings of `like`, whatever mesh they were saved from. A step appears under its final name
only when it is complete. It contains CRC-32 sums, because no Orbax format detects a flipped bit in
an array.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from etils import epath

from rlvr_jax.host.files.whole_file import sync_folder
from rlvr_jax.host.runs import sums
from rlvr_jax.host.runs.noted_writes import noting, noting_handler
from rlvr_jax.host.runs.plain_path import plain_path

PyTree = Any
Json = dict[str, Any]
Folder = str | os.PathLike[str]

_NAMES = ocp.path.step.standard_name_format(step_prefix="step", step_format_fixed_length=6)
_TMP = ".orbax-checkpoint-tmp"
_FULL = ("no space left", "enospc", "file too large", "quota exceeded")
_READ_ONLY = ("read-only file system", "erofs", "input/output error")
# What a person does about the errors of writes that say this.
_CAUSES = {
    "the disk is full; make room and go on": _FULL,
    "the disk is read-only or fails; mend it and go on": _READ_ONLY,
}
_SCALARS = (bool, int, float, str)
# The name of TrainState's parameters, and the name that they had in older checkpoints.
PARAMS, OLD_PARAMS = "params", "policy"


class CheckpointError(RuntimeError):
    """A CheckpointError means that a checkpoint cannot be written or read; the message says why."""


class Checkpoints:
    """A `Checkpoints` object writes and reads the checkpoints of one stage.

    It must be the only writer of `folder`. In a run of several processes, every process makes the
    same calls.
    """

    def __init__(self, folder: Folder, *, keep: int = 2) -> None:
        """Open the folder, in which the last `keep` steps stay, and `best` and `named` ones."""
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least one checkpoint has to be kept")
        self.best: int | None = None
        self.named: frozenset[int] = frozenset()
        _quiet()
        self.folder = epath.Path(folder).absolute()
        self._keep = keep
        self._saving: int | None = None
        self._errors: list[Exception] = []  # of this process, in the write that goes on
        self._opened = ExitStack()
        self._plain = self._opened.enter_context(plain_path(self.folder))
        self._manager = self._open()

    def save(self, step: int, state: PyTree, host: Json) -> bool:
        """Start writing `step` in the background; return False if that step is on disk already.

        The caller may donate the arrays of `state` as soon as `save` returns. `host` must survive
        JSON unchanged (string keys, lists instead of tuples).

        Raises:
          CheckpointError: an earlier write failed, the folder holds a later step, `host` is not
            JSON, or the write cannot start.
        """
        self.wait()
        newest = self.latest()
        if newest == step:
            return False
        if newest is not None and step < newest:
            raise CheckpointError(
                f"step {step} cannot be saved in {self.folder}, which already holds step {newest}:"
                " resume from there, or use another folder"
            )
        leaves = _named(state)
        arrays = {name: leaf for name, leaf in leaves.items() if not isinstance(leaf, _SCALARS)}
        record = {
            "host": host,
            "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
            "scalars": {name: leaf for name, leaf in leaves.items() if name not in arrays},
        }
        try:
            record = json.loads(json.dumps(record))  # a snapshot: the caller goes on changing it
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the host part of step {step} is not JSON: {error}") from None
        self._saving = step
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays), host=ocp.args.JsonSave(record)
        )
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            raise self._failed(error) from error
        return True

    def latest(self) -> int | None:
        """Return the newest complete step on disk, or None if there is none."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """Return the complete steps on disk, in order."""
        return steps_in(self.folder)

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, Json]:
        """Load the state and the host part of `step`, with the shardings of `like`.

        Raises:
          CheckpointError: there is no such step, its files are damaged, or its arrays do not have
            the names, shapes and dtypes of `like`.
        """
        self.wait()
        return _load(self.folder, step, like)

    def wait(self) -> None:
        """Wait until nothing is being written; raise CheckpointError if the last write failed."""
        try:
            # Orbax tells of an error when all processes have finished, which then never happens.
            while jax.process_count() > 1 and self._manager.is_saving_in_progress():
                if self._errors:
                    raise self._errors[0]
                time.sleep(0.02)
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error
        self._saving = None

    def close(self) -> None:
        """Finish writing; without this call, the exit of the interpreter loses the last step."""
        with self._opened:
            try:
                self.wait()
            finally:
                self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        # To close is to wait for the other processes, which an error here may keep from coming.
        if kind is None or jax.process_count() == 1:
            self.close()
        else:
            self._opened.close()

    def _open(self) -> ocp.CheckpointManager:
        # Orbax's own clean-up runs in a thread and races with the first save and with close.
        if jax.process_index() == 0:
            for leftover in _unfinished(self.folder, "step_"):  # of a killed or failed write
                _remove(leftover)
        options = ocp.CheckpointManagerOptions(
            step_name_format=_NAMES,
            preservation_policy=_Kept(self),
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_sums),
        )
        handlers = {"state": noting_handler(self._errors), "host": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self._plain, options=options, item_handlers=handlers)

    def _renew(self) -> None:
        # A new manager clears the old one's error and the files of the failed write.
        with suppress(Exception):  # closing raises the same error again
            self._manager.close()
        self._manager = self._open()

    def _write_sums(self) -> None:
        # Orbax calls this when all files of a step are written and before it renames the folder.
        # Pods record sizes only: one host would have to read back what all of them wrote.
        if jax.process_index() == 0:
            with noting(self._errors):
                self._write_sums_of_step()

    def _write_sums_of_step(self) -> None:
        assert self._saving is not None
        name = _NAMES.build_name(self._saving)
        written = _unfinished(self.folder, name)
        folder = written[0] if written else self.folder / name  # object stores cannot rename
        sums.write_sums(folder, contents=jax.process_count() == 1)
        if os.path.isdir(folder):  # Orbax does not force its JSON files to the disk
            sync_folder(Path(folder))

    def _failed(self, error: Exception) -> CheckpointError:
        step, self._saving = self._saving, None
        self._errors.clear()
        good, cause = None, _first_line(error)
        try:
            if jax.process_count() == 1:  # several processes end, and would wait here for all
                self._renew()
            good = self.latest()
        except Exception as again:  # the folder itself is gone or in the way
            cause = _first_line(again)
        kept = "no earlier one exists" if good is None else f"step {good}, the last good one, stays"
        for known, signs in _CAUSES.items():
            if any(sign in str(error).lower() for sign in signs):
                cause = known
        return CheckpointError(
            f"checkpoint of step {step} could not be written to {self.folder} ({kept}): {cause}"
        )


class _Kept:
    """The policy after which Orbax keeps the newest steps, the best one, and those of a name."""

    def __init__(self, of: Checkpoints) -> None:
        self._of = of

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        newest = len(checkpoints) - self._of._keep
        more = self._of.named | {self._of.best}
        return [i >= newest or info.step in more for i, info in enumerate(checkpoints)]


def restore_params(
    folder: Folder, like: PyTree, part: str = PARAMS, step: int | None = None
) -> PyTree:
    """Load one part of the newest checkpoint in `folder`, or of that of `step`.

    Its arrays are cast to the dtypes of `like`.

    `part` is the dotted name of a subtree of the state, such as `params` or `prm.params`; `like`
    describes that subtree. The function loads no other arrays and writes nothing, so another
    process may save to the folder meanwhile.

    Raises:
      CheckpointError: the folder holds no complete checkpoint, its newest step is damaged, or an
        array of `like` is missing there or has another shape.
    """
    _quiet()
    folder = epath.Path(folder).absolute()
    step = max(_steps(folder), default=None) if step is None else step
    if step is None:
        raise CheckpointError(f"{folder} holds no complete checkpoint to take {part} from")
    return _load(folder, step, {part: like}, partial=True)[0][part]


def steps_in(folder: Folder) -> list[int]:
    """Return the complete steps of a folder of checkpoints, in order."""
    return _steps(epath.Path(folder).absolute())


def compute_fingerprint(folder: Folder, step: int | None = None) -> str | None:
    """Compute the SHA-256 of the sums of the newest checkpoint, or of that of `step`.

    The result is None if there is none.  Two checkpoints of one process with equal fingerprints
    hold the same arrays and host part; the sums of several processes only tell sizes apart.
    """
    folder = epath.Path(folder).absolute()
    step = max(_steps(folder), default=None) if step is None else step
    if step is None:
        return None
    file = folder / _NAMES.build_name(step) / sums.FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


def _load(
    folder: epath.Path, step: int, like: PyTree, partial: bool = False
) -> tuple[PyTree, Json]:
    if step not in _steps(folder):
        raise CheckpointError(f"{folder} holds no step {step}, only {_steps(folder) or 'nothing'}")
    path = folder / _NAMES.build_name(step)
    if damage := sums.find_damage(path):
        raise _damaged(folder, step, damage)
    try:
        with plain_path(path) as plain:
            reader = ocp.Checkpointer(ocp.JsonCheckpointHandler())
            record = reader.restore(plain / "host", args=ocp.args.JsonRestore())
            saved = record["leaves"]
            leaves = {_saved_name(name, saved): leaf for name, leaf in _named(like).items()}
            _check_fit(path, saved, leaves, partial)
            arrays = {name: leaf for name, leaf in leaves.items() if not isinstance(leaf, _SCALARS)}
            places = ocp.checkpoint_utils.construct_restore_args(arrays)
            args = ocp.args.PyTreeRestore(arrays, restore_args=places, partial_restore=True)
            restorer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
            state = restorer.restore(plain / "state", args=args)
    except CheckpointError:
        raise
    except Exception as error:
        raise _damaged(folder, step, _first_line(error)) from error
    values = [state[name] if name in arrays else record["scalars"][name] for name in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), values), record["host"]


def _saved_name(name: str, saved: Json) -> str:
    """Return the name under which a checkpoint has the leaf `name` of the state.

    `saved` has the names of the checkpoint's leaves. Older checkpoints call the parameters
    `policy` where the state calls them `params`.
    """
    first, dot, rest = name.partition(".")
    old = OLD_PARAMS + dot + rest
    return old if first == PARAMS and name not in saved and old in saved else name


def _named(tree: PyTree) -> dict[str, Any]:
    # In a flat dict, the files do not depend on container types, which optax may change; None and
    # empty containers come from `like`.
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _describe(leaf: Any) -> list[Any]:
    if isinstance(leaf, _SCALARS):
        return [type(leaf).__name__, None]
    return [str(leaf.dtype), list(leaf.shape)]


def _check_fit(path: epath.Path, saved: Json, like: dict[str, Any], partial: bool) -> None:
    """Refuse a checkpoint whose leaves differ from `like`: Orbax casts, pads or cuts silently."""
    wanted = {name: _describe(leaf) for name, leaf in like.items()}
    for name, (dtype, shape) in wanted.items():
        if name not in saved:
            text = f"{name} is in this config and not in the checkpoint"
        elif saved[name][1] != shape:
            old, new = (s if s is None else tuple(s) for s in (saved[name][1], shape))
            text = f"{name} is {old} in the checkpoint and {new} in this config"
        elif saved[name][0] != dtype and not partial:
            text = f"{name} is {saved[name][0]} in the checkpoint and {dtype} in this config"
        else:
            continue
        raise CheckpointError(f"{path} does not fit this config: {text}")
    if not partial and (extra := [name for name in saved if name not in wanted]):
        text = f"{extra[0]} is in the checkpoint and not in this config"
        raise CheckpointError(f"{path} does not fit this config: {text}")


def _remove(folder: epath.Path) -> None:
    """Delete a folder, trying for a second: threads of a failed write may still add files to it.

    A disk that takes no more changes is left as it is, at once.
    """
    for _ in range(20):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EIO):
                return
        else:
            return
        time.sleep(0.05)


def _steps(folder: epath.Path) -> list[int]:
    return sorted(entry.step for entry in _NAMES.find_all(folder)) if folder.exists() else []


def _unfinished(folder: epath.Path, start: str) -> list[epath.Path]:
    """Return the folders of incomplete writes; a glob would read brackets in the path as its own.

    `start` is the start of the name of their step.
    """
    inside = folder.iterdir() if folder.exists() else ()
    return [path for path in inside if path.name.startswith(start) and _TMP in path.name]


def _damaged(folder: epath.Path, step: int, damage: str) -> CheckpointError:
    path = folder / _NAMES.build_name(step)
    older = (s for s in reversed(_steps(folder)) if s < step)
    good = next((s for s in older if not sums.find_damage(folder / _NAMES.build_name(s))), None)
    then = "start again from the beginning" if good is None else f"go on from step {good}"
    return CheckpointError(f"{path} is damaged ({damage}); to {then}, delete it: rm -r '{path}'")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _quiet() -> None:
    """Keep Orbax's own log off the terminal; the logs of other users of absl stay."""
    logging.getLogger("absl").addFilter(_not_orbax)


def _not_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
