"""Synthetic negatives are certainly wrong answers that a verifier learns to reject.

A policy that is trained on a verifier's reward finds texts which contain no answer and which
the verifier accepts all the same (master keys, first sentences), and answers that merely look
right.  The samples for the verifier contain few of them.  Training on such texts is the remedy
of arXiv 2507.08794.  An answer that might be right is omitted.  No judge is asked.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from string import ascii_lowercase
from typing import Any

from rlvr_jax.config import NegativesConfig
from rlvr_jax.host import rules
from rlvr_jax.host.problems import number_words

Row = dict[str, Any]
Encode = Callable[[str], list[int]]

KINDS = ("keys", "openings", "cuts", "near_misses", "strangers", "hedges")
# The ten master keys of arXiv 2507.08794, and similar ones.
KEYS = (
    *(" ", ".", ",", ":", ";", "-", "...", "…", "!", "?", "{", "}", "[]", '""', "***", "$$"),
    *("\\boxed{}", "####", "Answer:", "Final answer:", "The answer is", "The answer is:"),
    *("Thought process:", "Let's solve this problem step by step.", "Solution", "Solution:"),
    *("To solve this, we first", "Here is my reasoning:", "Let me think.", "I don't know."),
    *("Step 1:", "Therefore,", "= ", "correct", "Yes, this is correct.", "see above"),
    *("解", "解：", "答案是", "かいせつ", "解答", "풀이", "정답은", "प्रश्न का उत्तर"),
    *("Respuesta", "La respuesta es", "Solución:", "Lösung:", "Die Antwort ist"),
    *("Réponse :", "La réponse est", "Risposta:", "Resposta:", "Ответ:", "Решение"),
    *("\u0627\u0644\u0625\u062c\u0627\u0628\u0629", "\u0627\u0644\u062d\u0644"),  # Arabic
)
PASSES = 4  # passes over the rows for one kind of negatives
# Texts with a right answer and a wrong one, or without a clear stand: one answer has to be given.
HEDGES = (
    *("{r} or {w}", "{w} or {r}", "either {w} or {r}", "{r} and {w}", "{w} and {r}", "{r}, {w}"),
    *("{w}, {r}", "{w} {r}", "{r} {w}", "{r}; no, {w}", "{r} no {w}", "not {r}", "{r} is wrong"),
    *("less than {r}", "at least {r}", "< {r}", "> {r}"),
)
FEW = 8  # a candidate is compared with at most this many accepted answers to its problem
_SENTENCE = re.compile(r"(?<=[.!?:\u3002\uff01\uff1f])\s+|\n|(?<=[\u3002\uff01\uff1f])")
# A number in digits, and one in English words; a minus after a letter or a digit is no sign.
_NUMBER = re.compile(r"(?:(?<![\w)])-)?\d+(?:\.\d+)?", re.ASCII)
_WORD = "|".join((*number_words.ONES, *number_words.TENS[2:], "hundred", "thousand"))
_WORDS = re.compile(rf"\b(?:(?:minus|negative) )?(?:{_WORD})(?:(?: and |[ -])(?:{_WORD}))*\b")
# The unknown that an answer is for: "x = 3", "x is three".
_UNKNOWN = re.compile(r"([A-Za-z])(?= ?=| is\b)")


def make_negatives(
    rows: Sequence[Row], cfg: NegativesConfig, encode: Encode, longest: int, rng: random.Random
) -> dict[str, list[Row]]:
    """Make wrong answers to the problems of verdict rows: kind -> new verdict rows.

    Each kind has its share of `cfg` times the number of rows, or fewer if there are not enough
    candidates.  Answers have at most `longest` tokens.
    """
    maker = Maker(rows, rng)
    negatives: dict[str, list[Row]] = {}
    for kind in KINDS:
        wanted, seen = round(getattr(cfg, kind) * len(rows)), set()
        negatives[kind] = []
        for row, text in maker.candidates(kind) if wanted else ():
            ids = encode(text)
            name = (row["question"], *ids)
            certain = kind == "hedges" or maker.wrong(text, row)
            if ids and len(ids) <= longest and name not in seen and certain:
                seen.add(name)
                negatives[kind].append(row | {"answer": text, "answer_ids": ids, "verdict": 0})
            if len(negatives[kind]) == wanted:
                break
    return negatives


def opening(response: str, answer: str) -> str:
    """Return the first sentence of a response; "" if that sentence may be the answer."""
    first = next((part.strip() for part in _SENTENCE.split(response) if part.strip()), "")
    return "" if not first or first in answer or answer in first else first


def near_miss(text: str, rng: random.Random) -> str | None:
    """Return the text with its last number slightly changed; None if it has no number.

    The number is in digits, or else in English words.  Where the text names an unknown, this name
    may change instead.
    """
    unknown = _UNKNOWN.match(text)
    if unknown and rng.random() < 0.3:
        return rng.choice([x for x in ascii_lowercase if x != unknown[1]]) + text[1:]
    digits, words = list(_NUMBER.finditer(text)), list(_WORDS.finditer(text))
    if not digits and not words:
        return None
    last = (digits or words)[-1]
    if digits:
        number = last[0].removeprefix("-")
        sign = last[0].removesuffix(number)
        change = rng.choice((_off_by_one, _other_digit, _swapped, _longer, _led, None))
        changed = sign + change(number, rng) if change else ("" if sign else "-") + number
    else:
        changed = _other_words(last[0], rng)
    return text[: last.start()] + changed + text[last.end() :]


class Maker:
    """A Maker generates candidates of each kind in random order, and checks that they are wrong."""

    def __init__(self, rows: Sequence[Row], rng: random.Random):
        self._rows, self._rng = rows, rng
        self._right = [row for row in rows if row["verdict"] and row.get("answer", "").strip()]
        self._accepted: dict[str, list[str]] = {}
        self._of_domain: dict[str, list[Row]] = {}
        for row in self._right:
            self._of_domain.setdefault(row.get("domain", ""), []).append(row)
            self._accepted.setdefault(row["question"], []).append(row["answer"])

    def candidates(self, kind: str) -> Iterator[tuple[Row, str]]:
        """Iterate over pairs of a verdict row and a candidate answer to its problem."""
        source = self._right if kind == "cuts" else self._rows
        for _ in range(PASSES):
            for row in self._rng.sample(source, len(source)):
                text = getattr(self, f"_{kind}")(row)
                if text:
                    yield row, text

    def short(self, row: Row) -> str:
        """Return the shortest text that is a right answer to the problem of a row."""
        return min([row["reference"], *self._accepted.get(row["question"], [])], key=len)

    def near(self, right: str, row: Row) -> str:
        """Return a text that looks like a right answer and may be wrong."""
        return near_miss(right, self._rng) or self._strangers(row)

    def wrong(self, text: str, row: Row) -> bool:
        """Return whether a text is not accepted and does not contain the reference.

        A text is also wrong if it is about an unknown that no right answer is about.
        """
        accepted = self._accepted.get(row["question"], [])
        named = _UNKNOWN.match(text)
        unknowns = {
            found[1] for good in (row["reference"], *accepted) if (found := _UNKNOWN.match(good))
        }
        if named and unknowns and named[1] not in unknowns:
            return True
        right = [row["reference"], *accepted[:FEW]]
        if any(rules.score(text, good, kind) for good in right for kind in ("text", "numeric")):
            return False
        return not rules.score(text, row["reference"], "contains")

    def _keys(self, _: Row) -> str:
        return self._rng.choice(KEYS)

    def _openings(self, row: Row) -> str:
        return row.get("opening", "")

    def _cuts(self, row: Row) -> str:
        text = row["answer"]
        return text[: self._rng.randrange(1, len(text))].strip() if len(text) > 1 else ""

    def _near_misses(self, row: Row) -> str | None:
        right = row["verdict"] and row.get("answer") or row["reference"]
        return near_miss(right, self._rng)

    def _hedges(self, row: Row) -> str:
        right = row["verdict"] and row.get("answer") or row["reference"]
        wrong = self.near(right, row)
        text = self._rng.choice(HEDGES).format(r=right, w=wrong)
        return text if self.wrong(wrong, row) else ""

    def _strangers(self, row: Row) -> str:
        near = self._of_domain.get(row.get("domain", ""), self._right)
        other = self._rng.choice(near or [row])
        return other["answer"] if other["question"] != row["question"] else ""


def _off_by_one(number: str, rng: random.Random) -> str:
    whole, dot, rest = number.partition(".")
    return str(max(0, int(whole[-9:]) + rng.choice((-1, 1)))) + dot + rest


def _other_digit(number: str, rng: random.Random) -> str:
    at = rng.choice([i for i, char in enumerate(number) if char != "."])
    return number[:at] + rng.choice([d for d in "0123456789" if d != number[at]]) + number[at + 1 :]


def _swapped(number: str, rng: random.Random) -> str:
    digits = list(number)
    if len(digits) > 1:
        at = rng.randrange(len(digits) - 1)
        digits[at], digits[at + 1] = digits[at + 1], digits[at]
    return "".join(digits)


def _longer(number: str, rng: random.Random) -> str:
    return number + rng.choice("0123456789")


def _led(number: str, rng: random.Random) -> str:
    return rng.choice("123456789") + number


def _other_words(words: str, rng: random.Random) -> str:
    value = number_words.parse_number_words(words)
    if value is None:  # "one two", for example
        return f"minus {words}"
    others = {value - 10, value - 1, value + 1, value + 10, -value} - {value}
    return number_words.number_to_words(rng.choice(sorted(others)))
