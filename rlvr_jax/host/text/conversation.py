"""A conversation becomes ids, of which those of the assistant's turns are learned.

A record of a conversation has no reference and cannot be graded.  Its `messages` are all messages
before the last one, its `demonstration` is the last message, which is the assistant's, and `extra`
says from which message on the assistant's turns are learned.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlvr_jax.config import DataConfig
from rlvr_jax.host.text.chat import TokenizerError
from rlvr_jax.host.text.template import HOLE
from rlvr_jax.host.text.tokenizer import Tokenizer

TASK = "talk:"  # how the task of a conversation begins
LEARNED = "learned_from"  # key of `extra`: index of the first message that may be learned

Message = dict[str, str]


class Lesson(NamedTuple):
    """A Lesson is a prompt and a response as ids; `learned` marks the ids that have a loss."""

    prompt: list[int]
    response: list[int]
    learned: list[bool]


def is_conversation(record: Mapping[str, str]) -> bool:
    """Return whether a record is a conversation without a reference."""
    return record["task"].startswith(TASK)


def encode_conversation(record: Mapping[str, str], tok: Tokenizer, cfg: DataConfig) -> Lesson:
    """Return the ids of a conversation; its prompt ends where the first learned turn begins.

    Every learned turn stands behind the ids that a policy is asked with at that turn, and ends with
    the token that ends a turn.  So the ids are the same as those of one prompt for each turn.

    Raises:
      TokenizerError: the chat template does not write the turns in that way.
      ValueError: the conversation needs a chat template, and `cfg.chat` is not set.
    """
    before: list[Message] = json.loads(record["messages"])
    first: int = json.loads(record["extra"])[LEARNED]
    turns = [i for i, m in enumerate(before) if i >= first and m["role"] == "assistant"]
    last = [*tok.encode(record["demonstration"]), tok.eos[0]]
    if not cfg.chat:
        if len(before) > 1:
            raise ValueError(
                "a conversation of several messages needs a chat template: set data.chat: true"
            )
        return Lesson(tok.raw_prompt(record["question"] + "\n"), last, [True] * len(last))
    if cfg.system and before[0]["role"] != "system":
        before = [{"role": "system", "content": cfg.system}, *before]
        turns = [i + 1 for i in turns]
    holed = [m | {"content": HOLE} if i in turns else m for i, m in enumerate(before)]
    texts = _written(before, holed, turns, tok, cfg.chat_variables)
    parts = tok.chat_around(holed, HOLE, **cfg.chat_variables)
    response: list[int] = []
    learned: list[bool] = []
    for text, after in zip(texts, parts[1:], strict=True):
        if not after or after[0] not in tok.eos:
            raise _impossible("writes no token that ends a turn after an assistant's message")
        spoken = [*tok.encode(text), after[0]]
        response += spoken + after[1:]
        learned += [True] * len(spoken) + [False] * (len(after) - 1)
    return Lesson(parts[0], response + last, learned + [True] * len(last))


def _written(
    messages: Sequence[Message],
    holed: Sequence[Message],
    turns: Sequence[int],
    tok: Tokenizer,
    variables: Mapping[str, Any],
) -> list[str]:
    """Return the text that the chat template writes for each learned turn before the last one.

    `holed` is the messages with a hole in place of these turns.

    Raises:
      TokenizerError: the template leaves out a part of a turn, or writes something else before a
        turn than before a response.
    """
    history = tok.chat_text(holed, **variables).split(HOLE)
    if len(history) != len(turns) + 1:
        raise _impossible("does not write each message once")
    for number, turn in enumerate(turns):
        asked = tok.chat_text(holed[:turn], **variables)
        if asked != HOLE.join(history[: number + 1]):
            raise _impossible("writes another text before an earlier turn than before a response")
    real = tok.chat_text(messages, **variables)
    whole = [messages[turn]["content"] for turn in turns]
    for texts in (whole, [text.strip() for text in whole]):
        gaps = zip(texts, history[1:], strict=True)
        if real == history[0] + "".join(text + gap for text, gap in gaps):
            return texts
    raise _impossible("does not write the assistant's messages as they are")


def _impossible(what: str) -> TokenizerError:
    return TokenizerError(
        f"the chat template {what}, so that one text cannot teach all turns of a conversation: "
        "make a row of each turn (`prompt` and `completion`), or change the template"
    )
