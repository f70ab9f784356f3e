"""A grade is a function of the two texts: not of a clock, the load, the order or the process."""

import json
import os
import subprocess
import sys
import time

import make_notations
import make_pairs

from rlvr_jax.host import rules
from rlvr_jax.host.workers import pool

PAIRS = [
    *make_pairs.RIGHT,
    *make_pairs.WRONG,
    *(pair for family in make_notations.RIGHT.values() for pair in family),
    *(pair for family in make_notations.WRONG.values() for pair in family),
    *(("7", answer[:2000]) for answer in make_pairs.HOSTILE),
]
CODE = (
    "import json, sys; from rlvr_jax.host import rules; print(json.dumps("
    "[rules.score(answer, gold) for gold, answer in json.load(sys.stdin)]))"
)


def grades(pairs):
    return [rules.score(answer, gold) for gold, answer in pairs]


def test_no_clock_and_no_worker_is_asked(monkeypatch):
    wanted = grades(PAIRS)

    def refuse(*args, **kwargs):
        raise AssertionError("a grade must not depend on this")

    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time", "sleep"):
        monkeypatch.setattr(time, name, refuse)
    monkeypatch.setattr(pool, "shared", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    found = grades(PAIRS)
    monkeypatch.undo()
    assert found == wanted and len(PAIRS) > 800


def test_any_order_gives_the_same_grades():
    assert grades(PAIRS[::-1])[::-1] == grades(PAIRS)


def test_a_fresh_process_gives_the_same_grades():
    ascii_json = json.dumps(PAIRS)
    for seed in ("0", "77"):  # of the hashes of strings, and so of the order of sets
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            input=ascii_json,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert json.loads(done.stdout) == grades(PAIRS), done.stderr
