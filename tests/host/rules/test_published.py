"""The rule math_verify: the library's verdicts, and a sentence where it is not installed."""

import importlib.util

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.rules import jobs
from rlvr_jax.host.workers import pool

CASES = [
    ("So it is $\\frac{1}{2}$.", "0.5", 1.0),
    ("It is \\boxed{12}", "12", 1.0),
    ("It is \\boxed{13}", "12", 0.0),
    ("", "12", 0.0),
    ("The answer is 1,000", "1000", 1.0),
]


def test_the_verdicts_are_those_of_the_library():
    theirs = pytest.importorskip("math_verify")
    for text, reference, score in CASES:
        gold, answer = theirs.parse(f"\\boxed{{{reference}}}"), theirs.parse(text)
        assert float(theirs.verify(gold, answer)) == score
        assert rules.judge(text, {"reference": reference}, "math_verify") == (score, "ok")
    rules.check_rule("math_verify")


def test_it_grades_in_worker_processes():
    pytest.importorskip("math_verify")
    texts, references, scores = zip(*CASES, strict=True)
    records = [{"reference": reference} for reference in references]
    with pool.Pool(1, 2.0) as workers:
        results = workers.map(jobs.grading_jobs(texts, records, "math_verify"))
    assert [result.score for result in results] == list(scores)


def test_without_the_library_it_is_refused(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "math_verify" else found(name, *a),
    )
    with pytest.raises(ValueError, match=r"needs a package: pip install -e '.\[math-verify\]'"):
        rules.check_rule("math_verify")
    grade = rules.grade("12", {"reference": "12"}, "math_verify")
    assert (grade.score, grade.status) == (0.0, "crash")
