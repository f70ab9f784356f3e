"""Units behind a number: which one, and how many of its base unit it is."""

from __future__ import annotations

import re
from fractions import Fraction

# unit -> (what it measures, how many base units it is)
_TABLE = {
    **{"mm": ("m", "1/1000"), "cm": ("m", "1/100"), "dm": ("m", "1/10"), "m": ("m", "1")},
    **{"km": ("m", "1000"), "inch": ("in", "1"), "ft": ("in", "12"), "yd": ("in", "36")},
    **{"mi": ("in", "63360"), "mg": ("g", "1/1000"), "g": ("g", "1"), "kg": ("g", "1000")},
    **{"lb": ("lb", "1"), "oz": ("lb", "1/16"), "ml": ("l", "1/1000"), "l": ("l", "1")},
    **{"s": ("s", "1"), "min": ("s", "60"), "h": ("s", "3600"), "day": ("s", "86400")},
    **{"week": ("s", "604800"), "ms": ("s", "1/1000"), "degree": ("deg", "1")},
    **{"$": ("$", "1"), "cent": ("$", "1/100")},
    **{"\u20ac": ("\u20ac", "1"), "\u00a3": ("\u00a3", "1")},
    **{"\u00a5": ("\u00a5", "1")},
    **{"N": ("N", "1"), "J": ("J", "1"), "W": ("W", "1"), "V": ("V", "1")},
    **{"kJ": ("J", "1000"), "kW": ("W", "1000"), "Hz": ("Hz", "1"), "Pa": ("Pa", "1")},
    **{"K": ("K", "1"), "\u00b0c": ("\u00b0c", "1"), "\u00b0f": ("\u00b0f", "1")},
    **{"mol": ("mol", "1")},
    **{"year": ("year", "1"), "month": ("month", "1"), "radian": ("rad", "1"), "A": ("A", "1")},
}  # fmt: skip
_ALIASES = {
    alias: unit
    for unit, aliases in {
        **{
            "mm": "millimeter millimetre",
            "cm": "centimeter centimetre",
            "km": "kilometer kilometre",
        },
        **{"m": "meter metre", "dm": "decimeter decimetre", "inch": "in inche", "ft": "foot feet"},
        **{"yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram", "kg": "kilogram"},
        **{
            "lb": "pound lbs",
            "oz": "ounce",
            "ml": "milliliter millilitre mL",
            "l": "liter litre L",
        },
        **{"s": "sec second", "min": "minute mins", "h": "hour hr hrs", "ms": "millisecond"},
        **{"degree": "deg \\degree", "$": "dollar usd USD buck", "cent": "\u00a2 penny pennie"},
        **{"\u20ac": "euro eur EUR", "N": "newton", "J": "joule", "W": "watt", "V": "volt"},
        **{"radian": "rad", "year": "yr yrs", "K": "kelvin", "A": "ampere amp", "Pa": "pascal"},
        **{"Hz": "hertz", "mol": "mole"},
    }.items()
    for alias in aliases.split()
}
_AFTER = re.compile(
    r"(.*[\d)}!\]]|.*\\pi|.*\\sqrt\s?\w)\s*"
    r"((?:\\degree|[A-Za-z\u20ac\u00a3\u00a5\u00a2$][A-Za-z$]*\.?)(?:\s*\^\s*\{?-?\d\}?)?"
    r"(?:[\s/*]+(?:[A-Za-z]+\.?)(?:\s*\^\s*\{?-?\d\}?)?){0,4})\s*$",
    re.DOTALL,
)
_VERBS = re.compile(
    r"\b(?:is|are|was|be|it|wrong|right|true|false|correct|not|no|or|and|but|to|if|so|then|more|less"
    r"|maybe|plus|minus|times|million|billion|thousand|hundred|dozen|percent)\b",
    re.I,
)
_PART = re.compile(r"([^\s/*^]+)(?:\s*\^\s*\{?(-?\d)\}?)?")
_BEFORE = re.compile(r"^(-?)\s*([$\u20ac\u00a3\u00a5\u20b9])\s*(?=[\d.\\(-])")
Unit = tuple[Fraction, tuple[tuple[str, int], ...]]


def split(text: str) -> tuple[str, Unit | None]:
    """A number's text and its unit; None for the unit when there is none to be seen.

    A single letter that touches the number (5x) is a variable, not a unit.
    """
    if money := _BEFORE.match(text):
        rest = money[1] + text[money.end() :]
        return re.sub(r"\s*(?:dollars?|USD|euros?)\.?$", "", rest, flags=re.I), _unit(money[2])
    match = _AFTER.fullmatch(text)
    if not match or _VERBS.search(match[2]):
        return text, None
    number, words = match.groups()
    if "\\degree" in words and re.search(r"sin|cos|tan|cot|sec|csc|[+=]", number):
        return text, None  # sin 30 degrees: the angle's, not the value's
    touches = text[len(number)] != " "
    if not touches and re.match(r"[A-Za-z](?![A-Za-z])", words) and not _known(words):
        return text, None  # 2 x
    if touches and (words.rstrip(".") not in {**_TABLE, **_ALIASES} or len(words) == 1 != "$"):
        if "\\degree" not in words and _known(words) is False or len(words.rstrip(".")) == 1:
            return text, None
    if not touches or _known(words):
        return number.strip(), _unit(words)
    return text, None


def _known(words: str) -> bool:
    return all(_name(part[1]) in _TABLE for part in _PART.finditer(words))


def _name(word: str) -> str:
    word = word.rstrip(".")
    for name in (word, word.lower(), word.rstrip("s"), word.lower().rstrip("s")):
        if name in _ALIASES or name in _TABLE:
            return _ALIASES.get(name, name)
    return word.lower().rstrip("s")


def _unit(words: str) -> Unit:
    """The size of a unit in base units, and its dimensions: km/h, square meters, m^2, mph."""
    words = re.sub(r"\bmph\b", "miles per hour", re.sub(r"\bkph\b", "km per h", words))
    words = re.sub(r"\bper\b", "/", words).replace("degrees Celsius", "\u00b0c")
    words = re.sub(r"\b(?:square|sq\.?)\s+(\w+)", r"\1^2", words)
    words = re.sub(r"\bcubic\s+(\w+)", r"\1^3", words)
    dims: dict[str, int] = {}
    size, sign = Fraction(1), 1
    for token in re.finditer(r"/|[^\s/*]+(?:\s*\^\s*\{?-?\d\}?)?", words):
        if token[0] == "/":
            sign = -1
            continue
        part = _PART.fullmatch(token[0])
        if part is None:
            continue
        power = sign * int(part[2] or 1)
        what, many = _TABLE.get(_name(part[1]), (_name(part[1]), "1"))
        size *= Fraction(many) ** power
        dims[what] = dims.get(what, 0) + power
    return size, tuple(sorted((k, v) for k, v in dims.items() if v))


def factor(gold: Unit | None, found: Unit | None) -> Fraction | None:
    """How many of the reference's units one of the answer's is; None if they do not compare.

    A unit may be left out on one side: the question says it.  Two units have to measure the same.
    """
    if gold is None or found is None:
        return Fraction(1)
    return found[0] / gold[0] if gold[1] == found[1] else None
