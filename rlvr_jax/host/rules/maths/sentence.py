"""Find the formula in a sentence: "So the total is $x = 5$ cm." answers x = 5 cm.

A sentence that denies or compares a formula, or offers several, has no answer: a number that is
read out of a hedge would pay for hedging.
"""

from __future__ import annotations

import re

_LEAD = re.compile(
    r"(?:so|thus|hence|therefore|then|finally|and|we (?:get|have|obtain|find)|we conclude|that"
    r"|in conclusion|it follows that|the (?:final |correct )?(?:answer|result|solution|value)"
    r"|(?:final |correct )?(?:answer|result|solution))\b[\s,:]*(?:(?:is|are|equals)\b[\s:]*)?",
    re.I,
)
_VERB = re.compile(
    r"\b(?:is equal to|equals?|is|are|was|were|gives?|gets?|obtain|has|have|be|becomes|yields?)\b"
    r"\s*:?\s*(?:equal to\s+|exactly\s+|about\s+|approximately\s+|simply\s+|therefore\s+|thus\s+)*",
    re.I,
)
_HEDGE = re.compile(
    r"\b(?:not|never|no|nor|neither|cannot|can't|isn't|aren't|doesn't|less|fewer|more|greater"
    r"|larger|smaller|least|most|under|over|above|below|between|except|unless|either|maybe|perhaps"
    r"|possibly|probably|might|could|would|wrong|false|incorrect|unlike|instead|wait|or|if|guess"
    r"|through|up to|exceeds?|than|divides?|times|plus|minus|negative|half|twice"
    r"|refuse|unknown|unsure|questions?|asks?|squared?|cubed?|million|billion|thousand"
    r"|hundred|dozen|but|one of)\b|n't\b|[<>\u2260?]",
    re.I,
)
_MATH = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.,/^])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?(?![\w/^!]|[.,:]\d)"
)
_WRAPS = "*_`\"' \t"


def candidates(line: str) -> list[str]:
    """Return the texts that may be the answer of a line, the most literal first.

    They are the line, the line without its lead, its formula, the part behind its last verb and
    its only number.  The first of them that a parser can read is the answer.
    """
    line = line.strip(_WRAPS)
    texts = [line, without_lead(line)]
    if (formula := _formula(line)) is not None:
        texts.append(formula)
    if re.fullmatch(r"(?:[\s,;.]|and|or)*", _MATH.sub(" ", line)) and "$" in line:
        texts.append(line.replace("$", ""))
    verbs = [match for match in _VERB.finditer(line)]
    if verbs and not _HEDGE.search(line[: verbs[-1].end()]):
        texts.append(line[verbs[-1].end() :].strip(_WRAPS))
    if (number := _number(line)) is not None:
        texts.append(number)
    return list(dict.fromkeys(text for text in texts if text))


def without_lead(line: str) -> str:
    """Return a line without "Therefore, the answer is", emphasis, quotes and final period."""
    for _ in range(4):
        line = line.strip(_WRAPS).rstrip(".").strip(_WRAPS)
        lead = _LEAD.match(line)
        line = line[lead.end() :] if lead else line
    return line.strip(_WRAPS)


def _formula(line: str) -> str | None:
    """Return the last formula between dollars, with a unit behind it."""
    formulas = list(_MATH.finditer(line))
    if not formulas:
        return None
    last = formulas[-1]
    words = _MATH.sub(" ", line[: last.start()])
    if _HEDGE.search(words) or _HEDGE.search(line[last.end() :]):
        return None
    between = line[formulas[-2].end() : last.start()] if len(formulas) > 1 else "."
    if re.fullmatch(r"[\s,]*(?:and)?[\s,]*", between):
        return None  # a list of formulas
    unit = re.fullmatch(r"\s*([A-Za-z/^0-9 ]{0,40})[\s.!*]*", line[last.end() :])
    inner = next(part for part in last.groups() if part is not None)
    return f"{inner} {unit[1]}".strip() if unit else None


def _number(line: str) -> str | None:
    """Return the one number of a sentence; None if it has several or if the sentence hedges."""
    if _HEDGE.search(line) or "=" in line or "\\" in line:
        return None
    words = line.rstrip(".* ")
    numbers = _NUMBER.findall(words)
    if len(numbers) != 1 or sum(part.isdigit() for part in re.findall(r"\d+|\D", words)) > 4:
        return None
    rest = words.replace(numbers[0], "", 1)
    return numbers[0] if not re.search(r"\d|[^\w\s.,:'\"*$\u20ac\u00a3-]", rest) else None
