"""Code tests in the forms of public data sets, and what is refused before a run."""

import json
import math

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.rules import programs
from rlvr_jax.host.rules.programs import forms

MULTIPLY = "def mul(a, b):\n    return a * b"
SOLUTION = "class Solution:\n    def mul(self, a, b):\n        return a * b"
TWICE = "a, b = map(int, input().split())\nprint(a * b)"
ASSERTIONS = ["assert mul(2, 3) == 6", "assert mul(-1, 4) == -4"]


@pytest.mark.parametrize(
    "tests, source",
    [
        (ASSERTIONS, MULTIPLY),
        (["assert mul(2, 3) == 6"] * 100, MULTIPLY),
        ("assert mul(2, 3) == 6\r\nassert mul(0, 3) == 0", MULTIPLY),
        ({"fn_name": "mul", "inputs": [[2, 3], [0, 1]], "outputs": [6, 0]}, MULTIPLY),
        ({"fn_name": "mul", "inputs": [[2, 3], [2, 1]], "outputs": [[6], [2]]}, MULTIPLY),
        ({"fn_name": "mul", "inputs": ["2\n3", "[1]\n2"], "outputs": ["6", "[1, 1]"]}, MULTIPLY),
        ([{"input": "2\n3", "output": "6", "metadata": {"func_name": "mul"}}], SOLUTION),
        ({"fn_name": "mul", "inputs": [[2, 3]], "outputs": [6]}, SOLUTION),
        ({"fn_name": "Solution.mul", "inputs": [[2, 3]], "outputs": [6]}, SOLUTION),
        (["assert Solution().mul(2, 3) == 6"], SOLUTION),
        (["s = Solution()\nassert s.mul(a=2, b=3) == 6"], SOLUTION),
        (
            {
                "test": "METADATA = {}\n\ndef check(candidate):\n    for x in range(3):\n"
                "        assert candidate(x, 2) == 2 * x, 'no'\n    assert True",
                "entry_point": "mul",
            },
            MULTIPLY,
        ),
        (
            {"test": "def check(f):\n    assert f(2, 3) == 6", "entry_point": "Solution().mul"},
            SOLUTION,
        ),
        ("def check(candidate):\n    assert candidate(2, 3) == 6\ncheck(mul)", MULTIPLY),
        ("from solution import mul\ndef test_a():\n    assert mul(2, 3) == 6", MULTIPLY),
        ({"test_list": ASSERTIONS, "test_setup_code": ""}, MULTIPLY),
        ({"inputs": ["2 3\n", "4 5"], "outputs": ["6\n", "20"]}, TWICE),
        ({"input": "2 3", "output": "6"}, TWICE),
        ({"inputs": [["2 3"], ["4 5", ""]], "outputs": [["6"], ["20"]]}, TWICE),
        ([{"input": "2 3", "output": "6", "testtype": "stdin"}], TWICE),
    ],
)
def test_forms_of_tests(score, tests, source):
    wrong = source.replace("a * b", "a - b")
    assert score(source, tests) == 1.0
    assert score(wrong, tests) == 0.0
    for text in (json.dumps(tests), tests if isinstance(tests, str) else repr(tests)):
        assert forms.parse_tests(text) == forms.parse_tests(tests)
    endless = {"fn_name": "f", "inputs": [[]], "outputs": [[-math.inf, 1]]}
    assert forms.parse_tests(repr(endless)) == forms.parse_tests(endless)


def test_one_call_of_many_is_wrong(score):
    tests = {"fn_name": "mul", "inputs": [[n, 2] for n in range(90)], "outputs": []}
    tests["outputs"] = [2 * n for n in range(90)]
    assert len(forms.parse_tests({"inputs": ["1"] * 300, "outputs": ["2"] * 300}).pairs) == 300
    assert score(MULTIPLY, tests) == 1.0
    assert score("def mul(a, b):\n    return a * b if a < 89 else 0", tests) == 0.0


def test_lists_of_one_are_wrapped_in_all_calls_or_in_none(score):
    tests = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [2]]}
    assert score("def f(x): return x", tests) == score("def f(x): return [x]", tests) == 1.0
    assert score("def f(x): return x if x == 1 else [x]", tests) == 0.0
    assert score("def f(x): return x", tests | {"outputs": [[1], [2, 2]]}) == 0.0


def test_scalars_and_texts_are_the_one_argument(score):
    tests = {"fn_name": "f", "inputs": [4, 5], "outputs": [5, 6]}
    assert score("def f(n): return n + 1", tests) == 1.0
    tests = {"fn_name": "f", "inputs": ["one two"], "outputs": ["two one"]}
    assert score("def f(s): return ' '.join(s.split()[::-1])", tests) == 1.0


@pytest.mark.parametrize(
    "tests, reason",
    [
        (None, "no tests"),
        ([], "no tests"),
        ({}, "no tests"),
        ("", "calls no function"),
        (3, "assertions, or inputs"),
        ([3], "assertions, or inputs"),
        ({"inputs": [], "outputs": []}, "no tests"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ({"inputs": ["1"]}, "neither inputs"),
        ({"inputs": ["1", "2"], "outputs": ["", " "]}, "anything is printed"),
        ({"inputs": [None], "outputs": ["1"]}, "None"),
        ({"inputs": ["1" * 10_000_001], "outputs": ["1"]}, "an input of a test is longer"),
        ({"inputs": ["1"], "outputs": ["1" * 8_000_001]}, "an output of a test is longer"),
        ([{"input": "1"}], "no output"),
        ([{"input": [1], "output": 1, "fn_name": n} for n in "fg"], "more than one"),
        ({"fn_name": "os.system", "inputs": [["ls"]], "outputs": [0]}, "os.system"),
        ({"fn_name": "__import__", "inputs": [["os"]], "outputs": [0]}, "__import__"),
    ],
)
def test_tests_that_are_refused(tests, reason):
    with pytest.raises(ValueError, match=reason):
        programs.check_tests(tests)


def test_the_record_of_a_row_is_checked():
    rules.check_record({"reference": "x", "extra": json.dumps({"tests": ASSERTIONS})}, "code")
    rules.check_record({"reference": "x", "extra": ""}, "math")
    with pytest.raises(ValueError, match="assertions, or inputs"):
        rules.check_record({"reference": "42", "extra": ""}, "code")


@pytest.mark.parametrize(
    "extra",
    [
        {"tests": ASSERTIONS},
        {"tests": "def check(c):\n    assert c(2, 3) == 6", "entry_point": "mul"},
        {"tests": {"inputs": [[2, 3]], "outputs": [6]}, "fn_name": "mul", "index": 3},
        {"tests": '{"inputs": ["2\\n3"], "outputs": ["6"]}', "metadata": {"func_name": "mul"}},
        {"test_list": ASSERTIONS, "task_id": 3},
        {"test": "def check(c):\n    assert c(2, 3) == 6", "entry_point": "mul"},
    ],
)
def test_the_tests_of_a_record(extra):
    record = {"reference": "what a person wrote", "extra": json.dumps(extra)}
    assert rules.judge(f"```python\n{MULTIPLY}\n```", record, "code") == (1.0, "ok")
    assert rules.judge(MULTIPLY.replace("*", "+"), record, "code") == (0.0, "ok")
