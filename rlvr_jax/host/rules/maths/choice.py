"""Multiple choice: a letter, or the text of its option."""

from __future__ import annotations

import re

from rlvr_jax.host.rules import text
from rlvr_jax.host.rules.maths import notation, sentence
from rlvr_jax.host.text import answers

_LETTER = re.compile(r"\(?\s*([A-Ja-j])\s*\)?\.?")
_LED = re.compile(
    r"(?:option|choice|answer|the (?:correct )?(?:answer|option|choice) is)?\s*:?\s*"
    r"(?:\(([A-Ja-j])\)|([A-Ja-j])(?=[).:]|\s*$))[).:]*\s*(.*)",
    re.I | re.DOTALL,
)
_MORE = re.compile(r"\([A-Ja-j]\)|\b[A-J][).]|(?<![\w'])[B-HJ](?![\w'])|\bor\b|\bnot\b")


def is_letter(reference: str) -> bool:
    """Whether a reference is the letter of an option: C, (C), \\text{(C)}."""
    return bool(re.fullmatch(r"\(?\s*[A-J]\s*\)?\.?", notation.plain(reference).strip("$ ")))


def letter(answer: str) -> str | None:
    """The one letter an answer chooses: C, (C), C) 5, option C; None for none or several."""
    return _chosen(answer)[0]


def _chosen(answer: str) -> tuple[str | None, str]:
    """The letter, and what stands behind it."""
    for says in sentence.candidates(notation.plain(answer).strip("$ ")):
        if match := _LETTER.fullmatch(says):
            return match[1].upper(), ""
        match = _LED.fullmatch(says.strip("$ *"))
        if match and not _MORE.search(match[3]):
            return (match[1] or match[2]).upper(), match[3]
    return None, ""


def options(question: str) -> dict[str, str]:
    """Letter -> text of the options that a question lists: "A) red", "(B) blue", "C. green"."""
    marks = list(re.finditer(r"(?:^|\s)\(?([A-J])[).:]\s+", question))
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    return {
        mark[1]: question[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)
    }


def score(completion: str, reference: str, question: str = "") -> float:
    """1.0 for the letter of the reference, or the text of its option, and nothing else."""
    found = answers.extract(completion)
    if found is None:
        return 0.0
    listed = options(question)
    gold = letter(reference) if is_letter(reference) or not listed else None
    if gold is None:
        wanted = text.normal(reference)
        gold = next((key for key, says in listed.items() if text.normal(says) == wanted), None)
        if text.normal(found) == wanted and wanted:
            return 1.0
    if gold is None:
        return 0.0
    said, rest = _chosen(found)
    if said is not None:
        alone = not rest.strip("* .") or gold not in listed
        return float(said == gold and (alone or text.normal(rest) == text.normal(listed[gold])))
    texts = [text.normal(says) for says in listed.values()]
    mine = text.normal(listed.get(gold, ""))
    return float(
        bool(mine) and texts.count(mine) == 1 and text.normal(sentence.bare(found)) == mine
    )
