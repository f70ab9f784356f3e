"""Code tests in the forms of public data sets; programs that try to pass without being right."""

import json
import math

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.rules import programs
from rlvr_jax.host.rules.programs import fences, forms, grader, plain, printed
from rlvr_jax.host.workers import sandbox

SHORT = sandbox.Limits(seconds=2.0, cpu=2)
MULTIPLY = "def mul(a, b):\n    return a * b"
SOLUTION = "class Solution:\n    def mul(self, a, b):\n        return a * b"
TWICE = "a, b = map(int, input().split())\nprint(a * b)"
ASSERTIONS = ["assert mul(2, 3) == 6", "assert mul(-1, 4) == -4"]


def score(source, tests):
    return programs.score(f"So:\n```python\n{source}\n```\n", tests, SHORT)


def returns(expression, expected):
    """The score of a function that returns an expression, by one call."""
    tests = {"fn_name": "f", "inputs": [[]], "outputs": [expected]}
    return score(f"from collections import *\ndef f():\n    return {expression}", tests)


def holds(assertion, expression, before=""):
    """The score of a function that returns an expression, by one assertion."""
    return score(f"{before}\ndef f(*a, **k):\n    return {expression}", [assertion])


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
def test_forms_of_tests(tests, source):
    wrong = source.replace("a * b", "a - b")
    assert score(source, tests) == 1.0
    assert score(wrong, tests) == 0.0
    for text in (json.dumps(tests), tests if isinstance(tests, str) else repr(tests)):
        assert forms.parse_tests(text) == forms.parse_tests(tests)
    endless = {"fn_name": "f", "inputs": [[]], "outputs": [[-math.inf, 1]]}
    assert forms.parse_tests(repr(endless)) == forms.parse_tests(endless)


def test_objects_as_arguments():
    node = "class Node:\n    def __init__(self, v, n=None): self.v, self.n = v, n\n"
    source = node + "def total(n, plus=0):\n    return n.v + (total(n.n) if n.n else 0) + plus"
    asserted = ["assert total(Node(1, Node(4))) == 5", "assert total(Node(2), plus=3) == 5"]
    assert score(source, asserted) == 1.0
    assert score(source.replace("+ plus", ""), asserted) == 0.0
    tree = "class Solution:\n    def top(self, t: Optional[TreeNode]) -> int:\n        return t.val"
    assert score(tree, ["assert Solution().top(TreeNode(3, TreeNode(4))) == 3"]) == 1.0
    assert score(tree, ["assert Solution().top(TreeNode(3)) == 4"]) == 0.0


def test_one_call_of_many_is_wrong():
    tests = {"fn_name": "mul", "inputs": [[n, 2] for n in range(90)], "outputs": []}
    tests["outputs"] = [2 * n for n in range(90)]
    assert len(forms.parse_tests({"inputs": ["1"] * 300, "outputs": ["2"] * 300}).pairs) == 300
    assert score(MULTIPLY, tests) == 1.0
    assert score("def mul(a, b):\n    return a * b if a < 89 else 0", tests) == 0.0


def test_lists_of_one_are_wrapped_in_all_calls_or_in_none():
    tests = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [2]]}
    assert score("def f(x): return x", tests) == score("def f(x): return [x]", tests) == 1.0
    assert score("def f(x): return x if x == 1 else [x]", tests) == 0.0
    assert score("def f(x): return x", tests | {"outputs": [[1], [2, 2]]}) == 0.0


def test_scalars_and_texts_are_the_one_argument():
    tests = {"fn_name": "f", "inputs": [4, 5], "outputs": [5, 6]}
    assert score("def f(n): return n + 1", tests) == 1.0
    tests = {"fn_name": "f", "inputs": ["one two"], "outputs": ["two one"]}
    assert score("def f(s): return ' '.join(s.split()[::-1])", tests) == 1.0


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
def test_values_of_calls(expression, expected, wrong):
    assert returns(expression, expected) == 1.0
    assert returns(expression, wrong) == 0.0


@pytest.mark.parametrize(
    "value", ["(x for x in [1])", "deque([1])", "{1}", "object()", "map(int, '1')"]
)
def test_what_is_no_list_equals_none(value):
    assert returns(value, [1]) == 0.0


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
def test_assertions(assertion, right, wrong):
    assert holds(assertion, right) == 1.0
    assert holds(assertion, wrong) == 0.0


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
def test_programs_that_print(source, given, expected):
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
def test_programs_with_functions(source):
    assert score(source, ASSERTIONS) == 1.0


@pytest.mark.parametrize("ending", ["sys.exit(1)", "raise ValueError", "1 / 0"])
def test_a_program_that_ends_with_an_error_has_not_passed(ending):
    assert score(f"import sys\nprint(4)\n{ending}", {"inputs": [""], "outputs": ["4"]}) == 0.0


@pytest.mark.parametrize(
    "text, wanted, equal",
    [
        ("\n1  2\n3\n", "1 2\n3", True),
        ("1 2 3", "1\n2\n3", True),
        ("1 2", "1 2 3", False),
        ("12", "1 2", False),
        ("5.0", "5", True),
        ("5", "5.000", True),
        ("0.30000000000000004", "0.3", True),
        ("0.666667", "0.6666666666666666", True),
        ("0.66", "0.6666666666666666", False),
        ("1e-3", "0.001", True),
        ("0.0000009", "0.0000001", False),
        ("0", "0.0000002", False),
        ("1000001", "1000000", False),
        ("1000000.5", "1000000", False),
        ("123456789.2", "123456788.1", False),
        ("101", "0101", False),
        ("5.1", "5", False),
        ("-5.0", "5", False),
        ("nan", "0.0", False),
        ("Yes", "YES", False),
        ("9" * 80, "9" * 79 + "8", False),
        ("a 1.5", "b 1.5", False),
        ("", "x", False),
    ],
)
def test_printed_texts(text, wanted, equal):
    assert printed.is_printed(text, wanted) is equal


def test_exact_tests_compare_the_text():
    exact = {"inputs": [""], "outputs": [" *\n***\n"], "exact": True}
    assert score("print(' *')\nprint('***')", exact) == 1.0
    assert score("print('*')\nprint('***')", exact) == 0.0
    assert score("print('*')\nprint('***')", exact | {"exact": False}) == 1.0
    assert not printed.is_printed("5.0", "5", exact=True)


@pytest.mark.parametrize(
    "completion",
    [
        "```py\nX\n```",
        "```Python3.11\nX\n```",
        "``` {.python}\nX\n```",
        "~~~py\nX\n~~~",
        "````python\nX\n````",
        "Here: ```python\r\nX\r\n```\r\nDone.",
        "1. ```python\n   X\n   ```",
        '```python file="b.py"\nX\n```',
        "```\nX\n```\n\nOutput:\n```\n7\n```",
        "```\nX\n```\n\nOutput:\n```\nx = 7\n```",
        "```python\nX\n```\nprints\n```text\n7\n```\nin\n```sh\npython x.py\n```",
        "```python\nY\n```\nBetter:\n```python\nX\n```",
        "<think>\n```python\nhalf of it\n</think>\n```python\nX\n```",
        "```python\nX```",
        "X",
    ],
)
def test_the_program_of_a_completion(completion):
    program = "def g(n):\n    return n"
    indented = "def g(n):\n       return n" if completion.startswith("1.") else program
    text = completion.replace("X", indented).replace("Y", "def g(n): return 0")
    assert fences.extract_program(text) == program


def test_fences_inside_of_a_program():
    program = (
        'def g(n):\n    """Use it:\n\n    ```\n    g(3)\n    ```\n    """\n    return n  # ``` too'
    )
    assert fences.extract_program(f"```python\n{program}\n```\n```\n3\n```") == program
    assert fences.extract_program("```python\nx = '''\n```\nafter") == "x = '''"


def test_spaces_inside_of_a_program_stay():
    program = 'print("""a\n   \nb""")'
    assert fences.extract_program(f"```python\n{program}\n```") == program


def test_the_program_is_the_block_that_defines_what_is_tested():
    text = "```python\ndef g(n): return n\n```\nUsage:\n```python\nprint(g(3))\n```"
    assert fences.extract_program(text, ("g",)) == "def g(n): return n"
    assert fences.extract_program(text) == "print(g(3))"


@pytest.mark.parametrize(
    "completion", ["", "```python\nx = 1", "<think>\n```python\nx = 1\n```", "```cpp\nint x;\n```"]
)
def test_completions_without_a_program(completion):
    assert fences.extract_program(completion) is None


ANYTHING = """
class Any(int):
    def __eq__(self, other): return True
    __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = startswith = __eq__
    def __bool__(self): return True
    def __hash__(self): return 6
    def __repr__(self): return '6'
    def __sub__(self, other): return 0
    def __abs__(self): return 0
    def __len__(self): return 6
"""
REDEFINED = "bool len isinstance set sorted abs all any sum type str repr int max".split()
CHEATS = [
    *(
        f"import builtins\nbuiltins.{name} = lambda *a, **k: True\ndef mul(a, b): return 0"
        for name in REDEFINED
    ),
    "import math\nmath.isclose = lambda *a, **k: True\ndef mul(a, b): return 0",
    "import json\njson.dumps = lambda *a, **k: '{\"value\": true}'\ndef mul(a, b): return 0",
    "import operator\noperator.eq = lambda *a: True\ndef mul(a, b): return 0",
    ANYTHING + "def mul(a, b): return Any()",
    ANYTHING.replace("(int)", "") + "def mul(a, b): return Any()",
    ANYTHING.replace("(int)", "(str)") + "def mul(a, b): return Any('x')",
    ANYTHING.replace("(int)", "(dict)") + "def mul(a, b): return Any()",
    ANYTHING + "def mul(a, b): return [Any()]",
    "def mul(a, b): raise SystemExit(0)",
    "import os\ndef mul(a, b): os._exit(0)",
    "import sys\nsys.exit(0)",
    "def mul(a, b): raise AssertionError",
    "def mul(a, b): return mul",
    "def mul(a, b): return type('T', (), {'__eq__': lambda *a: True})",
    "import unittest.mock as m\nmul = m.MagicMock()",
    "import unittest.mock as m\ndef mul(a, b): return m.ANY",
    "def mul(a, b):\n    while True: yield 6",
    """
import sys
def mul(a, b):
    frame = sys._getframe()
    while frame.f_back: frame = frame.f_back
    for name, value in frame.f_globals.items():
        if 'expect' in name: return value
""",
    """
import sys
class M:
    def __getattr__(self, name): return True
sys.modules['program'] = M()
def mul(a, b): return True
""",
    "def mul(a, b): return float('nan')",
    "def mul(a, b): return None",
    "def mul(a, b): return NotImplemented",
    "def mul(a, b): return True",
    "def mul(a, b): return '6'",
    "import os\nos.write(1, b'{\"value\": 6}\\n' * 9)\ndef mul(a, b): return 0",
    "print('assert passed'); print(6)\ndef mul(a, b): print(6)",
    "import ast\nast.literal_eval = eval\ndef mul(a, b): return 0",
    "def check(candidate): pass\ndef mul(a, b): return 0",
    "__name__ = '__main__'\n__builtins__['assert'] = None\ndef mul(a, b): return 0",
    "import __main__\n__main__.encode = lambda *a: 6\ndef mul(a, b): return 0",
]


@pytest.mark.parametrize("source", CHEATS)
def test_cheats_score_nothing(source):
    assert score(source, ASSERTIONS) == 0.0


@pytest.mark.parametrize(
    "assertion",
    [
        "assert abs(f(1) - 3.5) < 1e-6",
        "assert set(f(1)) == {1, 2}",
        "assert sorted(f(1)) == [1, 2]",
        "assert len(f(1)) == 4 and isinstance(f(1), list)",
        "import math\nassert math.isclose(f(1), 3.5)",
        "assert f(1) in (7, 8)",
        "assert f(1) != 3",
        "assert not f(1)",
        "assert f(1)",
        "assert f(1) > 3",
        "assert str(f(1)) == '7'",
        "assert str(f(1))",
        "assert f(1).startswith('x')",
        "assert f(1).count('x') == 1",
        "assert not isinstance(f(1), int)",
    ],
)
def test_objects_of_the_program_decide_no_assertion(assertion):
    """An object that agrees with everything, and names of the assertion that do."""
    cheat = ANYTHING.replace("(int)", "") + "".join(
        f"\n{name} = lambda *a, **k: True" for name in ("set", "sorted", "len", "abs", "str")
    )
    assert holds(assertion, "Any()", cheat + "\nimport math\nmath.isclose = abs") == 0.0


SPY = """
import gc, os, sys
def mul(a, b):
    wanted = str(765_000 + 433 * int('1'))
    texts = [repr(o) for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
    texts += [open(n, errors='replace').read() for n in (sys.argv[0], '/proc/self/cmdline')
              if os.path.exists(n)]
    return int(wanted) if any(wanted in text for text in texts) else 0
"""


@pytest.mark.parametrize(
    "tests",
    [
        ["assert mul(1, 2) == 765433"],
        {"fn_name": "mul", "inputs": [[1, 2]], "outputs": [765433]},
        {
            "test": "def check(g):\n    for x, want in [((1, 2), 765433)]:\n"
            "        assert g(*x) == want, 765433",
            "entry_point": "mul",
        },
    ],
)
def test_the_expected_value_is_not_in_the_programs_process(tests):
    assert score(f"{SPY}# 765433", tests) == 1.0, "where the value is, the program finds it"
    assert score(SPY, tests) == 0.0


def test_requests_hold_the_arguments_alone(monkeypatch):
    sent = []
    ask = sandbox.Conversation.ask
    monkeypatch.setattr(
        sandbox.Conversation,
        "ask",
        lambda self, r, m: sent.append(json.loads(r)) or ask(self, r, m),
    )
    assert score(MULTIPLY, ["assert mul(2, b=21) in (41, 42)"]) == 1.0
    assert sent == [[["mul"], [2], {"dict": [["b", 21]]}]]


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


def test_a_test_that_never_asks_the_program_is_named():
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
def test_values_that_would_grow_without_bound(assertion, value):
    assert holds(assertion, value) == 0.0


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
    assert "rlvr_jax" not in text.replace("`", "") and isinstance(
        forms.parse_tests(ASSERTIONS), tuple
    )
