"""The training loop adds metrics, alarms, checkpoints and an exact resume to a training step."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rlvr_jax import optim
from rlvr_jax.config import Trained
from rlvr_jax.config.passes import with_steps
from rlvr_jax.host.hardening import alarms
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.report import during
from rlvr_jax.host.runs import changes, log, metric_table
from rlvr_jax.host.runs.changes import Progress
from rlvr_jax.host.runs.checkpoint import Checkpoints, compute_fingerprint, steps_in
from rlvr_jax.host.runs.compiles import Compiles
from rlvr_jax.host.runs.folder import Interrupted, RunError
from rlvr_jax.host.runs.stream import Feed, Stream
from rlvr_jax.stages import first_step, memory
from rlvr_jax.stages.goal import Goal, best_kept
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, TrainState

# (state, records) -> state, metrics, records that return to the queue
Advance = Callable[[TrainState, list[Any]], tuple[TrainState, dict[str, Any], list[Any]]]


class Work(NamedTuple):
    """A Work is what a stage does in a step, and what the loop shows of it."""

    advance: Advance
    compiled: str  # the name of the jitted step, whose compilations are counted
    shown: dict[str, str]  # words on the progress bar -> metrics
    # (number of the step, state after it) -> metrics that do not belong to the time of the step
    examine: Callable[[int, TrainState], dict[str, float]] = lambda step, state: {}
    stream: Feed | None = None  # hands out the records; None: shuffled epochs of them
    frozen: Frozen | None = None  # what the steps read beside the state


def run(
    ws: Workspace,
    stage: Trained,
    state: TrainState,
    source: dataset.RandomAccessSource,
    batch: int,
    work: Work,
) -> TrainState:
    """Run the steps of a stage, from its last checkpoint on if there is one; return the state.

    `batch` is the number of records of a round, which every process has.  A step takes
    `stage.rounds` such batches from `source` and calls `work.advance`, which returns the new state,
    metrics, and the records that return to the queue for a later step.

    The loop ends early where `stage.stop` says so.  The checkpoint of the best step, by
    `stage.keep_best`, and those of steps that the config names, are kept beside the `stage.keep`
    newest ones.

    A checkpoint holds the state, that of the stream of records (such as its position in the data
    and the records that wait) and the length of metrics.jsonl.  A resume cuts off later lines and
    computes them again, to the same bytes.

    Raises:
      Interrupted: a signal asked the run to stop.
      RunError: an alarm stops the run, or too many updates in a row were not finite.
    """
    stream, team = work.stream, ws.run.team
    if stream is None:
        stream = Stream(dataset.batches(source, batch, ws.seed(stage.name)))
    rate = optim.learning_rate_schedule(stage.optim, stage.steps * stage.updates)
    compiles = Compiles()
    reporter = during.Reporter(ws.run.folder) if team.first else None
    with Checkpoints(ws.run.checkpoints(stage.name), keep=stage.keep) as checkpoints:
        start, state = _restore(ws, stage, checkpoints, state, stream, len(source))
        watch, goal = _go_on(ws, stage, checkpoints)
        if goal.reached:
            return state
        if start < stage.steps:
            memory.say(stage, ws, state, work.frozen or Frozen({}, {}))
        with contextlib.closing(log.Bar(stage.name, stage.steps, start)) as bar:
            for step in range(start + 1, stage.steps + 1):
                records = stream.take(stage.rounds * batch)
                state, values, unplaced = _advance(ws, work, state, records, compiles)
                stream.give_back(unplaced)
                values["policy/lr"] = np.float32(rate((step - 1) * stage.updates))
                values |= work.examine(step, state)
                if "filter/rounds" in values:
                    values["filter/queue"] = float(len(stream))
                goal.refuse_unknown(values)
                values |= watch.look(step, values)
                _tell(ws, stage, step, values)
                bar.step(step, {word: float(values[key]) for word, key in work.shown.items()})
                if goal.look(step, log.plain(values)):
                    checkpoints.best = step
                _refuse_divergence(ws, stage, step, state, records)
                signum = ws.run.agree_to_stop()
                if signum or watch.saves or _is_kept(stage, step, checkpoints, goal):
                    _save(ws, stage, checkpoints, state, stream, len(source))
                if reporter:
                    reporter.write_if_due()
                if signum or watch.stops:
                    checkpoints.wait()
                    raise Interrupted(signum) if signum else RunError(watch.reason(stage))
                if goal.reached:
                    log.say(f"{stage.name}: ends at step {step}, as stop.metric says")
                    break
    return state


def _go_on(ws: Workspace, stage: Trained, checkpoints: Checkpoints) -> tuple["Watch", Goal]:
    """Return the alarms and the goal of a stage as its earlier steps left them."""
    team = ws.run.team
    rows = team.share("metrics", lambda: ws.run.metrics.load_rows(stage.name))
    kept = team.share("the best step", lambda: best_kept(stage, rows, checkpoints.steps()))
    goal = Goal(stage, rows)
    goal.best = (int(kept[0]), float(kept[1])) if kept else None
    checkpoints.best = goal.best[0] if goal.best else None
    checkpoints.named = ws.cfg.named_steps(stage.name)
    return Watch(stage, rows), goal


def _advance(
    ws: Workspace, work: Work, state: TrainState, records: list[Any], compiles: Compiles
) -> tuple[TrainState, dict[str, Any], list[Any]]:
    """Do a step, and add to its metrics the time that it took."""
    began, before = time.monotonic(), compiles.seconds
    with guard_transfers():
        state, values, unplaced = work.advance(state, records)
        values = ws.fetch(values)
    seconds = time.monotonic() - began
    values |= _speed(values, seconds, compiles.count(work.compiled), compiles.seconds)
    values["time/compile"] = compiles.seconds - before
    return state, values, unplaced


def _tell(ws: Workspace, stage: Trained, step: int, values: dict[str, Any]) -> None:
    """Write the metrics of a step, and say what stands out in the first one."""
    metric_table.refuse_unknown(values)
    ws.run.metrics.write(stage.name, step, values)
    ws.run.sinks.write(stage.name, step, log.plain(values))
    if step == 1:
        first_step.look(ws, stage, log.plain(values))


def _is_kept(stage: Trained, step: int, checkpoints: Checkpoints, goal: Goal) -> bool:
    """Return whether a step has a checkpoint, also where no signal and no alarm asks for it."""
    planned = step == stage.steps or step % stage.save_every == 0 or step in checkpoints.named
    return planned or goal.reached or (goal.best is not None and goal.best[0] == step)


def counted(stage: Any, rows: int, batch: int) -> Any:
    """Return a stage of passes over `rows` rows with its number of steps, and print that."""
    told: Any = with_steps(stage, rows, batch)
    if told is not stage:
        log.say(
            f"{stage.name}: {told.steps} steps of {batch} rows (passes: {stage.passes}, "
            f"rows: {rows})"
        )
    return told


def ended(ws: Workspace, stage: Trained, state: TrainState) -> dict[str, Any]:
    """Return what the marker of a stage says of its steps: their number and the best one."""
    result: dict[str, Any] = {"steps": int(state.step)}
    if stage.keep_best:
        folder = ws.run.checkpoints(stage.name)
        rows = ws.run.team.share("metrics", lambda: ws.run.metrics.load_rows(stage.name))
        best = ws.run.team.share("the best step", lambda: best_kept(stage, rows, steps_in(folder)))
        if best:
            mark = ws.run.team.share("its mark", lambda: compute_fingerprint(folder, best[0]))
            result["best"] = {"step": best[0], "value": best[1], "checkpoint": mark}
    return result


def guard_transfers() -> contextlib.AbstractContextManager[None]:
    """Return a context that refuses implicit transfers, which would stall a step unnoticed.

    `jax.device_put`, `jax.device_get` and `Workspace.place` are explicit and allowed.  A backend
    that shares the host's memory (CPU) reads arrays back without a transfer.  There, only
    implicit transfers to a device and between devices are refused.
    """
    return jax.transfer_guard("disallow")


def _restore(
    ws: Workspace,
    stage: Trained,
    checkpoints: Checkpoints,
    state: TrainState,
    stream: Feed,
    records: int,
) -> tuple[int, TrainState]:
    """Return the last saved step and its state, and cut metrics.jsonl to its length at that step.

    `records` is the number of problems of the stage.  Without a checkpoint the result is 0 and the
    given state.

    Raises:
      RunError: the checkpoint is one of another stage or config.
      ValueError: metrics.jsonl is not the file of that step.
    """
    start = ws.run.team.share("a checkpoint", checkpoints.latest) or 0
    if not start:
        ws.run.metrics.rewind(ws.run.metrics_start)
        return 0, state
    state, host = checkpoints.restore(start, ws.layout.abstract(state))
    _refuse_foreign(ws, stage, host, records)
    stream.set_state(host)
    ws.run.metrics.rewind(host["metrics_bytes"], host.get("metrics_sha256"))
    log.say(f"{stage.name}: RESUMING from step {start} of {stage.steps}")
    return start, state


def _refuse_foreign(ws: Workspace, stage: Trained, host: dict[str, Any], records: int) -> None:
    """Refuse a checkpoint that another stage or config wrote; older ones do not say which did.

    `records` is the number of problems that the stage learns from.
    """
    folder, change = ws.run.checkpoints(stage.name), ""
    if host.get("stage", stage.name) != stage.name:
        change = f"they were written by stage {host['stage']}"
    elif host.get("config", ws.run.identity) != ws.run.identity:
        # The run may have changed since, and that stage has gone no further than it was then.
        names = [other.name for other in ws.cfg.stages]
        before = frozenset(names[: names.index(stage.name)])
        progress = Progress(before, {stage.name: 0})
        change = changes.compare(host["config"], ws.run.identity, progress).refused
    elif host.get("records", records) != records:
        change = (
            f"they were written with {host['records']} problems, and {records} are left here: a "
            "later stage asks other rules or a verifier about the same problems"
        )
    if change:
        raise RunError(
            f"the checkpoints in {folder} are not those of this run ({change}): move "
            "them away to do the stage again"
        )


def _save(
    ws: Workspace,
    stage: Trained,
    checkpoints: Checkpoints,
    state: TrainState,
    stream: Feed,
    records: int,
) -> None:
    metrics, step = ws.run.metrics, int(jax.device_get(state.step))
    host = stream.get_state() | {"stage": stage.name, "config": ws.run.identity}
    host |= {"records": records}
    host |= {"metrics_bytes": metrics.offset, "metrics_sha256": metrics.digest}
    ws.run.metrics.sync()
    checkpoints.save(step, state, host)


def _speed(
    values: dict[str, Any], seconds: float, compiles: int, compile_seconds: float
) -> dict[str, Any]:
    """Return the metrics of time and speed, the only ones that differ between equal runs."""
    speed = {"time/step": seconds, "perf/compiles": compiles, "perf/compile_s": compile_seconds}
    if "completion/tokens" in values:
        speed["perf/tokens_per_s"] = float(values["completion/tokens"]) / seconds
    return speed


class Watch:
    """A Watch tracks which alarms of a stage are on, and how the loop has to react to new alarms.

    `saves` requests a checkpoint in this step, `stops` the end of the run.
    """

    def __init__(self, stage: Trained, rows: list[dict[str, Any]]):
        """Start from `rows`, the metrics of the stage's earlier steps."""
        self.cfg = stage.alarms
        self.history = [alarms.alarm_metrics(row) for row in rows]
        self.on = alarms.active_alarms(self.history, self.cfg) if self.history else {}
        self.saves = self.stops = False

    def look(self, step: int, values: dict[str, Any]) -> dict[str, float]:
        """Remember a step and return the metrics hack/alarm_NAME, each 1 while its alarm is on."""
        if self.cfg.action == "off":
            return {}
        self.history.append(
            alarms.alarm_metrics(log.plain(values))
        )  # the digits that a resume reads
        del self.history[: -alarms.MEMORY * self.cfg.window]
        before, self.on = self.on, alarms.active_alarms(self.history, self.cfg)
        new = [name for name in self.on if name not in before]
        for name in new:
            log.say(f"step {step}: ALARM {name}: {self.on[name]}")
        self.saves = bool(new) and self.cfg.action != "warn"
        self.stops = bool(new) and self.cfg.action == "stop"
        return {f"hack/alarm_{name}": float(name in self.on) for name in alarms.names(values)}

    def reason(self, stage: Trained) -> str:
        """Return the sentence with which the alarms end a run."""
        signs = "; ".join(f"{name}: {text}" for name, text in self.on.items())
        return (
            f"stage {stage.name} was stopped by an alarm ({signs}). A checkpoint is saved: look "
            "at the samples and harden the reward; the same command goes on all the same"
        )


def _refuse_divergence(ws: Workspace, stage: Trained, step: int, state, records: list) -> None:
    """Write the batch of a non-finite update to dumps/; RunError after too many in a row."""
    in_row = int(state.skipped_in_row)
    if not in_row:
        return
    dump = ws.run.folder / "dumps" / f"{stage.name}_step_{step:06d}.json"
    ws.run.write_json(dump, records)
    log.say(f"step {step}: loss or gradient is not finite; update left out, batch in {dump}")
    if in_row >= stage.optim.max_skipped:
        which = "optim or of prm.optim" if state.prm else "optim"
        raise RunError(
            f"{in_row} updates in a row were not finite in stage {stage.name}: lower the lr of its "
            f"{which}; the batches are in {dump.parent}"
        )
