"""Alarms on made-up curves: each rings for its own sign, and for no healthy run."""

import numpy as np
import pytest

from rlvr_jax.config import AlarmConfig, OptimConfig, RlStage, SftStage
from rlvr_jax.host import alarms
from rlvr_jax.stages import loop

CFG = AlarmConfig(window=10)
N = 60


def history(**curves):
    keys = {
        "length": alarms.LENGTH, "reward": alarms.REWARD, "kl": alarms.KL,
        "same": alarms.SAME, "std": alarms.STD, "gap": alarms.GAP,
    }  # fmt: skip
    plain = dict(
        length=np.full(N, 200.0), reward=np.linspace(0.3, 0.7, N), kl=np.linspace(0, 0.5, N),
        same=np.full(N, 0.02), std=np.full(N, 0.4), gap=np.full(N, 0.05),
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
    ],
)
def test_each_sign_rings_its_own_alarm(curves, rung):
    assert set(alarms.check(history(**curves), CFG)) == rung


def test_too_little_history_rings_nothing():
    short = history(length=falling(30), same=np.ones(N), std=np.zeros(N))[:9]
    assert alarms.check(short, CFG) == {} and alarms.check([], CFG) == {}


def test_metrics_that_are_not_there_ring_nothing():
    assert alarms.check([{"reward/mean": 0.5}] * N, CFG) == {}
    assert alarms.recent({"policy/kl": None, "reward/mean": 1.0, "x": 2}) == {"reward/mean": 1.0}


def test_the_oracle_may_be_asked_now_and_then():
    rows = [{"reward/mean": 0.9} | ({"oracle/gap": 0.8} if i % 25 == 24 else {}) for i in range(30)]
    assert set(alarms.check(rows, CFG)) == {"oracle_gap"}


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
