"""Lists of texts, in order or in any order: "red, green and blue", one item a line, JSON."""

from __future__ import annotations

import json
import re

from rlvr_jax.host.rules import text
from rlvr_jax.host.text import answers

MAX_ITEMS = 256


def ordered(completion: str, reference: str) -> float:
    """1.0 when the answer lists what the reference does, in its order."""
    mine, gold = items(answers.extract(completion) or ""), items(reference)
    return float(bool(gold) and mine == gold)


def unordered(completion: str, reference: str) -> float:
    """1.0 when the answer lists what the reference does, in any order, each once."""
    mine, gold = items(answers.extract(completion) or ""), items(reference)
    return float(bool(gold) and len(mine) <= MAX_ITEMS and sorted(mine) == sorted(gold))


def items(listed: str) -> list[str]:
    """The parts of a list, each as `text.normal` writes it; an empty part makes it no list."""
    listed = answers.bare(listed.strip())
    try:
        found = json.loads(listed)
        parts = [str(part) for part in found] if isinstance(found, list) else [listed]
    except (ValueError, RecursionError):
        listed = re.sub(r"\\[{}]", "", listed).strip("[](){} ")
        parts = re.split(r"\s*[,;\n]\s*(?:and\s+)?|\s+and\s+", listed)
    out = [text.normal(part.strip(" '\"")) for part in parts[: MAX_ITEMS + 1]]
    return out if all(out) else []
