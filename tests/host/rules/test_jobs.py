"""The jobs that grade a batch, and the metrics of their results."""

import os

from rlvr_jax.host.rules import jobs
from rlvr_jax.host.workers.pool import CRASH, TIMEOUT, Job, Result


def test_a_job_names_its_function_and_brings_the_arguments():
    (job,) = jobs.grading_jobs(["42"], [{"reference": "42"}], "math")
    assert job == Job("rlvr_jax.host.rules:grade", ("42", {"reference": "42"}, "math"), (0, 2))
    (own,) = jobs.grading_jobs(["42"], [{}], "mine.py")
    assert own.args[2] == os.path.abspath("mine.py") == own.prepare[1]


def test_completions_that_may_be_slow_cost_more():
    texts = ["42", "a longer answer", "9^9^9", "9^9"]
    costs = [job.expected_cost for job in jobs.grading_jobs(texts, [{}] * 4, "math")]
    assert sorted(costs) == [costs[0], costs[1], costs[3], costs[2]]


def test_metrics_are_shares():
    results = [Result(1.0, "ok"), Result(0.0, "none"), TIMEOUT, CRASH, Result(0.0, "error", "x")]
    metrics = {"rule/no_answer": 0.2, "rule/timeout": 0.2, "rule/crash": 0.4}
    assert jobs.status_metrics(results) == metrics
    assert set(jobs.status_metrics([]).values()) == {0.0}


def test_the_first_reason_comes_with_its_answer():
    results = [Result(1.0, "ok"), Result(0.0, "error", "KeyError: 'x'"), Result(0.0, "error", "y")]
    assert (
        jobs.first_reason(results, ["a", "b", "c"], "error") == "KeyError: 'x', on the answer 'b'"
    )
    assert jobs.first_reason(results, ["a", "b", "c"], "crash") == ""
