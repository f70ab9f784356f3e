"""Stages `rl` on a tiny model that reads bytes, one after the other, rewards by rule."""

import jax
import numpy as np
import pytest

from rlvr_jax import parameters, sharding
from rlvr_jax.config import (
    AdvantageConfig,
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    RewardConfig,
    RlStage,
)
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.stages import rl
from rlvr_jax.stages.workspace import Workspace

STAGE = dict(steps=2, prompts=2, samples=2, reward=RewardConfig(source="rule", workers=1))


@pytest.mark.slow
def test_a_value_head_learns_in_its_stage_and_the_next_reads_the_policy_alone(tmp_path) -> None:
    size = dict(layers=1, width=8, heads=2, kv_heads=2, head_size=2, feedforward=8, vocab=264)
    headed = RlStage(
        name="ppo",
        policy="fresh",
        advantage=AdvantageConfig("none", "value", gae_lambda=0.9),
        **STAGE,
    )
    remax = RlStage(
        name="remax", policy="ppo", advantage=AdvantageConfig("none", "greedy"), **STAGE
    )
    cfg = Config(
        runs=str(tmp_path),
        tokenizer="byte",
        data=DataConfig(
            tasks=("sum",), sft=0, label=0, train=8, prompt_columns=96, response_columns=4
        ),
        model=ModelConfig(**size),
        verifier=ModelConfig(**size),
        stages=(headed, remax),
    )
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    ws = Workspace(Run(cfg), mesh)
    ws.write_problems()
    rows = {}
    with jax.set_mesh(mesh):
        for stage in cfg.stages:
            ws.run.finish(stage.name, rl.run(stage, ws))
            rows[stage.name] = ws.run.metrics.load_rows(stage.name)
            assert set(ws.load(stage.name, cfg.model)) == set(parameters.names(cfg.model))
    ws.run.metrics.close()
    assert len(rows["ppo"]) == len(rows["remax"]) == 2 and rows["ppo"][0]["value/mean"] == 0
    assert all(np.isfinite(row["value/loss"]) for row in rows["ppo"])
    assert [row["reward/greedy"] for row in rows["remax"]] == pytest.approx([0, 0], abs=1)
    assert "reward/greedy" not in rows["ppo"][0] and "value/loss" not in rows["remax"][0]
