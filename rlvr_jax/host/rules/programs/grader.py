"""Run a program behind the walls of the sandbox, and compare its results with its tests."""

from __future__ import annotations

import json
import secrets
from functools import cache
from pathlib import Path
from typing import Any

from rlvr_jax.host.rules.programs import assertions, forms, plain, wire
from rlvr_jax.host.rules.programs.operations import UnfitTest
from rlvr_jax.host.rules.programs.printed import is_printed
from rlvr_jax.host.workers import sandbox


class ProgramError(Exception):
    """ProgramError is raised if a program raised an exception, ended, or returned no plain data."""


class RunningProgram:
    """A RunningProgram waits for calls in the sandbox.

    It counts the calls and the assertions of the test that uses it.
    """

    def __init__(self, conversation: sandbox.Conversation, mark: str):
        self._conversation, self._mark = conversation, mark
        self.calls = self.assertions = 0

    def call(self, path: tuple[Any, ...], arguments: Any, keywords: dict[str, Any]) -> Any:
        """Call a function of the program, and return its result as plain data.

        Raises:
          UnfitTest: an argument is not plain data.
          TypeError: an argument is an iterator that the program returned.
          ProgramError: the function raised, or the program ended or reached a limit.
        """
        sent = [wire.encode(value, _number) for value in (list(arguments), keywords)]
        request = json.dumps([path, *sent]) + "\n"
        line = self._conversation.ask(request.encode(), self._mark.encode())
        try:
            answer = json.loads(line or b"{}")
            return wire.decode(answer["value"], plain.Items, lambda n: plain.Remote(int(n)))
        except (ValueError, TypeError, LookupError, RecursionError, MemoryError) as error:
            raise ProgramError(str(error)) from None


def _number(value: Any) -> int:
    """Return the number of an object of the program, by which the object is an argument again."""
    if isinstance(value, plain.Remote):
        return value.number
    if isinstance(value, plain.Items):
        raise TypeError("an iterator of the program is no plain data")
    raise UnfitTest(f"a test gives the program a {type(value).__name__}, which is not plain data")


def passes(source: str, tests: forms.Tests, limits: sandbox.Limits | None = None) -> bool:
    """Return whether a program passes all tests.

    Raises:
      ValueError: a test cannot be evaluated outside of the program.
      TimeoutError: the program reached its time limit.
    """
    if isinstance(tests, forms.Cases):
        text = f"{_text('prelude')}\nrun_main({source!r})\n"
        return all(_prints(text, *pair, tests.exact, limits) for pair in tests.pairs)
    mark = secrets.token_hex(8)  # a line that the program itself prints is no answer
    text = "\n".join(map(_text, ("prelude", "wire", "answering")))
    with sandbox.converse(f"{text}\nanswer_calls({source!r}, {mark!r})\n", limits) as conversation:
        program = RunningProgram(conversation, mark)
        if isinstance(tests, assertions.Script):
            passed = assertions.run_script(tests, program)
        else:
            passed = _returns(program, tests)
        _check_time(conversation.status)
        return passed


@cache
def _text(name: str) -> str:
    """Return the text of a file of this folder, without its imports from this package."""
    lines = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("from rlvr_jax"))


def _prints(
    text: str, given: str, expected: str, exact: bool, limits: sandbox.Limits | None
) -> bool:
    result = sandbox.run(text, given, limits)
    _check_time(result.status)
    printed = result.output.decode("utf-8", "replace")
    return result.status == "ok" and is_printed(printed, expected, exact)


def _check_time(status: str) -> None:
    if status == "timeout":
        raise TimeoutError("the program reached its time limit")


def _returns(program: RunningProgram, tests: forms.Calls) -> bool:
    """Return whether all calls return the expected values or, if wrapped, the items in these."""
    as_given, unwrapped = True, tests.wrapped
    for arguments, expected in tests.pairs:
        try:
            value = plain.convert_to_json(program.call(tests.path, arguments, {}))
            as_given = as_given and plain.is_equal(value, expected)
            unwrapped = unwrapped and plain.is_equal(value, expected[0])
        except (ProgramError, TypeError, RecursionError):
            return False
        if not (as_given or unwrapped):
            return False
    return True
