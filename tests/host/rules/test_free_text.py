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


@pytest.mark.parametrize(
    "text, reference, value",
    [
        *(("third", "3rd", 1), ("The 21st", "twenty-first", 1), ("fourth", "5th", 0)),
        *(("eleventh", "11th", 1), ("The Second Amendment", "second amendment", 1)),
        ("30th", "thirtieth", 1),
        *(("reenter", "re-enter", 1), ("re-entry", "reenter", 0), ("well known", "well-known", 1)),
        *(("\u20ac7", "7", 0), ("\\$7", "7", 0), ("$7", "$7", 1), ("$7$", "7", 1), ("7", "$7", 1)),
        *(("O\u2083", "O3", 1), ("NO\u2082", "no2", 1), ("x\u00b2", "x2", 0)),
        ("11\u2082", "112", 0),
        *(("#winter", "winter", 1), ("C#", "C", 0), ("#5", "#5", 1), ("seven", "7", 1)),
    ],
)  # fmt: skip
def test_text(text, reference, value):
    assert rules.score(text, reference, "text") == value


@pytest.mark.parametrize(
    "kind, text, reference, value",
    [
        ("list", "Ann, Bob & Cy", "Ann, Bob and Cy", 1),
        ("list", "AT&T, IBM", "AT&T and IBM", 1),
        ("list", "The correct order is z, y, x.", "z, y, x", 1),
        ("list", "The order is not z, y, x.", "z, y, x", 0),
        ("list", "The reverse order is z, y, x.", "z, y, x", 0),
        ("set", r"\boxed{\text{oak}, \text{elm}}", "elm, oak", 1),
        ("set", r"\boxed{\frac{1}{12}, 3}", r"\frac{11}{2}, 3", 0),
        ("set", "<answer>\n1. oak\n2. elm\n</answer>", "elm, oak", 1),
        ("set", "<answer>\n- oak\n- elm\n- ash\n</answer>", "elm, oak", 0),
        ("list", "<answer>\n2. oak\n1. elm\n</answer>", "oak, elm", 0),
        ("list", "<answer>\n* oak\n* elm\n</answer>", "oak, elm", 1),
    ],
)
def test_collections(kind, text, reference, value):
    assert rules.score(text, reference, kind) == value
