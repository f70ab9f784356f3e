"""Synthetic pairs teach a verifier that the form of an answer says nothing about its truth.

A policy writes its answers in few forms, and a verifier that has learned only from them rejects a
right answer in another form, for example in a box (false negatives of verifiers: arXiv 2505.14625).
Each pair has a right answer in one of `FORMS` and a wrong answer in the same form, so that the
form itself tells nothing.  No judge is asked.
"""

import random
from collections.abc import Sequence

from rlvr_jax.host.verdicts.negatives import PASSES, Encode, Maker, Row

FORMS = (
    *("{}", "{}.", "= {}", ": {}", "Answer: {}", "answer: {}", "**{}**", "*{}*", "`{}`", "${}$"),
    *("The answer is {}.", "the answer is {}", "The answer is: {}", "It is {}.", "So it is {}."),
    *("Therefore, {}", "Final answer: {}", "Result: {}", "#### {}", "<answer>{}</answer>"),
    *(r"\boxed{{{}}}", r"$\boxed{{{}}}$", r"\boxed{{{}}}.", r"\[\boxed{{{}}}\]"),
    *(r"The answer is \boxed{{{}}}.", r"So the answer is $\boxed{{{}}}$.", r"\text{{{}}}"),
    *("Let us see.\n{}", "We look at it.\n{}", "Step 1: think.\n{}", "({})", "[{}]", '"{}"'),
)


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
            right = maker.short(row)
            wrong = maker.near(right, row)
            form, inside = rng.choice(FORMS), rng.choice((str, _capital))
            pair = [_row(row, form.format(inside(x)), encode) for x in (right, wrong)]
            name = (row["question"], form)
            fits = all(0 < len(x["answer_ids"]) <= longest for x in pair)
            if fits and name not in seen and wrong and maker.wrong(wrong, row):
                seen.add(name)
                pairs += [x | {"verdict": y} for x, y in zip(pair, (1, 0), strict=True)]
    return pairs


def _capital(text: str) -> str:
    """Return a text with a capital, if it begins with a word; a letter alone may be a name."""
    word = text[:2].isalpha() and text[:2].islower()
    return text[:1].upper() + text[1:] if word else text


def _row(row: Row, text: str, encode: Encode) -> Row:
    return row | {"answer": text, "answer_ids": encode(text)}
