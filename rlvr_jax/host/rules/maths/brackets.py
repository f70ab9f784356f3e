"""Tell the parts of a text that stand inside brackets from those outside."""

from __future__ import annotations


def split_outside_brackets(text: str, marks: tuple[str, ...]) -> list[str]:
    """Split a text at those marks that stand outside all brackets."""
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
    """Return whether every bracket of a text closes after it opens; kinds are not told apart.

    The text is what stands between two brackets.  If it is "1) + (2", these are no pair.
    """
    depth = 0
    for char in inner:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return False
    return depth == 0
