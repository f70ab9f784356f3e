"""What the label stage sends to the judge."""

from types import SimpleNamespace

import numpy as np
import pytest

from rlvr_jax.config import LabelStage
from rlvr_jax.stages import label

pytest.importorskip("reasoning_gym")
from rlvr_jax.host import tasks  # noqa: E402


def test_padding_has_no_owner_and_hard_answers_are_judged():
    records = tasks.generate(["equation"], {"a": 2}, 0)["a"]
    stage = LabelStage(samples=2, strangers=1, cuts=1, batch=3)
    # Two problems, and a third that is padding; each answer is three tokens, one was truncated.
    response_BR = np.arange(18).reshape(6, 3)
    answer_BR = np.ones((6, 3), bool)
    truncated_B = np.array([False, False, True, False, False, False])
    rollout = SimpleNamespace(response_BR=response_BR, truncated_B=truncated_B)
    tok = SimpleNamespace(decode=lambda ids: records[0]["answer"] if ids == [0, 1, 2] else "none")
    rows = label._judged(records, rollout, answer_BR, stage, tok)
    found = [(row["question"], row["answer_ids"], row["verdict"]) for row in rows]
    first, second = (record["question"] for record in records)
    assert found == [
        (first, [0, 1, 2], 1),
        (first, [3, 4, 5], 0),
        (second, [9, 10, 11], 0),
        (first, [0], 0),  # cut short; the stranger for it was truncated and is left out
        (second, [0, 1, 2], int(records[0]["answer"] == records[1]["answer"])),
    ]
