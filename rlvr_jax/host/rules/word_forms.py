"""The ways to write an answer in words: co-operate and cooperate, first and 1st, seven and 7."""

from __future__ import annotations

import re

from rlvr_jax.host.problems.number_words import parse_number_words
from rlvr_jax.host.text.normal_form import normal_form

_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_ORDINALS = {  # the last word of an ordinal number, and the cardinal one
    **{"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight"},
    **{"ninth": "nine", "twelfth": "twelve"},
}


def normal_forms(text: str) -> set[str]:
    """Return the forms in which a text may be written: co-operate is cooperate, first is 1st."""
    forms = {normal_form(text), normal_form(_HYPHEN.sub("", text))}
    return {_ordinal(form) for form in forms if form}


def _ordinal(form: str) -> str:
    """Return 21st for "twenty first", and 42 for "forty two"; other texts as they are."""
    head, _, last = form.rpartition(" ")
    cardinal = _ORDINALS.get(last)
    if cardinal is None and last.endswith("th"):
        cardinal = last.removesuffix("ieth") + "y" if last.endswith("ieth") else last[:-2]
    if cardinal is None:
        value = parse_number_words(form)
        return form if value is None else str(value)
    value = parse_number_words(f"{head} {cardinal}".strip())
    if value is None:
        return form
    endings = {1: "st", 2: "nd", 3: "rd"}
    teens = value % 100 in (11, 12, 13)
    return f"{value}{'th' if teens else endings.get(value % 10, 'th')}"
