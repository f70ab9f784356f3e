r"""The rule `code`: a program is right if it passes its tests, run in a sandbox.

Tests are JSON, in one of the forms of public data sets:

    {"inputs": ["1 2\n"], "outputs": ["3\n"]}                  standard input and output
    [{"input": "1 2\n", "output": "3\n"}]                      the same
    {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}     calls of a function
    ["assert add(1, 2) == 3"]                                  assertions, with a literal behind ==

Expected values stay on this side: the program receives inputs only, and its results are compared
here.  So a program cannot read its tests, and a program that exits early or claims success has not
given the values.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
from typing import Any, NamedTuple

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


class CallTest(NamedTuple):
    """The source of a call, and the value that it must return."""

    call: str
    value: Any


class Case(NamedTuple):
    """What a program reads from standard input, and what it must print."""

    input: str
    output: str


class Tests(NamedTuple):
    """The tests of one program: calls or cases."""

    calls: list[CallTest]
    cases: list[Case]


def score(completion: str, tests: Any, limits: sandbox.Limits | None = None) -> float:
    """Return 1.0 if the completion's program passes every test, else 0.0.

    The program is the last finished code fence, or the whole text when it has none.

    Raises:
      ValueError: the tests have none of the forms above, or there are no tests or too many.
    """
    tests = json.loads(tests) if isinstance(tests, str) else tests
    tests = parse_tests(tests)
    source = extract_program(completion)
    if not source:
        return 0.0
    if tests.calls:
        return float(_passes_calls(source, tests.calls, limits))
    return float(all(_passes_case(source, case, limits) for case in tests.cases))


def extract_program(completion: str) -> str | None:
    """Return the last closed code fence; the text itself without a fence; None for an open one."""
    if "```" not in completion:
        return completion.strip() or None
    fences = _FENCE.findall(completion)
    return fences[-1] if fences and completion.count("```") % 2 == 0 else None


def parse_tests(tests: Any) -> Tests:
    """Return the tests of JSON in one of the forms above.

    Raises:
      ValueError: the JSON has none of the forms, or there are no tests or more than MAX_TESTS.
      KeyError: a case without its input or output.
    """
    calls: list[CallTest] = []
    cases: list[Case] = []
    match tests:
        case [str(), *_]:
            calls = [_parse_assertion(line) for line in tests]
        case [dict(), *_]:
            cases = [Case(str(test["input"]), str(test["output"])) for test in tests]
        case {"fn_name": name} if name:
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(f"fn_name {name!r} is not the name of a function")
            for arguments, value in zip(tests["inputs"], tests["outputs"], strict=True):
                calls.append(CallTest(f"{name}({', '.join(map(repr, arguments))})", value))
        case dict():
            pairs = zip(tests["inputs"], tests["outputs"], strict=True)
            cases = [Case(str(given), str(printed)) for given, printed in pairs]
        case _:
            raise ValueError("tests are a list of assertions or cases, or inputs with outputs")
    if not 0 < len(calls) + len(cases) <= MAX_TESTS:
        raise ValueError(f"needs from 1 to {MAX_TESTS} tests")
    return Tests(calls, cases)


def _parse_assertion(line: str) -> CallTest:
    """Return the call and the value of `assert f(1) == 2`, `assert f(1)` or `assert not f(1)`."""
    body = ast.parse(line.strip()).body
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise ValueError(f"{line!r} is not one assertion")
    match body[0].test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return CallTest(f"bool({ast.unparse(operand)})", False)
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[literal]):
            return CallTest(ast.unparse(left), ast.literal_eval(literal))
        case ast.Call() as call:
            return CallTest(f"bool({ast.unparse(call)})", True)
    raise ValueError(f"{line!r} does not compare a call with a literal by ==")


def _passes_case(source: str, case: Case, limits: sandbox.Limits | None) -> bool:
    result = sandbox.run(source, case.input, limits)
    printed = result.output.decode("utf-8", "replace")
    return result.status == "ok" and _lines(printed) == _lines(case.output)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _passes_calls(source: str, calls: list[CallTest], limits: sandbox.Limits | None) -> bool:
    token = secrets.token_hex(8)  # a line that the program itself prints is not a value
    harness = _CALLS.replace("SOURCE", repr(source), 1)
    request = json.dumps([token, [test.call for test in calls]]) + "\n"
    result = sandbox.run(harness, request, limits)
    lines = result.output.decode("utf-8", "replace").split("\n")
    values = [line.removeprefix(token) for line in lines if line.startswith(token)]
    if result.status != "ok" or len(values) != len(calls):
        return False
    return all(_is_equal(value, test.value) for value, test in zip(values, calls, strict=True))


def _is_equal(printed: str, expected: Any) -> bool:
    """Return whether the JSON of the repr of a value is that of the expected value."""
    try:
        value = ast.literal_eval(json.loads(printed))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    if isinstance(value, float) and isinstance(expected, float | int):
        return abs(value - expected) <= 1e-9 * max(1.0, abs(expected))
    same_type = isinstance(value, bool) == isinstance(expected, bool)
    return _with_lists(value) == _with_lists(expected) and same_type


def _with_lists(value: Any) -> Any:
    """Return a value with tuples as lists: JSON has lists only."""
    if isinstance(value, list | tuple):
        return [_with_lists(part) for part in value]
    return value
