"""Placeholders for text of a chat message that looks like a special token.

A chat template writes special tokens and message content into one text.  Before rendering, `hide`
replaces look-alikes in the content by placeholders, so that only the template's own special tokens
are left in the rendered text; `unhide` puts the look-alikes back between those tokens.
"""

import re
from typing import Any

from rlvr_jax.host.text.tokenizer.codec import alternatives


def list_texts(value: Any) -> list[str]:
    """List all texts in nested lists and dicts."""
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    is_many = isinstance(value, dict | list | tuple)
    return [text for part in values for text in list_texts(part)] if is_many else []


def unused_character(text: str) -> str:
    """Return a private-use character that is not in the text."""
    return next(char for char in map(chr, range(0xE000, 0x110000)) if char not in text)


def hide(value: Any, pattern: re.Pattern, mark: str, hidden: dict[str, str]) -> Any:
    """Replace each match of `pattern` in the texts of a value by a placeholder.

    Each placeholder becomes a key of `hidden`, with the text that it replaces.  `mark` delimits the
    placeholders and has to be a character that no text contains.
    """

    def replace(match: re.Match) -> str:
        key = f"{mark}{len(hidden)}{mark}"
        hidden[key] = match.group()
        return key

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(replace, value)
        if isinstance(value, dict):
            return {key: walk(part) for key, part in value.items()}
        return [walk(part) for part in value] if isinstance(value, list | tuple) else value

    return walk(value)


def unhide(text: str, hidden: dict[str, str]) -> str:
    """Replace the placeholders in a text by the texts that they stand for."""
    return re.sub(alternatives(hidden), lambda m: hidden[m.group()], text) if hidden else text
