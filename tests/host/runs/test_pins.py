"""A file of the user that changes in the middle of a stage is named, whatever it is for."""

from pathlib import Path

import pytest

from rlvr_jax.config import AdvantageConfig, Config, DataConfig, LossConfig, RewardConfig, RlStage
from rlvr_jax.host.runs import pins
from rlvr_jax.host.runs.paths import Paths

FILES = ("rule.py", "loss.py", "estimator.py")


def stage_in(folder: Path) -> RlStage:
    rule, objective, baseline = (str(folder / name) for name in FILES)
    return RlStage(
        reward=RewardConfig(source="rule", rule=rule),
        loss=LossConfig(objective=objective),
        advantage=AdvantageConfig(normalise="none", baseline=baseline),
    )


@pytest.mark.parametrize("changed", FILES)
def test_a_changed_file_is_named(tmp_path, changed):
    for name in FILES:
        (tmp_path / name).write_text("1\n")
    stage, run = stage_in(tmp_path), Paths(tmp_path)
    cfg = Config(data=DataConfig(tasks=("sum",)), tokenizer="byte", stages=(stage,))
    pins.pin(run, stage, cfg)
    assert pins.describe_change(run, stage, cfg) == ""
    (tmp_path / changed).write_text("2\n")
    said = pins.describe_change(run, stage, cfg)
    assert f"the file {tmp_path / changed} has changed since stage rl" in said


def test_words_are_no_files(tmp_path):
    """`clip` and `rloo` are pinned by the config itself."""
    stage = RlStage(reward=RewardConfig(source="rule"))
    cfg = Config(data=DataConfig(tasks=("sum",)), tokenizer="byte", stages=(stage,))
    assert pins.compute_pins(stage, cfg) == {}
