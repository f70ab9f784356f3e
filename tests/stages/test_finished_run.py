"""A run in this process, twice, after JAX was used: it is what the command leaves on disk."""

import jax.numpy as jnp
import pytest

import rlvr_jax
from rlvr_jax import ragged
from rlvr_jax.host.runs.config_text import ConfigError
from rlvr_jax.stages.finished_run import FinishedRun

SMALL = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 2, "head_size": 8, "feedforward": 16}
CONFIG = {
    "name": "first",
    "data": {
        **{"tasks": ["sum"], "sft": 64, "label": 0, "train": 16, "test": 8},
        **{"prompt_columns": 64, "response_columns": 40},
    },
    "tokenizer": "byte",
    "mesh": {"data": 8},
    "model": SMALL | {"vocab": 264},
    "stages": [
        {"stage": "sft", "steps": 2, "batch": 8},
        {
            "stage": "evaluate",
            "name": "after",
            "policy": "sft",
            "verifier": "",
            "samples": 1,
            "batch": 8,
        },
    ],
}


@pytest.fixture(scope="module", autouse=True)
def one_width():
    """Of padded rows, as make_command.py has it: fewer programs to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "LEAST", 1024)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    assert float(jnp.ones(3).sum()) == 3, "JAX is in use"
    return rlvr_jax.train(CONFIG | {"runs": str(tmp_path_factory.mktemp("runs"))})


def test_it_reads_what_the_run_wrote(run):
    table = run.metrics("sft")
    assert table["step"] == [1, 2] and all(loss > 1 for loss in table["loss"])
    assert 0 <= run.evaluations["after"]["accuracy"]["all"] <= 1
    assert run.report.is_file() and "sft" in repr(run)
    with pytest.raises(ValueError, match="stage 'rl' has logged nothing"):
        run.metrics("rl")


def test_its_policy_answers_as_one_that_is_opened_later(run):
    questions = ["What is 1 + 1?", "What is 2 + 5?"]
    answers = run.policy().answer(questions)
    assert len(answers) == 2 and FinishedRun(run.folder).policy("sft").answer(questions) == answers
    assert run.policy("sft@2").answer(questions[1:]) == answers[1:], "no answer needs the other"


def test_a_second_run_in_the_same_process_is_interrupted_goes_on_and_learns_the_same(
    run, monkeypatch
):
    whole = rlvr_jax.train.STAGES["evaluate"]

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(rlvr_jax.train.STAGES, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rlvr_jax.train(run.config, "name=second")
    monkeypatch.setitem(rlvr_jax.train.STAGES, "evaluate", whole)
    second = rlvr_jax.train(run.config, "name=second")
    assert second.folder.name == "second"
    assert second.metrics("sft")["loss"] == run.metrics("sft")["loss"]
    assert second.evaluations["after"]["accuracy"] == run.evaluations["after"]["accuracy"]


def test_the_config_is_as_strict_as_that_of_the_command(tmp_path):
    with pytest.raises(ConfigError, match="did you mean"):
        rlvr_jax.train(CONFIG | {"runs": str(tmp_path)}, "sft.step=3")
    with pytest.raises(ValueError, match="no run folder"):
        FinishedRun(tmp_path)
