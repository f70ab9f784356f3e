"""Find the formula in a sentence: "So the total is $x = 5$ cm." gives x = 5 cm.

A sentence that denies or compares a formula, or offers several formulas, has no answer: a number
that is read from a hedge would reward hedging.
"""

from __future__ import annotations

import re

from rlvr_jax.host.text import answers

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
HEDGE = re.compile(
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
_BOLD = re.compile(r"(?<![\w)*])\*\*([^*]+?)\*\*(?![\w(*])")
_PICTURES = (  # emoji around an answer, without those that deny it
    "\u2600-\u2716\u2719-\u274b\u2756-\u27bf\u2b05-\u2b55\U0001f300-\U0001f44d\U0001f44f-\U0001f6aa"
    "\U0001f6ac-\U0001faff\ufe0f\u200d"
)
_ARROWS = r"[=-]>|[\u2022\u2192\u21d2\u279c\u27f9\u2794\u25b6]|>\s*(?=\*\*)"  # or Markdown's quotes
_OPENING = re.compile(rf"(?:[*_`\"'\s{_PICTURES}]|{_ARROWS})+")
_CLOSING = re.compile(rf"(?:[*_`\"\s{_PICTURES}]|(?<=\*)[!.])+$")


def candidates(line: str) -> list[str]:
    """Return the parts of a line that may be the answer, the most certain first.

    The parts are the text after the last verb, the line itself, the line without its lead, its
    formula and its only number.  The first part that a parser can read is the answer.
    """
    line = _BOLD.sub(r"\1", _unwrapped(line))
    if line.count("}") > line.count("{"):  # the end of \boxed{The answer is: 42}
        line = re.sub(r"\}\$*[.\s]*$", "", line)
    texts = [line, without_lead(line)]
    if (formula := _formula(line)) is not None:
        texts.append(formula)
    if re.fullmatch(r"(?:[\s,;.]|and|or)*", _MATH.sub(" ", line)) and "$" in line:
        texts.append(line.replace("$", ""))
    verbs = [match for match in _VERB.finditer(line)]
    if verbs and not HEDGE.search(line[: verbs[-1].end()]):
        # First: "It is -5" would be read as letters times letters, minus 5.
        texts.insert(0, _unwrapped(line[verbs[-1].end() :]))
    if (number := _number(line)) is not None:
        texts.append(number)
    return list(dict.fromkeys(text for text in texts if text))


def without_lead(line: str) -> str:
    """Return a line without "Therefore, the answer is", emphasis, quotes and final period."""
    for _ in range(4):
        line = _unwrapped(line)
        line = line if line.endswith("...") else _unwrapped(line.rstrip("."))
        lead = answers.LEAD.match(line) or _LEAD.match(line)
        line = line[lead.end() :] if lead else line
    return _unwrapped(line)


def _unwrapped(line: str) -> str:
    """Return a line without emphasis, quotes, arrows and emoji around it; A' keeps its prime."""
    begin = _OPENING.match(line)
    quoted = begin is not None and "'" in begin[0]
    line = line[begin.end() :] if begin else line
    line = _CLOSING.sub("", line)
    return _CLOSING.sub("", line.rstrip("'")) if quoted else line


def _formula(line: str) -> str | None:
    """Return the last formula between dollars, with the unit after it."""
    formulas = list(_MATH.finditer(line))
    if not formulas:
        return None
    last = formulas[-1]
    words = _MATH.sub(" ", line[: last.start()])
    if HEDGE.search(words) or HEDGE.search(line[last.end() :]):
        return None
    between = line[formulas[-2].end() : last.start()] if len(formulas) > 1 else "."
    if re.fullmatch(r"[\s,]*(?:and)?[\s,]*", between):
        return None  # a list of formulas
    unit = re.fullmatch(r"\s*([A-Za-z/^0-9 ]{0,40})[\s.!*]*", line[last.end() :])
    inner = next(part for part in last.groups() if part is not None)
    return f"{inner} {unit[1]}".strip() if unit else None


def _number(line: str) -> str | None:
    """Return the one number of a sentence; None if it has several or if the sentence hedges."""
    if HEDGE.search(line) or "=" in line or "\\" in line or "..." in line:
        return None
    words = line.rstrip(".* !") if re.search(r"[*A-Za-z]\s*!$", line) else line.rstrip(".* ")
    numbers = _NUMBER.findall(words)
    if len(numbers) != 1 or sum(part.isdigit() for part in re.findall(r"\d+|\D", words)) > 4:
        return None
    rest = words.replace(numbers[0], "", 1)
    return numbers[0] if not re.search(r"\d|[^\w\s.,:'\"*$\u20ac\u00a3-]", rest) else None
