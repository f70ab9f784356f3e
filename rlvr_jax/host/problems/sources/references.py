r"""This module reads the reference answer of a row, and refuses one that no answer can equal.

Such a reference would earn 0 for every answer, and nobody would see why.  Refused are words for a
missing answer (`nan`, `proof`), LaTeX that lost a backslash (a form feed and `rac{1}{2}`), text
with invisible characters, and text that is too long.
"""

from __future__ import annotations

import json
import math
import re
import struct
import unicodedata
from typing import Any

from rlvr_jax.host.text import answers

# What programs and data sets write where there is no answer, in upper or lower case.  `None` counts
# only as written here, because "none" may be an answer.
MISSING = frozenset(
    "nan null nil n/a <na> #n/a nat proof notfound not_found not-found unanswerable tbd "
    "todo ? ... \u2026".split()
) | {"not found", "no answer", "not available", "see solution"}
MISSING_AS_WRITTEN = frozenset({"None", "NONE", "NA"})

# A backslash escape that a parser has read -> what then is left of LaTeX commands.
_LOST = {
    "\a": "lpha|ngle|pprox|rc(?:sin|cos|tan)",
    "\b": "eta|egin|ar|inom|oxed|ullet|mod|ig|oldsymbol",
    "\t": r"imes|heta|frac|riangle|herefore|ilde|ext(?:bf|it)?(?=\{)|binom|a[un](?=\s*[\\_^(=])",
    "\v": "ec|ar(?:phi|epsilon)|ee|dots|ert",
    "\f": "rac|orall|lat",
    "\r": "ight|angle|ho|floor|ceil|brace|brack|vert",
}
_EATEN = re.compile("|".join(f"{escape}(?:{rest})(?![A-Za-z])" for escape, rest in _LOST.items()))
_EATEN_LINE = re.compile(r"\n(?:eq|abla|otin|leq|geq)(?![A-Za-z])(?=[ {\\^_\d])")
_BARE = re.compile(r"(?<![\\A-Za-z])(?:[dtc]?frac|rac|sqrt|qrt|boxed|oxed|binom|inom)\s*\{")
_MARKER = re.compile(r"(?<!#)####(?!#)")
_THOUSANDS = re.compile(r"[-+]?\s?\$?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?\s?%?(?: [^\W\d]+)?")
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]{8,}")
# Scripts in which joiners or zero-width spaces are part of the spelling.
_JOINED = tuple(
    "ARABIC SYRIAC DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA MALAYALAM "
    "SINHALA THAI LAO KHMER MYANMAR TIBETAN MONGOLIAN".split()
)
_JOINERS = "\u200b\u200c\u200d"


def parse_reference(value: Any) -> str:
    r"""Return a row's reference answer as text; "" if there is none.

    A list with one element gives that element. Other lists, and numbers, give their JSON text. A
    text with a \boxed{} gives its final answer, as `parse_final_answer` finds it.

    Raises:
      ValueError: the reference is an object, a number that is not finite, has no JSON text, or
        cannot be right for any answer.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == []:
        return ""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"its reference is {value}: give a number or a text.")
        value = without_noise(value)
        value = int(value) if value.is_integer() else value
    if isinstance(value, dict):
        raise ValueError("its reference is an object: give a number or a text.")
    if isinstance(value, str):
        return _parse_text(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise ValueError(f"its reference cannot be text ({error}): give a text.") from error


def parse_choices(value: Any) -> list[str]:
    """Return the accepted answers of a list of several; [] if the value is no such list.

    A list with an element that is no reference by itself, such as a list of lists, is none.
    """
    if not isinstance(value, list) or len(value) < 2 or any(isinstance(x, list) for x in value):
        return []
    try:
        found = [parse_reference(x) for x in value]
    except ValueError:
        return []
    return list(dict.fromkeys(filter(None, found)))


def parse_final_answer(solution: str) -> str:
    r"""Return the final answer of a worked solution.

    The answer is the text after #### in the last line, or else the content of the last \boxed{}. A
    line that begins with #### and has text below it is a Markdown heading. A text that has headings
    but no box gives its last line. A text without ####, and without a box, is itself the answer.

    Raises:
      ValueError: the last box is not closed, or it is not clear whether a line is a heading.
    """
    text = solution.strip()
    marked = _marked(text)
    box = answers.boxed(text if marked is None else marked)
    if box is not None:
        return box
    if answers.opens_box(text if marked is None else marked):
        raise ValueError(r"its last \boxed{ is not closed: repair it or leave the row out.")
    if marked is not None:
        return marked.replace(",", "") if _THOUSANDS.fullmatch(marked) else marked
    return answers.last_line(text) if _MARKER.search(text) else text


def has_final_answer(text: str) -> bool:
    r"""Return whether a text is a worked solution that marks its final answer by #### or a box."""
    return _MARKER.search(text) is not None or answers.opens_box(text)


def check_backslashes(name: str, text: str) -> None:
    r"""Refuse a text in which an escape took a backslash away: \frac as a form feed and "rac".

    Raises:
      ValueError: a backslash is lost; the message calls the text `name`.
    """
    if match := _EATEN.search(text):
        rest = re.match(r"\w*", text[match.start() + 1 :])
        raise ValueError(
            f"its {name} has {match[0][0]!r} before {rest[0] if rest else ''!r}, where LaTeX lost "
            "a backslash: write two backslashes in JSON."
        )


def without_noise(value: float) -> float:
    """Return a float without binary noise: the short decimal number that the float stands for.

    That is the number whose 32-bit float was printed with more digits (0.30000001192 for 0.3), or
    whose 64-bit float is one rounding away (0.30000000000000004).
    """
    digits = len(re.sub(r"e.*|\D", "", repr(abs(value))).lstrip("0"))
    if digits < 9 or not abs(value) < 1e30:
        return value
    for length in range(1, 7):
        short = float(f"{value:.{length}g}")
        single: float = struct.unpack("f", struct.pack("f", short))[0]
        if float(f"{single:.{digits}g}") == value:
            return short
    short = float(f"{value:.9g}")
    return short if digits > 15 and abs(short - value) <= 4 * math.ulp(value) else value


def _parse_text(raw: str) -> str:
    """Return the reference of a text; ValueError if no answer can equal it."""
    check_backslashes("reference", raw)
    if _EATEN_LINE.search(raw) or _BARE.search(raw):
        raise ValueError("its reference has LaTeX that lost a backslash: repair it.")
    text = _unlisted(_trimmed(raw))
    if answers.opens_box(text):
        text = _trimmed(parse_final_answer(text))
    if _DECIMAL.fullmatch(text) and (short := without_noise(float(text))) != float(text):
        text = str(int(short) if short.is_integer() else short)
    if text.casefold() in MISSING or text in MISSING_AS_WRITTEN:
        raise ValueError(f"its reference is {text!r}, which is no answer: leave the row out.")
    _check_visible(text)
    is_long = len(text) > answers.MAX_TEXT and "\n" not in text and text[:1] not in "[{"
    if is_long:
        raise ValueError(
            f"its reference has {len(text)} characters and rules read {answers.MAX_TEXT} of an "
            "answer: shorten it or leave the row out."
        )
    return text


def _trimmed(text: str) -> str:
    """Return a text without white space and invisible characters at its ends."""
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(char: str) -> bool:
    # The number signs of Arabic are of the category Cf and visible; tags end the emoji of a flag.
    invisible = unicodedata.category(char) == "Cf" and "SIGN" not in unicodedata.name(char, "")
    return char.isspace() or invisible and not 0xE0000 <= ord(char) < 0xE0080


def _check_visible(text: str) -> None:
    """Refuse characters that nobody sees and that spelling does not need."""
    for at, char in enumerate(text):
        kind = unicodedata.category(char)
        if kind == "Cc":
            odd = char not in "\n\r\t" or "\n" not in text
        else:
            odd = kind == "Cf" and _is_blank(char) and not _joins(text, at)
        if odd and char != "\0":  # NUL has a message of its own
            raise ValueError(
                f"its reference has the invisible character U+{ord(char):04X}: remove it."
            )


def _joins(text: str, at: int) -> bool:
    """Return whether the character at a place is a joiner of a script that is written with it."""
    around = [unicodedata.name(char, "") for char in text[max(0, at - 1) : at + 2]]
    if text[at] == "\u200d" and unicodedata.category(text[at + 1]) == "So":
        return True  # an emoji of several
    return text[at] in _JOINERS and any(name.startswith(_JOINED) for name in around)


def _unlisted(text: str) -> str:
    """Replace the text of a JSON list with one element by that element."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    element = value[0] if isinstance(value, list) and len(value) == 1 else None
    return str(element).strip() if isinstance(element, str | int | float) else text


def _marked(text: str) -> str | None:
    """Return what stands behind the last ####; None if that is a heading, or there is none."""
    places = list(_MARKER.finditer(text))
    if not places:
        return None
    line, _, below = text[places[-1].end() :].partition("\n")
    answer, below = line.strip(), below.strip()
    if not answer and "\n" not in below:
        answer, below = below, ""
    if not below:
        return answer
    if not answer or answers.number(answer) is not None:
        raise ValueError(
            f"text follows its line '#### {answer}', which may be a heading or the answer: let the "
            "answer be the last line."
        )
    return None
