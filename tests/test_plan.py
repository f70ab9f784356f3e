"""The command `python -m rlvr_jax.plan`."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr_jax import plan
from rlvr_jax.host.plans.table import HEAD
from rlvr_jax.stages import planning

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = """
name: small
data: {tasks: [sum], prompt_columns: 16, response_columns: 16, train: 64, test: 8}
model: {layers: 1, width: 32, heads: 4, kv_heads: 2, head_size: 8, feedforward: 64, vocab: 384}
mesh: {data: 2}
stages:
  - {stage: rl, policy: pretrained, prompts: 4, samples: 2, steps: 2, reward: {source: rule}}
"""


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file


def run(capsys, *args):
    code = plan.main([str(arg) for arg in args])
    return (code, *capsys.readouterr())


def test_an_answer_in_three_forms(small, tmp_path, capsys, monkeypatch):
    made = []  # compiled once

    def once(*args, **options):
        if not made:
            made.append(whole(*args, **options))
        return dataclasses.replace(made[0], price=options["price"])

    whole = planning.plan
    monkeypatch.setattr(planning, "plan", once)
    asked = ("--config", small, "--topology", "h100:2", "--quick")
    code, out, _ = run(capsys, *asked)
    assert code == 0 and "fits with 100 % free (an estimate)" in out
    assert "rollout: peak" in out and "update: peak" in out and "$11.06 a chip hour" in out
    prices = tmp_path / "prices.yaml"
    prices.write_text("h100: 2.5")
    code, out, _ = run(capsys, *asked, "--json", "--prices", prices)
    told = json.loads(out)
    assert code == 0 and told["fits"] and told["price"] == 2.5 and told["estimate"]
    assert [program["name"] for program in told["programs"]] == ["rollout", "update"]
    code, out, _ = run(capsys, *asked, "--row")
    assert out.startswith("| small | h100:2 | 2 x 1 x 1 |")


def test_a_sweep_ranks_what_it_compiled(small, capsys):
    asked = ("--config", small, "--topology", "h100:2", "--quick", "--sweep", "--compile", "2")
    code, out, aside = run(capsys, *asked)
    assert code == 0 and aside.count("compiling mesh.") == 2
    lines = out.splitlines()
    assert [line[:2] for line in lines[::2]] == ["1.", "2."]
    for override in lines[1::2]:  # what can be copied behind the command
        words = dict(word.split("=") for word in override.split())
        sizes = [int(words[f"mesh.{axis}"]) for axis in ("data", "fsdp", "tensor")]
        assert sizes[0] * sizes[1] * sizes[2] == 2


@pytest.mark.parametrize(
    "args, message",
    [
        (["--topology", "v9z:4"], "'v9z' is no chip with known data"),
        (["--topology", "v5e:8"], "two or three sizes"),
        (["--topology", "h100:8"], "is not one of the 8 devices of h100:8"),
        (["--topology", "h100:8", "mesh.data=1", "mesh.tensor=8"], "not a multiple of mesh.tensor"),
        (["--topology", "h100:2", "--stage", "sft"], "no stage 'sft'"),
        (["--topology", "h100:2", "--prices", "none.yaml"], "cannot read the prices"),
        (["--topology", "h100:2", "model.weights=models/Nobody"], "no model at models/Nobody"),
        (["--topology", "h100:2", "modell.layers=1"], "unknown key"),
        (["--topology", "h100:2", "--config", "none.yaml"], "no config file none.yaml"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(small, capsys, args, message):
    args = args if "--config" in args else ["--config", small, *args]
    code, out, error = run(capsys, *args)
    assert code == 2 and out == "" and message in error
    assert error.startswith("error: ") and len(error.splitlines()) == 1


def test_a_config_without_an_rl_stage_is_refused(tmp_path, capsys):
    file = tmp_path / "other.yaml"
    file.write_text(SMALL.split("stages:")[0] + "stages: [{stage: tokenizer}]")
    code, _, error = run(capsys, "--config", file, "--topology", "h100:2")
    assert code == 2 and error == "error: the config has no rl stage to plan\n"


def test_a_tpu_without_libtpu_is_refused(small):
    """In a process of its own: libtpu may be installed here."""
    block = (
        "import sys; sys.modules['libtpu'] = None\n"
        "from rlvr_jax import plan\n"
        f"sys.exit(plan.main(['--config', {str(small)!r}, '--topology', 'v5e:1x2']))"
    )
    env = os.environ | {"TPU_LIBRARY_PATH": "/nowhere/libtpu.so"}
    done = subprocess.run(
        [sys.executable, "-c", block], capture_output=True, text=True, timeout=300, env=env
    )
    assert done.returncode == 2, done.stderr
    assert "pip install -e '.[plan]' in the clone" in done.stderr.splitlines()[-1]


def test_the_head_of_the_table_stands_in_the_docs():
    page = (CONFIGS.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    assert HEAD in page


@pytest.mark.tpu_aot
def test_a_slice_of_tpus(small, capsys):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs a package: pip install libtpu")
    code, out, _ = run(
        capsys, "--config", small, "--topology", "v5e:2x2", "--quick", "--json", "mesh.data=4"
    )
    told = json.loads(out)
    assert code == 0 and told["fits"] and not told["estimate"]
    rollout, update = told["programs"]
    assert rollout["loops"][-1]["name"] == "column of decoding"
    assert rollout["loops"][-1]["passes"] == 16
    assert update["flops"] > 0 and update["sent"] > 0 and not update["unknown"]
    assert any("rlvr_jax/" in big["where"] for big in rollout["largest"]) or not rollout["largest"]


@pytest.mark.tpu_aot
def test_a_slice_that_libtpu_does_not_know_and_one_that_is_too_small(small, capsys):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs a package: pip install libtpu")
    odd = ["mesh.data=21", "rl.prompts=21"]
    code, _, error = run(capsys, "--config", small, "--topology", "v5e:3x7", *odd)
    assert code == 2 and "v5e:3x7" in error.splitlines()[-1]
    wide = [
        "model.width=8192",
        "model.feedforward=65536",
        "model.layers=8",
        "model.vocab=200000",
        "mesh.data=4",
    ]
    asked = ("--config", small, "--topology", "v5e:2x2", "--quick", *wide)
    code, out, _ = run(capsys, *asked)
    assert code == 2 and "does not fit: " in out and "try model.remat=true" in out
