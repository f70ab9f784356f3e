"""From a model folder through training and back into a model folder."""

import json
import os
import subprocess
from pathlib import Path

import jax
import make_command
import numpy as np
import pytest
import yaml

from rlvr_jax import convert, parameters, train
from rlvr_jax.config import ModelConfig
from rlvr_jax.host import weights
from rlvr_jax.host.runs.checkpoint import restore_params
from rlvr_jax.host.text.tokenizer import open_tokenizer

CFG = ModelConfig(
    **{"family": "qwen3", "layers": 2, "width": 16, "heads": 2, "kv_heads": 1, "head_size": 8},
    **{"feedforward": 24, "vocab": 260, "tied": False, "context": 1024},
)
RL = {"stage": "rl", "policy": "pretrained", "steps": 2, "prompts": 4, "samples": 2}
RULED = {"reward": {"source": "rule"}}
# No answer is rewarded: what moves the policy is its entropy.
FUSED = {"verifier": "pretrained", "reward": {"min_mass": 0}, "loss": {"entropy_coef": 0.1}}
NOBODY = {"stage": "evaluate", "verifier": "", "batch": 4, "samples": 1}
LONG = {"sources": [{"gym": "gcd"}], "prompt_columns": 1000, "response_columns": 100}
STILL = {"optim": {"lr": 0.0}}
STAGES = [
    NOBODY | {"name": "before", "policy": "pretrained"},
    {"stage": "sft", "init": "pretrained", "steps": 1, "batch": 4} | STILL,
    RL | RULED | STILL | {"name": "ruled"},
    RL | FUSED | {"name": "fused"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "model"
    weights.save(path, start(), CFG, extra={"eos_token_id": [258]})
    return path


def start() -> dict:
    return parameters.init(jax.random.key(0), CFG)


def write(folder: Path, home: Path, stages: list, **more) -> Path:
    tree = {
        "name": "run",
        "runs": str(home),
        "tokenizer": "byte",
        "model": {"weights": str(folder)},
        "verifier": {"weights": str(folder)},
        "data": {
            "sources": [{"gym": "gcd", "params": {"max_value": 30}}],
            **{"sft": 8, "label": 0, "train": 16, "test": 4, "chat": True},
            **{"prompt_columns": 160, "response_columns": 6, "check_columns": 800},
            "check_question": False,
        },
        "stages": stages,
    }
    path = home / "config.yaml"
    path.write_text(yaml.safe_dump(tree | more))
    return path


@pytest.fixture(scope="module")
def home(folder, tmp_path_factory):
    """The run folder of all stages that a pretrained model can begin."""
    home = tmp_path_factory.mktemp("run")
    env = os.environ | {"XLA_FLAGS": os.environ["RLVR_TEST_XLA_FLAGS"]}
    command = [*make_command.train(), "--config", str(write(folder, home, STAGES))]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "run"


def left(home: Path, stage: str) -> dict:
    return restore_params(home / "checkpoints" / stage, parameters.abstract(CFG))


def test_every_step_is_compiled_once_and_sampler_is_trainer(home):
    rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["sft", *["ruled"] * 2, *["fused"] * 2]
    assert all(row["perf/compiles"] == 1 for row in rows)
    rl = [row for row in rows if row["stage"] != "sft"]
    assert max(row["mismatch/logprob_diff_max"] for row in rl) <= 1e-5


@pytest.mark.parametrize("stage", ["sft", "ruled"])
def test_training_starts_from_the_pretrained_parameters(home, stage):
    """A learning rate of zero gives them back."""
    trained = left(home, stage)
    for name, x in start().items():
        np.testing.assert_array_equal(trained[name], x, err_msg=name)


def test_a_trained_policy_is_written_as_a_model_folder(home, tmp_path):
    assert convert.main([f"{home}:fused", str(tmp_path / "out")]) == 0
    assert ModelConfig(**weights.load_architecture(tmp_path / "out")) == CFG
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    read = weights.load(tmp_path / "out", CFG, dict.fromkeys(parameters.names(CFG), one))
    trained = left(home, "fused")
    for name, x in read.items():
        np.testing.assert_array_equal(x, trained[name], err_msg=name)
    assert any(np.any(x != trained[name]) for name, x in start().items())
    assert open_tokenizer(tmp_path / "out").encode("Why?") == open_tokenizer("byte").encode("Why?")


@pytest.mark.parametrize(
    "stage, more, words",
    [
        (NOBODY | {"policy": "pretrained"}, {"model": {}}, "model.weights is empty"),
        (RL | {"verifier": "pretrained"}, {"verifier": {"vocab": 260}}, "verifier.weights is"),
        (NOBODY | {"policy": "rl"}, {}, "list it before"),
        (NOBODY | {"policy": "pretrained", "verifier": "v"}, {}, "or leave it empty"),
        (RL | RULED | {"policy": "fresh"}, {}, "list it before"),
        (RL | RULED, {"data": LONG}, "is 1100 and model was made for 1024"),
        ({"stage": "tokenizer"}, {}, "nobody would read what stage tokenizer trains"),
        (RL | RULED, {"data": {"sft": 0}}, "the config names no problems"),
        (RL | RULED, {"model": {"weights": "nowhere"}}, "there is no model at nowhere"),
    ],
)
def test_what_is_not_there_is_refused(folder, tmp_path, capsys, stage, more, words):
    path = write(folder, tmp_path, [stage], **more)
    assert train.main(["--config", str(path)]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
