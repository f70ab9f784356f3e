"""Grade a program by its tests, which run in a sandbox: the rule `code`.

A grade goes from the completion to the score in three steps: `fences` finds the program, `forms`
reads the tests, and `grader` runs the program behind the walls of `workers.sandbox` and compares.

    fences       the program of a completion: its last finished Python block
    forms        the forms of tests: standard input and output, calls, assertions
    assertions   the text of assertions, checked and rewritten to run outside of the sandbox
    operations   the Python that a rewritten test may use
    plain, printed      when two values, and when two printed texts, are equal
    wire         values as plain data, inside and outside of the sandbox
    prelude, answering  the files whose text runs in the sandbox, around the program

Expected values stay outside of the sandbox: the program receives inputs only, and its results come
back as plain data and are compared outside.  So a program cannot read its tests, its objects cannot
decide a comparison, and a program that exits early or claims success has not given the values.
"""

from __future__ import annotations

from typing import Any

from rlvr_jax.host.rules.programs import assertions, forms, grader
from rlvr_jax.host.rules.programs.fences import extract_program
from rlvr_jax.host.rules.programs.forms import find_tests as find_tests
from rlvr_jax.host.workers import sandbox


def score(completion: str, tests: Any, limits: sandbox.Limits | None = None) -> float:
    """Return 1.0 if the completion's program passes every test, else 0.0.

    `tests` have one of the forms in the docstring of `forms`.

    Raises:
      ValueError: the tests have none of these forms, or cannot be evaluated outside of the program.
      TimeoutError: the program reached its time limit.
    """
    parsed = forms.parse_tests(tests)
    source = extract_program(completion, _names(parsed))
    return float(source is not None and grader.passes(source, parsed, limits))


def check_tests(tests: Any) -> None:
    """Refuse tests that can grade no program.

    Raises:
      ValueError: there are no tests, they have none of the forms in the docstring of `forms`, or
        they cannot be evaluated outside of the program.
    """
    forms.parse_tests(tests)


def _names(tests: forms.Tests) -> tuple[str, ...]:
    """Return the names that a program must define for its tests."""
    if isinstance(tests, forms.Calls):
        return tests.path
    return (*tests.entry, *tests.names) if isinstance(tests, assertions.Script) else ()
