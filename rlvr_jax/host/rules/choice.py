"""Grade answers to multiple choice: the rule `choice`.

An answer is a label (a letter or a number) or the text of an option.  A reference is a label ("C",
"(C)", "2"), a label and its text ("C) red"), or the text of an option.  `chosen_label` reads the
label that an answer chooses.  An answer that could also mean another option chooses none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rlvr_jax.host.rules.chosen_label import parse_chosen, plain_text
from rlvr_jax.host.rules.maths import sentence
from rlvr_jax.host.text import answers
from rlvr_jax.host.text.normal_form import normal_form

_MARK = re.compile(r"(?:^|(?<=\s))(\(|\[)?([A-Za-z]|[0-9]{1,2})([).:\]])(?=\s+)")
_REFERENCE = re.compile(r"[(\[]?\s*([A-Za-z]|[0-9]{1,2})\s*(?:([)\].:])\s*(.*))?", re.DOTALL)


class Gold(NamedTuple):
    """A Gold is the right option: its label ("" if only its text is known) and its normal form."""

    label: str
    text: str


def parse_options(question: str) -> dict[str, str]:
    """Return the options of a question, from label to text.

    Options are written "A) red", "(b) blue", "C. green" or "1) black".  Their labels begin with A
    or 1, follow one another and end with the same sign.  If a question has several such lists, the
    longest counts; if several are longest, the last of them.  The result is empty if there are
    fewer than two options.
    """
    best: list[re.Match[str]] = []
    for ending in (").:]"[i] for i in range(4)):
        for first in ("A", "1"):
            run: list[re.Match[str]] = []
            for mark in _MARK.finditer(question):
                label = mark[2].upper()
                if mark[3] != ending or label.isdecimal() != first.isdecimal():
                    continue
                if run and label == _next_label(run[-1][2].upper()):
                    run.append(mark)
                elif label == first:
                    best, run = _longer(run, best), [mark]
            best = _longer(run, best)
    if len(best) < 2:
        return {}
    ends = [mark.start() for mark in best[1:]] + [len(question)]
    return {
        mark[2].upper(): question[mark.end() : end].strip()
        for mark, end in zip(best, ends, strict=True)
    }


def score(completion: str, reference: str, question: str = "") -> float:
    """Return 1.0 if the answer is the reference's label or the text of its option, else 0.0."""
    answer = answers.extract(completion)
    if answer is None:
        return 0.0
    options = {label: normal_form(text) for label, text in parse_options(question).items()}
    gold = _gold(reference, options)
    if gold.label and gold.label not in options:
        options = {gold.label: gold.text} if gold.text else {}
    chosen = parse_chosen(answer, gold.label.isdecimal(), options)
    if chosen is not None and gold.label:
        return float(chosen == gold.label)
    texts = list(options.values()) or [gold.text]
    lines = (answer, sentence.without_lead(plain_text(answer)))
    is_text = bool(gold.text) and gold.text in [normal_form(line) for line in lines]
    return float(is_text and texts.count(gold.text) <= 1)


def _gold(reference: str, options: dict[str, str]) -> Gold:
    """Return the right option; the label of an option counts before a text."""
    text = normal_form(reference)
    match = _REFERENCE.fullmatch(plain_text(reference))
    if match and (match[1].upper() in options or text not in options.values()):
        label, claim = match[1].upper(), normal_form(match[3] or "")
        known = options.get(label, "")
        if not claim or not known or claim == known:
            return Gold(label, known or claim)
    labels = [label for label, other in options.items() if other == text]
    return Gold(labels[0] if len(labels) == 1 else "", text)


def _next_label(label: str) -> str:
    return str(int(label) + 1) if label.isdecimal() else chr(ord(label) + 1)


def _longer(run: list[re.Match[str]], best: list[re.Match[str]]) -> list[re.Match[str]]:
    return run if run and len(run) >= len(best) else best
