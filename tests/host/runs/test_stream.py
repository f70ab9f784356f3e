"""What comes back goes first, nothing is lost or doubled, and a resumed run takes the same."""

import dataclasses
import json
import random
import shutil
import zlib

import jax
import numpy as np
import pytest

from rlvr_jax import prompt_filter, sharding
from rlvr_jax.config import Config, DataConfig, FilterConfig, MeshConfig, ModelConfig, RlStage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs.checkpoint import Checkpoints
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.host.runs.stream import Stream
from rlvr_jax.stages import kept_samples, rl
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import StepResult

Q, ROUNDS, STEPS = 4, 3, 12


class Batches:
    """Batches of four numbered records without end."""

    def __init__(self):
        self.at = 0

    def __next__(self):
        self.at += 4
        return [{"key": str(i)} for i in range(self.at - 4, self.at)]

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def keys(records):
    return [int(record["key"]) for record in records]


def test_batches_of_the_stream_are_handed_on_as_they_come():
    queue = Stream(Batches())
    assert keys(queue.take(4)) == [0, 1, 2, 3] and len(queue) == 0
    assert keys(queue.take(4)) == [4, 5, 6, 7] and len(queue) == 0


def test_what_comes_back_goes_first_in_its_order():
    queue = Stream(Batches())
    taken = queue.take(10)
    assert keys(taken) == list(range(10)) and len(queue) == 2
    queue.give_back([taken[3], taken[8]])
    assert len(queue) == 4
    assert keys(queue.take(9)) == [3, 8, 10, 11, 12, 13, 14, 15, 16]


def test_nothing_is_lost_or_doubled_and_a_state_goes_on_where_it_was():
    rng, queue, done = random.Random(0), Stream(Batches()), []
    for _ in range(200):
        if rng.random() < 0.3:
            state = json.loads(json.dumps(queue.get_state()))
            queue = Stream(Batches())
            queue.set_state(state)
        taken = queue.take(rng.randint(1, 13))
        back = [record for record in taken if rng.random() < 0.5]
        done += [record for record in taken if record not in back]
        queue.give_back(back)
    waiting = queue.take(len(queue))
    assert sorted(keys(done + waiting)) == list(range(queue.get_state()["data"]["at"]))


def test_a_checkpoint_from_before_there_was_a_queue_is_read():
    queue = Stream(Batches())
    queue.set_state({"data": {"at": 8}, "metrics_bytes": 5})
    assert keys(queue.take(2)) == [8, 9]


# ---- in a stage ----------------------------------------------------------------------------


def fate(record, step: int) -> int:
    """What a made-up policy makes of a problem: it depends on when it is asked."""
    kept = zlib.crc32(f"{record['key']} {step}".encode()) % 5 < 2
    return prompt_filter.PLACED if kept else prompt_filter.REJECTED


def made_up(log: list):
    """A step in which no model runs: rounds, places and fates only."""

    def advance(state, records):
        step, placed, fates = (
            int(jax.device_get(state.step)),
            0,
            [prompt_filter.UNTRIED] * len(records),
        )
        for start in range(0, len(records), Q):
            if placed >= Q:
                break
            for i in range(start, start + Q):
                fates[i] = fate(records[i], step)
                if fates[i] == prompt_filter.PLACED:
                    placed += 1
                    fates[i] = fates[i] if placed <= Q else prompt_filter.SURPLUS
        log.append(([record["key"] for record in records], fates))
        rounds = sum(f != prompt_filter.UNTRIED for f in fates) // Q
        shown = {name: np.float32(0) for name in [*rl.SHOWN.values(), "filter/reward"]}
        state = dataclasses.replace(state, step=jax.jit(lambda step: step + 1)(state.step))
        metrics = shown | {"filter/rounds": np.float32(rounds)}
        means = np.zeros(len(fates), np.float32)
        return StepResult(state, None, None, None, metrics, np.array(fates), means, means[:Q])

    return lambda *_: advance


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs the stage from wherever it stands; what each step saw, its metrics, its checkpoints."""
    size = dict(layers=1, width=8, heads=2, kv_heads=2, head_size=2, feedforward=8, vocab=264)
    stage = RlStage(
        filter=FilterConfig(spread=True, rounds=ROUNDS),
        steps=STEPS,
        prompts=Q,
        save_every=5,
        sample_every=100,
    )
    stage = dataclasses.replace(stage, reward=dataclasses.replace(stage.reward, source="rule"))
    cfg = Config(
        name="queue",
        runs=str(tmp_path),
        tokenizer="byte",
        data=DataConfig(tasks=("sum",), sft=0, label=0, train=30, prompt_columns=96),
        model=ModelConfig(**size),
        verifier=ModelConfig(**size),
        stages=(stage,),
    )
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    monkeypatch.setattr(kept_samples, "keeper", lambda *_: lambda *_: 0.0)

    def train():
        log: list = []
        ws = Workspace(Run(cfg), mesh)
        ws.write_problems()
        made = ws.new_state
        ws.new_state = lambda *a, **more: made(*a[:3], "fresh", *a[4:], **more)
        monkeypatch.setattr(rl, "split_step", made_up(log))
        with jax.set_mesh(mesh):
            rl.run(stage, ws)
        rows = ws.run.metrics.load_rows(stage.name)
        ws.run.close()
        timed = ("time/", "perf/")
        rows = [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]
        stream = dataset.batches(ws.problems("train"), Q, ws.seed(stage.name))
        order = [record["key"] for _ in range(60) for record in next(stream)]
        return log, rows, ws.run.checkpoints(stage.name), order

    return train


def test_a_stage_asks_every_problem_until_it_was_used_and_resumes_with_its_queue(train):
    log, rows, folder, order = train()
    assert len(log) == len(rows) == STEPS
    waiting, at = [], 0
    for (asked, fates), row in zip(log, rows, strict=True):
        while len(waiting) < Q * ROUNDS:  # as many batches as it takes
            waiting, at = waiting + order[at : at + Q], at + Q
        assert asked == waiting[: Q * ROUNDS]
        used = (prompt_filter.PLACED, prompt_filter.REJECTED)
        left = [key for key, f in zip(asked, fates, strict=True) if f not in used]
        waiting = left + waiting[Q * ROUNDS :]
        assert row["filter/queue"] == len(waiting)
    assert {f for _, fates in log for f in fates} == {0, 1, 2, 3}

    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest() == STEPS
    shutil.rmtree(next(folder.glob(f"step_*{STEPS}")))
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest() == 10
    assert rows[9]["filter/queue"] > 0
    again, rows_again, *_ = train()
    assert again == log[10:] and rows_again == rows
