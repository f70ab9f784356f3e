"""The best step of a stage is kept and found again, and a stage may end before its last step."""

import dataclasses

import jax
import numpy as np
import pytest

from rlvr_jax import optim, sharding
from rlvr_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    EvaluateStage,
    MeshConfig,
    ModelConfig,
    RewardConfig,
    RlStage,
    StopConfig,
)
from rlvr_jax.host.runs.checkpoint import steps_in
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.stages import goal, loop
from rlvr_jax.stages.check import check_config
from rlvr_jax.stages.workspace import Workspace

SIZE = dict(layers=1, width=8, heads=2, kv_heads=2, head_size=2, feedforward=8, vocab=264)
METRIC = "eval/accuracy"
EVAL = EvalConfig(every=1, problems=2)


def stage_of(**keys) -> RlStage:
    keys = dict(reward=RewardConfig(source="rule"), prompts=2, save_every=100, eval=EVAL) | keys
    return RlStage(**keys)


def config(tmp_path, stage, *more) -> Config:
    data = DataConfig(
        tasks=("sum",), sft=0, label=0, train=8, test=2, prompt_columns=96, check_columns=96
    )
    model = ModelConfig(**SIZE)
    return Config(
        runs=str(tmp_path), tokenizer="byte", data=data, model=model, stages=(stage, *more)
    )


class Stopped(Exception):
    """Stands for a kill between two steps."""


@pytest.fixture
def train(tmp_path):
    """Run a stage on a metric that somebody made up; step n adds 1 to the embedding.

    Without a value for a step, the process ends there.
    """

    def train(stage, values, *more):
        cfg = config(tmp_path, stage, *more)
        mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
        ws = Workspace(Run(cfg), mesh)
        ws.write_problems()

        @jax.jit
        def following(state):
            params = state.params | {"embed_VD": state.params["embed_VD"] * 0 + state.step + 1}
            return dataclasses.replace(state, step=state.step + 1, params=params)

        def advance(state, _):
            state = following(state)
            number = int(jax.device_get(state.step))
            if number not in values:
                raise Stopped
            return state, {METRIC: np.float32(values[number])}, []

        with jax.set_mesh(mesh):
            tx = optim.make_optimizer(stage.optim, stage.steps)
            state = ws.new_state(stage.name, cfg.model, tx, "fresh")
            try:
                work = loop.Work(advance, "step", {})
                state = loop.run(ws, stage, state, ws.problems("train"), 2, work)
                ws.run.finish(stage.name, loop.ended(ws, stage, state))
            finally:
                ws.run.close()
        return ws

    return train


def embedding(ws, source) -> float:
    with jax.set_mesh(ws.mesh):
        return float(ws.load(source, ws.cfg.model)["embed_VD"][0, 0])


VALUES = dict(enumerate([0.1, 0.5, 0.4, 0.5, 0.3, 0.2], 1))


def test_the_checkpoint_of_the_best_step_stays_and_other_stages_find_it(train):
    ws = train(stage_of(steps=6, keep_best=METRIC, save_every=1), VALUES)
    assert steps_in(ws.run.checkpoints("rl")) == [2, 5, 6]
    assert ws.run.finished("rl")["best"]["step"] == 2
    assert embedding(ws, "rl") == 6 and embedding(ws, "rl:best") == 2


def test_steps_that_the_config_names_stay_beside_as_many_of_the_newest_as_it_says(train):
    third = EvaluateStage(policy="rl@3", verifier="")
    stage = stage_of(steps=6, keep=1, keep_best=METRIC, save_every=2)
    ws = train(stage, {1: 0.9} | {n: 0.1 for n in range(2, 7)}, third)
    assert steps_in(ws.run.checkpoints("rl")) == [1, 3, 6]
    assert [embedding(ws, f"rl{step}") for step in ("", "@3", "@best", ":best")] == [6, 3, 1, 1]
    with pytest.raises(RunError, match="rl has no checkpoint of step 5, only of 1, 3, 6"):
        embedding(ws, "rl@5")


def test_a_step_that_a_stage_does_not_have_is_refused(tmp_path):
    late = EvaluateStage(policy="rl@300", verifier="")
    cfg = config(tmp_path, stage_of(policy="pretrained", steps=20), late)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, weights="somewhere"))
    with pytest.raises(ValueError, match="names step 300 of stage 'rl', which has 20 steps"):
        check_config(cfg)


def test_without_keep_best_only_the_newest_steps_stay(train):
    ws = train(stage_of(steps=6, save_every=1), VALUES)
    assert steps_in(ws.run.checkpoints("rl")) == [5, 6]
    assert "best" not in ws.run.finished("rl")
    with pytest.raises(ValueError, match="marked no best step: it needs a keep_best"):
        embedding(ws, "rl:best")


@pytest.mark.parametrize("end", range(1, 6))
def test_a_run_that_was_killed_keeps_the_same_best_step(train, end):
    stage = stage_of(steps=6, keep_best=METRIC, save_every=3)
    with pytest.raises(Stopped):
        train(stage, {n: value for n, value in VALUES.items() if n <= end})
    ws = train(stage, VALUES)
    assert ws.run.finished("rl")["best"]["step"] == 2 and embedding(ws, "rl:best") == 2
    rows = ws.run.metrics.load_rows("rl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_best_step_that_has_changed_is_refused(train):
    ws = train(stage_of(steps=6, keep_best=METRIC), VALUES)
    sums = ws.run.checkpoints("rl") / "step_000002" / "crc32.json"
    sums.write_text(sums.read_text() + " ")
    with pytest.raises(RunError, match="the checkpoint of step 2 in .* is not the one"):
        embedding(ws, "rl:best")


@pytest.mark.parametrize(
    ("stop", "last"),
    [
        (StopConfig(METRIC, at=0.5), 2),
        (StopConfig(METRIC, at=0.45), 2),
        (StopConfig(METRIC, patience=1), 3),
        (StopConfig(METRIC, patience=3), 5),
        (StopConfig(METRIC, patience=5), 6),
        (StopConfig(METRIC, at=0.9), 6),
    ],
)
def test_a_stage_ends_as_its_stop_says(train, stop, last):
    ws = train(stage_of(steps=6, stop=stop), VALUES)
    assert ws.run.finished("rl")["steps"] == last and embedding(ws, "rl") == last


def test_a_stage_that_was_killed_at_its_early_end_ends_there(train):
    stage = stage_of(steps=6, stop=StopConfig(METRIC, at=0.5), save_every=1)
    ws = train(stage, VALUES)
    ws.run.marker("rl").unlink()
    assert train(stage, {}).run.finished("rl")["steps"] == 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (dict(keep_best="eval/acuracy"), "rl.keep_best is 'eval/acuracy', .*mean 'eval/accuracy'"),
        (dict(stop=StopConfig("reward/men", 2)), "rl.stop.metric is 'reward/men', and no step"),
    ],
)
def test_a_metric_that_no_step_logs_is_refused_in_the_first_one(train, keys, said):
    with pytest.raises(RunError, match=said):
        train(stage_of(steps=6, **keys), VALUES)


def test_a_metric_that_only_some_steps_log_is_waited_for():
    stage = stage_of(steps=6, keep_best=METRIC, stop=StopConfig("oracle/gap", 2))
    aim = goal.Goal(stage, [])
    aim.refuse_unknown({"reward/mean": 0.0})
    aim.refuse_unknown({"reward/mean": 0.0, METRIC: 0.0})


def test_values_that_are_missing_or_not_finite_decide_nothing():
    stage = stage_of(steps=9, keep_best=METRIC, stop=StopConfig(METRIC, patience=2))
    aim = goal.Goal(stage, [])
    seen = [{METRIC: None}, {}, {METRIC: float("nan")}, {METRIC: 0.0}, {}, {METRIC: -1.0}]
    assert [aim.look(n, row) for n, row in enumerate(seen)] == [False] * 3 + [True, False, False]
    assert aim.best == (3, 0.0) and not aim.reached
    aim.look(7, {METRIC: 0.0})  # an equal value is no new best one
    assert aim.reached and aim.best == (3, 0.0)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (dict(eval=EvalConfig(), keep_best=METRIC), "nothing is evaluated: set eval.every"),
        (dict(eval=EvalConfig(), stop=StopConfig("eval/greedy", 2)), "set eval.every"),
        (dict(eval=EvalConfig(every=1, split="train")), "overlaps with what the stage learns"),
        (dict(reward=RewardConfig(source="preference")), "a vote stage measures"),
    ],
)
def test_what_cannot_be_measured_is_refused(keys, said):
    with pytest.raises(ValueError, match=said):
        stage_of(**keys)


def test_a_stop_without_a_limit_is_refused():
    for keys in (dict(metric=METRIC), dict(patience=2), dict(at=0.5)):
        with pytest.raises(ValueError, match="stop needs a metric, and patience or `at`"):
            StopConfig(**keys)


def test_an_empty_split_is_refused(tmp_path):
    cfg = config(tmp_path, stage_of(policy="pretrained", eval=EvalConfig(every=1, split="label")))
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, weights="somewhere"))
    with pytest.raises(ValueError, match="needs at least 1 problems and data.label is 0"):
        check_config(cfg)


def test_the_best_step_of_a_stage_that_keeps_none_is_refused(tmp_path):
    evaluate = EvaluateStage(policy="rl:best", verifier="")
    cfg = config(tmp_path, stage_of(policy="pretrained"), evaluate)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, weights="somewhere"))
    with pytest.raises(ValueError, match="which keeps none: set rl.keep_best"):
        check_config(cfg)
    with pytest.raises(ValueError, match="no stage has that name; did you mean 'rl'"):
        check_config(
            dataclasses.replace(
                cfg, stages=(cfg.stages[0], EvaluateStage(policy="rll:best", verifier=""))
            )
        )
