"""Stage `prm` from its rollouts to the answers it chooses, and what starts from it."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlvr_jax import sharding, train
from rlvr_jax.config import (
    AdvantageConfig,
    Config,
    DataConfig,
    EvaluateStage,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    PrmConfig,
    PrmStage,
    RewardConfig,
    RlStage,
    SftStage,
)
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.sources import toy
from rlvr_jax.host.runs.checkpoint import Checkpoints
from rlvr_jax.host.runs.folder import Interrupted, Run
from rlvr_jax.stages import evaluate, loop, prm, rl
from rlvr_jax.stages.check import check_config
from rlvr_jax.stages.workspace import Workspace

SIZES = dict(layers=1, width=16, heads=2, kv_heads=1, head_size=8, feedforward=16, vocab=264)
SMALL = ModelConfig(**SIZES, slots=2)  # few loops to compile
# Nothing to do with the problem: that it can be learned is the point.
RULE = "def score(completion, record):\n    return float(completion[-1:] in ('0', '1', '2', '3'))\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def cfg(runs) -> Config:
    rule = runs / "rule.py"
    rule.write_text(RULE)
    ruled = RewardConfig(source="rule", rule=str(rule), workers=1)
    fast = OptimConfig(lr=2e-2)
    return Config(
        name="run",
        runs=str(runs),
        tokenizer="byte",
        data=DataConfig(
            tasks=("sum",), sft=64, label=32, train=16, test=24, prompt_columns=8,
            response_columns=8, check_columns=32, check_question=False,
        ),
        model=SMALL,
        verifier=SMALL,
        stages=(
            SftStage(steps=60, batch=32, optim=OptimConfig(lr=2e-2)),
            PrmStage(
                prompts=8, samples=4, steps=16, save_every=6, reward=ruled,
                prm=PrmConfig(loss="dpo", reference="policy", optim=fast),
            ),
            EvaluateStage(policy="sft", verifier="", batch=24, rule=str(rule), prm="prm"),
        ),
    )  # fmt: skip


def short_problems(ws) -> None:
    """7+5, demonstrated in two lines; nothing here is wide, so that little is compiled."""
    splits = toy.generate_splits(("sum",), {"sft": 64, "label": 32, "train": 16, "test": 24}, 0)
    for number, record in enumerate(row for rows in splits.values() for row in rows):
        a, b = divmod(number % 81, 9)
        record |= {"question": f"{a}+{b}", "reference": str(a + b)}
        record["demonstration"] = f"{b}\n{a + b}"
    dataset.prepare(ws.run.data, splits, "problems")


def workspace(cfg) -> Workspace:
    ws = Workspace(Run(cfg), sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
    short_problems(ws)
    return ws


@pytest.fixture(scope="module")
def once():
    """Instead of a `jit`: of all steps of one kind that it is given, the first is compiled."""
    made = {}

    def instead(jit):
        return lambda step, *args, **more: made.setdefault(
            getattr(step, "func", step), jit(step, *args, **more)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "jax", SimpleNamespace(jit=instead(jax.jit), device_get=jax.device_get))
        yield instead


@pytest.fixture(scope="module")
def done(cfg, once):
    """A workspace whose stages have run."""
    check_config(cfg)
    ws = workspace(cfg)
    ws.jit_step = once(ws.jit_step)
    with jax.set_mesh(ws.mesh):
        for stage in cfg.stages:
            ws.run.metrics_start = ws.run.metrics.offset
            ws.run.finish(stage.name, train.STAGES[stage.stage](stage, ws))
    return ws


def logged(ws, stage):
    rows = map(json.loads, (ws.run.folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["stage"] == stage]


def same(a, b):
    return all(np.array_equal(x, b[key]) for key, x in a.items())


def test_it_learns_what_the_rule_wants_of_a_policy_that_stays(done) -> None:
    ws = done
    rows = logged(ws, "prm")
    assert len(rows) == 16 and all(row["perf/compiles"] == 1 for row in rows)
    assert all(row["prm/skipped"] == 0 and row["prm/grad_norm"] > 0 for row in rows)
    assert rows[0]["prm/loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert np.mean([row["prm/loss"] for row in rows[-4:]]) < 0.6
    rewards = [row["reward/mean"] for row in rows]
    assert 0.1 < np.mean(rewards) < 0.9
    assert abs(np.mean(rewards[8:]) - np.mean(rewards[:8])) < 0.15
    assert not same(ws.load("prm", SMALL), ws.load("sft", SMALL))


@pytest.mark.slow
def test_the_fused_step_labels_by_the_verifier(done, cfg) -> None:
    """The policy's own parameters, read as a verifier's, give some soft label."""
    reward = RewardConfig(min_mass=0.0, audit="off")
    stage = PrmStage(
        name="fused", verifier="sft", prompts=8, samples=4, steps=3, reward=reward,
        prm=PrmConfig(optim=OptimConfig(lr=1e-2)),
    )  # fmt: skip
    ws = Workspace(done.run, done.mesh)
    ws.cfg = dataclasses.replace(cfg, stages=(*cfg.stages, stage))
    with jax.set_mesh(ws.mesh):
        prm.run(stage, ws)
    rows = logged(ws, "fused")
    assert len(rows) == 3 and all(row["perf/compiles"] == 1 for row in rows)
    assert 0 < rows[0]["reward/mean"] < 1 and 0 < rows[0]["verifier/p1_mean"] < 1
    assert rows[0]["prm/reward_mean"] == 0 != rows[1]["prm/reward_mean"]


def test_evaluations_choose_by_it(done, capsys) -> None:
    ws = done
    told = json.loads(ws.run.evaluation("evaluate").read_text())
    assert set(evaluate.CHOSEN) <= set(told)
    for name in evaluate.CHOSEN:
        assert set(told[name]) == set(told["accuracy"])
        assert told[name]["all"] <= told["pass_at_k"]["all"]
    assert told["best_of_k_sum"]["all"] > told["accuracy"]["all"] + 0.1
    kept = list(map(json.loads, ws.run.kept_answers("evaluate").read_text().splitlines()))
    drawn = [row["score"] for row in kept if not row["greedy"]]
    assert len(kept) == 24 * 5 and np.mean(drawn) == pytest.approx(told["accuracy"]["all"])
    low, high = told["intervals"]["accuracy"]["all"]
    assert low < told["accuracy"]["all"] < high
    assert "eval/evaluate.jsonl" in ws.run.finished("evaluate")["files"]
    evaluate.summarise(ws)
    said = capsys.readouterr()
    assert all(words in said.out + said.err for words in evaluate.CHOSEN.values())
    assert "verifier = oracle" not in said.out + said.err, "it asks no verifier"


def test_it_goes_on_where_it_was_stopped(done, cfg, once) -> None:
    ws, stage = done, cfg.stages[1]
    again = workspace(dataclasses.replace(cfg, name="again"))
    own = again.models
    again.load, again.models = ws.load, ws.models
    again.jit_step = once(again.jit_step)
    step = iter(range(1, 100))
    again.run.check_signal = lambda: 15 if next(step) == 3 else None
    with jax.set_mesh(again.mesh):
        with pytest.raises(Interrupted):
            prm.run(stage, again)
        prm.run(stage, again)
    again.run.finish("prm", {})
    again.models = own
    kept = [
        [{k: v for k, v in row.items() if k[:5] not in ("time/", "perf/")} for row in rows]
        for rows in (logged(ws, "prm"), logged(again, "prm"))
    ]
    assert kept[0] == kept[1]
    assert same(ws.load("prm", SMALL), Workspace.load(again, "prm", SMALL))


def test_an_rl_stage_starts_its_prm_from_it_and_leaves_one(done, cfg, monkeypatch) -> None:
    ws = done
    stage = RlStage(
        name="rl", reward=RewardConfig(source="rule"), prm=PrmConfig(init="prm"),
        advantage=AdvantageConfig("none", "rloo", process_weight=0.1),
    )  # fmt: skip

    def stop_before_the_first_step(ws, stage, state, *rest):
        with Checkpoints(ws.run.checkpoints(stage.name)) as checkpoints:
            checkpoints.save(1, state, {})
        return state

    both = Workspace(ws.run, ws.mesh)
    both.cfg = dataclasses.replace(cfg, stages=(*cfg.stages, stage))
    monkeypatch.setattr(ws.run, "cfg", both.cfg)
    monkeypatch.setattr(loop, "run", stop_before_the_first_step)
    with jax.set_mesh(ws.mesh):
        train.STAGES["rl"](stage, both)
    both.run.finish("rl", {})
    assert same(both.load_prm("rl"), ws.load("prm", SMALL))
    assert same(both.load("rl", SMALL), ws.load("sft", SMALL))
    assert same(both.load_prm("sft"), ws.load("sft", SMALL))


@pytest.mark.parametrize(
    "stages, words",
    [
        ((PrmStage(policy="sft"),), "prm.policy names the stage 'sft'"),
        (
            (SftStage(), RlStage(verifier="sft", prm=PrmConfig(init="later"))),
            "rl.prm.init names the stage 'later'",
        ),
        (
            (SftStage(), EvaluateStage(policy="sft", verifier="", prm="sft")),
            "evaluate.prm names the stage 'sft', which leaves no PRM",
        ),
        (
            (
                SftStage(),
                EvaluateStage(policy="sft", verifier="", prm="prm"),
                PrmStage(verifier="sft"),
            ),
            "evaluate.prm names the stage 'prm', which leaves no PRM by then",
        ),
        (
            (SftStage(), RlStage(verifier="sft"), EvaluateStage(verifier="", prm="rl")),
            "evaluate.prm names the stage 'rl', which leaves no PRM",
        ),
        ((SftStage(), PrmStage(verifier="sft", prompts=40)), "needs at least 40 problems"),
    ],
)  # fmt: skip
def test_a_prm_that_will_not_be_there_is_refused(cfg, stages, words) -> None:
    with pytest.raises(ValueError, match=words):
        check_config(dataclasses.replace(cfg, stages=stages))


def test_a_reference_needs_a_prm() -> None:
    with pytest.raises(ValueError, match="prm_reference needs a prm"):
        EvaluateStage(prm_reference="sft")
