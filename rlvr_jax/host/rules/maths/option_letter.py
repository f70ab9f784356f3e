r"""Read the letter of an option in a reference or an answer: C, (C), C) 5, \text{(C)}, option C.

Multiple choice has a rule of its own (`rules/choice.py`).  This module exists because the
references of mathematical data sets may be letters too: `equivalence` recognises them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rlvr_jax.host.rules.maths import notation, sentence

_LETTER = re.compile(r"\(?\s*([A-Ja-j])\s*\)?\.?")
_LED = re.compile(
    r"(?:option|choice|answer|the (?:correct )?(?:answer|option|choice) is)?\s*:?\s*"
    r"(?:\(([A-Ja-j])\)|([A-Ja-j])(?=[).:]|\s*$))[).:]*\s*(.*)",
    re.I | re.DOTALL,
)
_LETTER_AT = r"(?:\(([A-J])\)|([A-J])(?![\w'(]))"
_CHOSEN = re.compile(  # "C because ...", "I would pick C", "it must be (C)", "C is correct"
    r"(?:(?i:(?:.*\b(?:i|we)(?:'d| would| will)? (?:pick|choose|select|go with)"
    r"|.*\bit (?:must|has to) be"
    rf"|(?:the )?(?:final |correct )?(?:answer|option|choice)(?: is)?)\s*:?\s*"
    rf"(?:option |choice |answer )?)?{_LETTER_AT}(?i:\s+is (?:the )?(?:correct|right|best)"
    rf"(?: (?:answer|option|choice|one))?)?)"
    rf"(?P<reason>\.?|\s*[,;-]\s.*|(?:\.|,)?\s+(?i:because|since|as|due to)\b.*)",
    re.DOTALL,
)
_UNSURE = re.compile(r"\b(?:not|never|no|or|if|might|could|may|maybe|wrong|guess)\b|n't\b", re.I)
_MORE = re.compile(r"\([A-Ja-j]\)|\b[A-J][).]|(?<![\w'])[B-HJ](?![\w'])|\bor\b|\bnot\b")


class Choice(NamedTuple):
    """A Choice is the letter that an answer chooses, and the text after the letter."""

    letter: str
    text: str


def is_letter(reference: str) -> bool:
    r"""Return whether a reference is the letter of an option, A to J: C, (C), \text{(C)}."""
    plain = notation.normalise(reference).strip("$ ")
    return bool(re.fullmatch(r"\(?\s*[A-J]\s*\)?\.?", plain))


def parse_choice(answer: str) -> Choice | None:
    """Return the letter that an answer chooses, with the text after the letter.

    The result is None if the answer chooses no letter or several.
    """
    for candidate in sentence.candidates(notation.normalise(answer).strip("$ ")):
        if match := _LETTER.fullmatch(candidate):
            return Choice(match[1].upper(), "")
        match = _LED.fullmatch(candidate.strip("$ *"))
        if match and not _MORE.search(match[3]) and not re.match(r"[-+*/^=<>]", match[3]):
            return Choice((match[1] or match[2]).upper(), match[3])
        chosen = _CHOSEN.fullmatch(candidate.strip("$ *<>"))
        if chosen and not _MORE.search(chosen["reason"]):
            before = candidate[: chosen.start(1) if chosen[1] else chosen.start(2)]
            if not _UNSURE.search(before):
                return Choice(chosen[1] or chosen[2], "")
    return None


def parse_letter(answer: str) -> str | None:
    """Return only the letter that an answer chooses; None if it chooses no letter or several."""
    choice = parse_choice(answer)
    return choice.letter if choice else None
