"""Programs as models write them: what they print, what their functions return."""

import math

import pytest

from rlvr_jax.host.rules.programs import grader, plain

ASSERTIONS = ["assert mul(2, 3) == 6", "assert mul(-1, 4) == -4"]


@pytest.mark.parametrize(
    "expression, expected, wrong",
    [
        ("[0.2 + 0.1, (1.5, 2)]", [0.3, [1.5, 2]], [0.31, [1.5, 2]]),
        ("float('-inf')", -math.inf, math.inf),
        ("float('nan')", math.nan, 0.0),
        ("{'b': (3, 4)}", {"b": [3, 4]}, {"b": [4, 3]}),
        ("{2: 'x', 5: [1]}", {"2": "x", "5": [1]}, {"2": "x", "6": [1]}),
        ("Counter('abb')", {"a": 1, "b": 2}, {"a": 1, "b": 1}),
        ("defaultdict(list, {'k': [0.5]})", {"k": [0.5]}, {}),
        ("OrderedDict(z=1)", {"z": 1}, {"z": 2}),
        ("__import__('enum').IntEnum('E', 'A B').B", 2, 1),
        ("namedtuple('P', 'x y')(1, 2)", [1, 2], [1, 3]),
        ("10 ** 5000 % 10 ** 40 + 7", 7, 8),
        ("2 ** 70", 2**70, 2**70 + 1),
        ("True", True, 1),
        ("1", 1, True),
        ("None", None, 0),
        ("'3'", "3", 3),
        ("{'a': {'b': [True]}}", {"a": {"b": [True]}}, {"a": {"b": [1]}}),
    ],
)
def test_values_of_calls(returns, expression, expected, wrong):
    assert returns(expression, expected) == 1.0
    assert returns(expression, wrong) == 0.0


@pytest.mark.parametrize(
    "value", ["(x for x in [1])", "deque([1])", "{1}", "object()", "map(int, '1')"]
)
def test_what_is_no_list_equals_none(returns, value):
    assert returns(value, [1]) == 0.0


@pytest.mark.parametrize(
    "source, given, expected",
    [
        ("print(4)\nexit()", "", "4"),
        ("from threading import *\nThread(target=lambda: print(4)).start()", "", "4"),
        ("if True:\n    print(4)\n    quit(0)\nprint(5)", "", "4"),
        ("import sys\nprint(4); sys.exit()\nprint(5)", "", "4"),
        ("print(4)\nraise SystemExit", "", "4"),
        ("from __future__ import annotations\nx: List[int] = [4]\nprint(*x)", "", "4"),
        ("d = defaultdict(int); d[1] += 4\nprint(d[1], math.gcd(4, 6))", "", "4 2"),
        ("def main():\n    print(4)\nif __name__ == '__main__':\n    main()", "", "4"),
        ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", "1 3", "4"),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\nprint(P(4).x)",
            "",
            "4",
        ),
        ("pow = 4\nprint(pow)", "", "4"),
        ("print('b' * 1_200_000)", "", "b" * 1_200_000),
    ],
)
def test_programs_that_print(score, source, given, expected):
    assert score(source, {"inputs": [given], "outputs": [expected]}) == 1.0
    assert score(source, {"inputs": [given], "outputs": [expected + " 1"]}) == 0.0


@pytest.mark.parametrize(
    "source",
    [
        "def mul(a: List[int], b: Optional[int]) -> int:\n    return a * b",
        "class Solution:\n    def mul(self, a: int, b: 'Any'):\n        return inf and a * b",
        "import sys\nread = sys.stdin.buffer.readline\nprint('x')\ndef mul(a, b): return a * b",
        "def mul(a, b):\n    return a * b\nif __name__ == '__main__':\n    print(input())",
        "def mul(a, b):\n    return a * b\nprint(mul(1, 2))\nexit()",
        "@lru_cache(None)\ndef mul(a, b):\n    return a * b",
        "mul = lambda a, b: a * b",
        "def mul(a, b, d=0):\n    return a * b if d > 3000 else mul(a, b, d + 1)",
        "class Node(TreeNode): pass\ndef mul(a, b):\n    return Node(a).val * b",
    ],
)
def test_programs_with_functions(score, source):
    assert score(source, ASSERTIONS) == 1.0


@pytest.mark.parametrize("ending", ["sys.exit(1)", "raise ValueError", "1 / 0"])
def test_a_program_that_ends_with_an_error_has_not_passed(score, ending):
    assert score(f"import sys\nprint(4)\n{ending}", {"inputs": [""], "outputs": ["4"]}) == 0.0


def test_equality_of_plain_values():
    assert plain.is_equal((1, [2.0]), [1, (2,)])
    assert plain.is_equal({1, 2}, frozenset({2, 1})) and not plain.is_equal({1}, {True})
    assert not plain.is_equal(10**400, 1e308) and not plain.is_equal(2**60, 2**60 + 1)
    assert not plain.is_equal([1], [1, 1]) and not plain.is_equal({"a": 1}, {"a": 1, "b": 2})
    assert not plain.is_equal(plain.Items([1]), [1])
    with pytest.raises(TypeError):
        plain.is_equal([plain.Remote(0, False)], [True])


def test_the_text_in_the_sandbox_imports_nothing_of_this_package():
    text = "\n".join(map(grader._text, ("prelude", "wire", "answering")))
    imported = [line for line in text.splitlines() if line.startswith(("import", "from"))]
    assert imported and not any("rlvr_jax" in line for line in imported)
