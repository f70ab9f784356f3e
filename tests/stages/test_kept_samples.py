"""Rows of samples hold what explains their rewards and credit, and little more."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import likelihood, parameters, prompt_filter
from rlvr_jax.config import DataConfig, ModelConfig, RewardConfig, RlStage
from rlvr_jax.host.text import tokenizer
from rlvr_jax.stages import kept_samples
from rlvr_jax.structs import Frozen, Rollout, StepResult

SIZE = ModelConfig(layers=1, width=16, heads=2, kv_heads=1, head_size=8, feedforward=16, vocab=264)
STAGE = RlStage(prompts=2, samples=2, reward=RewardConfig(source="rule"))
RECORDS = [
    {"domain": "sum", "question": f"{i} + 1?", "reference": str(i + 1), "answer": str(i + 1)}
    | {"task": "sum", "extra": "", "messages": ""}
    for i in (1, 2)
]


@pytest.fixture(scope="module")
def tok():
    return tokenizer.open_tokenizer("byte")


def make_rollout(tok, texts, columns=8):
    ids = [tok.encode(text) for text in texts]
    response = np.zeros((len(ids), columns), np.int32)
    for row, found in zip(response, ids, strict=True):
        row[: len(found)] = found
    length = np.array([len(found) for found in ids], np.int32)
    prompt = np.array([[0, *tok.encode("1?")], [0, *tok.encode("2?")]], np.int32)
    logprob = -np.arange(1, columns + 1, dtype=np.float32) / 7
    mask = np.arange(columns) < length[:, None]
    cut = np.array([False, False, True, False])
    return Rollout(prompt, prompt > 0, response, length, cut, np.where(mask, logprob, 0.0))


def make_workspace(tok, rows):
    return SimpleNamespace(
        tokenizer=tok,
        cfg=SimpleNamespace(data=DataConfig(), model=SIZE),
        divide=lambda work, count: list(work(list(range(count)))),
        fetch=jax.device_get,
        run=SimpleNamespace(write_samples=lambda *args: rows.append(args)),
    )


def make_result(rollout, **more):
    reward = np.array([1, 0, 0, 1 / 3], np.float32)
    return StepResult(None, rollout, reward, reward - 0.5, {}, None, None, None, **more)


def test_rows_have_answer_parts_prompt_and_values(tok):
    rollout = make_rollout(tok, ["2", "so 3", "x", "3"])
    advantage = np.array([[1.0] * 8, [1.0, 1.0, 2.0, 1.0] * 2, [0.5] * 8, [0.1] * 8], np.float32)
    tokens = {"advantage": advantage, "ratio": np.full((4, 8), 1.23456, np.float32)}
    parts = {"rule": np.array([1, 0, 0, 1 / 3]), "status": ["ok", "ok", "none", "crash"]}
    result = make_result(rollout, tokens=tokens, parts=parts)
    rows = kept_samples.make_rows(STAGE, make_workspace(tok, []), RECORDS, result)
    assert [row["response"] for row in rows] == ["2", "so 3", "x", "3"]
    assert [row["oracle"] for row in rows] == [1.0, 0.0, 0.0, 1.0]
    assert [row.get("prompt") for row in rows] == ["1?", None, "2?", None]
    assert [row.get("status") for row in rows] == [None, None, "none", "crash"]
    assert [row["parts"] for row in rows] == [{"rule": x} for x in (1.0, 0.0, 0.0, 0.3333)]
    assert [row["answer"] for row in rows] == ["2", "so 3", "x", "3"]
    assert rows[0]["piece_values"] == [-0.1429]
    assert rows[0]["token_values"] == {"ratio": [1.235]}, "one advantage for all tokens"
    assert rows[1]["token_values"]["advantage"] == [1.0, 1.0, 2.0, 1.0]
    assert [row["truncated"] for row in rows] == [False, False, True, False]


def test_the_verdict_is_a_part_where_it_is_the_reward(tok):
    stage = dataclasses.replace(STAGE, reward=RewardConfig())
    result = make_result(make_rollout(tok, ["2", "3", "4", "5"]))
    rows = kept_samples.make_rows(stage, make_workspace(tok, []), RECORDS, result)
    assert [row["parts"] for row in rows] == [{"p1": x} for x in (1.0, 0.0, 0.0, 0.3333)]


def test_the_ratio_is_that_of_the_updated_policy(tok):
    params, rows = parameters.init(jax.random.key(0), SIZE), []
    rollout = jax.tree.map(jnp.asarray, make_rollout(tok, ["2", "so 3", "x", "3"]))
    keep = kept_samples.keeper(STAGE, make_workspace(tok, rows), Frozen({}, {}))
    state = SimpleNamespace(params=params)
    gap = keep(7, RECORDS, make_result(rollout)._replace(state=state))
    ((name, number, kept),) = rows
    assert (name, number) == (STAGE.name, 7) and {row["step"] for row in kept} == {7}
    assert gap == pytest.approx(1 / 3 - 0.5, abs=1e-3)
    after, _ = likelihood.logprobs(params, rollout, STAGE.sample, SIZE)
    want = np.exp(np.asarray(after) - np.asarray(rollout.logprob_BR))
    for i, row in enumerate(kept):
        length = len(row["pieces"])
        np.testing.assert_allclose(row["token_values"]["ratio"], want[i, :length], rtol=1e-3)


def test_parts_follow_the_groups_that_a_filter_placed():
    first = {"rule": [0, 1, 2, 3], "status": list("abcd")}
    second = {"rule": [4, 5, 6, 7], "status": list("efgh")}
    P, R = prompt_filter.PLACED, prompt_filter.REJECTED
    fate = np.array([R, P, P, prompt_filter.SURPLUS, prompt_filter.UNTRIED, prompt_filter.UNTRIED])
    found = kept_samples.placed_parts([first, second], fate, 2)
    assert found == {"rule": [2, 3, 4, 5], "status": ["c", "d", "e", "f"]}
