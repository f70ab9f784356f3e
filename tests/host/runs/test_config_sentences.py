"""A wrong key or value ends in a sentence that says what to write, and where."""

import dataclasses
import re
import typing

import pytest

from rlvr_jax.config import Config, RlStage, SftStage, Stage
from rlvr_jax.host.runs import config_sentences, other_names, settings
from rlvr_jax.host.runs.config_text import ConfigError, parse_yaml

SFT = {"stage": "sft"}
RL = {"stage": "rl", "reward": {"source": "rule"}}


def refused(tree: dict, **rl) -> str:
    with pytest.raises(ConfigError) as error:
        settings.parse({"stages": [SFT, RL | rl]} | tree)
    return str(error.value)


def exists(path: str) -> bool:
    """Whether a path of `other_names` is a key: walked by hand, apart from the code under test."""
    kind: typing.Any = Config
    if path.startswith("rl."):
        kind, path = RlStage, path.removeprefix("rl.")
    for key in path.split("."):
        fields = {item.name for item in dataclasses.fields(kind)}
        if key not in fields:
            return False
        kind = typing.get_type_hints(kind)[key]
    return True


def test_every_name_of_another_library_leads_to_a_key_that_exists():
    assert len(other_names.PATHS) + len(other_names.NOTES) > 150
    assert [path for path in other_names.PATHS.values() if not exists(path)] == []
    for name, note in other_names.NOTES.items():
        paths = re.findall(r"`([a-z_.]+)`", note)
        assert [path for path in paths if not exists(path)] == [], name


def test_no_name_of_another_library_is_a_key_in_the_same_place():
    """A name that is a key somewhere else here would get two hints; one of them is enough."""
    both = other_names.PATHS.keys() & other_names.NOTES.keys()
    assert not both
    own = {key for kind in (Config, RlStage, SftStage) for key in config_sentences.keys(kind)}
    assert not own & (other_names.PATHS.keys() | other_names.NOTES.keys())


def test_types_of_stages_and_values_lead_to_what_exists():
    tags = {kind.stage for kind in typing.get_args(Stage)}
    assert set(other_names.STAGES.values()) <= tags and not set(other_names.STAGES) & tags


@pytest.mark.parametrize(
    ("rl", "sentence"),
    [
        ({"learning_rate": 1}, "'learning_rate'; here it is `optim.lr` of a stage"),
        ({"num_generations": 8}, "'num_generations'; here it is `samples` of an rl stage"),
        ({"beta": 0.1}, "'beta'; here it is `loss.kl_coef` of an rl stage"),
        ({"max_completion_length": 9}, "here it is `data.response_columns`"),
        ({"epsilon": 0.2}, "here, in an rl stage: write `loss.clip_low` and `loss.clip_high`"),
        ({"bf16": True}, "here: write `model.compute`: bfloat16"),
        ({"kl_coef": 0.1}, "it is a key of a section: write loss.kl_coef"),
        ({"lr": 1}, "it is a key of a section: write optim.lr or prm.optim.lr"),
        ({"seed": 1}, "it is a key of the whole config: write it beside `stages`"),
        ({"stepz": 1}, "did you mean 'steps'?"),
        ({"qqqqqq": 1}, "known: advantage, alarms,"),
    ],
)
def test_unknown_key(rl, sentence):
    assert sentence in refused({}, **rl)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("actor_rollout_ref.rollout.n=8", "here it is `samples` of an rl stage"),
        ("actor_rollout_ref.model.path=x", "here it is `model.weights`"),
        ("data.train_files=x", "here: list files in `data.sources`, each as {file: train.parquet}"),
        ("trainer.total_training_steps=9", "here it is `steps` of a stage"),
        ("steps=9", "it is a key of a stage: write it below `- stage: rl`"),
        ("batch=9", "it is a key of a stage: write it below `- stage: sft`"),
        ("modle.width=3", "did you mean 'model'?"),
    ],
)
def test_unknown_key_of_an_override(override, sentence, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("stages: [{stage: sft}, {stage: rl}]")
    with pytest.raises(ConfigError) as error:
        settings.load(path, [override])
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"model": "some/model"}, "write `model: {weights: some/model}`"),
        ({"model": 16}, "not 16: write `model: {weights: PATH}`"),
        ({"mesh": 8}, "write `mesh: {data: 8}`"),
        ({"data": "a.parquet"}, "write `data: {sources: [{file: a.parquet}]}`"),
        ({"data": {"sources": "a.jsonl"}}, "write `sources: [{file: a.jsonl}]`"),
        ({"data": {"sources": ["a.jsonl"]}}, "data.sources.0: input should be a section"),
        ({"data": {"sources": ["gsm_symbolic"]}}, "write `- {gym: gsm_symbolic}`"),
        ({"data": {"sources": {"file": "a"}}}, "write `sources: [{file: a}]`"),
        ({"data": {"tasks": "sum"}}, "input should be a list, not 'sum': write `tasks: [sum]`"),
        ({"name": 7}, 'not 7: write it in quotes, "7"'),
        ({"name": None}, "name: there is no value: give one, or leave the key out"),
        ({"stages": {"rl": {}}}, "a list, in which each stage begins with `- stage: NAME`"),
        ({"stages": [{"rl": {}}]}, "the key `stage` is missing: write `- stage: rl`"),
        ({"stages": [{"stage": "grpo"}]}, "write `- stage: rl`, and `preset: grpo` in it"),
        ({"stages": [{"stage": "ppo_"}]}, "`stage: ppo_` is not a stage"),
        ({"stages": [{"stage": "eval"}]}, "not a stage; here it is 'evaluate'"),
        ({"stages": [{"stage": "RL"}]}, "not a stage; did you mean 'rl'?"),
    ],
)
def test_value_of_a_config(tree, sentence):
    assert sentence in refused(tree)


@pytest.mark.parametrize(
    ("rl", "sentence"),
    [
        ({"reward": "mine.py"}, "write `reward: {source: rule, rule: mine.py}`"),
        ({"reward": "math"}, "write `reward: {source: rule, rule: math}`"),
        ({"reward": "verifier"}, "write `reward: {source: verifier}`"),
        ({"reward": ["a.py"]}, "write `reward: {KEY: VALUE}`"),
        ({"optim": "1e-4"}, "write `optim: {lr: 1e-4}`"),
        ({"loss": "grpo"}, "write `preset: grpo` in the stage"),
        ({"loss": {"objective": "grpo"}}, "grpo is a preset: write `preset: grpo` in the stage"),
        ({"advantage": {"baseline": "gae"}}, "not 'gae'; here it is 'value'"),
        ({"advantage": {"normalise": "Group"}}, "not 'Group'; did you mean 'group'?"),
        ({"also": "format"}, "not 'format': write `also: {NAME: VALUE}`"),
        ({"steps": "1e3"}, "not '1e3': write 1000"),
        ({"steps": None}, "steps: there is no value"),
        ({"steps": True}, "steps: input should be a number, not true or false"),
        ({"overlong": {"leave_out": "yes"}}, "write true or false, not 'yes'"),
        ({"overlong": {"leave_out": 1}}, "write true or false, not 1"),
    ],
)
def test_value_of_a_stage(rl, sentence):
    assert sentence in refused({}, **rl)


def test_words_that_are_no_truth_values():
    """The core schema of YAML 1.2 (section 10.3.2): true and false, and nothing else."""
    for word in ("off", "no", "on", "yes", "Off", "NO", "y", "n", "010", "1:30", "2026-11-30"):
        assert parse_yaml(f"a: {word}") == {"a": word}
    truths = {"true": True, "True": True, "TRUE": True, "false": False, "FALSE": False}
    for word, truth in truths.items():
        assert parse_yaml(f"a: {word}") == {"a": truth}
    numbers = {"12": 12, "-3": -3, "+4": 4, "0": 0, "1_000": 1000, "0x1F": 31, "2.5": 2.5}
    for word, number in numbers.items():
        assert parse_yaml(f"a: {word}") == {"a": number}


def test_words_that_are_no_truth_values_survive_being_written():
    words = ["off", "yes", "010", "1:30", "2026-11-30", "0b11", "0o7", "true", "12", "~", ""]
    tree = {"stages": [SFT], "data": {"chat_variables": {f"k{i}": w for i, w in enumerate(words)}}}
    cfg = settings.parse(tree | {"name": "off", "data": tree["data"] | {"chat": True}})
    assert settings.parse(parse_yaml(settings.dump(cfg))) == cfg


def test_off_is_a_choice_and_not_a_truth_value(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("stages: [{stage: rl, reward: {audit: off}, alarms: {action: off}}]")
    (stage,) = settings.load(path).stages
    assert (stage.reward.audit, stage.alarms.action) == ("off", "off")


def test_a_missing_verifier_is_named_before_its_vocabulary():
    rl = {"stage": "rl", "policy": "sft"}
    with pytest.raises(ConfigError, match=r"no such stage: write `reward: \{source: rule\}`"):
        settings.parse({"model": {"vocab": 999}, "stages": [SFT, rl]})
    evaluate = {"stage": "evaluate", "policy": "sft"}
    with pytest.raises(ConfigError, match="write `verifier: ''` to measure without one"):
        settings.parse({"model": {"vocab": 999}, "stages": [SFT, evaluate]})
