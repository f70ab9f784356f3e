"""Forms of a completion: thoughts before an answer, and patterns within a time limit."""

import json

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.rules import pattern


def by_pattern(text, expression):
    record = {"reference": "", "extra": json.dumps({"pattern": expression})}
    return rules.judge(text, record, "regex")


@pytest.mark.parametrize(
    "text, value",
    [
        *(
            ("<think>why</think>7", 1.0),
            ("why</think>7", 1.0),
            ("\n<think>\na\n</think>\n\nb", 1.0),
        ),
        *(("<think>why</think>", 0.0), ("why</think> \n", 0.0), ("</think>7", 0.0), ("7", 0.0)),
        *(("<think>why 7", 0.0), ("a</think>b</think>c", 0.0), ("a<think>b</think>c", 0.0)),
        *(
            ("<think><think>a</think>b", 0.0),
            ("a</think>b<think>", 0.0),
            ("<think> </think>b", 0.0),
        ),
    ],
)
def test_thoughts(text, value):
    assert rules.score(text, "", "format") == value


@pytest.mark.parametrize(
    "text, expression, value",
    [
        ("AB12", r"[A-Z]{2}\d+", 1.0),
        ("AB12 or so", r"[A-Z]{2}\d+", 0.0),
        (r"\boxed{35\%}", r"\d+%", 1.0),
        (r"\boxed{\$3}", r"\$\d", 1.0),
        (r"\boxed{35\%}", r"\d+\\%", 1.0),
        (r"\boxed{35}", r"\d+%", 0.0),
        ("2026-11-29", r"\d{4}-\d{2}-\d{2}", 1.0),
    ],
)
def test_patterns(text, expression, value):
    assert by_pattern(text, expression) == (value, "ok")


@pytest.mark.parametrize(
    "expression, text",
    [("(x|xx)+y", "x" * 60), (r"(\w+\s?)+:", "word " * 12), ("(a*)*(b*)*c", "ab" * 20)],
)
def test_a_pattern_has_a_time_limit_in_this_process_too(monkeypatch, expression, text):
    monkeypatch.setattr(pattern, "SECONDS", 0.05)
    score, status = by_pattern(text, expression)
    assert score == 0.0 and status in ("ok", "timeout")
    if expression.startswith("(x|xx)"):
        assert status == "timeout"


@pytest.mark.parametrize("expression", ["(", "a{1000}(b{99}){999}", "((a{500}){500}){9}", "[z-a]"])
def test_a_pattern_that_cannot_be_used_is_refused_before_a_run(expression):
    with pytest.raises(ValueError, match="pattern"):
        record = {"reference": "", "extra": json.dumps({"pattern": expression})}
        rules.check_record(record, "regex")
    assert by_pattern("x", expression) == (0.0, "crash")
