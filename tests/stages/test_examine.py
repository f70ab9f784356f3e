"""A policy in training answers held-out problems, and its training does not notice."""

import jax
import pytest

from rlvr_jax import sharding
from rlvr_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    EvaluateStage,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RlStage,
    SftStage,
)
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.stages import evaluate, rl, sft
from rlvr_jax.stages.workspace import Workspace

SIZE = dict(layers=1, width=8, heads=2, kv_heads=2, head_size=2, feedforward=8, vocab=264)
# An answer that ends is right in about every second case.
RULE = """
def score(completion, record):
    return float(sum(map(ord, completion)) % 2 == 0)
"""


@pytest.fixture
def train(tmp_path):
    """Run two steps with some eval keys; return the metrics, and a full evaluation afterwards."""
    (tmp_path / "even.py").write_text(RULE)

    def train(name, **keys):
        rule = str(tmp_path / "even.py")
        reward = RewardConfig(source="rule", workers=1, rule=rule)
        one = RlStage(
            steps=3, prompts=2, samples=2, reward=reward, policy="sft", eval=EvalConfig(**keys)
        )
        start = SftStage(steps=60, batch=8, init="fresh", optim=OptimConfig(lr=1e-2))
        two = EvaluateStage(name="after", policy="rl", verifier="", rule=rule, batch=4)
        data = DataConfig(
            tasks=("sum", "syllogism"),
            sft=16,
            label=0,
            train=8,
            test=7,
            prompt_columns=120,
            response_columns=24,
            too_long="drop",
        )
        cfg = Config(
            name=name,
            runs=str(tmp_path),
            tokenizer="byte",
            data=data,
            model=ModelConfig(**SIZE),
            stages=(start, one, two),
        )
        mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
        ws = Workspace(Run(cfg), mesh)
        ws.write_problems()
        with jax.set_mesh(mesh):
            for stage, module in zip(cfg.stages, (sft, rl, evaluate), strict=True):
                result = module.run(stage, ws)
                ws.run.finish(stage.name, result)
        rows = ws.run.metrics.load_rows("rl")
        ws.run.close()
        return rows, result

    return train


@pytest.mark.slow
def test_evaluation_follows_every_nth_step_and_the_last_and_training_stays_the_same(train):
    rows, after = train("with", every=2, problems=7, samples=3, batch=3)
    plain, _ = train("without")
    assert [bool(row.get("eval/greedy") is not None) for row in rows] == [False, True, True]
    assert rows[2]["eval/greedy"] == pytest.approx(after["greedy"]["all"])
    assert 0 < rows[2]["eval/accuracy"] < 1
    assert rows[2]["eval/accuracy"] <= rows[2]["eval/pass_at_k"] <= 1
    measured = ("time/", "perf/", "eval/")
    kept = [{k: v for k, v in row.items() if not k.startswith(measured)} for row in rows]
    assert kept == [{k: v for k, v in row.items() if not k.startswith(measured)} for row in plain]


@pytest.mark.slow
def test_without_samples_the_greedy_answer_is_the_accuracy(train):
    rows, _ = train("greedy", every=3, problems=4, samples=0)
    assert rows[2]["eval/accuracy"] == rows[2]["eval/greedy"]
    assert not any(key.startswith("eval/") for row in rows[:2] for key in row)
