"""Synthetic pairs teach a verifier that the form of an answer says nothing about its truth.

A policy writes its answers in few forms, and a verifier that has learned only from them rejects a
right answer in another form, for example in a box (false negatives of verifiers: arXiv 2505.14625).
Each pair has a right answer in one of `FORMS` and a wrong answer in the same form, so that the
form itself tells nothing.  No judge is asked.
"""

import random
from collections.abc import Sequence

from rlvr_jax.host.verdicts.negatives import KEYS, PASSES, Encode, Maker, Row

FORMS = (
    *("{}", "{}.", "= {}", ": {}", "Answer: {}", "answer: {}", "**{}**", "*{}*", "`{}`", "${}$"),
    *("The answer is {}.", "the answer is {}", "The answer is: {}", "It is {}.", "So it is {}."),
    *("Therefore, {}", "Final answer: {}", "Result: {}", "#### {}", "<answer>{}</answer>"),
    *(r"\boxed{{{}}}", r"$\boxed{{{}}}$", r"\boxed{{{}}}.", r"\[\boxed{{{}}}\]"),
    *(r"The answer is \boxed{{{}}}.", r"So the answer is $\boxed{{{}}}$.", r"\text{{{}}}"),
    *("Let us see.\n{}", "We look at it.\n{}", "Step 1: think.\n{}", "({})", "[{}]", '"{}"'),
)
# Of the wrong answers, these shares leave the box open, and from there on say nothing.
OPEN, EMPTY = 0.15, 0.5


def make_forms(
    rows: Sequence[Row], share: float, encode: Encode, longest: int, rng: random.Random
) -> list[Row]:
    """Make pairs of a right and a wrong answer in the same form from verdict rows.

    Returns new verdict rows, the right answer of a pair before the wrong one: `share` times the
    number of rows pairs, or fewer if there are not enough candidates.  Answers have at most
    `longest` tokens.
    """
    maker, wanted = Maker(rows, rng), round(share * len(rows))
    pairs: list[Row] = []
    seen: set[tuple] = set()
    for _ in range(PASSES if wanted else 0):
        for row in rng.sample(rows, len(rows)):
            if len(pairs) == 2 * wanted:
                return pairs
            form = rng.choice(FORMS)
            texts = _fill(form, row, maker, rng)
            ids = [encode(text) for text in texts]
            if (row["question"], form) in seen or not all(0 < len(x) <= longest for x in ids):
                continue
            seen.add((row["question"], form))
            for text, own, verdict in zip(texts, ids, (1, 0), strict=True):
                pairs.append(row | {"answer": text, "answer_ids": own, "verdict": verdict})
    return pairs


def _fill(form: str, row: Row, maker: Maker, rng: random.Random) -> tuple[str, str]:
    """Return a form around a right answer, and around a wrong one; "" if that may be right.

    The wrong one is a near miss, says nothing, or is the right one in a box that is not closed.
    """
    right, spelled, draw = maker.short(row), rng.choice((str, _capital)), rng.random()
    inside = spelled(right)
    whole = form.format(inside)
    if draw < OPEN and ("boxed" in form or "</" in form):
        return whole, whole[: whole.rindex(inside) + len(inside)]
    wrong = rng.choice(("", *KEYS)) if draw < EMPTY else maker.near(right, row)
    return whole, form.format(spelled(wrong)) if maker.wrong(wrong, row) else ""


def _capital(text: str) -> str:
    """Return a text with a capital, if it begins with a word; a letter alone may be a name."""
    word = text[:2].isalpha() and text[:2].islower()
    return text[:1].upper() + text[1:] if word else text
