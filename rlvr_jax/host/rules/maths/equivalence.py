"""Decide whether an answer equals the reference, as mathematics: the rule `math`.

`parser` turns both texts into items, and `comparison` compares the items by exact or 60-digit
values, in a bounded number of steps: nothing is simplified, no large number is computed, and no
clock is read, so that the grade is a function of the two texts alone.  A text that the parser
cannot read as a whole is compared as words or letter by letter.  docs/maths.md gives the policy.
"""

from __future__ import annotations

import re

from rlvr_jax.host.rules.maths import notation, option_letter, sentence
from rlvr_jax.host.rules.maths.comparison import equal_items
from rlvr_jax.host.rules.maths.items import Item, Named, Value
from rlvr_jax.host.rules.maths.parser import parse_answer
from rlvr_jax.host.rules.maths.tree import Negative, Number, Unreadable
from rlvr_jax.host.text import answers
from rlvr_jax.host.text.normal_form import normal_form

_SPACE = re.compile(r"\s+(?![0-9A-Za-z])|(?<![0-9A-Za-z])\s+")
_FORMULA = re.compile(r"[-+*/^=\\\d(){}\[\]|]")


def score(completion: str, reference: str) -> float:
    """Return 1.0 if the final answer of a completion is equal to the reference, else 0.0."""
    answer = answers.extract(completion)
    gold = reference.strip()
    if answers.boxed(gold) is not None:
        gold = answers.boxed(gold) or ""
    if answer is None or not gold:
        return 0.0
    return float(are_equal(gold, answer))


def are_equal(gold: str, answer: str) -> bool:
    """Return whether an extracted answer equals the reference `gold`, as mathematics."""
    if gold == answer and _has_content(gold):
        return True
    if option_letter.is_letter(gold):
        return option_letter.parse_letter(answer) == option_letter.parse_letter(gold)
    gold = sentence.without_lead(notation.normalise(gold))
    gold = notation.digits_for_words(gold)
    gold_item = _parse(gold)
    if gold_item is None:
        return _same_words(gold, answer) or _same_letters(gold, notation.normalise(answer))
    if isinstance(gold_item, Value) and _is_word(gold):
        return _same_words(gold, answer)
    texts = sentence.candidates(answer) + sentence.candidates(notation.normalise(answer))
    for text in dict.fromkeys(texts):
        plain = notation.digits_for_words(notation.normalise(text))
        item = _parse(_with_decimal_point(plain, gold_item))
        if item is not None:
            return equal_items(gold_item, item)
    return _same_letters(gold, notation.normalise(sentence.without_lead(answer)))


def _parse(text: str) -> Item | None:
    try:
        return parse_answer(text)
    except Unreadable:
        return None


def _has_content(text: str) -> bool:
    return any(char.isalnum() for char in text)


def _is_word(gold: str) -> bool:
    """Return whether a reference is words and no product of variables: "no" is not "on"."""
    names = [word for word in re.split(r"[\s'-]+", gold) if len(word) > 1]
    if names and all(word in notation.GREEK.values() for word in names):
        return False  # pi, Delta t
    if re.fullmatch(r"[a-df-hj-np-tv-zA-Z]{2,3}", gold):
        return False  # ab, xyz
    return bool(re.fullmatch(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*\.?", gold))


def _same_words(gold: str, answer: str) -> bool:
    wanted = normal_form(gold)
    texts = [normal_form(notation.normalise(text)) for text in sentence.candidates(answer)]
    return bool(wanted) and wanted in texts


def _with_decimal_point(answer: str, gold: Item) -> str:
    """Return 3,14 as 3.14 if the reference is a single number; elsewhere a comma separates."""
    item = gold.item if isinstance(gold, Named) else gold
    if not (isinstance(item, Value) and isinstance(item.tree, Number | Negative)):
        return answer
    written = re.fullmatch(r"(-?\s*)(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(\D*)", answer)
    if written is None or len(written[3]) == 3 and "." not in written[2]:
        return answer
    return f"{written[1]}{written[2].replace('.', '')}.{written[3]}{written[4]}"


def _same_letters(gold: str, answer: str) -> bool:
    """Return whether two formulas that cannot be parsed are written alike, except for blanks."""
    texts = [_SPACE.sub("", text) for text in (gold, answer)]
    return bool(_FORMULA.search(gold)) and texts[0] == texts[1] and _has_content(gold)
