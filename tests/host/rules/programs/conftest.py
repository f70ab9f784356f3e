"""Scores of programs within short limits."""

import pytest

from rlvr_jax.host.rules import programs
from rlvr_jax.host.workers import sandbox

SHORT = sandbox.Limits(seconds=1.0)


@pytest.fixture
def score():
    """The score of a program by its tests."""
    return lambda source, tests: programs.score(f"So:\n```python\n{source}\n```\n", tests, SHORT)


@pytest.fixture
def returns(score):
    """The score of a function that returns an expression, by one call."""

    def returns(expression, expected):
        tests = {"fn_name": "f", "inputs": [[]], "outputs": [expected]}
        return score(f"from collections import *\ndef f():\n    return {expression}", tests)

    return returns


@pytest.fixture
def holds(score):
    """The score of a function that returns an expression, by one assertion."""
    return lambda assertion, expression, before="": score(
        f"{before}\ndef f(*a, **k):\n    return {expression}", [assertion]
    )
