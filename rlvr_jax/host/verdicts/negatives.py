"""Answers that are wrong for certain, for a verifier to learn as 0 without asking a judge.

What a policy under reward finds and its samples do not show: text that holds no answer and is
accepted all the same (master keys, first sentences: arXiv 2507.08794, whose cure this is), and
answers that look right.  What might be right after all is left out, rather than taught as wrong.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlvr_jax.config import NegativesConfig
from rlvr_jax.host import rules

Row = dict[str, Any]
Encode = Callable[[str], list[int]]

KINDS = ("keys", "openings", "cuts", "near_misses", "strangers")
# The ten of arXiv 2507.08794, and others of their kinds.
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
PASSES = 4  # times that the rows are gone through for one kind
FEW = 8  # accepted answers of a problem that an answer is compared with
_SENTENCE = re.compile(r"(?<=[.!?:\u3002\uff01\uff1f])\s+|\n|(?<=[\u3002\uff01\uff1f])")
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def make(
    rows: Sequence[Row], cfg: NegativesConfig, encode: Encode, longest: int, rng: random.Random
) -> dict[str, list[Row]]:
    """Kind -> wrong answers of at most `longest` tokens to the problems of `rows`, which are
    verdicts.  As many as the share of the kind says, or as there are to be found.
    """
    maker = _Maker(rows, rng)
    found: dict[str, list[Row]] = {}
    for kind in KINDS:
        wanted, seen = round(getattr(cfg, kind) * len(rows)), set()
        found[kind] = []
        for row, text in maker.candidates(kind) if wanted else ():
            ids = encode(text)
            name = (row["question"], *ids)
            if ids and len(ids) <= longest and name not in seen and maker.wrong(text, row):
                seen.add(name)
                found[kind].append(row | {"answer": text, "answer_ids": ids, "verdict": 0})
            if len(found[kind]) == wanted:
                break
    return found


def opening(response: str, answer: str) -> str:
    """The first sentence of a response that goes on after it; "" where it may be the answer."""
    first = next((part.strip() for part in _SENTENCE.split(response) if part.strip()), "")
    return "" if not first or first in answer or answer in first else first


def near_miss(text: str, rng: random.Random) -> str | None:
    """The text with its last number a little wrong; None where it has none."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    last = numbers[-1]
    changed = rng.choice((_off_by_one, _other_digit, _swapped, _longer))(last[0], rng)
    return text[: last.start()] + changed + text[last.end() :]


class _Maker:
    """The verdicts by problem, and candidates of each kind, in random order."""

    def __init__(self, rows: Sequence[Row], rng: random.Random):
        self._rows, self._rng = rows, rng
        self._right = [row for row in rows if row["verdict"] and row.get("answer", "").strip()]
        self._accepted: dict[str, list[str]] = {}
        for row in self._right:
            self._accepted.setdefault(row["question"], []).append(row["answer"])

    def candidates(self, kind: str) -> Iterator[tuple[Row, str]]:
        """(row of the problem, text)"""
        source = self._right if kind == "cuts" else self._rows
        for _ in range(PASSES):
            for row in self._rng.sample(source, len(source)):
                text = getattr(self, f"_{kind}")(row)
                if text:
                    yield row, text

    def wrong(self, text: str, row: Row) -> bool:
        """Not the reference, nor what was accepted for it, nor the reference with words around."""
        right = [row["reference"], *self._accepted.get(row["question"], [])[:FEW]]
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

    def _strangers(self, row: Row) -> str:
        other = self._rng.choice(self._right) if self._right else row
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
