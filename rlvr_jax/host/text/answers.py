r"""Find the final answer of a completion: its last box, marked line, tag or line.

`extract` is shared by all rules and verifiers: it decides where in a completion the answer stands.
The other functions return a number, a line or the content of a \boxed{} of a text.  An ambiguous
text has no answer: a function that looks for an answer returns None rather than guess, because a
policy that is rewarded for a guess learns to provoke guesses.

`extract.py` makes the same choice on the device; `markers` holds the words that both look for.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from rlvr_jax import markers as words
from rlvr_jax.markers import HEADING, LONGEST_ANSWER, MARKERS, SEARCHED

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
_SIGNS = (
    *(("\u2212", "-"), ("\u2013", "-"), ("{,}", ","), ("\\,", ","), ("\\%", "%"), ("\\$", "$")),
    *(("\\boxed{", " "), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac")),
    *(("\\(", ""), ("\\)", "")),
)
# Arabic and Syriac, the scripts of India and Sri Lanka, Tibetan, Burmese, Khmer, Mongolian.
_JOINING_SCRIPTS = ((0x600, 0x8FF), (0x900, 0xDFF), (0xF00, 0x109F), (0x1780, 0x18AF))
_WRAPS = "*_`\"'$()[]{}<>~\u2248\\.,;:!?#|"
_NOUNS = "|".join(  # "the answer" in other languages
    (
        "r\u00e9ponse respuesta resposta risposta antwort ergebnis r\u00e9sultat resultado "
        "risultato wynik odpowied\u017a cevap antwoord svar jawaban "
        "\u043e\u0442\u0432\u0435\u0442 "
        "\u0432\u0456\u0434\u043f\u043e\u0432\u0456\u0434\u044c "
        "\u03b1\u03c0\u03ac\u03bd\u03c4\u03b7\u03c3\u03b7 \u0909\u0924\u094d\u0924\u0930 "
        "\u0989\u09a4\u09cd\u09a4\u09b0 \u0627\u0644\u062c\u0648\u0627\u0628 "
        "\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u067e\u0627\u0633\u062e "
        "\u062c\u0648\u0627\u0628 \u05ea\u05e9\u05d5\u05d1\u05d4 "
        "\u0e04\u0e33\u0e15\u0e2d\u0e1a \ub2f5 \uc815\ub2f5 \u0111\u00e1p"
    ).split()
)
_SAID = (  # before the answer in other languages
    "(?:\u6700\u7ec8|\u6700\u7d42|\u6b63\u786e|\u6b63\u78ba|\u6240\u4ee5|\u56e0\u6b64|\u6545)?\uff0c?"
    "(?:\u7b54\u6848|\u7b54\u3048|\u7d50\u679c|\u7ed3\u679c|\u7b54)"
    "(?:[\u9009\u9078\u662f\u4e3a\u70ba\u306f]|\\s*[:\uff1a])+"
    f"|(?:la |die |das |der |a |o )?(?:{_NOUNS})(?: \u00e1n| s\u1ed1| final)?"
    "(?:\\s*[:\uff1a=]|\\s+(?:est|es|ist|\u00e8|\u00e9|jest)\\s*:?\\s|\\s+-\\s)"
)
LEAD = re.compile(
    r"(?:final )?answer\s+[-\u2013\u2014]\s+"
    r"|(?:the )?(?:final |correct )?answer(?: is)?\s*[:=]?\s+|(?:final )?answer\s*[:=]"
    rf"|(?:{_SAID})\s*",
    re.I,
)


def _any_of(phrases: Iterable[str], before: str = "", after: str = "") -> str:
    """Return a pattern that matches any of the phrases, each between two other patterns."""
    return "|".join(before + re.escape(phrase) + after for phrase in phrases)


_BOX = re.compile(rf"(?:{_any_of(words.BOXES)})(?:\s*(\{{)|\s)")
_DENIAL = "|".join(
    [
        _any_of(words.DENYING_WORDS, before=r"\b"),
        _any_of((*words.DENYING_ENDINGS, *words.DENYING_COMMANDS, *words.DENYING_SIGNS)),
    ]
)
_DENIED = re.compile(  # the end of the text before a marker
    rf"(?:{_DENIAL})[\s$(:*]*(?:(?:{_any_of(words.DENIED_VERBS)})\s+)?[\s$(\[\\]*$", re.I
)
_DENIED_BEHIND = re.compile(  # the beginning of the text behind an answer
    rf"[\s$*.,;:)\]\\}}]{{0,{words.DENYING_GAP}}}(?:{_any_of(words.DENYING_BEHIND)})\b",
    re.I | re.ASCII,
)
_JOINED = re.compile(  # what lies between two boxes of which neither is the answer
    rf"[\s$*]*(?:\\?[)\]])?[\s$*]*\b(?:{_any_of(words.JOINING_WORDS)})\s[\s$(\[\\]*",
    re.I | re.ASCII,
)
_PHRASES = "|".join([_any_of(words.TAKEN_BACK), _any_of(words.TAKEN_BACK_WHOLE, after=r"\b")])
_TAKEN_BACK = re.compile(rf"\b(?:{_PHRASES})(?!{_any_of(words.TAKING_NOTHING_BACK)})", re.I)
_UPPER_ASCII = {code: code + 32 for code in range(65, 91)}


class Marked(NamedTuple):
    """A Marked is a marker in a text, with the answer that it marks."""

    start: int
    end: int  # from this place on, later text may take the answer back
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

    An answer is marked by a \boxed{...}, by a marker such as "answer:" (the rest of the line is the
    answer), by <answer>...</answer>, or by "####" on the last line.  The last marked answer counts.
    Without any of them the answer is the last non-empty line, unless `last_line_too` is False.

    There is no answer if the last box or tag is not closed, whatever came before; if the text ends
    inside <think>; if the answer is denied (not \boxed{42}, \boxed{42} is wrong), is one of two
    (\boxed{41} or \boxed{42}) or is taken back by later text; and if `clean` refuses it.
    """
    if not isinstance(text, str):
        return None
    begin = _thought_end(text)
    if begin is None:
        return None
    text = tail(text[begin:])
    marked = _marked_answers(text, markers)
    if not marked:
        return clean(last_line(text)) if last_line_too else None
    last = max(marked, key=lambda each: each.start)
    before = _TAG.sub("", text[max(0, last.start - words.DENIAL_REACH) : last.start])
    if last.answer is None or _DENIED.search(before) or _is_one_of_two(text, last):
        return None
    behind = text[last.end :]
    denied = _DENIED_BEHIND.match(behind) or _TAKEN_BACK.search(behind)
    return None if denied else clean(last.answer)


def _folded(text: str) -> str:
    """Return a text with ASCII letters in lower case: the device folds no others."""
    return text.lower() if text.isascii() else text.translate(_UPPER_ASCII)


def _thought_end(text: str) -> int | None:
    """Return where the text after the last thought begins; None if the text ends in a thought."""
    folded, begin, opened = _folded(text), 0, -1
    for opening, closing in words.THOUGHTS:
        at = folded.rfind(closing)
        begin = max(begin, at + len(closing)) if at >= 0 else begin
        opened = max(opened, folded.rfind(opening))
    return None if opened >= begin else begin


def _is_one_of_two(text: str, last: Marked) -> bool:
    r"""Return whether a box is joined to the box before it: \boxed{41} or \boxed{42}."""
    before = text[: last.start]
    boxes = list(_BOX.finditer(before)) if _BOX.match(text, last.start) else []
    content = boxed(before) if boxes and boxes[-1][1] else None
    if content is None:
        return False
    end = before.index("}", boxes[-1].end() + len(content.rstrip()))
    return _JOINED.fullmatch(before, end + 1) is not None


def _marked_answers(text: str, markers: Sequence[str]) -> list[Marked]:
    """Return the last box and the last occurrence of each marker, with their answers."""
    boxes = list(_BOX.finditer(text))
    marked = []
    if boxes:
        start, answer = boxes[-1].start(), boxed(text)
        marked.append(Marked(start, start + len(answer or "") + len(boxes[-1][0]), answer))
    folded = _folded(text)
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
    """Return an answer in composed characters (NFC); None if it is empty, too long or disguised.

    An answer is too long if it has more than LONGEST_ANSWER characters.  In a disguised answer, a
    reader does not see what is compared: it holds control, zero-width or direction characters, lone
    surrogates, marks that combine with a digit or a sign, or joiners in a script that is not
    spelled with them.  Zero-width and direction characters at the ends of an answer are removed
    first.
    """
    if answer is None:
        return None
    answer = answer.strip().strip("\ufeff\u200b\u200e\u200f\u2060").strip()
    if not answer or len(answer) > LONGEST_ANSWER:
        return None
    answer = unicodedata.normalize("NFC", answer)
    kinds = [character_kind(char) for char in answer]
    for before, kind, after in zip([-1, *kinds], kinds, [*kinds[1:], -1], strict=False):
        if kind == words.REFUSED:
            return None
        keycap = kind == words.SELECTOR and before == words.PLAIN and after == words.KEYCAP
        if kind in words.BEHIND and before not in words.BEHIND[kind] and not keycap:
            return None
    return answer


@functools.lru_cache(4096)
def character_kind(char: str) -> int:
    """Return the kind of a character: PLAIN, REFUSED, LETTER or another kind of `markers`."""
    code, category = ord(char), unicodedata.category(char)
    special = {0x200C: words.JOINER, 0x200D: words.JOINER, 0x20E3: words.KEYCAP}
    special |= {0xFE0E: words.SELECTOR, 0xFE0F: words.SELECTOR}
    if code in special:
        return special[code]
    if category[0] == "C" and char not in "\n\t\r" or _is_invisible_mark(code):
        return words.REFUSED
    joining = any(first <= code <= last for first, last in _JOINING_SCRIPTS)
    if category in ("Mn", "Me"):
        return words.JOINING_MARK if joining else words.MARK
    if code > 127 and (char.isalpha() or category == "Mc"):
        return words.JOINING if joining else words.LETTER
    is_symbol = code > 0xFF and category == "So" or 0x2190 <= code <= 0x2BFF
    return words.EMOJI if is_symbol or 0x1F3FB <= code <= 0x1F3FF else words.PLAIN


def _is_invisible_mark(code: int) -> bool:
    """Return whether a combining mark has no shape of its own: a grapheme joiner, a selector."""
    return code in (0x34F, 0x17B4, 0x17B5) or 0xFE00 <= code <= 0xFE0D or 0x180B <= code <= 0x180F


@functools.cache
def character_kinds() -> bytes:
    """Return the `character_kind` of each code point, as a table for device code.

    The table has CODES bytes, one for each code point.  Its last byte also stands for all code
    points from CODES on.
    """
    table = bytearray(character_kind.__wrapped__(chr(code)) for code in range(CODES))
    table[-1] = words.REFUSED
    return bytes(table)


def number(text: str) -> Fraction | None:
    """Return the number that a whole text is, such as 12, -1,000.50, $3, 7% or 3/4; else None.

    A percent sign and a dollar sign do not change the value.
    """
    match = (
        _NUMBER.fullmatch(_with_dollars(text).strip("$ \t\n")) if len(text) <= MAX_NUMBER else None
    )
    if match is None or match[3] and not int(match[3]):
        return None
    value = Fraction(match[1] + match[2].replace(",", "")) / int(match[3] or 1)
    return value


def last_number(text: str) -> str | None:
    """Return the last word with a digit if the word is a number, as plain text without commas.

    The result is None if that word is no number ("12cm", "1e9", digits of other scripts): an
    earlier number must not stand in for it.
    """
    words = [word for word in re.split(r"[\s=]+|(?<!\d):", _with_dollars(text)) if word]
    for at in range(len(words) - 1, -1, -1):
        if any(char.isnumeric() for char in words[at]):
            word = words[at].strip(_WRAPS).lstrip("$").rstrip("%")
            before = words[at - 1].strip(_WRAPS) if at else ""
            if number(word) is None or _continues(before, word):
                return None
            return word.replace(",", "").replace("$", "")
    return None


def _with_dollars(text: str) -> str:
    """Return a text in plain characters with one sign for all currencies: it changes no value."""
    return plain(text).replace("\u20ac", "$").replace("\u00a3", "$")


def _continues(before: str, word: str) -> bool:
    """Return whether a word is the rest of a number that began before it: 3 1/2, 1 000."""
    return before.isdecimal() and ("/" in word or bool(re.fullmatch("[0-9]{3}", word)))


def last_line(text: str) -> str:
    """Return the last non-empty line of a text, stripped; "" if there is none."""
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def bare(line: str) -> str:
    """Return a line without "Answer:", quotes, emphasis and final period."""
    for _ in range(3):
        line = line.strip().strip("*_`\"'").rstrip(".").strip().strip("*_`\"'")
        lead = LEAD.match(line)
        line = line[lead.end() :] if lead else line
    return line.strip()


def opens_box(text: str) -> bool:
    r"""Return whether a text begins a box, such as \boxed{, anywhere."""
    return _BOX.search(text) is not None


def boxed(text: str) -> str | None:
    r"""Return the content of the last \boxed{} or \boxed x of a text, or None.

    Braces inside a box are balanced.  A box without braces ends at the next dollar sign.  The
    result is None if there is no box, or if the last box is not closed or, without braces, empty.
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


def plain(text: str) -> str:
    """Rewrite LaTeX and typographic signs, fractions and fonts of a text in plain characters.

    Tags such as <b> become blanks, and degree signs of LaTeX are removed.
    """
    for old, new in _SIGNS:
        text = text.replace(old, new)
    text = _DEGREES.sub("", _TAG.sub(" ", _TEXT.sub(r"\1", text)))
    return _FRACTION.sub(lambda m: f"{m[1] or m[3]}/{m[2] or m[4]}", text)
