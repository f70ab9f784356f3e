"""What the label stage sends to the judge, and what it makes of the votes."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from rlvr_jax.config import JudgeConfig, LabelStage
from rlvr_jax.host.processes.team import Team
from rlvr_jax.host.runs.folder import Interrupted, RunError
from rlvr_jax.stages import judged_answers, judges, label
from rlvr_jax.stages.judged_answers import Answer

RECORDS = [{"question": f"q{i}", "reference": "r", "domain": "d", "key": f"k{i}"} for i in range(6)]


def test_padding_has_no_owner_and_hard_answers_are_judged():
    stage = LabelStage(samples=2, strangers=1, cuts=1, batch=3)
    # Two problems, and a third that is padding; each answer is three tokens, one was truncated.
    response_BR = np.arange(18).reshape(6, 3)
    answer_BR = np.ones((6, 3), bool)
    truncated_B = np.array([False, False, True, False, False, False])
    rollout = SimpleNamespace(
        response_BR=response_BR, truncated_B=truncated_B, length_B=np.full(6, 3)
    )
    tok = SimpleNamespace(decode=str)
    sure_B = np.arange(6) / 10
    found = judged_answers.answers_of_batch(RECORDS[:2], rollout, answer_BR, stage, tok, sure_B)
    assert [a.sure for a in found] == [0, 0.1, 0.3, 0.5, 0.5]
    limited = dataclasses.replace(stage, limit=2, verifier="verifier")
    alone = judged_answers.answers_of_batch(RECORDS[:2], rollout, answer_BR, limited, tok, sure_B)
    assert alone == found[:3], "no verifier was asked about the hard answers"
    assert [(a.record["question"], a.ids) for a in found] == [
        ("q0", [0, 1, 2]),
        ("q0", [3, 4, 5]),
        ("q1", [9, 10, 11]),
        ("q0", [0]),  # cut short; the stranger for it was truncated and is left out
        ("q1", [0, 1, 2]),
    ]


def test_the_least_sure_answers_are_judged_once_each():
    of = lambda n, ids, sure: judged_answers.Answer(RECORDS[n], ids, sure=sure)  # noqa: E731
    answers = [of(0, [1], 0.5), of(1, [1], 0.2), of(1, [1], 0.2), of(2, [3], 0.0), of(0, [2], 0.2)]
    chosen = judged_answers.least_sure(answers, 3)
    assert [(a.record["key"], a.ids) for a in chosen] == [("k1", [1]), ("k2", [3]), ("k0", [2])]
    assert judged_answers.least_sure(answers, 9) == [answers[0], answers[1], answers[3], answers[4]]


class Said:
    """A judge who has made up his mind."""

    def __init__(self, votes):
        self.votes, self.closed, self.counts = votes, False, {"requests": 7}

    def __call__(self, answers, records):
        assert [r["question"] for r in records] == [f"q{a}" for a in answers]
        return [self.votes[int(a)] for a in answers]

    def close(self):
        self.closed = True


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """run(votes, **judge) -> result, rows written."""

    def run(votes, /, before=(None,) * 6, signum=None, answers="", **judge):
        said = Said(votes)
        every = [Answer(RECORDS[i], [i], "", before[i]) for i in range(len(votes))]
        monkeypatch.setattr(judges, "make_judge", lambda stage, ws: said)
        monkeypatch.setattr(
            judged_answers, "sample_answers", lambda stage, ws: [(8, every[:2]), (8, every[2:])]
        )
        monkeypatch.setattr(judged_answers, "load_answers", judged_answers.sample_answers)
        path = tmp_path / "verdicts" / "label.jsonl"
        runs = SimpleNamespace(
            verdicts=lambda name: path, agree_to_stop=lambda: signum, team=Team()
        )
        tok = SimpleNamespace(decode=lambda ids: str(ids[0]))
        stage = LabelStage(judge=JudgeConfig(**judge), answers=answers)
        try:
            result = label.run(stage, SimpleNamespace(run=runs, tokenizer=tok))
        finally:
            assert said.closed
        return result, [json.loads(line) for line in path.read_text().splitlines()]

    return run


def test_an_answer_without_a_verdict_is_left_out_and_counted(labelled):
    result, rows = labelled([[1], [0], [None], [], [0], [1]], max_unread=0.5)
    assert [(row["problem"], row["verdict"]) for row in rows] == [
        ("k0", 1), ("k1", 0), ("k4", 0), ("k5", 1)
    ]  # fmt: skip
    assert result == {
        "answers": 16, "judged": 4, "accepted": 0.5, "unread": 1, "unasked": 1, "requests": 7
    }  # fmt: skip


def test_a_judge_who_is_not_understood_stops_the_stage(labelled):
    with pytest.raises(RunError, match="no verdict on 2 of 5 answers, requests 7"):
        labelled([[1], [0], [None], [], [None], [1]], max_unread=0.39)


def test_an_answer_beyond_the_budget_is_no_fault_of_the_judge(labelled):
    result, rows = labelled([[1], [0], [], [], [], []], max_unread=0.0)
    assert len(rows) == 2 and result["unasked"] == 4


def test_votes_make_a_majority_and_agree_so_far(labelled):
    judge = dict(kind="endpoint", url="http://x", model="m", votes=2, temperature=1.0)
    votes = [[1, 0], [0, 0], [1, 1], [0, 0], [1, 1], [0, 0]]
    result, rows = labelled(votes, **judge)
    assert [row["verdict"] for row in rows] == [1, 0, 1, 0, 1, 0]
    assert [row["votes"] for row in rows] == votes
    assert result["kappa_votes"] == pytest.approx((5 / 6 - 0.5) / 0.5)


def test_two_judges_of_the_same_answers_are_compared(labelled):
    votes = [[1], [0], [1], [0], [1], [0]]
    result, _ = labelled(votes, before=(1, 0, 0, 0, 1, None), answers="other")
    assert result["kappa_other"] == pytest.approx((0.8 - 0.48) / 0.52)


def test_one_verdict_throughout_teaches_nothing(labelled):
    with pytest.raises(ValueError, match="both verdicts are needed"):
        labelled([[1]] * 6)


def test_a_signal_stops_between_calls(labelled):
    with pytest.raises(Interrupted):
        labelled([[1], [0], [1], [0], [1], [0]], signum=15)


def test_what_another_stage_left_is_about_problems_of_this_run():
    record = {"key": "k", "question": "q"}
    records = {("k", "q"): record}
    row = {"problem": "k", "question": "q", "answer_ids": [3], "verdict": 1}
    assert judged_answers._answer(row, records, "rl") == Answer(record, [3], "", 1)
    with pytest.raises(RunError, match="about other problems"):
        judged_answers._answer(row | {"question": "other"}, records, "rl")


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"kind": "model"}, "weights is needed by kind model"),
        ({"url": "http://x"}, "url is needed by kind endpoint, and by no other"),
        ({"votes": 3}, "all would be equal"),
        ({"kind": "model", "weights": "x", "rule": "math"}, "do not belong to kind model"),
        ({"max_unread": 2.0}, "max_unread <= 1"),
        ({"retries": -1}, "retries >= 0"),
        ({"per_minute": float("nan")}, "per_minute >= 0"),
    ],
)
def test_judges_that_make_no_sense(judge, words):
    with pytest.raises(ValueError, match=words):
        JudgeConfig(**judge)
