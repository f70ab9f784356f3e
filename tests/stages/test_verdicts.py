"""Verdicts are held back by problem, balanced, and known to the rl stage."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest

from rlvr_jax.config import AdvantageConfig, RewardConfig, RlStage, VerifierStage
from rlvr_jax.host.problems.dataset import problem_key
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.stages import sampled, verdicts, verifier


def rows(problems, each=3, verdict=lambda i: i % 2):
    return [
        {"question": f"q{p}", "reference": "r", "answer_ids": [p, i], "verdict": verdict(i)}
        | {"problem": f"k{p}"}
        for p in range(problems)
        for i in range(each)
    ]


@pytest.mark.parametrize("held_out", [1, 2, 3, 7, 29])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_what_is_held_back_is_about_other_problems(held_out, seed):
    found = rows(10)
    if seed is not None:
        random.Random(seed).shuffle(found)
    learn, held = verdicts.split_by_problem(found, held_out)
    assert len(held) == held_out
    assert not {row["problem"] for row in learn} & {row["problem"] for row in held}
    assert len(found) - 3 < len(learn) + len(held) <= len(found)
    assert [row for row in found if row in learn] == learn, "in the order of the file"


def test_too_few_to_hold_back_leave_nothing_to_learn():
    learn, held = verdicts.split_by_problem(rows(2), 20)
    assert not learn and len(held) == 6


def test_a_row_without_a_key_is_known_by_its_question():
    assert verdicts.problem_key({"question": "What  is 2?"}) == problem_key("what is 2?")


@pytest.mark.parametrize("how", ["down", "up"])
def test_balance(how):
    found = rows(10, each=5, verdict=lambda i: int(i == 0))
    even = verdicts.balance(found, how, random.Random(0))
    ones = [row for row in even if row["verdict"]]
    assert 2 * len(ones) == len(even) == {"down": 20, "up": 80}[how]
    assert all(row in even for row in found if row["verdict"])
    assert len({str(row) for row in even}) == {"down": 20, "up": 50}[how]
    assert verdicts.balance(found, "none", random.Random(0)) is found
    zeros = [row for row in found if not row["verdict"]]
    assert verdicts.balance(zeros, how, random.Random(0)) == zeros


@pytest.fixture
def ws(tmp_path):
    stages = (
        VerifierStage(name="first", verdicts="one", init="fresh"),
        VerifierStage(name="second", verdicts="two", init="first"),
    )
    for name, start in (("one", 0), ("two", 3)):
        text = "".join(json.dumps(row) + "\n" for row in rows(10)[3 * start : 3 * start + 9])
        (tmp_path / f"{name}.jsonl").write_text(text)
    problems = [{"key": f"k{i}", "question": f"q{i}"} for i in range(10)]
    run = SimpleNamespace(verdicts=lambda name: tmp_path / f"{name}.jsonl")
    return SimpleNamespace(
        run=run, cfg=SimpleNamespace(stages=stages, seed=0), problems=lambda split: problems
    )


def test_a_verifier_knows_the_problems_of_all_it_was_made_of(ws):
    assert verdicts.learnt_problems(ws, "first") == {"k0", "k1", "k2"}
    assert verdicts.learnt_problems(ws, "second") == {f"k{i}" for i in range(6)}
    assert verdicts.learnt_problems(ws, "pretrained") == set()


def test_rl_leaves_out_what_its_verifier_has_learnt(ws):
    left = sampled.unjudged_problems(RlStage(prompts=4, verifier="second"), ws)
    assert [left[i]["key"] for i in range(len(left))] == ["k6", "k7", "k8", "k9"]
    with pytest.raises(RunError, match="6 of 10 problems of split train .* raise data.train"):
        sampled.unjudged_problems(RlStage(prompts=5, verifier="second"), ws)
    by_rule = RlStage(prompts=5, verifier="second", reward=RewardConfig(source="rule"))
    assert len(sampled.unjudged_problems(by_rule, ws)) == 10


def test_verdicts_that_are_gone_or_damaged(ws, tmp_path):
    with pytest.raises(RunError, match="put a `label` stage before"):
        verdicts.load_verdicts(ws, "none")
    (tmp_path / "one.jsonl").write_text('{"question": "q"}\n')
    with pytest.raises(RunError, match="is damaged"):
        verdicts.learnt_problems(ws, "second")


def test_measured_is_agreement_calibration_and_what_fools_it():
    held = [{"gap": 2.0, "verdict": 1}, {"gap": -800.0, "verdict": 0}, {"gap": 1.0, "verdict": 0}]
    wrong = {"keys": [{"gap": 1.0}, {"gap": -1.0}], "cuts": []}
    pairs = [{"gap": 1.0, "verdict": 1}, {"gap": 2.0, "verdict": 0}, {"gap": -1.0, "verdict": 0}]
    told = verifier.measure(lambda part: np.array([row["gap"] for row in part]), held, wrong, pairs)
    assert told["accuracy"] == pytest.approx(2 / 3) and told["false_positive"] == 0.5
    assert told["f1"] == pytest.approx(2 / 3) and told["fooled_by"] == {"keys": 0.5}
    assert told["youden_forms"] == 0.5
    p = [1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(-1.0))]
    assert told["ece"] == pytest.approx(((1 - p[0]) + p[1]) / 3)
    assert verifier._flat(told)["fooled_by_keys"] == 0.5


def test_a_share_to_collect_is_a_share():
    with pytest.raises(ValueError, match="collect"):
        RlStage(collect=1.5, advantage=AdvantageConfig())
