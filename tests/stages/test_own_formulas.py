"""Objectives and estimators of a user: copies of built-in ones equal them; bad ones are refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import advantage, loss
from rlvr_jax.config import AdvantageConfig, LossConfig, RlStage
from rlvr_jax.stages.own_formulas import check_files, try_formulas, with_formulas

CLIP = """
import jax.numpy as jnp

def objective(tokens, cfg):
    ratio_BR = jnp.exp(tokens.logprob_BR - tokens.behaviour_BR)
    gain_BR = ratio_BR * tokens.advantage_BR
    bounded_BR = jnp.clip(ratio_BR, 1 - cfg.clip_low, 1 + cfg.clip_high) * tokens.advantage_BR
    return jnp.minimum(gain_BR, bounded_BR), bounded_BR < gain_BR
"""
CENTRE = """
def advantages(reward_QG, length_QG, counted_Q):
    return reward_QG - reward_QG.mean(1, keepdims=True)
"""


def stage_with(tmp_path, objective="", advantages="", **more) -> RlStage:
    parts = {}
    for name, text in (("loss", objective), ("advantage", advantages)):
        (tmp_path / f"{name}.py").write_text(text)
    if objective:
        parts["loss"] = LossConfig(objective=f"{tmp_path}/loss.py", **more)
    if advantages:
        path = f"{tmp_path}/advantage.py"
        parts["advantage"] = AdvantageConfig(normalise="none", baseline=path)
    return RlStage(**parts)


def some_tokens(rng) -> loss.Tokens:
    logs = [jnp.array(-rng.random((3, 5)) * 2, jnp.float32) for _ in range(5)]
    mask = jnp.arange(5) < jnp.array([[5], [3], [1]])
    return loss.Tokens(*logs, jnp.array(rng.normal(size=(3, 5)), jnp.float32), mask)


def test_a_copy_of_the_clipped_ratio_is_the_clipped_ratio(tmp_path):
    own = with_formulas(stage_with(tmp_path, CLIP)).loss
    tokens, weight_B = some_tokens(np.random.default_rng(0)), jnp.ones(3)

    @jax.jit
    def value(logprob_BR):
        def total(x_BR, cfg):
            return loss.policy_gradient(tokens._replace(logprob_BR=x_BR), weight_B, 0.0, cfg)

        take = jax.value_and_grad(total, has_aux=True)
        return take(logprob_BR, own), take(logprob_BR, LossConfig())

    (mine, logs), slope = value(tokens.logprob_BR)[0]
    (theirs, their_logs), their_slope = value(tokens.logprob_BR)[1]
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    np.testing.assert_allclose(slope, their_slope, rtol=1e-6)
    assert logs["policy/clip_frac"] == their_logs["policy/clip_frac"] > 0


def test_a_copy_of_the_centred_reward_is_the_centred_reward(tmp_path):
    own = with_formulas(stage_with(tmp_path, advantages=CENTRE)).advantage
    rng = np.random.default_rng(0)
    rewards = {"reward": jnp.array(rng.random(12), jnp.float32)}
    rest = jnp.array(rng.random(12), jnp.float32), jnp.arange(1, 13), 4
    mine = advantage.response_advantages(rewards, *rest, own)
    theirs = advantage.response_advantages(
        rewards, *rest, AdvantageConfig(normalise="none", baseline="mean")
    )
    np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_what_padding_holds_plays_no_part(tmp_path):
    text = "def objective(tokens, cfg):\n    return tokens.logprob_BR + ~tokens.mask_BR * 7.0\n"
    own = with_formulas(stage_with(tmp_path, text)).loss
    value_BR, _ = loss.objective(some_tokens(np.random.default_rng(0)), own)
    assert np.all((value_BR == 0) == (np.arange(5) >= np.array([[5], [3], [1]])))


def test_a_file_that_has_changed_is_another_function(tmp_path):
    first = with_formulas(stage_with(tmp_path, CLIP)).loss
    assert first == with_formulas(stage_with(tmp_path, CLIP)).loss
    changed = with_formulas(stage_with(tmp_path, CLIP.replace("1 + cfg", "2 + cfg"))).loss
    assert changed != first and hash(changed) != hash(first)


OF_TOKENS = "def objective(tokens, cfg):\n    return "
OF_REWARDS = "def advantages(reward_QG, length_QG, counted_Q):\n    return "
BAD = {
    "has no function `objective`": ("def loss(tokens): return 0\n", ""),
    "cannot be imported: SyntaxError": ("def objective(:\n", ""),
    "AttributeError: 'Tokens' object has no attribute 'ratio'": (OF_TOKENS + "tokens.ratio\n", ""),
    "float32[], not float [B, R]": (OF_TOKENS + "tokens.logprob_BR.sum()\n", ""),
    "or its gradient is not finite": (OF_TOKENS + "tokens.logprob_BR / tokens.mask_BR\n", ""),
    "is 0: the policy would learn nothing": (OF_TOKENS + "tokens.advantage_BR\n", ""),
    "a row depends on the others": (OF_TOKENS + "tokens.logprob_BR * tokens.mask_BR[-1]\n", ""),
    "has no function `advantages`": ("", "def estimate(x): return x\n"),
    "float32[16], not float [Q, G]": ("", OF_REWARDS + "reward_QG.mean(1)\n"),
    "not finite for rewards all 0": ("", OF_REWARDS + "reward_QG / reward_QG.std()\n"),
    "takes 1 positional argument but 3": ("", "def advantages(x): return x\n"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", BAD)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, sentence):
    stage = stage_with(tmp_path, *BAD[sentence])
    with pytest.raises(ValueError) as error:
        try_formulas(stage)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_good_files_are_tried_without_a_word(tmp_path):
    assert try_formulas(stage_with(tmp_path, CLIP, CENTRE)) is None


def test_to_load_a_file_computes_nothing(tmp_path):
    """Inside the mesh of a run, or of a slice that is not here, there may be no device for it."""
    stage = with_formulas(stage_with(tmp_path, "def objective(tokens, cfg):\n    1 / 0\n"))
    with pytest.raises(ZeroDivisionError):
        stage.loss.objective.function(None, stage.loss)


def test_a_file_that_is_not_there(tmp_path):
    stage = replace(RlStage(), loss=LossConfig(objective="my/lost.py"))
    with pytest.raises(ValueError, match="my/lost.py is not there"):
        check_files(stage)


def test_a_word_that_is_neither_known_nor_a_file():
    with pytest.raises(ValueError, match="objective should be one of .* or a file"):
        LossConfig(objective="cipso")
    with pytest.raises(ValueError, match="baseline should be one of 'rloo'.* or a file"):
        AdvantageConfig(baseline="rlo")
    with pytest.raises(ValueError, match="plain outcomes"):
        AdvantageConfig(baseline="my.py")
