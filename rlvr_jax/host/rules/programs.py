r"""Unit-tested code: a program is right when it passes its tests, run in `sandbox`.

Tests are JSON, in one of the forms that data sets have:

    {"inputs": ["1 2\n"], "outputs": ["3\n"]}                  standard input and output
    [{"input": "1 2\n", "output": "3\n"}]                      the same
    {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}     calls
    ["assert add(1, 2) == 3"]                                  assertions, with a literal behind ==

What is expected stays on this side: the program sees inputs only, and what comes back is compared
here.  So a program cannot read its tests, and one that exits early or claims success has not said
the values.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
from typing import Any

from rlvr_jax.host.workers import sandbox

MAX_TESTS = 64
_FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)\n?```", re.DOTALL | re.I)
_CALLS = """
def _rlvr_jax_calls(_source, _stdin, _stdout):
    import ast, json
    scope = {"__name__": "program"}
    token, calls = json.loads(_stdin.readline())
    exec(compile(_source, "program", "exec"), scope)
    for call in calls:
        try:
            value = repr(eval(compile(call, "call", "eval"), scope))
        except BaseException as error:
            value = "raised " + type(error).__name__
        _stdout.write(token + json.dumps(value[:100_000]) + "\\n")
        _stdout.flush()
import sys, io
_out, sys.stdout, _in, sys.stdin = sys.stdout, io.StringIO(), sys.stdin, io.StringIO()
_rlvr_jax_calls(SOURCE, _in, _out)
"""


def score(completion: str, tests: Any, limits: sandbox.Limits | None = None) -> float:
    """1.0 when the completion's program passes every test, else 0.0.

    The program is the last finished code fence, or the whole text when it has none.

    Raises:
      ValueError: the tests are in none of the forms above, or there are none.
    """
    tests = json.loads(tests) if isinstance(tests, str) else tests
    calls, cases = read(tests)
    source = program(completion)
    if not source:
        return 0.0
    if calls:
        return float(_passes_calls(source, calls, limits))
    return float(all(_passes(source, given, wanted, limits) for given, wanted in cases))


def program(completion: str) -> str | None:
    """The last finished code fence; the text itself if it has no fence; None for an open one."""
    if "```" not in completion:
        return completion.strip() or None
    found = _FENCE.findall(completion)
    return found[-1] if found and completion.count("```") % 2 == 0 else None


def read(tests: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, str]]]:
    """Calls with their values, or inputs with their outputs."""
    if isinstance(tests, list) and tests and isinstance(tests[0], str):
        calls, cases = [_assertion(line) for line in tests], []
    elif isinstance(tests, list) and tests and isinstance(tests[0], dict):
        calls, cases = [], [(str(t["input"]), str(t["output"])) for t in tests]
    elif isinstance(tests, dict) and tests.get("fn_name"):
        name, pairs = tests["fn_name"], zip(tests["inputs"], tests["outputs"], strict=True)
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"fn_name {name!r} is not the name of a function")
        calls = [(f"{name}({', '.join(map(repr, given))})", wanted) for given, wanted in pairs]
        cases = []
    elif isinstance(tests, dict):
        pairs = zip(tests["inputs"], tests["outputs"], strict=True)
        calls, cases = [], [(str(given), str(wanted)) for given, wanted in pairs]
    else:
        raise ValueError("tests are a list of assertions or cases, or inputs with outputs")
    if not 0 < len(calls) + len(cases) <= MAX_TESTS:
        raise ValueError(f"needs from 1 to {MAX_TESTS} tests")
    return calls, cases


def _assertion(line: str) -> tuple[str, Any]:
    """`assert f(1) == 2` as the call and its value, `assert f(1)` as True, `assert not f(1)`."""
    found = ast.parse(line.strip()).body
    if len(found) != 1 or not isinstance(found[0], ast.Assert):
        raise ValueError(f"{line!r} is not one assertion")
    test = found[0].test
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return f"bool({ast.unparse(test.operand)})", False
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.Is):
        if len(test.ops) == 1:
            return ast.unparse(test.left), ast.literal_eval(test.comparators[0])
    if isinstance(test, ast.Call):
        return f"bool({ast.unparse(test)})", True
    raise ValueError(f"{line!r} does not compare a call with a literal by ==")


def _passes(source: str, given: str, wanted: str, limits: sandbox.Limits | None) -> bool:
    result = sandbox.run(source, given, limits)
    printed = result.output.decode("utf-8", "replace")
    return result.status == "ok" and _lines(printed) == _lines(wanted)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _passes_calls(source: str, calls: list, limits: sandbox.Limits | None) -> bool:
    token = secrets.token_hex(8)  # what the program prints itself is not a value
    harness = _CALLS.replace("SOURCE", repr(source), 1)
    asked = json.dumps([token, [call for call, _ in calls]]) + "\n"
    result = sandbox.run(harness, asked, limits)
    lines = result.output.decode("utf-8", "replace").split("\n")
    values = [line.removeprefix(token) for line in lines if line.startswith(token)]
    if result.status != "ok" or len(values) != len(calls):
        return False
    pairs = zip(values, calls, strict=True)
    return all(_is(value, wanted) for value, (_, wanted) in pairs)


def _is(value: str, wanted: Any) -> bool:
    try:
        found = ast.literal_eval(json.loads(value))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    if isinstance(found, float) and isinstance(wanted, float | int):
        return abs(found - wanted) <= 1e-9 * max(1.0, abs(wanted))
    return _plain(found) == _plain(wanted) and isinstance(found, bool) == isinstance(wanted, bool)


def _plain(value: Any) -> Any:
    """JSON has lists only: a tuple is as good."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
