"""What stands out in the first step is said in words, with the numbers of the step."""

import dataclasses
from types import SimpleNamespace

import pytest

from rlvr_jax.config import (
    AdapterConfig,
    FilterConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RlStage,
    SftStage,
)
from rlvr_jax.stages.first_step import look, remarks

STAGE = RlStage(prompts=16, samples=4, reward=RewardConfig(source="rule"))
SIZES = dict(layers=1, width=8, heads=2, kv_heads=1, head_size=4, feedforward=8, vocab=32)
GOOD = {
    **{"completion/truncated_frac": 0.1, "reward/mean": 0.4, "reward/std": 0.5},
    **{"reward/frac_zero_std": 0.3, "rule/no_answer": 0.2, "rule/timeout": 0.0},
}


def said(values, stage=STAGE) -> list[str]:
    return remarks(stage, GOOD | values, 32, "data.response_columns")


@pytest.mark.parametrize("values", [{}, {"reward/std": None}, dict.fromkeys(GOOD)])
def test_a_good_step_is_passed_over(values):
    assert said(values) == []
    assert remarks(STAGE, {"loss": 1.0}, 32, "x") == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"completion/truncated_frac": 1.0},
            "64 of 64 answers were cut off at 32 tokens: raise data.response_columns, or",
        ),
        ({"completion/truncated_frac": 0.25}, "16 of 64 answers were cut off at 32 tokens"),
        ({"completion/truncated_frac": 0.5}, "32 of 64 answers were cut off at 32 tokens"),
        ({"rule/no_answer": 0.75}, "the rule found no final answer in 48 of 64 answers: ask for"),
        ({"rule/timeout": 1 / 64}, "1 of 64 gradings took too long and score 0: raise reward.sec"),
        ({"reward/std": 0.0, "reward/mean": 0.25}, "all rewards are equal (0.25), and from equal"),
        ({"reward/frac_zero_std": 1.0}, "in 100% of the groups of 4 answers all rewards are"),
        ({"reward/frac_zero_std": 0.75}, "in 75% of the groups of 4 answers all rewards are"),
    ],
)
def test_what_stands_out(values, sentence):
    (found,) = said(values)
    assert found.startswith(sentence)


def test_several_things_are_said_in_order():
    found = said({"completion/truncated_frac": 1.0, "reward/std": 0.0, "reward/frac_zero_std": 1.0})
    assert len(found) == 2 and "cut off" in found[0] and "are equal" in found[1]


def test_where_a_filter_chooses_rows_shares_are_told():
    stage = dataclasses.replace(STAGE, filter=FilterConfig(spread=True))
    assert said({"completion/truncated_frac": 1.0}, stage)[0].startswith("100% of the answers were")


@pytest.mark.parametrize(
    ("model", "init", "lr", "told"),
    [
        ({"weights": "models/a"}, "pretrained", 1e-3, True),
        ({"weights": "models/a"}, "sft0", 1e-3, True),
        ({"weights": "models/a"}, "pretrained", 2e-5, False),
        ({"weights": "models/a"}, "fresh", 1e-3, False),
        ({"weights": ""}, "sft0", 1e-3, False),
        ({"weights": "models/a", "adapter": AdapterConfig(rank=8)}, "pretrained", 1e-3, False),
    ],
)
def test_a_learning_rate_that_ruins_a_pretrained_model_is_told(model, init, lr, told):
    found: list[str] = []
    cfg = SimpleNamespace(model=ModelConfig(**SIZES, **model))
    ws = SimpleNamespace(cfg=cfg, run=SimpleNamespace(remark=found.append))
    look(ws, SftStage(init=init, optim=OptimConfig(lr=lr)), {})
    assert [text[:24] for text in found] == ["sft: optim.lr is 0.001, "] * told
