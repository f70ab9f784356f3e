"""Printed texts: equal words, and numbers that are as good as equal."""

import pytest

from rlvr_jax.host.rules.programs import printed


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


def test_exact_tests_compare_the_text(score):
    exact = {"inputs": [""], "outputs": [" *\n***\n"], "exact": True}
    assert score("print(' *')\nprint('***')", exact) == 1.0
    assert score("print('*')\nprint('***')", exact) == 0.0
    assert score("print('*')\nprint('***')", exact | {"exact": False}) == 1.0
    assert not printed.is_printed("5.0", "5", exact=True)
