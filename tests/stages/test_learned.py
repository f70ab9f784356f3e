"""Held-out problems are not those that an earlier stage of the same policy learned from."""

import pytest

from rlvr_jax.config import (
    Config,
    EvalConfig,
    LabelStage,
    RewardConfig,
    RlStage,
    SftStage,
    VerifierStage,
)
from rlvr_jax.stages.learned import check_held_out

RULE = RewardConfig(source="rule")


def check(split: str, *before, **keys) -> None:
    stage = RlStage(eval=EvalConfig(every=1, split=split), **keys)
    check_held_out(Config(stages=(*before, stage)), stage)


def test_a_split_that_the_policy_learned_from_is_refused():
    with pytest.raises(ValueError, match=r"rl.eval.split is sft, and .* from stage sft, .*`test`"):
        check("sft", SftStage(), reward=RULE)
    middle = RlStage(name="first", split="label", reward=RULE)
    with pytest.raises(ValueError, match="comes from stage first"):
        check("label", SftStage(), middle, reward=RULE, policy="first@best")
    with pytest.raises(ValueError, match="comes from stage sft"):
        check("sft", SftStage(), middle, reward=RULE, policy="first")


def test_a_split_that_the_verifier_learned_from_is_refused():
    with pytest.raises(ValueError, match="eval.split is label, .* from stage label"):
        check("label", SftStage(), LabelStage(), VerifierStage())


def test_other_splits_are_free():
    check("label", SftStage(), reward=RULE)
    check("test", SftStage(), LabelStage(), VerifierStage())
    check("sft", SftStage(), SftStage(name="other"), reward=RULE, policy="pretrained")
