"""Numbers as the report writes them."""

MINUS = "\u2212"


def percent(share: float, digits: int = 1) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:.{digits}f} %".replace("-", MINUS)


def points(difference: float) -> str:
    """Write a difference of two shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def amount(value: float) -> str:
    """Write a number with three significant digits, and with a unit where it is large."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}".replace("-", MINUS)
    if abs(value) >= 1000:
        return f"{value:.0f}".replace("-", MINUS)
    return f"{value:.3g}".replace("e-0", "e-").replace("-", MINUS)


def seconds(value: float) -> str:
    """Write a time with the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if value >= 1.5 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"


def count(number: float, word: str) -> str:
    """Write a number of things, with the plural of their word."""
    return f"{number:,.0f} {word}{'' if number == 1 else 's'}"
