"""Alarms on made-up curves: each rings for its own sign, and for no healthy run."""

import dataclasses

import jax
import numpy as np
import pytest

from rlvr_jax import optim, sharding
from rlvr_jax.config import (
    AlarmConfig,
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RlStage,
    SftStage,
)
from rlvr_jax.host.hardening import alarms
from rlvr_jax.host.runs.checkpoint import Checkpoints
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.stages import loop
from rlvr_jax.stages.workspace import Workspace

CFG = AlarmConfig(window=10)
N = 60


def history(**curves):
    keys = {
        "length": alarms.LENGTH, "reward": alarms.REWARD, "kl": alarms.KL,
        "same": alarms.SAME, "std": alarms.STD, "gap": alarms.GAP, "prm": alarms.PRM,
        "valid": alarms.VALID, "ties": alarms.TIES,
    }  # fmt: skip
    plain = dict(
        length=np.full(N, 200.0), reward=np.linspace(0.3, 0.7, N), kl=np.linspace(0, 0.5, N),
        same=np.full(N, 0.02), std=np.full(N, 0.4), gap=np.full(N, 0.05), prm=np.linspace(0, 1, N),
        valid=np.full(N, 0.95), ties=np.full(N, 0.1),
    )  # fmt: skip
    curves = plain | curves
    return [{keys[k]: float(v[i]) for k, v in curves.items()} for i in range(N)]


def falling(low):
    return np.concatenate([np.full(30, 600.0), np.full(30, low)])


@pytest.mark.parametrize(
    "curves, rung",
    [
        ({}, set()),
        ({"length": falling(30)}, {"length"}),
        ({"length": falling(300)}, set()),
        ({"length": falling(30), "reward": np.linspace(0.7, 0.1, N)}, set()),
        ({"length": falling(30)[::-1]}, set()),
        ({"same": np.full(N, 0.97)}, {"identical"}),
        ({"std": np.linspace(0.4, 0, N) ** 8}, {"reward_std"}),
        ({"gap": np.linspace(0, 0.9, N)}, {"oracle_gap"}),
        ({"kl": np.concatenate([np.full(50, 0.1), np.full(10, 4.0)])}, {"kl_jump"}),
        ({"kl": np.concatenate([np.full(50, 1e-4), np.full(10, 0.01)])}, set()),
        ({"reward": np.linspace(0.7, 0.3, N), "prm": np.linspace(0, 6, N)}, {"prm_rise"}),
        ({"reward": np.linspace(0.3, 0.7, N), "prm": np.linspace(0, 6, N)}, set()),
        ({"valid": np.linspace(0.95, 0.2, N)}, {"valid_frac"}),
        ({"valid": np.linspace(0.2, 0.95, N)}, set()),  # it has learned the form
        ({"ties": np.linspace(0.1, 0.8, N)}, {"tie_frac"}),
        ({"valid": np.full(N, 0.5), "ties": np.full(N, 0.5)}, set()),  # at the limits
    ],
)
def test_each_sign_rings_its_own_alarm(curves, rung):
    assert set(alarms.active_alarms(history(**curves), CFG)) == rung


def test_too_little_history_rings_nothing():
    short = history(length=falling(30), same=np.ones(N), std=np.zeros(N))[:9]
    assert alarms.active_alarms(short, CFG) == {} and alarms.active_alarms([], CFG) == {}


def test_metrics_that_are_not_there_ring_nothing():
    assert alarms.active_alarms([{"reward/mean": 0.5}] * N, CFG) == {}
    values = {"policy/kl": None, "reward/mean": 1.0, "x": 2}
    assert alarms.alarm_metrics(values) == {"reward/mean": 1.0}


def test_only_stages_where_a_grm_judges_have_its_alarms():
    rows = history(ties=np.ones(N))
    told = loop.Watch(stage("warn"), rows[:30]).look(31, rows[30])
    assert told["hack/alarm_tie_frac"] == 1 and told["hack/alarm_valid_frac"] == 0
    others = [{k: v for k, v in row.items() if not k.startswith("grm/")} for row in rows]
    told = loop.Watch(stage("warn"), others[:30]).look(31, others[30])
    assert not {"hack/alarm_tie_frac", "hack/alarm_valid_frac"} & set(told)
    assert told["hack/alarm_kl_jump"] == 0


def test_the_limits_of_judgements_are_shares():
    with pytest.raises(ValueError, match="needs 0 <= valid_frac <= 1"):
        AlarmConfig(valid_frac=1.5)
    with pytest.raises(ValueError, match="tie_frac <= 1"):
        AlarmConfig(tie_frac=-0.1)


def test_the_oracle_may_be_asked_now_and_then():
    rows = [{"reward/mean": 0.9} | ({"oracle/gap": 0.8} if i % 25 == 24 else {}) for i in range(30)]
    assert set(alarms.active_alarms(rows, CFG)) == {"oracle_gap"}


def stage(action):
    return RlStage(alarms=AlarmConfig(action=action, window=10), optim=OptimConfig())


@pytest.mark.parametrize(
    "action, saves, stops", [("warn", 0, 0), ("checkpoint", 1, 0), ("stop", 1, 1)]
)
def test_what_the_loop_does_when_an_alarm_begins(action, saves, stops, capsys):
    rows = history(same=np.ones(N))[:12]
    watch = loop.Watch(stage(action), [])
    did = []
    for step, row in enumerate(rows, 1):
        told = watch.look(step, row)
        did.append((watch.saves, watch.stops, told["hack/alarm_identical"]))
    assert did[8] == (False, False, 0.0)
    assert did[9] == (bool(saves), bool(stops), 1.0)
    assert did[10] == (False, False, 1.0)  # it has begun already
    assert "ALARM identical" in capsys.readouterr().out
    assert "the same command goes on" in watch.reason(stage(action))


def test_a_resumed_stage_remembers():
    rows = history(same=np.ones(N))
    watch = loop.Watch(stage("stop"), rows[:30])
    assert watch.look(31, rows[30])["hack/alarm_identical"] == 1.0 and not watch.stops


def test_other_stages_and_action_off_have_no_alarms():
    for one in (SftStage(), stage("off")):
        assert loop.Watch(one, []).look(1, history()[0]) == {}


@pytest.fixture
def train(tmp_path):
    """Trains a stage on metrics that somebody made up; gives its lines and its checkpoints."""
    size = dict(layers=1, width=8, heads=2, kv_heads=2, head_size=2, feedforward=8, vocab=264)

    def train(action):
        one = RlStage(
            alarms=AlarmConfig(action=action, window=2), steps=6, prompts=2, save_every=100
        )
        cfg = Config(
            name=action,
            runs=str(tmp_path),
            tokenizer="byte",
            data=DataConfig(
                tasks=("sum",), sft=0, label=0, train=8, prompt_columns=96, check_columns=96
            ),
            model=ModelConfig(**size),
            verifier=ModelConfig(**size),
            stages=(one,),
        )
        mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
        ws = Workspace(Run(cfg), mesh)
        ws.write_problems()

        following = jax.jit(lambda step: step + 1)

        def advance(state, _):
            values = {alarms.REWARD: np.float32(0.5), alarms.SAME: np.float32(1.0)}
            return dataclasses.replace(state, step=following(state.step)), values, []

        with jax.set_mesh(mesh):
            state = ws.new_state(one.name, cfg.model, optim.make_optimizer(one.optim, 6), "fresh")
            try:
                loop.run(ws, one, state, ws.problems("train"), 2, loop.Work(advance, "step", {}))
                said = ""
            except RunError as error:
                said = str(error)
        rows = ws.run.metrics.load_rows(one.name)
        ws.run.close()
        with Checkpoints(ws.run.checkpoints(one.name)) as checkpoints:
            return said, rows, checkpoints.latest()

    return train


def test_an_alarm_can_stop_a_run_and_the_same_command_goes_on(train):
    said, rows, saved = train("stop")
    assert "identical: 100% of the responses are the same one" in said
    assert len(rows) == 2 and saved == 2
    said, rows, saved = train("stop")
    assert not said and saved == 6
    assert [row["hack/alarm_identical"] for row in rows] == [0, 1, 1, 1, 1, 1]


def test_an_alarm_that_warns_stops_nothing(train):
    said, rows, saved = train("warn")
    assert not said and len(rows) == 6 and saved == 6
