"""The text around questions, answers and verdicts, and its way into fixed token columns.

The verifier is shown question, reference and the final answer, and is asked for one token, `1` or
`0` (arXiv 2503.23829, appendix A, in short words: the tokenizer of a small model pays for each).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlvr_jax.host.tokenizer import Tokenizer
from rlvr_jax.structs import Prompts, Rollout, Verdict

Record = dict[str, str]
TAIL = "\nCorrect:"  # after the answer; the next token is the verdict


def prompt_text(record: Record) -> str:
    return record["question"] + "\n"


def check_text(record: Record, question: bool = True) -> str:
    """The verifier's context up to where the answer's tokens go."""
    asked = record["question"] + "\n" if question else ""
    return f"{asked}Reference: {record['reference']}\nAnswer: "


def left_pad(rows: Sequence[Sequence[int]], width: int, what: str) -> tuple[Any, Any]:
    """int32 ids and bool mask [rows, width], text at the right end."""
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


def prompts(
    records: Sequence[Record], tok: Tokenizer, columns: int, check: int, question: bool = True
) -> Prompts:
    """Records -> the columns of a step (numpy)."""
    asked = [tok.encode(prompt_text(r)) for r in records]
    checked = [tok.encode(check_text(r, question)) for r in records]
    return Prompts(*left_pad(asked, columns, "prompt"), *left_pad(checked, check, "check"))


def supervised(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], columns: int, response: int, what: str
) -> Rollout:
    """(prompt ids, response ids) pairs -> rows to learn from, one response to each prompt."""
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
    nothing: Any = np.zeros((len(pairs), response), np.float32)
    whole: Any = np.zeros(len(pairs), bool)
    return Rollout(prompt_QP, mask_QP, response_BR, length_B, whole, nothing)


def verdict(tok: Tokenizer) -> Verdict:
    """The verifier's template tail and the vocabulary tables, as device code wants them."""
    newline_V, blank_V = tok.tables()
    tail_C: Any = np.array(tok.encode(TAIL), np.int32)
    verdict_ids: Any = np.array(tok.verdict_ids, np.int32)
    return Verdict(tail_C, verdict_ids[0], verdict_ids[1], newline_V, blank_V)


def final_line(text: str) -> str:
    """The last non-empty line, stripped: what the verifier is shown (work A, section 3.2)."""
    lines = [line.strip() for line in text.split("\n")]
    return next((line for line in reversed(lines) if line), "")
