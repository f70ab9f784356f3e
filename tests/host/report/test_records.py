"""What a run folder holds is read as it is: unfinished, damaged or hostile."""

import json

import pytest

from rlvr_jax.host.report import curves, evaluations, records, rollouts


def test_damaged_metrics_are_tolerated(tmp_path):
    lines = [
        b'{"stage": "rl", "step": 1, "a": 1.5, "c": null, "flag": true, "d": "text"}',
        b'{"stage": "rl", "step": 2, "a": NaN, "b": 1e999}',
        b"\x00\xff not json",
        b"[1, 2]",
        b'{"stage": "rl", "step": 3, "a": ' + b"9" * 400 + b"}",
        b'{"stage": "rl", "step": 2, "a": 2.5, "b": 7}',
        b'{"stage": "rl", "step": 4, "a": 0.',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    (stage,), damaged = curves.load_metrics(tmp_path / "metrics.jsonl")
    assert damaged == 2  # the last line is only unfinished
    assert stage["step"] == [1, 2, 3]
    assert stage["series"] == {"a": [1.5, 2.5, None], "b": [None, 7, None]}  # resumed: later wins
    assert stage["nonfinite"] == {"c": 1}


def test_long_runs_are_thinned(tmp_path):
    rows = [{"stage": "rl", "step": i, "a": i / 3, "reward/histogram": [i, 1]} for i in range(5000)]
    (tmp_path / "m").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (stage,), _ = curves.load_metrics(tmp_path / "m")
    assert len(stage["step"]) == len(stage["series"]["a"]) == curves.MAX_POINTS
    assert (stage["step"][0], stage["step"][-1], stage["lines"]) == (0, 4999, 5000)
    assert len(stage["histograms"]["reward/histogram"]["step"]) == curves.MAX_COLUMNS


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"time/compile": [29.0, 0.0, 0.5, None]}, [1.0, 1.0, 0.5, 1.0]),
        # The total of older runs: it starts anew on resume, and what was compiled between two
        # steps is no part of the next one.
        ({"perf/compile_s": [29.0, 29.0, 0.25, 9.0]}, [1.0, 1.0, 0.75, 1.0]),
        ({}, [30.0, 1.0, 1.0, 1.0]),
    ],
)
def test_compiling_is_no_part_of_a_step(columns, expected):
    assert curves.without_compiling([30.0, 1.0, 1.0, 1.0], columns) == expected


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"accuracy": 0.5}', '{"n": "many"}'])
def test_odd_evaluations(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    found = evaluations.load_evaluations(tmp_path)
    assert len(found) == text.startswith('{"')
    if "accuracy" in text:
        assert found[0]["ways"] == {"accuracy": {"all": 0.5}}


def test_intervals_of_an_evaluation(tmp_path):
    given = {"greedy": {"all": [0.4, 0.6], "sum": [0, 1]}, "accuracy": {"all": [None, 1]}, "x": 3}
    result = {"greedy": {"all": 0.5}, "intervals": given}
    (tmp_path / "x.json").write_text(json.dumps(result))
    (found,) = evaluations.load_evaluations(tmp_path)
    assert found["intervals"] == {"greedy": [0.4, 0.6]}


def test_audits_of_rewards_and_of_evaluations(tmp_path):
    values = {"audit/false_positive": 0.1, "audit/worst": 0.9, "audit/other": 1}
    (tmp_path / "after.json").write_text(json.dumps({"name": "after", "audit": values}))
    stage = {"name": "rl", "series": {"audit/youden": [0.5, None], "loss": [1, 2]}}
    rows = evaluations.audits([stage], evaluations.load_evaluations(tmp_path))
    assert rows == [
        {"where": "reward of rl, before it began", "youden": 0.5},
        {"where": "verifier in after", "false_positive": 0.1, "worst": 0.9},
    ]


def rolled(tmp_path, rows, name="rl_step_000007.jsonl"):
    folder = tmp_path / "samples"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return list(rollouts.load_samples(folder))


def test_odd_rollouts(tmp_path):
    rows = [
        {"response": "alone"},
        {"response": 5, "reward": "high", "oracle": 0, "pieces": "ab", "piece_values": [1]},
        {"response": "abc", "pieces": ["a", "b"], "piece_values": [float("nan")]},
        {"question": [{"role": "user", "content": "chat"}], "truncated": True},
        "no object",
    ]
    (found,) = rolled(tmp_path, rows)
    assert (found["step"], found["total"], found["label"]) == (7, 4, "rl")
    first, second = found["problems"]
    assert first["rollouts"] == [
        {"text": "alone"},
        {"text": "5", "oracle": 0, "status": "wrong"},
        {"text": "abc", "pieces": ["a", "b"]},
    ]
    assert "chat" in second["question"] and second["rollouts"] == [{"status": "cut off"}]


def test_equal_rollouts_are_counted(tmp_path):
    row = {"question": "1+1", "response": "2", "reward": 1.0, "oracle": 1.0, "pieces": ["2"]}
    noise = [row | {"reward": 1 - 1e-7, "piece_values": [-0.5]}, row, row]
    others = [row | {"oracle": 0.0}, row | {"response": "3", "pieces": ["3"]}, row | {"reward": 0}]
    (found,) = rolled(tmp_path, [row | {"prompt": "Q: 1+1"}, *noise, *others])
    (problem,) = found["problems"]
    assert problem["prompt"] == "Q: 1+1"
    assert [r.get("times", 1) for r in problem["rollouts"]] == [4, 1, 1, 1]
    assert sum(r.get("times", 1) for r in problem["rollouts"]) == found["total"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"oracle": 1.0, "reward": 0.0}, "right"),
        ({"oracle": 0.2, "reward": 1.0}, "wrong"),
        ({"reward": 0.7}, "right"),
        ({"oracle": 0.5, "reward": 0.5}, "wrong"),
        ({"oracle": 1.0, "truncated": True}, "cut off"),
        ({"oracle": 0.0, "status": "timeout"}, "crashed"),
        ({"oracle": 0.0, "status": "ok"}, "wrong"),
        ({"score": 0.0, "status": "cut off"}, "cut off"),
        ({"status": "right"}, "right"),
        ({}, ""),
    ],
)
def test_status(row, expected):
    assert rollouts.status(row) == expected


def test_values_of_tokens_and_parts_of_the_reward(tmp_path):
    row = {"response": "ab", "pieces": ["a", "b"], "piece_values": [-0.12345, -1]}
    row |= {"token_values": {"ratio": [1.0, 1.23456], "advantage": ["x"], "odd": [1]}}
    row |= {"parts": {"p1": 0.123456, "gate/box": 1, "bad": "x"}, "answer": "b"}
    (found,) = rolled(tmp_path, [row])
    (shown,) = found["problems"][0]["rollouts"]
    assert shown["values"] == {"logprob": [-0.123, -1], "ratio": [1, 1.23]}
    assert shown["parts"] == {"p1": 0.1235, "gate/box": 1}
    assert shown["answer"] == "b"


def test_answers_of_an_evaluation(tmp_path):
    rows = [
        {"problem": "p1", "question": "1+1", "domain": "sum", "reference": "2", "text": "2"}
        | {"answer": "2", "score": 1.0, "status": "right", "finished": True, "greedy": True},
        {"problem": "p1", "question": "1+1", "domain": "sum", "reference": "2", "text": "so 3"}
        | {"answer": "3", "score": 0.0, "status": "wrong", "finished": True, "greedy": False},
    ]
    (tmp_path / "after.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (found,) = rollouts.load_answers(tmp_path)
    assert (found["label"], found["kind"], found["total"]) == ("after", "answers", 2)
    greedy, sampled = found["problems"][0]["rollouts"]
    assert greedy == {"answer": "2", "oracle": 1, "greedy": True, "status": "right", "text": "2"}
    assert sampled["status"] == "wrong" and "greedy" not in sampled


def test_sizes_are_capped(tmp_path):
    row = {"response": "x" * 20_000}
    for step in range(50):
        rolled(tmp_path, [row] * 2, f"rl_step_{step:06d}.jsonl")
    rows = [{"response": str(i)} for i in range(rollouts.MAX_ROLLOUTS + 5)]
    found = rolled(tmp_path, rows, "rl_step_000049.jsonl")
    assert len(found) == rollouts.MAX_FILES and found[-1]["step"] == 49
    assert found[-1]["total"] == rollouts.MAX_ROLLOUTS + 5
    assert len(found[-1]["problems"][0]["rollouts"]) == rollouts.MAX_ROLLOUTS
    (shown,) = found[0]["problems"][0]["rollouts"]
    assert shown == {"text": "x" * records.MAX_TEXT, "cut": True, "times": 2}


def test_long_rollouts_of_a_file_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr(rollouts, "MAX_TOKENS", 10)
    rows = [{"response": str(i), "pieces": ["x"] * 4} for i in range(9)]
    (found,) = rolled(tmp_path, rows)
    assert found["total"] == 9 and len(found["problems"][0]["rollouts"]) == 3


def test_spread_keeps_both_ends():
    assert records.spread(3, 5) == [0, 1, 2]
    assert records.spread(0, 5) == []
    indices = records.spread(10_001, 100)
    assert len(indices) == len(set(indices)) == 100
    assert (indices[0], indices[-1]) == (0, 10_000)
