"""Compare lists, such as "red, green and blue", lines or JSON: the rules `list` and `set`."""

from __future__ import annotations

import json
import re

from rlvr_jax.host.text import answers
from rlvr_jax.host.text.normal_form import normal_form

MAX_ITEMS = 256
_FONT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")
_LEAD = re.compile(
    r"(?:the|my)\s+(?:(?:correct|right|final|sorted|complete|resulting)\s+)*(?:order|list|set|items?"
    r"|answers?|sequence|ranking|elements?|solutions?|result|members?|values?)\s+(?:is|are)\s*:?\s+",
    re.I,
)
_BULLET = re.compile(r"\s*[-*\u2022]\s+(.*)")
_NUMBERED = re.compile(r"\s*(\d{1,3})[.)]\s+(.*)")


def ordered(completion: str, reference: str) -> float:
    """Return 1.0 if the answer lists the items of the reference in their order, else 0.0."""
    mine, gold = parse_list(answers.extract(completion) or ""), parse_list(reference)
    return float(bool(gold) and mine == gold)


def unordered(completion: str, reference: str) -> float:
    """Return 1.0 if the answer lists the items of the reference in any order, else 0.0.

    The answer has to list each item as often as the reference does.
    """
    mine, gold = parse_list(answers.extract(completion) or ""), parse_list(reference)
    return float(bool(gold) and len(mine) <= MAX_ITEMS and sorted(mine) == sorted(gold))


def parse_list(text: str) -> list[str]:
    """Return the items of a list in normal form; an empty list if one of its items is empty."""
    text = answers.bare(_FONT.sub(r"\1", text.strip()))
    text = _without_bullets(_LEAD.sub("", text, count=1) if _LEAD.match(text) else text)
    try:
        parsed = json.loads(text)
        parts = [str(part) for part in parsed] if isinstance(parsed, list) else [text]
    except (ValueError, RecursionError):
        text = re.sub(r"\\[{}]", "", answers.plain(text)).strip("[](){} ")
        parts = re.split(r"\s*[,;\n]\s*(?:(?:and|&)\s+)?|\s+(?:and|&)\s+", text)
    items = [normal_form(part.strip(" '\"")) for part in parts[: MAX_ITEMS + 1]]
    return items if all(items) else []


def _without_bullets(text: str) -> str:
    """Return lines without their bullets, or without their numbers if these are 1, 2, 3 and on."""
    lines = [line for line in text.split("\n") if line.strip()]
    if bullets := [match[1] for line in lines if (match := _BULLET.fullmatch(line))]:
        return "\n".join(bullets) if len(bullets) == len(lines) > 1 else text
    numbered = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    in_order = [int(match[1]) for match in numbered] == list(range(1, len(lines) + 1))
    return "\n".join(match[2] for match in numbered) if in_order and len(lines) > 1 else text
