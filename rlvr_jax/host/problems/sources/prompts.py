"""This module reads prompts: a text, or a list of messages that ends with the user's."""

from __future__ import annotations

import re
from typing import Any

from rlvr_jax.host.problems.sources.cells import parse_structure

ROLES = ("system", "user", "assistant")
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:""")


def parse_messages(prompt: Any) -> list[dict[str, str]]:
    """Return the prompt as messages; ValueError unless the last one is the user's."""
    prompt = parse_talk(prompt)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not all(isinstance(m, dict) for m in prompt):
        raise ValueError("its prompt must be text or a list of messages with role and content.")
    for message in prompt:
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise ValueError(
                "each message needs a role, one of system, user and assistant, and a text as its "
                f"content, not {message.get('role')!r} and {type(message.get('content')).__name__}."
            )
    if not prompt or prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        raise ValueError("its prompt must end with a user message that is not empty.")
    return [{"role": m["role"], "content": m["content"]} for m in prompt]


def parse_talk(value: Any) -> Any:
    """Return the messages that a text spells, as JSON or Python; other values stay as they are.

    Raises:
      ValueError: the text begins like messages, but is no JSON.
    """
    if not isinstance(value, str) or not _MESSAGES.match(value):
        return value
    spelled = parse_structure(value)
    if not isinstance(spelled, list):
        raise ValueError("its prompt is messages as text, but no JSON: repair it.")
    return spelled


def check_text(name: str, text: str) -> None:
    """Refuse a text of a record with characters that templates need, or that is not Unicode.

    Raises:
      ValueError: the message calls the text `name`.
    """
    # JSON text has NUL as an escape; templates use U+FDD0 to mark the place of the answer.
    if any(odd in text for odd in ("\x00", "\ufdd0")) or name == "messages" and "\\u0000" in text:
        raise ValueError(f"its {name} has a NUL or U+FDD0 character: remove it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"its {name} is not Unicode ({error.reason}): repair it.") from error
