"""Which keys of a config may change in a run, and what is said of it."""

import dataclasses

import pytest

from rlvr_jax.config import Config, EvaluateStage, OptimConfig, RlStage, SftStage
from rlvr_jax.host.runs import changes, settings
from rlvr_jax.host.runs.changes import Progress

SFT, RL = SftStage(steps=4), RlStage(steps=6, optim=OptimConfig(decay="linear"))
DONE = EvaluateStage(name="after")


def going(old: tuple, new: tuple, finished: str = "sft", **newest: int) -> changes.Going:
    one, other = (settings.dump(Config(stages=stages)) for stages in (old, new))
    return changes.compare(one, other, Progress(frozenset(finished.split()), newest))


def other(stage, **keys):
    return dataclasses.replace(stage, **keys)


def test_what_says_how_far_how_often_and_where_may_change():
    alarms = other(RL.alarms, window=9)
    evals = other(RL.eval, every=2)
    reward = other(RL.reward, workers=5)
    more = other(RL, save_every=3, sample_every=2, keep=4, alarms=alarms, eval=evals, reward=reward)
    found = going((SFT, RL), (other(SFT, save_every=9), more), rl=2)
    assert not found.refused and not found.reopened
    assert set(found.said) == {
        "stages.sft.save_every was 100 and is 9 (stage sft has finished and is not done again)",
        "stages.rl.reward.workers was 2 and is 5",
        f"stages.rl.alarms.window was {RL.alarms.window} and is 9",
        "stages.rl.eval.every was 0 and is 2",
        "stages.rl.save_every was 50 and is 3",
        "stages.rl.keep was 2 and is 4",
        "stages.rl.sample_every was 25 and is 2",
    }


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"prompts": 4}, "stages.rl.prompts is 16 there and 4 here"),
        ({"optim": OptimConfig(lr=1)}, "stages.rl.optim.lr is 0.001 there and 1.0 here"),
        ({"keep_best": "reward/mean"}, "stages.rl.keep_best is  there and reward/mean here"),
        ({"steps": 4}, "steps is 6 there and 4 here, and its newest checkpoint is of step 5"),
    ],
)
def test_the_objective_of_a_stage_that_has_begun_may_not(keys, said):
    assert said in going((SFT, RL), (SFT, other(RL, **keys)), rl=5).refused
    assert not going((SFT, RL), (SFT, other(RL, **keys))).refused, "it has not begun"


def test_a_stage_whose_marker_was_removed_is_done_again_in_its_place():
    stages = (SFT, DONE, RL)
    assert going(stages, stages, "sft rl") == changes.Going()
    assert "begun are sft, after, rl there" in going(stages, (SFT, RL, DONE), "sft rl").refused
    changed = (SFT, other(DONE, samples=9), RL)
    assert "stages.after.samples is 4 there and 9 here" in going(stages, changed, "sft rl").refused
    assert not going(stages, changed, "sft").refused, "nothing stands on it"


def test_steps_of_a_stage_that_goes_on_name_what_depends_on_them():
    found = going((SFT, RL), (SFT, other(RL, steps=9)), "sft rl", rl=6)
    (said,) = found.said
    assert said == (
        "stages.rl.steps was 6 and is 9 (the learning rate follows optim.decay linear over 9 steps "
        "from here)"
    )
    assert found.reopened == ("rl",)
    (said,) = going((SFT, RL), (SFT, other(RL, steps=5)), rl=5).said
    assert said.endswith(
        "(stage rl ends at its checkpoint, without the measurements of a last step)"
    )
    assert (
        "and stage rl has begun after it"
        in going((SFT, RL), (other(SFT, steps=5), RL), rl=2).refused
    )
    done = (SFT, RL, DONE)
    longer = (SFT, other(RL, steps=9), DONE)
    assert "and stage after has begun" in going(done, longer, "sft rl after", rl=6).refused
    assert going(done, longer, "sft rl", rl=6).reopened == ("rl",)


def test_stages_come_and_go_behind_those_that_have_begun():
    found = going((SFT, RL), (SFT, RL, DONE), "sft rl")
    assert found.said == ("stage after is new",)
    assert going((SFT, RL, DONE), (SFT,)).said == ("stage rl is gone", "stage after is gone")
    said = going((SFT, RL), (SFT,), "sft rl").refused
    assert said == "stage rl has begun there and is not listed here"
    said = going((SFT, RL), (SFT, DONE, RL), "sft rl").refused
    assert "list new stages behind them" in said


def test_sections_that_no_stage_has_read_yet_may_change():
    rule = other(RL, reward=other(RL.reward, source="rule"))
    one = Config(stages=(SFT, rule))
    two = other(one, verifier=other(one.verifier, layers=7), stages=(SFT, rule))
    texts = [settings.dump(cfg) for cfg in (one, two)]
    assert not changes.compare(*texts, Progress(frozenset(["sft"]), {"rl": 2})).refused
    judged = [settings.dump(other(cfg, stages=(SFT, RL))) for cfg in (one, two)]
    assert (
        "verifier.layers"
        in changes.compare(*judged, Progress(frozenset(["sft", "rl"]), {})).refused
    )


@pytest.mark.parametrize(
    "key, founding",
    [
        *(("data.train", True), ("data.sources.0.file", True), ("data.response_columns", False)),
        *(("model.width", True), ("model.remat", False), ("model.adapter.rank", True)),
        *(("tokenizer", True), ("critique.data.test", True), ("critique.most", False)),
        *(("seed", False), ("verifier_tokenizer", False)),
    ],
)
def test_what_all_stages_stand_on(key, founding):
    assert changes.is_founding(key) == founding
