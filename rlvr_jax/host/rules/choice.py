"""The rule `choice`: multiple choice, answered by a letter or by the text of its option."""

from __future__ import annotations

import re

from rlvr_jax.host.rules.maths import option_letter, sentence
from rlvr_jax.host.text import answers
from rlvr_jax.host.text.normal_form import normal_form


def parse_options(question: str) -> dict[str, str]:
    """Return the options of a question by letter: "A) red", "(B) blue" or "C. green"."""
    marks = list(re.finditer(r"(?:^|\s)\(?([A-J])[).:]\s+", question))
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    return {
        mark[1]: question[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)
    }


def score(completion: str, reference: str, question: str = "") -> float:
    """Return 1.0 if the answer is the reference's letter or the text of its option, else 0.0.

    The reference is a letter, or the text of one of the options that the question lists.
    """
    answer = answers.extract(completion)
    if answer is None:
        return 0.0
    options = {letter: normal_form(text) for letter, text in parse_options(question).items()}
    is_letter = option_letter.is_letter(reference) or not options
    gold = option_letter.parse_letter(reference) if is_letter else None
    if gold is None:
        wanted = normal_form(reference)
        gold = next((letter for letter, text in options.items() if text == wanted), None)
        if normal_form(answer) == wanted and wanted:
            return 1.0
    if gold is None:
        return 0.0
    choice = option_letter.parse_choice(answer)
    if choice is not None:
        alone = not choice.text.strip("* .") or gold not in options
        same_text = alone or normal_form(choice.text) == options[gold]
        return float(choice.letter == gold and same_text)
    text = options.get(gold, "")
    is_only = bool(text) and list(options.values()).count(text) == 1
    return float(is_only and normal_form(sentence.without_lead(answer)) == text)
