"""`stage: rounds` becomes the stages of work A."""

import pytest

from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.config_text import ConfigError
from rlvr_jax.host.runs.rounds import expand_rounds


def expanded(**keys):
    tree = {"name": "x", "stages": [{"stage": "tokenizer"}, {"stage": "rounds", **keys}, "last"]}
    first, *stages, last = expand_rounds(tree)["stages"]
    assert first == {"stage": "tokenizer"} and last == "last"
    return stages


def test_one_round_is_explore_label_verifier_and_rl():
    explore, label, verifier, rl = expanded(
        policy="base", explore={"steps": 9}, verifier={"steps": 5}, rl={"steps": 7, "samples": 8}
    )
    assert explore == {
        "stage": "rl",
        "name": "explore",
        "policy": "base",
        "split": "label",
        "reward": {"source": "rule"},
        "collect": 1.0,
        "steps": 9,
    }
    assert label == {"stage": "label", "name": "label", "answers": "explore"}
    assert verifier["verdicts"] == ["label"] and verifier["steps"] == 5 and "init" not in verifier
    assert verifier["balance"] == "up" and sum(verifier["negatives"].values()) > 0
    assert rl == {
        "stage": "rl",
        "name": "rl",
        "policy": "base",
        "verifier": "verifier",
        "steps": 7,
        "samples": 8,
    }


def test_without_exploration_the_policy_is_asked():
    label, _, _ = expanded(label={"samples": 2})
    assert label == {"stage": "label", "name": "label", "policy": "sft", "samples": 2}


def test_a_second_round_goes_on_with_both_models():
    further = {"label": {"limit": 50}, "verifier": {"steps": 2}}
    stages = expanded(rounds=3, verifier={"steps": 5, "balance": "none"}, further=further)
    names = ["label", "verifier", "rl", "label2", "verifier2", "rl2", "label3", "verifier3", "rl3"]
    assert [stage["name"] for stage in stages] == names
    made = dict(zip(names, stages, strict=True))
    assert "limit" not in made["label"] and made["verifier"]["steps"] == 5
    for number, before in ((2, ""), (3, "2")):
        label, verifier, rl = stages[3 * number - 3 : 3 * number]
        assert label["policy"] == rl["policy"] == f"rl{before}"
        assert label["limit"] == 50 and label["verifier"] == f"verifier{before}"
        assert verifier["init"] == f"verifier{before}" and verifier["steps"] == 2
        assert verifier["verdicts"] == ["label", "label2", "label3"][:number]
        assert verifier["balance"] == "none" and rl["verifier"] == f"verifier{number}"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"round": 2}, "unknown key 'round'"),
        ({"rounds": 0}, "needs a number from 1 to 20"),
        ({"rounds": True}, "needs a number from 1 to 20"),
        ({"rl": 3}, "write keys of the stage"),
        ({"rounds": 2, "further": {"explore": {}}}, "takes label, verifier and rl"),
        ({"rounds": 2, "further": []}, "write keys of the stage"),
    ],
)
def test_other_keys_are_refused(keys, said):
    with pytest.raises(ConfigError, match=said):
        expanded(**keys)


def test_the_whole_config_with_overrides_of_single_stages(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "data: {tasks: [sum]}\nstages:\n"
        "  - {stage: tokenizer}\n  - {stage: sft, steps: 2}\n"
        "  - {stage: rounds, rounds: 2, explore: {steps: 3}, rl: {steps: 4}}\n"
    )
    cfg = settings.load(path, ["rl2.steps=9", "label2.samples=3"])
    steps = {stage.name: stage.steps for stage in cfg.rl_stages}
    assert steps == {"explore": 3, "rl": 4, "rl2": 9}
    assert settings.parse(settings.parse_yaml(settings.dump(cfg))) == cfg
