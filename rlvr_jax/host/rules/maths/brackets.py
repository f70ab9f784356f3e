"""Brackets in a text: what stands inside them, and what outside."""

from __future__ import annotations


def split_outside_brackets(text: str, marks: tuple[str, ...]) -> list[str]:
    """Return the text cut at those of the marks that stand in no bracket."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        char = text[at]
        if text.startswith("\\langle", at) or char in "([{":
            depth += 1
        elif text.startswith("\\rangle", at) or char in ")]}":
            depth -= 1
        mark = next((m for m in marks if text.startswith(m, at)), "") if depth == 0 else ""
        if mark:
            parts.append(text[start:at])
            at = start = at + len(mark)
        else:
            at += 1
    return [*parts, text[start:]]


def is_balanced(inner: str) -> bool:
    """Return whether no bracket closes before it opens: "1) + (2" stands in no pair of brackets."""
    depth = 0
    for char in inner:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return False
    return depth == 0
