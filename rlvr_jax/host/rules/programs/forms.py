r"""Read the tests of a row, in the forms of public data sets.

`parse_tests` accepts these forms, as values or as a text of JSON or Python literals:

    {"inputs": ["1 2\n"], "outputs": ["3\n"]}               standard input and output, which
                                                            may be lists of lines; "exact": true
                                                            compares to the letter
    [{"input": "1 2\n", "output": "3\n"}]                   the same
    {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}  calls of a function or method (APPS)
    {"fn_name": "add", "inputs": ["1\n2"], "outputs": ["3"]}    arguments as lines of JSON
    ["assert add(1, 2) == 3"] or "assert add(1, 2) == 3"    assertions (MBPP)
    {"test": "def check(candidate): ...", "entry_point": "add"}     HumanEval
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlvr_jax.host.rules.programs import assertions, plain
from rlvr_jax.host.workers import sandbox


class Cases(NamedTuple):
    """A Cases holds pairs of a standard input and the output that must be printed for it.

    If `exact`, the output is compared to the letter.
    """

    pairs: list[tuple[str, str]]
    exact: bool


class Calls(NamedTuple):
    """A Calls holds the path of a function, its arguments in each call, and the expected values.

    If `wrapped`, each expected value is a list of one item, and either the list or its item is what
    the function returns.
    """

    path: tuple[str, ...]
    pairs: list[tuple[Sequence[Any], Any]]
    wrapped: bool


Tests = Cases | Calls | assertions.Script


def parse_tests(tests: Any) -> Tests:
    """Return the tests of a row, which have one of the forms in the docstring of this module.

    Raises:
      ValueError: there are no tests, or they have none of these forms.
    """
    if isinstance(tests, str):
        tests = _parse_text(tests)
    if isinstance(tests, str):
        return assertions.parse_script(tests)
    if not tests:
        raise ValueError("there are no tests")
    if isinstance(tests, list | tuple) and all(isinstance(test, str) for test in tests):
        return assertions.parse_script("\n".join(map(_with_lines, tests)))
    if isinstance(tests, list | tuple) and all(isinstance(test, dict) for test in tests):
        tests = _join_cases(tests)
    if not isinstance(tests, dict):
        raise ValueError("tests are assertions, or inputs with outputs")
    return _parse_table(tests)


def find_tests(extra: dict[str, Any], reference: Any) -> Any:
    """Return the tests of a record, together with the name of the function under test.

    The tests are `tests` in `extra`, the columns of MBPP and HumanEval in `extra`, or the
    reference.
    """
    if "tests" not in extra and ("test_list" in extra or "test" in extra):
        return extra
    tests, name = extra.get("tests", reference), _function_name(extra)
    tests = _parse_text(tests) if isinstance(tests, str) else tests
    if name and isinstance(tests, str) and "def check(" in tests:
        return {"test": tests, "entry_point": name}
    return {"fn_name": name, **tests} if name and isinstance(tests, dict) else tests


def _with_lines(text: str) -> str:
    return text.replace("\r\n", "\n").strip()


def _parse_text(text: str) -> Any:
    """Return the value of JSON or of a Python literal; other text as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(_Limitless().visit(ast.parse(text.strip(), mode="eval")))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


class _Limitless(ast.NodeTransformer):
    """Replaces inf and nan, as Python prints them, by their values."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


def _join_cases(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a list of cases as one table of inputs and outputs.

    Raises:
      ValueError: a case has no input or output, or two cases name two functions.
    """
    names = {_function_name(test) for test in tests}
    if len(names) > 1:
        raise ValueError("the tests name more than one function")
    table: dict[str, Any] = {"inputs": [], "outputs": [], "fn_name": names.pop()}
    for test in tests:
        if "input" not in test or "output" not in test:
            raise ValueError("a test has no input or no output")
        table["inputs"].append(test["input"])
        table["outputs"].append(test["output"])
    table["exact"] = any(test.get("exact") for test in tests)
    return table


def _function_name(test: dict[str, Any]) -> str:
    metadata = test.get("metadata")
    places = (test, metadata if isinstance(metadata, dict) else {})
    keys = ("fn_name", "func_name", "entry_point")
    return next((str(place[key]) for place in places for key in keys if place.get(key)), "")


def _parse_table(tests: dict[str, Any]) -> Tests:
    name = _function_name(tests)
    if "test_cases" in tests:
        return parse_tests(tests["test_cases"])
    if "test_list" in tests:
        lines = [tests.get("test_setup_code") or "", *tests["test_list"]]
        return assertions.parse_script("\n".join(map(_with_lines, lines)))
    if "test" in tests:
        return assertions.parse_script(str(tests["test"]), _parse_path(name) if name else ())
    inputs, outputs = (tests.get(key + "s", tests.get(key)) for key in ("input", "output"))
    if isinstance(inputs, str) and isinstance(outputs, str):
        inputs, outputs = [inputs], [outputs]
    if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple):
        raise ValueError("tests have neither inputs with outputs nor assertions")
    if len(inputs) != len(outputs):
        raise ValueError(f"tests have {len(inputs)} inputs and {len(outputs)} outputs")
    if not inputs:
        raise ValueError("there are no tests")
    if name:
        return _parse_calls(_parse_path(name), inputs, outputs)
    pairs = [(_join_lines(a), _join_lines(b)) for a, b in zip(inputs, outputs, strict=True)]
    if not any(printed.strip() for _, printed in pairs):
        raise ValueError("no test expects that anything is printed")
    if max(len(text) for text, _ in pairs) > sandbox.MAX_INPUT:
        raise ValueError(f"an input of a test is longer than {sandbox.MAX_INPUT} characters")
    if max(len(text) for _, text in pairs) > sandbox.Limits().output:
        raise ValueError(f"an output of a test is longer than {sandbox.Limits().output} characters")
    return Cases(pairs, bool(tests.get("exact")))


def _join_lines(text: Any) -> str:
    """Return the text of an input or output, which may be given as its lines.

    Raises:
      ValueError: it is nothing, or a table.
    """
    if isinstance(text, list | tuple):
        return "\n".join(_join_lines(line).removesuffix("\n") for line in text)
    if text is None or isinstance(text, dict):
        raise ValueError(f"an input or output of a test is {text!r}")
    return str(text)


def _parse_path(name: str) -> tuple[str, ...]:
    """Return the parts of the name of a function, or of a method as in Solution().add.

    Raises:
      ValueError: the name is not one of a function or a class's method.
    """
    parts = tuple(name.replace("()", "").split("."))
    named = all(part.isidentifier() and not part.startswith("__") for part in parts)
    if not named or len(parts) > 2 or (len(parts) == 2 and not parts[0][0].isupper()):
        raise ValueError(f"{name!r} is not the name of a function or of a class's method")
    return parts


def _parse_calls(path: tuple[str, ...], inputs: Sequence[Any], outputs: Sequence[Any]) -> Calls:
    """Return calls; arguments and values that are all lines of JSON are read as such."""
    try:
        if not all(isinstance(text, str) for text in (*inputs, *outputs)):
            raise ValueError
        arguments: list[Any] = [list(map(json.loads, text.splitlines())) for text in inputs]
        values = [json.loads(text) for text in outputs]
    except (ValueError, RecursionError):
        arguments = [x if isinstance(x, list | tuple) else [x] for x in inputs]
        values = list(outputs)
    wrapped = all(isinstance(value, list | tuple) and len(value) == 1 for value in values)
    values = [plain.convert_to_json(value) for value in values]
    return Calls(path, list(zip(arguments, values, strict=True)), wrapped)
