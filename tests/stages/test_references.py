"""References are graded by the rules of a run before it starts."""

import json
import time
from types import SimpleNamespace

import pytest

from rlvr_jax.config import Config, EvaluateStage, RewardConfig, RlStage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.sources import files
from rlvr_jax.stages import references


@pytest.fixture
def check(tmp_path, capsys):
    """check(rows, rule) -> what is printed."""

    def check(rows, rule="") -> str:
        records = [files.parse_record(row, "file:mine") for row in rows]
        dataset.prepare(tmp_path / "data", {"train": records, "test": records[:1]}, "problems")
        reward = RewardConfig(source="rule", rule=rule)
        stages = (RlStage(reward=reward, policy="pretrained"), EvaluateStage(verifier=""))
        cfg = Config(stages=stages)
        references.check_references(SimpleNamespace(cfg=cfg, data=tmp_path / "data"))
        return capsys.readouterr().out.replace("\n", " ")

    return check


def sums(count=40, answer="{}"):
    return [{"question": f"{i} + 2?", "answer": answer.format(i + 2)} for i in range(count)]


@pytest.mark.parametrize("rule", ["", "math", "exact", "numeric"])
def test_references_that_a_rule_accepts_are_passed_over(check, rule):
    assert check(sums(), rule) == ""


def test_a_rule_that_rejects_the_reference_is_named_with_the_row(check):
    rows = sums(8)
    rows[5]["answer"] = "a tall green tree"
    said = check(rows, "numeric")
    assert said.startswith("warning: rule numeric gives 0 to the reference itself in 1 of 8")
    assert "'5 + 2?' with the reference 'a tall green tree'" in said


@pytest.mark.parametrize("place", ["reference", "extra"])
def test_rows_with_tests_are_not_run(check, place):
    tests = ["assert add(1, 4) == 5", "assert add(2, 4) == 6"]
    rows = [{"question": f"Write add, form {i}.", "answer": json.dumps(tests)} for i in range(99)]
    if place == "extra":
        rows = [row | {"answer": "see tests", "extra_info": {"tests": tests}} for row in rows]
    began = time.process_time()
    check(rows, "code")
    assert time.process_time() - began < 5
