"""Finding the answer in a text: the last number, the last line, the last box.

What is ambiguous is not an answer: every function gives None rather than guess, because a policy
that is rewarded for a guess learns to provoke it.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_TEXT = 4096  # characters of a completion that are looked at, from its end
MAX_NUMBER = 400  # a longer row of digits is not a number

_NUMBER = re.compile(
    r"([+-]?)\$?((?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?|\.[0-9]+)(?:/([0-9]+))?%?"
)
_FRACTION = re.compile(r"\\frac(?:\{(-?\d+)\}\{(\d+)\}|(\d)(\d))", re.ASCII)
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}")
_TAG = re.compile(r"</?[A-Za-z]\w*>")
_DEGREES = re.compile(r"\^\{?\\circ\}?")
_NAMED = re.compile(r"[A-Za-z]\s*=\s*")  # x = 5
_UNIT = re.compile(r"[A-Za-z%\s.]*")
_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s*(\{)|\s)")
_SIGNS = (
    *(("\u2212", "-"), ("\u2013", "-"), ("{,}", ","), ("\\,", ","), ("\\%", "%"), ("\\$", "$")),
    *(("\\boxed{", " "), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac")),
    *(("\\(", ""), ("\\)", ""), ("\u20ac", "$"), ("\u00a3", "$")),
)
_WRAPS = "*_`\"'$()[]{}<>~\u2248\\.,;:!?#|"
_LEAD = re.compile(r"(?:the )?(?:final )?answer(?: is)?\s*[:=]?\s+|(?:final )?answer\s*[:=]", re.I)


def tail(text: str) -> str:
    """The end of a long text, without a first word that the cut may have gone through."""
    if len(text) <= MAX_TEXT:
        return text
    cut = re.search(r"\s", text := text[-MAX_TEXT:])
    return text[cut.end() :] if cut else ""


def number(text: str) -> Fraction | None:
    """The number that is the whole text: 12, -1,000.50, $3, 7%, 3/4; None when it is not one."""
    match = _NUMBER.fullmatch(plain(text).strip("$ \t\n")) if len(text) <= MAX_NUMBER else None
    if match is None or match[3] and not int(match[3]):
        return None
    value = Fraction(match[1] + match[2].replace(",", "")) / int(match[3] or 1)
    return value


def last_number(text: str) -> str | None:
    """The last thing with a digit in it, if it is a number: as plain text, without commas.

    When the last thing with a digit cannot be read ("12cm", "1e9", digits of other scripts), there
    is no answer: an earlier number must not stand in for it.
    """
    words = [word for word in re.split(r"[\s=]+|(?<!\d):", plain(text)) if word]
    for at in range(len(words) - 1, -1, -1):
        if any(char.isnumeric() for char in words[at]):
            word = words[at].strip(_WRAPS).lstrip("$").rstrip("%")
            before = words[at - 1].strip(_WRAPS) if at else ""
            if number(word) is None or _continues(before, word):
                return None
            return word.replace(",", "").replace("$", "")
    return None


def _continues(before: str, word: str) -> bool:
    """Whether a word is the rest of a number that began before it: 3 1/2, 1 000."""
    return before.isdecimal() and ("/" in word or bool(re.fullmatch("[0-9]{3}", word)))


def only_number(text: str) -> str | None:
    """The number that a box holds, alone: but for a name before it and a unit behind it.

    None for a list, a choice or an expression: a box is to hold one answer.
    """
    text = _NAMED.sub("", plain(text).strip("$ \t\n"), count=1)
    for cut in range(len(text), 0, -1):
        if number(text[:cut]) is not None:
            return (
                text[:cut].strip().strip("$%").replace(",", "")
                if _UNIT.fullmatch(text[cut:])
                else None
            )
    return None


def last_line(text: str) -> str:
    """The last line that is not empty, stripped; "" if there is none."""
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def bare(line: str) -> str:
    """A line without "Answer:", quotes, emphasis and final period."""
    for _ in range(3):
        line = line.strip().strip("*_`\"'").rstrip(".").strip().strip("*_`\"'")
        lead = _LEAD.match(line)
        line = line[lead.end() :] if lead else line
    return line.strip()


def boxed(text: str) -> str | None:
    r"""What the last \boxed{} or \boxed x holds, with balanced braces; None if it is not closed."""
    found = list(_BOX.finditer(text))
    if not found:
        return None
    if not found[-1][1]:
        return text[found[-1].end() :].partition("$")[0].strip() or None
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[found[-1].end() :], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[found[-1].end() :][: brace.start()].strip()
    return None


def plain(text: str) -> str:
    """Signs, thousands, fractions and fonts of LaTeX and typography as plain characters."""
    for old, new in _SIGNS:
        text = text.replace(old, new)
    text = _DEGREES.sub("", _TAG.sub(" ", _TEXT.sub(r"\1", text)))
    return _FRACTION.sub(lambda m: f"{m[1] or m[3]}/{m[2] or m[4]}", text)
