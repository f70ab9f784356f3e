"""The rules `list` and `set`: lists of texts, such as "red, green and blue", lines or JSON."""

from __future__ import annotations

import json
import re

from rlvr_jax.host.text import answers
from rlvr_jax.host.text.normal_form import normal_form

MAX_ITEMS = 256
_BEFORE = re.compile(  # "The order is a, b, c."
    r"(?:the|so|thus|hence|therefore)\b[^,;:\n]{0,60}?\b(?:is|are)\b(?!\s+not\b)\s*:?\s*", re.I
)
_NUMBERED = re.compile(r"\s*(?:\d+[.)]|[-*\u2022])\s+")


def ordered(completion: str, reference: str) -> float:
    """Return 1.0 if the answer lists the items of the reference in their order, else 0.0."""
    mine, gold = parse_list(answers.extract(completion) or ""), parse_list(reference)
    return float(bool(gold) and mine == gold)


def unordered(completion: str, reference: str) -> float:
    """Return 1.0 if the answer lists the items of the reference in any order, each once."""
    mine, gold = parse_list(answers.extract(completion) or ""), parse_list(reference)
    return float(bool(gold) and len(mine) <= MAX_ITEMS and sorted(mine) == sorted(gold))


def parse_list(text: str) -> list[str]:
    """Return the items of a list in normal form; no items at all if one of them is empty."""
    text = _BEFORE.sub("", answers.bare(text.strip()), count=1)
    lines = text.split("\n")
    if len(lines) > 1 and all(map(_NUMBERED.match, lines)):
        text = "\n".join(_NUMBERED.sub("", line) for line in lines)
    try:
        parsed = json.loads(text)
        parts = [str(part) for part in parsed] if isinstance(parsed, list) else [text]
    except (ValueError, RecursionError):
        text = re.sub(r"\\[{}]", "", answers.plain(text)).strip("[](){} ")
        parts = re.split(r"\s*[,;\n]\s*(?:(?:and|&)\s+)?|\s+(?:and|&)\s+", text)
    items = [normal_form(part.strip(" '\"")) for part in parts[: MAX_ITEMS + 1]]
    return items if all(items) else []
