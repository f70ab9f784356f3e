r"""Find the final answer of a completion: its last box, marked line, tag or line.

`extract` is shared by all rules and verifiers: it decides where in a completion the answer stands.
The other functions return a number, a line or the content of a \boxed{} of a text.  An ambiguous
text has no answer: every function returns None rather than guess, because a policy that is rewarded
for a guess learns to provoke guesses.

`extract.py` makes the same choice on the device; the words that both look for stand in `markers`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from rlvr_jax.markers import (
    BOXES,
    DENIAL_REACH,
    DENIED_VERBS,
    DENYING_COMMANDS,
    DENYING_ENDINGS,
    DENYING_SIGNS,
    DENYING_WORDS,
    HEADING,
    LETTER,
    LONGEST_ANSWER,
    MARK,
    MARKERS,
    PLAIN,
    REFUSED,
    SEARCHED,
    TAKEN_BACK,
    TAKEN_BACK_WHOLE,
    THINK_CLOSE,
    THINK_OPEN,
)

MAX_TEXT = SEARCHED  # characters of the end of a completion in which an answer may stand
MAX_NUMBER = 400  # a longer row of digits is not a number
CODES = 0x30000  # number of code points in `character_kinds`; none above is a letter

_NUMBER = re.compile(
    r"([+-]?)\$?((?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?|\.[0-9]+)(?:/([0-9]+))?%?"
)
_FRACTION = re.compile(r"\\frac(?:\{(-?\d+)\}\{(\d+)\}|(\d)(\d))", re.ASCII)
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}")
_TAG = re.compile(r"</?[A-Za-z]\w*>")
_DEGREES = re.compile(r"\^\{?\\circ\}?")
_NAMED = re.compile(r"[A-Za-z]\s*=\s*")  # x = 5
_UNIT = re.compile(r"[A-Za-z%\s.]*")
_SIGNS = (
    *(("\u2212", "-"), ("\u2013", "-"), ("{,}", ","), ("\\,", ","), ("\\%", "%"), ("\\$", "$")),
    *(("\\boxed{", " "), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac")),
    *(("\\(", ""), ("\\)", ""), ("\u20ac", "$"), ("\u00a3", "$")),
)
_WRAPS = "*_`\"'$()[]{}<>~\u2248\\.,;:!?#|"
_LEAD = re.compile(r"(?:the )?(?:final )?answer(?: is)?\s*[:=]?\s+|(?:final )?answer\s*[:=]", re.I)


def _any_of(words: Iterable[str], before: str = "", after: str = "") -> str:
    """Return a pattern that matches any of the words, each between two other patterns."""
    return "|".join(before + re.escape(word) + after for word in words)


_BOX = re.compile(rf"(?:{_any_of(BOXES)})(?:\s*(\{{)|\s)")
_DENIAL = "|".join(
    [
        _any_of(DENYING_WORDS, before=r"\b"),
        _any_of((*DENYING_ENDINGS, *DENYING_COMMANDS, *DENYING_SIGNS)),
    ]
)
_DENIED = re.compile(  # the end of the text before a marker
    rf"(?:{_DENIAL})[\s$(:*]*(?:(?:{_any_of(DENIED_VERBS)})\s+)?[\s$(\[\\]*$", re.I
)
_PHRASES = "|".join([_any_of(TAKEN_BACK), _any_of(TAKEN_BACK_WHOLE, after=r"\b")])
_TAKEN_BACK = re.compile(rf"\b(?:{_PHRASES})", re.I)


class Marked(NamedTuple):
    """A marker in a text and the answer that it marks."""

    start: int
    end: int  # from here on, the text may take the answer back
    answer: str | None  # None for an answer that is not closed


def tail(text: str) -> str:
    """Return the last MAX_TEXT characters, without a first word that the cut may have split."""
    if len(text) <= MAX_TEXT:
        return text
    cut = re.search(r"\s", text := text[-MAX_TEXT:])
    return text[cut.end() :] if cut else ""


def extract(
    text: object, markers: Sequence[str] = MARKERS, last_line_too: bool = True
) -> str | None:
    r"""Return the final answer of a completion, cleaned; None if there is no certain answer.

    The answer is the last of: \boxed{...}; the rest of a line after a marker;
    <answer>...</answer>; the rest of the last line after "####".  Without any of them it is the
    last non-empty line, unless `last_line_too` is False.

    There is no answer if the last box or tag is not closed, whatever came before; if the text ends
    inside <think>; if the answer is denied (not \boxed{42}) or taken back after it; and if `clean`
    refuses it.
    """
    if not isinstance(text, str):
        return None
    begin = text.rfind(THINK_CLOSE)
    if text.rfind(THINK_OPEN) > begin:
        return None
    text = tail(text[begin + len(THINK_CLOSE) :] if begin >= 0 else text)
    marked = _marked_answers(text, markers)
    if not marked:
        return clean(last_line(text)) if last_line_too else None
    last = max(marked, key=lambda each: each.start)
    before = _TAG.sub("", text[max(0, last.start - DENIAL_REACH) : last.start])
    if last.answer is None or _DENIED.search(before):
        return None
    return None if _TAKEN_BACK.search(text[last.end :]) else clean(last.answer)


def _marked_answers(text: str, markers: Sequence[str]) -> list[Marked]:
    """Return the last box and the last place of each marker."""
    boxes = list(_BOX.finditer(text))
    marked = []
    if boxes:
        start, answer = boxes[-1].start(), boxed(text)
        marked.append(Marked(start, start + len(answer or "") + len(boxes[-1][0]), answer))
    folded = text.lower()
    if len(folded) != len(text):  # the lower case of some letters is two characters
        folded = text
    for marker in markers:
        at = folded.rfind(marker.lower())
        if at < 0:
            continue
        begin = at + len(marker)
        if marker.startswith("<"):
            end = folded.find("</" + marker[1:].lower(), begin)
            answer = text[begin:end].strip() if end >= 0 else None
            marked.append(Marked(at, max(end, begin), answer))
            continue
        lines = text[begin:].split("\n")
        if marker == HEADING and any(line.strip() for line in lines[1:]):
            continue
        answer = lines[0].strip(" *_")
        if not answer:
            answer = next((line.strip() for line in lines[1:] if line.strip()), "")
        marked.append(Marked(at, begin + len(lines[0]), answer))
    return marked


def clean(answer: str | None) -> str | None:
    """Return an answer in composed characters (NFC); None if it is empty, long or disguised.

    In a disguised answer, a reader does not see what is compared: it holds control, zero-width or
    direction characters (but at its ends), lone surrogates, or marks that combine with a digit or
    a sign.
    """
    if answer is None:
        return None
    answer = answer.strip().strip("\ufeff\u200b\u200e\u200f\u2060").strip()
    if not answer or len(answer) > LONGEST_ANSWER:
        return None
    answer = unicodedata.normalize("NFC", answer)
    before = ""
    for char in answer:
        kind = unicodedata.category(char)
        if kind[0] == "C" and char not in "\n\t\r" or kind in ("Mn", "Me") and not before.isalpha():
            return None
        if kind in ("Mn", "Me") and before.isascii():
            return None
        before = char
    return answer


@functools.cache
def character_kinds() -> bytes:
    """Return the kind of each code point for `clean`: markers.PLAIN, REFUSED, MARK or LETTER.

    Device code uses these CODES bytes as a table.  The last one stands for all code points above.
    """
    table = bytearray()
    for char in map(chr, range(CODES)):
        category = unicodedata.category(char)
        kind = PLAIN
        if category[0] == "C" and char not in "\n\t\r":
            kind = REFUSED
        elif category in ("Mn", "Me"):
            kind = MARK
        elif char.isalpha() and not char.isascii():
            kind = LETTER
        table.append(kind)
    table[-1] = REFUSED
    return bytes(table)


def number(text: str) -> Fraction | None:
    """Return the number that the whole text is, such as 12, -1,000.50, $3, 7% or 3/4, else None.

    A percent sign and a dollar sign do not change the value.
    """
    match = _NUMBER.fullmatch(plain(text).strip("$ \t\n")) if len(text) <= MAX_NUMBER else None
    if match is None or match[3] and not int(match[3]):
        return None
    value = Fraction(match[1] + match[2].replace(",", "")) / int(match[3] or 1)
    return value


def last_number(text: str) -> str | None:
    """Return the last word with a digit if it is a number, as plain text without commas.

    There is no answer if that word is no number ("12cm", "1e9", digits of other scripts): an
    earlier number must not stand in for it.
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
    """Return whether a word is the rest of a number that began before it: 3 1/2, 1 000."""
    return before.isdecimal() and ("/" in word or bool(re.fullmatch("[0-9]{3}", word)))


def only_number(text: str) -> str | None:
    """Return the one number of a box, as plain text, without a name before or a unit behind it.

    None for a list, a choice or an expression: a box holds one answer.
    """
    text = _NAMED.sub("", plain(text).strip("$ \t\n"), count=1)
    for cut in range(len(text), 0, -1):
        if number(text[:cut]) is not None:
            if not _UNIT.fullmatch(text[cut:]):
                return None
            return text[:cut].strip().strip("$%").replace(",", "")
    return None


def last_line(text: str) -> str:
    """Return the last non-empty line, stripped; "" if there is none."""
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def bare(line: str) -> str:
    """Return a line without "Answer:", quotes, emphasis and final period."""
    for _ in range(3):
        line = line.strip().strip("*_`\"'").rstrip(".").strip().strip("*_`\"'")
        lead = _LEAD.match(line)
        line = line[lead.end() :] if lead else line
    return line.strip()


def boxed(text: str) -> str | None:
    r"""Return the content of the last \boxed{} or \boxed x, or None if it is not closed.

    Braces inside a box are balanced.  A box without braces ends at the next dollar sign.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    rest = text[boxes[-1].end() :]
    if not boxes[-1][1]:
        return rest.partition("$")[0].strip() or None
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", rest, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return rest[: brace.start()].strip()
    return None


def opens_box(text: str) -> bool:
    r"""Return whether a \boxed or \fbox begins anywhere in a text."""
    return _BOX.search(text) is not None


def plain(text: str) -> str:
    """Return a text with LaTeX and typographic signs, fractions and fonts as plain characters."""
    for old, new in _SIGNS:
        text = text.replace(old, new)
    text = _DEGREES.sub("", _TAG.sub(" ", _TEXT.sub(r"\1", text)))
    return _FRACTION.sub(lambda m: f"{m[1] or m[3]}/{m[2] or m[4]}", text)
