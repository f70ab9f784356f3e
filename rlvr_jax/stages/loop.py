"""The loop around a training step: log, checkpoint, stop, resume exactly."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlvr_jax import optim
from rlvr_jax.config import AlarmConfig, PrmStage, RlStage, SftStage, VerifierStage
from rlvr_jax.host.hardening import alarms
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.checkpoint import Checkpoints
from rlvr_jax.host.runs.compiles import Compiles
from rlvr_jax.host.runs.folder import Interrupted, RunError
from rlvr_jax.host.runs.stream import Stream
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import TrainState

Trained = SftStage | VerifierStage | RlStage | PrmStage
# (state, records) -> state, metrics, records that are still to be learnt from
Advance = Callable[[TrainState, list[Any]], tuple[TrainState, dict[str, Any], list[Any]]]


def run(
    ws: Workspace,
    stage: Trained,
    state: TrainState,
    source: dataset.RandomAccessSource,
    batch: int,
    advance: Advance,
    compiled: str,
    shown: dict[str, str],
) -> TrainState:
    """`stage.steps` updates from `source`, from the last checkpoint if there is one.

    A checkpoint holds the state, the position in the data, the records that wait and the length of
    metrics.jsonl; what was logged after it is cut off and computed again, to the same bytes.
    `compiled` is the name of the jitted step, whose compilations are counted; `shown` goes to the
    progress bar.
    """
    shard = (jax.process_index(), jax.process_count())
    queue = Stream(dataset.batches(source, batch // shard[1], ws.seed(stage.name), shard=shard))
    updates, rounds = 1, 1
    if isinstance(stage, RlStage):
        updates, rounds = stage.updates, stage.filter.rounds
    rate, compiles = optim.learning_rate_schedule(stage.optim, stage.steps * updates), Compiles()
    with Checkpoints(ws.run.checkpoints(stage.name)) as checkpoints:
        start = checkpoints.latest() or 0
        if start:
            state, host = checkpoints.restore(start, ws.like(state))
            queue.set_state(host)
            ws.run.metrics.rewind(host["metrics_bytes"])
        else:
            ws.run.metrics.rewind(ws.run.metrics_start)
        watch = Watch(stage, ws.run.metrics.load_rows(stage.name))
        bar = log.Bar(stage.name, stage.steps, start)
        try:
            for step in range(start + 1, stage.steps + 1):
                began = time.monotonic()
                records = queue.take(rounds * batch // shard[1])
                state, values, left = advance(state, records)
                queue.give_back(left)
                values = jax.device_get(values)
                seconds = time.monotonic() - began
                values |= {
                    "policy/lr": np.float32(rate((step - 1) * updates)),
                    "time/step": seconds,
                }
                values |= {"perf/compiles": compiles.count(compiled)}
                values |= {"perf/compile_s": compiles.seconds}
                if "completion/tokens" in values:
                    values["perf/tokens_per_s"] = float(values["completion/tokens"]) / seconds
                if "filter/rounds" in values:
                    values["filter/queue"] = float(len(queue))
                values |= watch.look(step, values)
                ws.run.metrics.write(stage.name, step, values)
                bar.step(step, {word: float(values[key]) for word, key in shown.items()})
                _refuse_divergence(ws, stage, step, state, records)
                signum = ws.run.check_signal()
                planned = step == stage.steps or step % stage.save_every == 0
                if signum or planned or watch.saves:
                    host = queue.get_state() | {"metrics_bytes": ws.run.metrics.offset}
                    ws.run.metrics.sync()
                    checkpoints.save(step, state, host)
                if signum or watch.stops:
                    checkpoints.wait()
                    raise Interrupted(signum) if signum else RunError(watch.reason(stage))
        finally:
            bar.close()
    return state


class Watch:
    """The alarms of an rl stage: what is on, and what it asks the loop to do this step."""

    def __init__(self, stage: Trained, rows: list[dict[str, Any]]):
        self.cfg = stage.alarms if isinstance(stage, RlStage) else AlarmConfig(action="off")
        self.history = [alarms.alarm_metrics(row) for row in rows]
        self.on = alarms.active_alarms(self.history, self.cfg) if self.history else {}
        self.saves = self.stops = False

    def look(self, step: int, values: dict[str, Any]) -> dict[str, float]:
        """Remember a step and judge; metrics hack/alarm_NAME, 1 while an alarm is on."""
        if self.cfg.action == "off":
            return {}
        # As metrics.jsonl has them, so that a resumed run sees the same digits.
        self.history.append(alarms.alarm_metrics(log.plain(values)))
        del self.history[: -alarms.MEMORY * self.cfg.window]
        before, self.on = self.on, alarms.active_alarms(self.history, self.cfg)
        new = [name for name in self.on if name not in before]
        for name in new:
            log.say(f"step {step}: ALARM {name}: {self.on[name]}")
        self.saves = bool(new) and self.cfg.action != "warn"
        self.stops = bool(new) and self.cfg.action == "stop"
        return {f"hack/alarm_{name}": float(name in self.on) for name in alarms.ALARMS}

    def reason(self, stage: Trained) -> str:
        told = "; ".join(f"{name}: {text}" for name, text in self.on.items())
        return (
            f"stage {stage.name} was stopped by an alarm ({told}). A checkpoint is saved: look at "
            "the samples and harden the reward; the same command goes on all the same"
        )


def _refuse_divergence(ws: Workspace, stage: Trained, step: int, state, records: list) -> None:
    """A left-out update leaves its batch behind; too many in a row end the run."""
    in_row = int(state.skipped_in_row)
    if not in_row:
        return
    dump = ws.run.folder / "dumps" / f"{stage.name}_step_{step:06d}.json"
    log.write_json(dump, records)
    log.say(f"step {step}: loss or gradient is not finite; update left out, batch in {dump}")
    if in_row >= stage.optim.max_skipped:
        which = "optim or of prm.optim" if state.prm else "optim"
        raise RunError(
            f"{in_row} updates in a row were not finite in stage {stage.name}: lower the lr of its "
            f"{which}; the batches are in {dump.parent}"
        )
