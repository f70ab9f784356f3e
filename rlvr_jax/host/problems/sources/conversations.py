"""This module reads rows of conversations without a reference, from which an sft stage learns.

    messages            every turn of the assistant is learned
    prompt, completion  the turns of the assistant in the completion are learned

Both columns may be texts or lists of messages; the last message is the assistant's.
"""

from __future__ import annotations

import json
from typing import Any

from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.sources import references
from rlvr_jax.host.problems.sources.cells import is_given
from rlvr_jax.host.problems.sources.prompts import check_text, parse_messages, parse_talk
from rlvr_jax.host.text.conversation import LEARNED, TASK

Row = dict[str, Any]
HALF = 16  # characters of a key, of which the first half is that of the prompt alone


def has_conversation(row: Row) -> bool:
    """Return whether the columns of a row are those of a conversation; others may be there too."""
    both = is_given(row.get("prompt")) and is_given(row.get("completion"))
    return both or is_given(row.get("messages"))


def build_record(row: Row, name: str, domain: str) -> Record:
    """Build the record of a conversation; `name` is that of its file.

    Raises:
      ValueError: a message cannot be used, or the last one is not the assistant's.
    """
    talk, first = _find_talk(row)
    last = talk[-1] if talk else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise ValueError(
            "it has no reference answer, and does not end with the assistant's message: add one of "
            "them, or see the layouts in docs/data.md."
        )
    before = parse_messages(talk[:-1])
    messages: list[dict[str, Any]] = [
        *before,
        {"role": "assistant", "content": last.get("content")},
    ]
    for message in messages:
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise ValueError(f"the content of a message of the {message['role']} is no text.")
        references.check_backslashes("text", message["content"])
    asked = dataset.problem_key(*(m["content"] for m in before if m["role"] != "system"))
    answered = dataset.problem_key(*(m["content"] for m in messages))
    record = {
        **{"question": before[-1]["content"], "reference": "", "answer": ""},
        **{"demonstration": messages[-1]["content"], "domain": domain or name},
        **{"task": f"{TASK}{name}", "extra": json.dumps({LEARNED: first})},
        # Several answers to one prompt are different rows, and stay in one split.
        "key": asked[:HALF] + answered[HALF:],
        "messages": json.dumps(before, ensure_ascii=False),
    }
    for field, text in record.items():
        check_text(field, text)
    return record


def _find_talk(row: Row) -> tuple[list[Any], int]:
    """Return the messages of a row, and the index of the first one that may be learned."""
    if not (is_given(row.get("prompt")) and is_given(row.get("completion"))):
        talk = parse_talk(row["messages"])
        if not isinstance(talk, list):
            raise ValueError("its messages must be a list of messages with role and content.")
        return talk, 0
    before = parse_messages(row["prompt"])
    answer = parse_talk(row["completion"])
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    if not isinstance(answer, list):
        raise ValueError("its completion must be text or a list of messages.")
    return [*before, *answer], len(before)
