"""Programs that try to pass their tests without being right."""

import json

import pytest

from rlvr_jax.host.workers import sandbox

MULTIPLY = "def mul(a, b):\n    return a * b"
ASSERTIONS = ["assert mul(2, 3) == 6", "assert mul(-1, 4) == -4"]


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
def test_cheats_score_nothing(score, source):
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
def test_objects_of_the_program_decide_no_assertion(holds, assertion):
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
def test_the_expected_value_is_not_in_the_programs_process(score, tests):
    assert score(f"{SPY}# 765433", tests) == 1.0, "where the value is, the program finds it"
    assert score(SPY, tests) == 0.0


def test_requests_hold_the_arguments_alone(score, monkeypatch):
    sent = []
    ask = sandbox.Conversation.ask
    monkeypatch.setattr(
        sandbox.Conversation,
        "ask",
        lambda self, r, m: sent.append(json.loads(r)) or ask(self, r, m),
    )
    assert score(MULTIPLY, ["assert mul(2, b=21) in (41, 42)"]) == 1.0
    assert sent == [[["mul"], [2], {"dict": [["b", 21]]}]]
