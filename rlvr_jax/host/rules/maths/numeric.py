"""Numbers with a tolerance: for physics and chemistry, where references are rounded."""

from __future__ import annotations

from fractions import Fraction

from rlvr_jax.host.rules.maths import notation, parser, sentence, units, value
from rlvr_jax.host.rules.maths.formula import Unreadable
from rlvr_jax.host.text import answers

RELATIVE = Fraction(1, 1000)


def score(completion: str, reference: str, tolerance: Fraction = RELATIVE) -> float:
    """1.0 when the answer is a number within a relative tolerance of the reference.

    A reference of 0 asks for exactly 0.  Units have to measure the same, or be left out.
    """
    found = answers.extract(completion)
    gold = quantity(notation.plain(reference))
    if found is None or gold is None:
        return 0.0
    for says in sentence.candidates(found):
        mine = quantity(notation.plain(says))
        if mine is not None:
            scale = units.factor(gold[1], mine[1])
            return float(scale is not None and near(mine[0] * scale, gold[0], tolerance))
    return 0.0


def near(mine: Fraction, gold: Fraction, tolerance: Fraction) -> bool:
    """Whether a number is within a relative tolerance of the reference."""
    return abs(mine - gold) <= tolerance * abs(gold)


def quantity(text: str) -> tuple[Fraction, units.Unit | None] | None:
    """The value and unit of a text that is one real number; None if it is not."""
    try:
        item = parser.read(text)
        item = item[2] if item[0] == "named" else item
        if item[0] != "value":
            return None
        got = value.evaluate(item[1], {})
        if not isinstance(got, Fraction):
            got = Fraction(str(got)) if not hasattr(got, "imag") or not got.imag else None
        return None if got is None else (got, item[2])
    except (Unreadable, ValueError, KeyError):
        return None
