"""The rule `contains`: edges of words and numbers in the scripts of the world."""

import pytest

from rlvr_jax.host import rules


@pytest.mark.parametrize(
    "text, reference, value",
    [
        *(
            ("It is 7.3", "3", 0),
            ("It is 7.3", "7", 0),
            ("It is 7.3.", "7.3", 1),
            ("3 or 4", "4", 1),
        ),
        *(("1,500", "500", 0), ("-8", "8", 0), ("It is -8", "8", 0), ("It is -8.", "-8", 1)),
        *(("12-8", "8", 1), ("9%", "9", 0), ("3/4", "4", 0), ("11:45", "45", 0), ("x7", "7", 0)),
        *(("version 8.", "8", 1), ("Viennese", "Vienna", 0), ("it is Vienna!", "vienna", 1)),
        ("\u7b54\u6848\u662f\u5357\u4eac\u5e02\u3002", "\u5357\u4eac", 1),
        ("\u5341\u516b", "\u516b", 0),
        (
            "\u0e04\u0e33\u0e15\u0e2d\u0e1a\u0e04\u0e37\u0e2d\u0e1e\u0e32\u0e19",
            "\u0e1e\u0e32\u0e19",
            1,
        ),
        ("\ub2f5\uc740 \ubd80\uc0b0\uc785\ub2c8\ub2e4", "\ubd80\uc0b0", 1),
        ("\ub0a8\ubd80\uc0b0", "\ubd80\uc0b0", 0),
        ("\u0130zmir", "izmir", 1),
        ("IZMIR", "\u0130zmir", 1),
        ("anything", "", 0),
    ],
)
def test_contains(text, reference, value):
    assert rules.score(text, reference, "contains") == value
