"""Compare numbers within a tolerance, with units: the rule `numeric`.

The rule suits physics and chemistry, where references are rounded.  Answers are read as by the rule
`math`, but only their values are compared.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from rlvr_jax.host.rules.maths import notation, sentence, units, value
from rlvr_jax.host.rules.maths.items import Listing, Named, Value
from rlvr_jax.host.rules.maths.parser import parse_answer
from rlvr_jax.host.text import answers

RELATIVE = Fraction(1, 1000)


class Quantity(NamedTuple):
    """A Quantity is a real number with an optional unit."""

    number: Fraction
    unit: units.Unit | None


def score(completion: str, reference: str, tolerance: Fraction = RELATIVE) -> float:
    """Return 1.0 if the answer is within a relative tolerance of the reference, else 0.0.

    A reference of 0 requires exactly 0.  Units are converted; units of different dimensions give
    0.0.  If the answer or the reference has no unit, the unit of the other is assumed.
    """
    answer = answers.extract(completion)
    gold = parse_quantity(notation.normalise(reference))
    if answer is None or gold is None:
        return 0.0
    for candidate in sentence.candidates(answer):
        quantity = parse_quantity(notation.normalise(candidate))
        if quantity is not None:
            scale = units.conversion(gold.unit, quantity.unit)
            if scale is None:
                return 0.0
            return float(is_near(quantity.number * scale, gold.number, tolerance))
    return 0.0


def is_near(number: Fraction, gold: Fraction, tolerance: Fraction) -> bool:
    """Return whether a number is within a relative tolerance of the reference."""
    return abs(number - gold) <= tolerance * abs(gold)


def parse_quantity(text: str) -> Quantity | None:
    """Return the real number and the unit that a text denotes; None for another text."""
    try:
        item = parse_answer(text)
        item = item.item if isinstance(item, Named) else item
        if isinstance(item, Listing) and len(item.items) == 1:  # [42]
            item = item.items[0]
        if not isinstance(item, Value):
            return None
        number = value.evaluate(item.tree, {})
        if isinstance(number, Fraction):
            return Quantity(number, item.unit)
        if isinstance(number, value.Infinity) or hasattr(number, "imag") and number.imag:
            return None
        return Quantity(Fraction(str(number)), item.unit)
    except ValueError:  # Unreadable, or a complex number with an imaginary part of zero
        return None
