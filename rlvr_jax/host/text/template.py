"""Prompts of the policy, and texts as fixed token columns."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlvr_jax.config import DataConfig
from rlvr_jax.host.text.tokenizer import Tokenizer
from rlvr_jax.host.text.wording import load_wording
from rlvr_jax.structs import Prompts, Rollout

Record = dict[str, str]
HOLE = "\ufdd0"  # marks the place of the answer; problems with this character are refused


def encode_prompt(record: Record, tok: Tokenizer, cfg: DataConfig) -> list[int]:
    """Return the ids of the policy's prompt for a record.

    With `cfg.chat`, the record's messages go through the chat template; without it, the prompt is
    the question and a new line.
    """
    if not cfg.chat:
        return tok.raw_prompt(record["question"] + "\n")
    return tok.chat(messages_of(record, cfg.system), **cfg.chat_variables)


def messages_of(record: Record, system: str = "") -> list[dict[str, Any]]:
    """Return a record's prompt as a conversation; `system` begins one that has no such message."""
    messages = json.loads(record["messages"] or "[]")
    messages = messages or [{"role": "user", "content": record["question"]}]
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return messages


def plain_texts(record: Record) -> tuple[str, str]:
    """Return a record's prompt and verifier prompt as text, without a chat template.

    The answer in the verifier prompt is the demonstration.  A tokenizer is trained on these texts.
    """
    shown = {"question": record["question"], "reference": record["reference"]}
    answered = load_wording("plain").plain(shown | {"answer": record["demonstration"]})
    return record["question"] + "\n", answered


def left_pad(rows: Sequence[Sequence[int]], width: int, what: str) -> tuple[Any, Any]:
    """Pad rows of ids on the left to `width` columns.

    Returns int32 ids and a bool mask, both [rows, width].

    Raises:
      ValueError: a row is longer than `width`; `what` names the rows and their config key.
    """
    ids, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        if len(row) > width:
            raise ValueError(
                f"a {what} has {len(row)} tokens and the window {width}: raise "
                f"data.{what}_columns to at least {len(row)}"
            )
        ids[i, width - len(row) :] = row
        mask[i, width - len(row) :] = True
    return ids, mask


def build_prompts(records: Sequence[Record], tok: Tokenizer, cfg: DataConfig) -> Prompts:
    """Encode records as the prompts of a step (numpy arrays), with nothing for a verifier.

    Raises:
      ValueError: a prompt is longer than its columns.
    """
    policy = left_pad([encode_prompt(r, tok, cfg) for r in records], cfg.prompt_columns, "prompt")
    return Prompts(*policy, *left_pad([[] for _ in records], 0, "check"))


def right_pad(rows: Sequence[Sequence[bool]], width: int) -> Any:
    """Pad rows of flags on the right to `width` columns, as a bool array [rows, width]."""
    flags: Any = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        flags[i, : len(row)] = row
    return flags


def build_supervised_rollout(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], columns: int, response: int, what: str
) -> Rollout:
    """Turn pairs of prompt ids and response ids into a rollout for supervised learning.

    `columns` and `response` are the widths of prompts and responses; `what` names the prompts in
    errors.  The log-probs of the rollout are zeros.

    Raises:
      ValueError: a prompt or a response is longer than its columns.
    """
    prompt_QP, mask_QP = left_pad([prompt for prompt, _ in pairs], columns, what)
    answers = [answer for _, answer in pairs]
    response_BR: Any = np.zeros((len(pairs), response), np.int32)
    for i, answer in enumerate(answers):
        if len(answer) > response:
            raise ValueError(
                f"a demonstration has {len(answer)} tokens and the budget is {response}: raise "
                f"data.response_columns to at least {len(answer)}"
            )
        response_BR[i, : len(answer)] = answer
    length_B: Any = np.array([len(answer) for answer in answers], np.int32)
    logprob_BR: Any = np.zeros((len(pairs), response), np.float32)
    truncated_B: Any = np.zeros(len(pairs), bool)
    return Rollout(prompt_QP, mask_QP, response_BR, length_B, truncated_B, logprob_BR)
