"""The formula in a sentence: "So the total is $x = 5$ cm." says x = 5 cm.

What a sentence denies, compares or offers as one of several is not its answer: then nothing is
found, because reading a number out of a hedge pays for hedging.
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
    """Texts to read, most literal first: the line, without its lead, its formula, its number."""
    line = line.strip(_WRAPS)
    out = [line, bare(line)]
    if (formula := _formula(line)) is not None:
        out.append(formula)
    if re.fullmatch(r"(?:[\s,;.]|and|or)*", _MATH.sub(" ", line)) and "$" in line:
        out.append(line.replace("$", ""))
    verbs = [match for match in _VERB.finditer(line)]
    if verbs and not _HEDGE.search(line[: verbs[-1].end()]):
        out.append(line[verbs[-1].end() :].strip(_WRAPS))
    if (number := _number(line)) is not None:
        out.append(number)
    return list(dict.fromkeys(text for text in out if text))


def bare(line: str) -> str:
    """A line without "Therefore, the answer is", emphasis, quotes and final period."""
    for _ in range(4):
        line = line.strip(_WRAPS).rstrip(".").strip(_WRAPS)
        lead = _LEAD.match(line)
        line = line[lead.end() :] if lead else line
    return line.strip(_WRAPS)


def _formula(line: str) -> str | None:
    """The last formula between dollars, with a unit behind it."""
    found = list(_MATH.finditer(line))
    if not found:
        return None
    last = found[-1]
    words = _MATH.sub(" ", line[: last.start()])
    if _HEDGE.search(words) or _HEDGE.search(line[last.end() :]):
        return None
    if len(found) > 1 and re.fullmatch(
        r"[\s,]*(?:and)?[\s,]*", line[found[-2].end() : last.start()]
    ):
        return None  # a list of formulas
    unit = re.fullmatch(r"\s*([A-Za-z/^0-9 ]{0,40})[\s.!*]*", line[last.end() :])
    inner = next(part for part in last.groups() if part is not None)
    return f"{inner} {unit[1]}".strip() if unit else None


def _number(line: str) -> str | None:
    """The one number of a sentence; None if it has several or if the sentence hedges."""
    if _HEDGE.search(line) or "=" in line or "\\" in line:
        return None
    words = line.rstrip(".* ")
    found = _NUMBER.findall(words)
    if len(found) != 1 or sum(part.isdigit() for part in re.findall(r"\d+|\D", words)) > 4:
        return None
    rest = words.replace(found[0], "", 1)
    return found[0] if not re.search(r"\d|[^\w\s.,:'\"*$\u20ac\u00a3-]", rest) else None
