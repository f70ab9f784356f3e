"""Find the unit after a number, and its size in base units."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

# Base unit -> the units of its dimension -> how many base units each is.
_SIZES = {
    "m": {"mm": "1/1000", "cm": "1/100", "dm": "1/10", "m": "1", "km": "1000"},
    "in": {"inch": "1", "ft": "12", "yd": "36", "mi": "63360"},
    "g": {"mg": "1/1000", "g": "1", "kg": "1000"},
    "lb": {"lb": "1", "oz": "1/16"},
    "s": {"ms": "1/1000", "s": "1", "min": "60", "h": "3600", "day": "86400", "week": "604800"},
    "$": {"$": "1", "cent": "1/100"},
    **{"deg": {"degree": "1"}, "rad": {"radian": "1"}},
    **{
        sign: {sign: "1"} for sign in ("\u20ac", "\u00a3", "\u00a5", "\u20b9", "\u00b0c", "\u00b0f")
    },
    **{name: {name: "1"} for name in "K mol year month A yuan".split()},
}
# Unit -> how many, of which powers of base units.
_DERIVED = {
    **{"l": ("1/1000", {"m": 3}), "ml": ("1/1000000", {"m": 3}), "hectare": ("10000", {"m": 2})},
    **{"N": ("1000", {"g": 1, "m": 1, "s": -2}), "Pa": ("1000", {"g": 1, "m": -1, "s": -2})},
    **{"J": ("1000", {"g": 1, "m": 2, "s": -2}), "W": ("1000", {"g": 1, "m": 2, "s": -3})},
    **{"V": ("1000", {"g": 1, "m": 2, "s": -3, "A": -1}), "Hz": ("1", {"s": -1})},
    "ohm": ("1000", {"g": 1, "m": 2, "s": -3, "A": -2}),
}
_TABLE: dict[str, tuple[Fraction, dict[str, int]]] = {
    unit: (Fraction(size), {base: 1})
    for base, sizes in _SIZES.items()
    for unit, size in sizes.items()
}
_TABLE |= {unit: (Fraction(size), powers) for unit, (size, powers) in _DERIVED.items()}
_PREFIXES = {"p": -12, "n": -9, "u": -6, "m": -3, "c": -2, "d": -1, "k": 3, "M": 6, "G": 9, "T": 12}
_PREFIXED = re.compile(r"([pnumcdkMGT])(m|g|s|l|L|N|J|W|V|A|Pa|Hz|mol|ohm)")
_SPELLINGS = {
    "mm": "millimeter millimetre",
    "cm": "centimeter centimetre",
    "dm": "decimeter decimetre",
    "m": "meter metre",
    "km": "kilometer kilometre",
    "inch": "in inche",
    "ft": "foot feet",
    **{"yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram", "kg": "kilogram"},
    **{"lb": "pound lbs", "oz": "ounce"},
    "ml": "milliliter millilitre mL",
    "l": "liter litre L",
    **{"ms": "millisecond", "s": "sec second", "min": "minute mins", "h": "hour hr hrs"},
    **{"year": "yr yrs", "degree": "deg \\degree", "radian": "rad"},
    "$": "dollar usd USD buck",
    "cent": "\u00a2 penny pennie",
    **{
        "\u20ac": "euro eur EUR",
        "\u00a5": "yen JPY",
        "\u20b9": "rupee INR",
        "\u00a3": "GBP sterling",
    },
    **{"N": "newton", "J": "joule", "W": "watt", "V": "volt", "K": "kelvin"},
    **{"A": "ampere amp", "Pa": "pascal", "Hz": "hertz", "mol": "mole", "ohm": "Ohm"},
    **{"hectare": "ha", "yuan": "RMB CNY"},
}
_ALIASES = {alias: unit for unit, aliases in _SPELLINGS.items() for alias in aliases.split()}
_AFTER = re.compile(
    r"(.*[\d)}!\]]|.*\\pi|.*\\sqrt\s?\w)\s*"
    r"((?:\\degree|\u00b0[cf]|[A-Za-z\u20ac\u00a3\u00a5\u00a2$][A-Za-z$]*\.?)(?:\s*\^\s*\{?-?\d\}?)?"
    r"(?:[\s/*]+(?:[A-Za-z]+\.?)(?:\s*\^\s*\{?-?\d\}?)?){0,4})\s*$",
    re.DOTALL,
)
_NO_UNIT = re.compile(
    r"\b(?:is|are|was|be|it|wrong|right|true|false|correct|not|no|or|and|but|to|if|so|then|more|less"
    r"|maybe|plus|minus|times|million|billion|thousand|hundred|dozen|percent)\b",
    re.I,
)
_AND = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+\.?)(?:\s*$|,?\s+and\s+|\s+)")
_PART = re.compile(r"([^\s/*^]+)(?:\s*\^\s*\{?(-?\d)\}?)?")
_BEFORE = re.compile(r"^(-?)\s*([$\u20ac\u00a3\u00a5\u20b9])\s*(?=[\d.\\(-])")


@dataclass(frozen=True)
class Unit:
    """A Unit holds its size in base units and the power of each base unit, sorted by name.

    km/h is 1000/3600 of (("m", 1), ("s", -1)).  A unit that is not in the table, such as `apples`,
    is its own base unit.
    """

    size: Fraction
    dimensions: tuple[tuple[str, int], ...]


def split_unit(text: str) -> tuple[str, Unit | None]:
    """Split a text into a number and its unit; the unit is None if the text has no clear unit.

    A single letter that touches the number (5x) is a variable, not a unit.
    """
    text = re.sub(r"\\mu\s*(?=(?:m|s|g|l|L|A|V|N|J|W|Pa|mol)\b)", "u", text)
    text = re.sub(r"(?<=[\d}])\s*([kMm]?)\s*\\Omega$", r" \1ohm", text)
    text = re.sub(r"(?:\\degree\s*|\bdegrees?\s+)(C|F|Celsius|Fahrenheit)$", _temperature, text)
    if money := _BEFORE.match(text):
        rest = money[1] + text[money.end() :]
        rest = re.sub(r"\s*(?:dollars?|USD|euros?|yen|rupees?)\.?$", "", rest, flags=re.I)
        return rest, _parse_unit(money[2])
    match = _AFTER.fullmatch(text)
    if not match or _NO_UNIT.search(match[2]):
        return text, None
    number, words = match.groups()
    if number.count("{") != number.count("}"):
        return text, None  # the s^2 of \\sqrt{3s^2} is no square second
    if "\\degree" in words and re.search(r"sin|cos|tan|cot|sec|csc|[+=]", number):
        return text, None  # in sin 30 degrees, the unit is the angle's, not the value's
    known = _is_known(words)
    word = words.rstrip(".")
    if text[len(number)] == " ":
        if not known and re.match(r"[A-Za-z](?![A-Za-z])", words):
            return text, None  # 2 x
        return number.strip(), _parse_unit(words)
    is_listed = word in _TABLE or word in _ALIASES
    if not known or len(words) == 1 and words.isascii() or len(word) == 1 and not is_listed:
        return text, None  # 2x
    plain = re.fullmatch(r"[\d.]+[A-Za-z]+", text) is not None
    if not plain and not all(_table_name(part[1]) in _TABLE for part in _PART.finditer(words)):
        return text, None  # the kinetic energy \frac12mV^2
    return number.strip(), _parse_unit(words)


def _temperature(match: re.Match[str]) -> str:
    return " \u00b0" + match[1][0].lower()


def split_compound(text: str) -> list[tuple[str, Unit]] | None:
    """Return the numbers and units of "2 hours and 30 minutes"; None for another text.

    The units have the same dimension, and each is smaller than the unit before it.
    """
    matches = list(_AND.finditer(text))
    if len(matches) < 2 or "".join(match[0] for match in matches) != text:
        return None
    parts = [(match[1], _parse_unit(match[2])) for match in matches]
    known = all(_is_known(match[2]) for match in matches)
    one = len({unit.dimensions for _, unit in parts}) == 1
    sizes = [unit.size for _, unit in parts]
    return parts if known and one and all(a > b for a, b in itertools.pairwise(sizes)) else None


def _is_known(words: str) -> bool:
    return all(_find_unit(_table_name(part[1])) for part in _PART.finditer(words))


def _find_unit(name: str) -> tuple[Fraction, dict[str, int]] | None:
    """Return the size and the powers of base units of a unit, perhaps with a prefix, as kPa."""
    if name in _TABLE:
        return _TABLE[name]
    match = _PREFIXED.fullmatch(name)
    if match is None:
        return None
    size, powers = _TABLE[_ALIASES.get(match[2], match[2])]
    return size * Fraction(10) ** _PREFIXES[match[1]], powers


def _table_name(word: str) -> str:
    """Return the name of a unit in the table, or the word in lower case and singular."""
    word = word.rstrip(".")
    if word not in _TABLE and _PREFIXED.fullmatch(word):
        return word
    for name in (word, word.lower(), word.rstrip("s"), word.lower().rstrip("s")):
        if name in _ALIASES or name in _TABLE:
            return _ALIASES.get(name, name)
    return word.lower().rstrip("s")


def _parse_unit(words: str) -> Unit:
    """Return the unit that words denote: km/h, square meters, m^2, mph."""
    words = re.sub(r"\bmph\b", "miles per hour", re.sub(r"\bkph\b", "km per h", words))
    words = re.sub(r"\bper\b", "/", words).replace("degrees Celsius", "\u00b0c")
    words = re.sub(r"\b(?:square|sq\.?)\s+(\w+)", r"\1^2", words)
    words = re.sub(r"\bcubic\s+(\w+)", r"\1^3", words)
    powers: dict[str, int] = {}
    size, sign = Fraction(1), 1
    for token in re.finditer(r"/|[^\s/*]+(?:\s*\^\s*\{?-?\d\}?)?", words):
        if token[0] == "/":
            sign = -1
            continue
        part = _PART.fullmatch(token[0])
        if part is None:
            continue
        power = sign * int(part[2] or 1)
        name = _table_name(part[1])
        one, bases = _find_unit(name) or (Fraction(1), {name: 1})
        size *= one**power
        for base, times in bases.items():
            powers[base] = powers.get(base, 0) + power * times
    return Unit(size, tuple(sorted((base, power) for base, power in powers.items() if power)))


def conversion(gold: Unit | None, answer: Unit | None) -> Fraction | None:
    """Return the factor that converts the answer's unit to the reference's: 1000 for km to m.

    The factor is 1 if one of them has no unit, since the question may name the unit.  It is None
    for units of different dimensions.
    """
    if gold is None or answer is None:
        return Fraction(1)
    return answer.size / gold.size if gold.dimensions == answer.dimensions else None
