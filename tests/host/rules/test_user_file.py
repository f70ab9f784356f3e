"""A user's rule: how its file is imported, whose signature it has, what counts as a number."""

import sys
import textwrap

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.rules import jobs, user_file
from rlvr_jax.host.workers import pool

RECORD = {"question": "1 + 1?", "reference": "2", "task": "file:x", "extra": '{"level": 3}'}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(text, name="own_parity.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]
    user_file._load.cache_clear()


def test_dataclasses_and_pickle_find_the_module(write):
    rule = write("""
        from __future__ import annotations
        import pickle
        from dataclasses import dataclass

        @dataclass
        class Read:
            value: int

        def score(completion, record):
            return float(pickle.loads(pickle.dumps(Read(int(completion)))) == Read(2))
        """)
    assert rules.judge("2", RECORD, rule) == (1.0, "ok")
    assert sys.modules["own_parity"].Read(3).value == 3


def test_a_file_with_the_name_of_a_module_does_not_hide_it(write):
    rule = write("import json\ndef score(c, r):\n    return json.loads(c)", name="json.py")
    assert rules.judge("0.5", RECORD, rule) == (0.5, "ok")
    import json

    assert not json.__file__.startswith(rule)


@pytest.mark.parametrize(
    "text",
    [
        "def score(completion, record): return completion == record['reference']",
        "import numpy as np\ndef score(c, r): return np.float32(c == '2')",
        "import numpy as np\ndef score(c, r): return np.bool_(c == '2')",
        "import numpy as np\ndef score(c, r): return np.array(c == '2')",
        "from fractions import Fraction\ndef score(c, r): return Fraction(c == '2', 1)",
        "def reward(completions, **kwargs): return [float(c == '2') for c in completions]",
        "def reward(prompts, completions, ground_truth, level, **kw):\n"
        "    return [c == g and n == 3 for c, g, n in zip(completions, ground_truth, level)]",
        "def score(completions, answer): return [c == a for c, a in zip(completions, answer)]",
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return {'score': float(solution_str == ground_truth), 'level': extra_info['level']}",
        "def compute_score(solution_str, ground_truth): return solution_str == ground_truth",
    ],
)
def test_signatures_and_numbers(write, text):
    rule = write(text)
    rules.check_rule(rule)
    assert [rules.judge(answer, RECORD, rule) for answer in ("2", "3")] == [
        (1.0, "ok"),
        (0.0, "ok"),
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("def score(completion): return 1.0", "cannot be called as score"),
        ("def score(a, b, c): return 1.0", "verl's compute_score"),
        ("async def score(completion, record): return 1.0", "async"),
        ("def a(completions): pass\ndef b(completions): pass", "several of TRL's form: a, b"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("raise KeyError('x')", "KeyError"),
        ("x = 1", "no function score"),
    ],
)
def test_what_cannot_be_called_is_refused(write, text, words):
    rule = write(text)
    with pytest.raises(ValueError, match=words) as error:
        rules.check_rule(rule)
    assert rule in str(error.value)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("def score(c, r): return None", "it returned None, which is no number"),
        ("def score(c, r): return {'score': 1}", "which is no number"),
        ("def score(c, r): return '1.0'", "which is no number"),
        ("def score(c, r): return 1j", "which is no number"),
        ("def f(completions, **kw): return 1.0", "not a list of one number per completion"),
        ("def f(completions, **kw): return [None]", "it returned None"),
        ("def f(completions, **kw): return [c[0]['content'] for c in completions]", "TypeError"),
        ("def compute_score(solution_str, ground_truth): return {}", "a dict without `score`"),
        (
            "def score(c, r): return float(r['missing'])",
            r"KeyError: 'missing' \(own_parity.py line 1\)",
        ),
        ("import sys\ndef score(c, r): sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_rule_that_fails_says_why(write, text, reason):
    grade = rules.grade("2", RECORD, write(text))
    assert (grade.score, grade.status) == (0.0, "error")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(grade.reason)


@pytest.mark.parametrize("value", ["2.0", "-0.5", "float('nan')", "float('inf')"])
def test_numbers_outside_the_unit_interval_are_counted(write, value):
    grade = rules.grade("2", RECORD, write(f"def score(c, r): return {value}"))
    assert (grade.score, grade.status) == (0.0, "crash") and "not in [0, 1]" in grade.reason


def test_what_a_rule_prints_is_caught_and_told(write, capsys):
    rule = write("print('loading')\ndef score(c, r):\n    print('seen', c)\n    return 1")
    assert rules.grade("2", RECORD, rule) == (1.0, "ok", "printed: seen 2")
    out, err = capsys.readouterr()
    assert out == "" and rule in err and "loading" in err


def test_a_slow_import_is_no_part_of_an_item(write):
    rule = write("import time\ntime.sleep(1.5)\ndef score(c, r): return 1.0")
    with pool.Pool(1, seconds=0.75) as workers:
        results = workers.map(jobs.grading_jobs(["a", "b"], [RECORD] * 2, rule))
    assert [result.status for result in results] == ["ok", "ok"]


def test_reasons_come_back_from_a_worker(write):
    rule = write("def score(c, r):\n    print('hi')\n    return int(c)")
    with pool.Pool(1, seconds=20) as workers:
        results = workers.map(jobs.grading_jobs(["1", "x", "7"], [RECORD] * 3, rule))
    assert [result.status for result in results] == ["ok", "error", "crash"]
    assert jobs.first_reason(results, ["1", "x", "7"], "error").endswith("on the answer 'x'")
    assert "ValueError" in results[1].reason and results[0].reason == "printed: hi"
