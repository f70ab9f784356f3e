"""Assertions on plain data: which hold, which are refused, and what may not grow."""

import pytest

from rlvr_jax.host.rules import programs

MULTIPLY = "def mul(a, b):\n    return a * b"


@pytest.mark.parametrize(
    "assertion, right, wrong",
    [
        ("assert f() in (5, 6)", "6", "7"),
        ("assert f() not in [5, 6]", "7", "5"),
        ("assert 'ell' in f()", "'hello'", "'help'"),
        ("assert f() != 4", "5", "4"),
        ("assert not f(1)", "[]", "[0]"),
        ("assert f(1)", "'x'", "''"),
        ("assert f(1) is None", "None", "0"),
        ("assert f(1) == 2 and f(2) == 4", "2 * a[0]", "2"),
        ("assert f(1) == 2 or f(1) == 3", "3", "4"),
        ("assert set(f()) == {4, 2}", "(n for n in (2, 4))", "[2]"),
        ("assert set(f()) == set((1,))", "[1]", "[True]"),
        ("assert sorted(f(), reverse=True) == [3, 2]", "{2, 3}", "{2}"),
        ("assert list(map(list, f())) == [[1], [2]]", "[(1,), (2,)]", "[(1,)]"),
        ("assert len(f(3)) == 3 and all(x > 0 for x in f(3))", "[1] * a[0]", "[0] * a[0]"),
        ("assert abs(f() - 2.5) < 1e-6", "2.5 + 1e-9", "2.6"),
        ("assert abs(f() - 2.5) < 1e-6", "2.5", "float('nan')"),
        ("import math\nassert math.isclose(f(), math.pi, rel_tol=1e-3)", "3.1416", "3.2"),
        ("assert f() == 2/3", "2 / 3", "0.66"),
        ("assert round(f(), 2) == 0.67", "2 / 3", "0.6"),
        ("assert f() == {1: 'a', 'k': (2, 3)}", "{1: 'a', 'k': (2, 3)}", "{'1': 'a', 'k': (2, 3)}"),
        ("assert f()[1:] == [2, 3] and f()[0] > 0", "[1, 2, 3]", "[0, 2, 3]"),
        ("assert 1 <= f() < 3", "2", "3"),
        ("assert (x := f()) > 1 and x < 3", "2", "3"),
        ("assert f('Ab').lower() == 'ab'", "a[0]", "'xy'"),
        (
            "from collections import Counter\nassert Counter(f()) == Counter([1, 1])",
            "[1, 1]",
            "[1]",
        ),
        ("assert isinstance(f(), str) and f() == 'a'", "'a'", "b'a'"),
        ("assert tuple(f()) == tuple(x * x for x in range(3))", "[0, 1, 4]", "[0, 1]"),
        ("assert f(b=2) == 2**10 - 1", "1023", "1024"),
        ("import random\nn = random.randint(5, 9)\nassert f(n) == n + 1", "a[0] + 1", "6"),
    ],
)
def test_assertions(holds, assertion, right, wrong):
    assert holds(assertion, right) == 1.0
    assert holds(assertion, wrong) == 0.0


def test_objects_as_arguments(score):
    node = "class Node:\n    def __init__(self, v, n=None): self.v, self.n = v, n\n"
    source = node + "def total(n, plus=0):\n    return n.v + (total(n.n) if n.n else 0) + plus"
    asserted = ["assert total(Node(1, Node(4))) == 5", "assert total(Node(2), plus=3) == 5"]
    assert score(source, asserted) == 1.0
    assert score(source.replace("+ plus", ""), asserted) == 0.0
    tree = "class Solution:\n    def top(self, t: Optional[TreeNode]) -> int:\n        return t.val"
    assert score(tree, ["assert Solution().top(TreeNode(3, TreeNode(4))) == 3"]) == 1.0
    assert score(tree, ["assert Solution().top(TreeNode(3)) == 4"]) == 0.0


@pytest.mark.parametrize(
    "tests, reason",
    [
        (["x = 1"], "calls no function"),
        (["assert 1 == 1"], "calls no function"),
        (["assert True or x"], "without calling"),
        (["assert f == 3"], "without calling"),
        (["assert f(1) == "], "not Python"),
        (["assert f(1) == g()"], "f and g of the program together"),
        (["assert same(f(1), 3)"], "same and f of the program together"),
        (["x = f(1)\nassert g(x) == 3"], "f and g of the program together"),
        (["assert Box(3).holds(f(1))"], "f and Box|Box and f"),
        (["assert f(Box(3)).holds(Box(3))"], "holds"),
        (["assert f(Box(f(1)))"], "f and Box|Box and f"),
        (["assert f(Box(3)) == Box(3)"], "f and Box|Box and f"),
        (["b = Box(3)\nassert f(b)"], "f and Box|Box and f"),
        (["a = [2, 1]\nf(a)\nassert a == [1, 2]"], "does not look at its value"),
        (["assert eval('f(1)') == 3"], "eval"),
        (["assert open('/etc/passwd').read() == f(1)"], "open"),
        (["import os\nassert os.getpid() == f(1)"], "imports os"),
        (["from math import factorial\nassert f(1) == 1"], "imports factorial"),
        (["assert f(1).__class__ == int"], "__class__"),
        (["assert f(1).__eq__(3)"], "__eq__"),
        (["assert '{0.x}'.format(f(1)) == '3'"], "format"),
        (["__assert = 3\nassert f(1) == 2"], "__assert"),
        (["__assert: int = 3\nassert f(1) == 2"], "__assert"),
        (["while f(1): pass\nassert f(1)"], "While"),
        (["try:\n    f(1)\nexcept ValueError: pass"], "ValueError"),
        (["try:\n    x = f(1)\nfinally: pass"], "Try"),
        (["assert f'{f(1)}' == '3'"], "JoinedStr"),
        (
            {"test": "def check(c):\n    assert c(enc('a')) == 'a'", "entry_point": "dec"},
            "neither Python's nor dec",
        ),
        (
            {"test": "import unittest\nclass T(unittest.TestCase): pass"},
            "imports unittest",
        ),
    ],
)
def test_assertions_that_are_refused(tests, reason):
    with pytest.raises(ValueError, match=reason):
        programs.check_tests(tests)


def test_a_test_that_never_asks_the_program_is_named(score, holds):
    with pytest.raises(ValueError, match="no call of the program"):
        score(MULTIPLY, ["assert True or mul(1, 2) == 3"])
    assert holds("for x in f(1):\n    assert x > 0", "[]") == 0.0
    with pytest.raises(ValueError, match="gives the program a function"):
        score(MULTIPLY, ["assert mul(lambda x: x, 1) == 3"])


@pytest.mark.parametrize(
    "assertion, value",
    [
        ("assert f(1) * 'a' != 'b'", "10**9"),
        ("assert [0] * f(1) != []", "10**9"),
        ("assert 2 ** f(1) > 0", "10**9"),
        ("assert f(1) ** f(1) > 0", "10**6"),
        ("assert 1 << f(1) > 0", "10**12"),
        ("assert sum(range(f(1))) > 0", "10**12"),
        ("assert f(1) % 5 != 'b'", "'%1000000000d'"),
        ("assert f(1).join([f(1)] * 9000) != 'a'", "'x' * 10**6"),
        ("assert pow(f(1), f(1), f(1) + 1) > 0", "2 ** 99_999"),
        ("assert f(1) > 0", "2 ** 10**7"),
        ("assert f(1)", "__import__('functools').reduce(lambda x, _: [x], range(10**5), [])"),
    ],
)
def test_values_that_would_grow_without_bound(holds, assertion, value):
    assert holds(assertion, value) == 0.0
