"""Files of bare prompts, without references: JSON lines, or a prompt on each line of a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr_jax.host.files.looked_up import looked_up
from rlvr_jax.host.problems.sources import files
from rlvr_jax.host.problems.sources.prompts import parse_messages
from rlvr_jax.host.text.tokenizer import Tokenizer

Row = dict[str, Any]
TEXTS = ("prompt", "question")  # keys of a prompt that is a text


def read_prompts(path: Path) -> list[Row]:
    """Read the rows of a file of prompts; a line of a text file becomes a row with its `prompt`.

    Empty lines of a text are left out.

    Raises:
      ValueError: the file cannot be read, has no prompts, or a row has none.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}{looked_up(path)}: correct --prompts")
    if path.suffix.lower() in files.KINDS:
        files.check_file(path)
        rows = []
        for where, row in files.load_rows(path):
            rows.append(dict(row))
            _check_row(rows[-1], where)
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error.reason}): save it as UTF-8") from None
        rows = [{"prompt": line} for line in text.splitlines() if line.strip()]
    if not rows:
        raise ValueError(f"{path} has no prompts")
    return rows


def _check_row(row: Row, where: str) -> None:
    asked = row.get("messages") or next((row[key] for key in TEXTS if key in row), None)
    if asked is None:
        raise ValueError(f"{where}: give a text `prompt`, or `messages` with role and content")
    try:
        parsed = parse_messages(asked)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not isinstance(asked, str):
        row["messages"] = parsed


def encode(
    row: Mapping[str, Any], tok: Tokenizer, system: str = "", raw: bool = False
) -> list[int]:
    """Return the ids of a row's prompt: a chat, or bare text with `raw` or without a template.

    Raises:
      ValueError: the prompt is empty, or needs a chat that is not there.
      TokenizerError: the chat template refuses the messages.
    """
    text = next((row[key] for key in TEXTS if isinstance(row.get(key), str)), None)
    if raw or not tok.has_chat:
        if text is None:
            raise ValueError("messages need a chat template: give the text `prompt` instead")
        if system:
            raise ValueError("--system needs a chat: leave out --raw, or take another model")
        ids = tok.raw_prompt(text)
        if not ids:
            raise ValueError("the prompt is empty and this model has no token to begin with")
        return ids
    messages = list(row.get("messages") or [{"role": "user", "content": text}])
    if system and messages[0].get("role") != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return tok.chat(messages)
