"""Answers are parsed into items, and formulas into trees: one case for each type."""

from fractions import Fraction

import pytest

from rlvr_jax.host.rules.maths import items, tree
from rlvr_jax.host.rules.maths.formula import parse_formula
from rlvr_jax.host.rules.maths.items import Interval, Intervals, Listing, Named, Value
from rlvr_jax.host.rules.maths.parser import parse_answer
from rlvr_jax.host.rules.maths.tree import Constant, Negative, Operation, Variable, number
from rlvr_jax.host.rules.maths.units import Unit, split_unit

X, ONE, TWO = Variable("x"), number("1"), number("2")
INFINITY = Constant("infty")
PAIR = (Value(ONE), Value(TWO))
LOW, HIGH = Interval(ONE, False, TWO, True), Interval(TWO, True, ONE, False)


@pytest.mark.parametrize(
    "text, item",
    [
        ("1", Value(ONE)),
        ("2 cm", Value(TWO, Unit(Fraction(1, 100), (("m", 1),)))),
        ("2%", Value(Operation("/", (TWO, number("100"))))),
        ("x = 1", Named("x", Value(ONE))),
        ("1, 2", Listing("", "", PAIR)),
        ("(1, 2)", Listing("(", ")", PAIR)),
        (r"\{2\}", Listing(r"\{", r"\}", (Value(TWO),))),
        ("x < 1", Intervals("x", (Interval(Negative(INFINITY), False, ONE, False),))),
        ("2 >= x > 1", Intervals("x", (Interval(ONE, False, TWO, True),))),
        (r"(1, 2] \cup [2, 1)", Intervals(None, (LOW, HIGH))),
        (r"\begin{pmatrix}1&2\\2&1\end{pmatrix}", items.Matrix((PAIR, PAIR[::-1]))),
        ("1:2", items.Ratio(PAIR)),
        ("x + 1 = 2x", items.Equation(Operation("+", (X, ONE)), Operation("*", (TWO, X)))),
        ("x != 2", items.NotEqual("x", Value(TWO))),
        ("3:30 PM", items.Time(3, 30, 0, "p")),
        (r"\emptyset", items.Empty()),
    ],
)  # fmt: skip
def test_items(text, item):
    assert parse_answer(text) == item


@pytest.mark.parametrize(
    "text, parsed",
    [
        ("1.50", tree.Number(Fraction(3, 2), is_decimal=True)),
        ("x_1'", Variable("x_1'")),
        (r"\theta", Variable(r"\theta")),
        (r"\pi", Constant("pi")),
        ("-x", Negative(X)),
        ("1/2x", Operation("*", (Operation("/", (ONE, TWO)), X))),
        ("3 1/2", Operation("+", (number("3"), Operation("/", (ONE, TWO))))),
        (r"\sqrt[3]{x}", Operation("root", (X, number("3")))),
        (r"\sin^2 x", Operation("^", (tree.Call("sin", X), TWO))),
        (r"\sin^{-1} x", tree.Call("arcsin", X)),
        (r"\lfloor x \rfloor", tree.Call("floor", X)),
        ("1_2", tree.BasedNumber(ONE, "2")),
        ("x!", Operation("!", (X,))),
    ],
)
def test_trees(text, parsed):
    assert parse_formula(text) == parsed


@pytest.mark.parametrize(
    "text",
    ["", "1 +", "1 = 2", "1,,2", "x = x + 1", "(1", "2 2", "1" * 61, "(" * 50 + "1" + ")" * 50],
)
def test_what_cannot_be_read(text):
    with pytest.raises(tree.Unreadable):
        parse_answer(text)


@pytest.mark.parametrize(
    "text, number, unit",
    [
        ("60 km/h", "60", Unit(Fraction(1000, 3600), (("m", 1), ("s", -1)))),
        ("12 square meters", "12", Unit(Fraction(1), (("m", 2),))),
        ("$5", "5", Unit(Fraction(1), (("$", 1),))),
        ("10 apples", "10", Unit(Fraction(1), (("apple", 1),))),
        ("5x", "5x", None),
        ("5cm", "5", Unit(Fraction(1, 100), (("m", 1),))),
        ("41 or 42", "41 or 42", None),
    ],
)
def test_units(text, number, unit):
    assert split_unit(text) == (number, unit)
