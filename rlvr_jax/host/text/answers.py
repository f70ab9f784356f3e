"""Finding the answer in a text: the last box, marker, line or number.

`extract` is what rules and verifiers share: where in a completion the answer stands.  What is
ambiguous is not an answer: every function gives None rather than guess, because a policy that is
rewarded for a guess learns to provoke it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

MAX_TEXT = 4096  # characters of a completion that are looked at, from its end
MAX_NUMBER = 400  # a longer row of digits is not a number
MAX_ANSWER = 1000  # characters of an answer
CODES = 0x30000  # code points that have letters
MARKERS = ("####", "answer:", "answer is:", "<answer>")  # of extract; without case

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


_DENIED = re.compile(
    r"(?:\bnot|n't|\bnever|\\neq?|\\(?:[lg]eq?|[lg]t|not)|[<>\u2260\u2264\u2265]|!=|\bcannot be)"
    r"[\s$(:*]*(?:(?:equal to|equal|be)\s+)?[\s$(\[\\]*$",
    re.I,
)
_TAKEN_BACK = re.compile(
    r"\b(?:no,? wait|wait,? no|scratch that|correction\b|i made (?:a mistake|an error)"
    r"|on second thought|that(?:'s| is) (?:wrong|incorrect|not right)"
    r"|actually,? (?:it|the answer|that)(?:'s| is)?)",
    re.I,
)


def extract(
    text: object, markers: Sequence[str] = MARKERS, last_line_too: bool = True
) -> str | None:
    r"""The final answer of a completion, cleaned; None when there is none to be sure of.

    The last of: \boxed{...}; what follows a marker on its line; <answer>...</answer>; "####" on
    the last line.  Without any, the last line that is not empty, if wanted.  None for a last box or
    tag that is not closed, whatever came before it; for a thought that was never ended; for what
    is denied (not \boxed{42}) or taken back after it; for one that `clean` refuses.
    """
    if not isinstance(text, str):
        return None
    begin = text.rfind("</think>")
    if text.rfind("<think>") > begin:
        return None
    text = tail(text[begin + len("</think>") :] if begin >= 0 else text)
    found = [where for where in (_last_box(text), *_marked(text, markers)) if where is not None]
    if not found:
        return clean(last_line(text)) if last_line_too else None
    _, start, end, answer = max(found, key=lambda where: where[0])
    before = _TAG.sub("", text[max(0, start - 40) : start])
    if answer is None or _DENIED.search(before):
        return None
    return None if _TAKEN_BACK.search(text[end:]) else clean(answer)


Where = tuple[int, int, int, str | None]  # order, start and end in the text, the answer


def _last_box(text: str) -> Where | None:
    found = list(_BOX.finditer(text))
    if not found:
        return None
    start, answer = found[-1].start(), boxed(text)
    return start, start, start + len(answer or "") + len(found[-1][0]), answer


def _marked(text: str, markers: Sequence[str]) -> list[Where]:
    folded, found = text.lower(), []
    if len(folded) != len(text):  # letters whose lower case is two
        folded = text
    for marker in markers:
        at = folded.rfind(marker.lower())
        if at < 0:
            continue
        begin = at + len(marker)
        if marker.startswith("<"):
            end = folded.find("</" + marker[1:].lower(), begin)
            found.append((at, at, max(end, begin), text[begin:end].strip() if end >= 0 else None))
            continue
        after = text[begin:].split("\n")
        line = after[0].strip(" *_")
        if marker == "####" and any(rest.strip() for rest in after[1:]):
            continue  # a heading
        if not line:
            line = next((rest.strip() for rest in after[1:] if rest.strip()), "")
        found.append((at, at, begin + len(after[0]), line))
    return found


def clean(answer: str | None) -> str | None:
    """An answer in composed characters; None for an empty, long or disguised one.

    Refused are control, zero-width and direction marks (but at the ends), lone surrogates, and
    marks that combine with a digit or sign: what a reader sees would not be what is compared.
    """
    if answer is None:
        return None
    answer = answer.strip().strip("\ufeff\u200b\u200e\u200f\u2060").strip()
    if not answer or len(answer) > MAX_ANSWER:
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
def kinds() -> bytes:
    """By code point, what `clean` does with a character: 0 takes it, 1 refuses it, 2 refuses it
    except on a letter that is no ASCII, 3 is such a letter.  Device code reads it as a table.
    """
    found = bytearray()
    for char in map(chr, range(CODES)):
        kind = unicodedata.category(char)
        refused = kind[0] == "C" and char not in "\n\t\r"
        mark = 2 if kind in ("Mn", "Me") else 3 if char.isalpha() and not char.isascii() else 0
        found.append(1 if refused else mark)
    found[-1] = 1  # stands for all that follow
    return bytes(found)


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


def opens_box(text: str) -> bool:
    """Whether a box is begun anywhere in a text."""
    return _BOX.search(text) is not None


def plain(text: str) -> str:
    """Signs, thousands, fractions and fonts of LaTeX and typography as plain characters."""
    for old, new in _SIGNS:
        text = text.replace(old, new)
    text = _DEGREES.sub("", _TAG.sub(" ", _TEXT.sub(r"\1", text)))
    return _FRACTION.sub(lambda m: f"{m[1] or m[3]}/{m[2] or m[4]}", text)
