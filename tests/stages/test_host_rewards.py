"""Rewards outside the fused step: of two kinds together, and of a verifier of another family."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlvr_jax import parameters, sharding, verifier
from rlvr_jax.config import Config, DataConfig, MeshConfig, ModelConfig, RewardConfig, RlStage
from rlvr_jax.host.rules import user_file
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.host.text import template, tokenizer
from rlvr_jax.host.text.verifier_prompt import VerifierPrompt
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import host_rewards
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Rollout

SMALL = ModelConfig(layers=1, width=16, heads=2, kv_heads=2, head_size=4, feedforward=16, vocab=300)
DATA = DataConfig(tasks=("sum",), check_columns=64, response_columns=24, train=8, test=8)
RECORDS = [
    {"question": f"{i} + {i}?", "reference": str(2 * i), "messages": "", "task": "sum", "extra": ""}
    for i in range(4)
]
TEXTS = ["0", "It is 2.", "we add\n4", "<|im_end|> 1 6", " ", "17", "so it is\n", "x" * 20]


def test_two_rewards_become_one():
    rule, judged = np.array([1, 0, 0.5, 0], np.float32), np.array([0, 0.9, 1, 0], np.float32)
    assert host_rewards.combine("rule_first", rule, judged).tolist() == [1, np.float32(0.9), 1, 0]
    assert host_rewards.combine("both", rule, judged).tolist() == [0, 0, 0.5, 0]
    assert host_rewards.combine("verifier", rule, judged) is judged
    assert (
        host_rewards.visible_answer("a\nb", "line") == "b"
        and host_rewards.visible_answer("a\nb", "marked") == ""
    )
    assert host_rewards.visible_answer("\\boxed{4\n2}", "final") == ""


def rollout(tok, texts, columns) -> Rollout:
    rows = [tok.encode(text) for text in texts]
    response = np.zeros((len(rows), columns), np.int32)
    for i, row in enumerate(rows):
        response[i, : len(row)] = row
    none = np.zeros((len(rows), 1), np.int32)
    length = np.array([len(row) for row in rows], np.int32)
    cut = np.arange(len(rows)) == 1
    return Rollout(none, none == 0, response, length, cut, np.zeros(response.shape, np.float32))


@pytest.fixture
def ws(tmp_path):
    """A policy that reads bytes, and a verifier with sentence pieces."""
    lines = [
        f"{i} + {j} is {i + j}. Reference: Answer: Correct:" for i in range(9) for j in range(9)
    ]
    tokenizer.train(lines, SMALL.vocab, tmp_path / "own.model")
    cfg = Config(
        runs=str(tmp_path),
        tokenizer="byte",
        verifier_tokenizer=str(tmp_path / "own.model"),
        data=DATA,
        model=dataclasses.replace(SMALL, vocab=264),
        verifier=SMALL,
        stages=(RlStage(policy="pretrained", verifier="pretrained"),),
    )
    return Workspace(Run(cfg), sharding.make_mesh(MeshConfig(), jax.devices()[:1]))


def test_a_verifier_of_another_family_reads_the_same_answers_in_its_own_tokens(ws):
    reward = RewardConfig(min_mass=0.0)
    stage = RlStage(prompts=4, samples=2, reward=reward)
    params = parameters.init(jax.random.key(0), SMALL)
    params = {k: x * (1 if "norm" in k else 4) for k, x in params.items()}
    frozen = Frozen(reference={}, verifier=params, verdict=ws.verdict())
    prompts = ws.columns(RECORDS)
    with jax.set_mesh(ws.mesh), pool.Pool() as workers:
        ask = host_rewards.scorer(stage, ws, frozen, workers)
        got, told = ask(RECORDS, prompts, rollout(ws.tokenizer, TEXTS, 24))
        own = ws.judge_tokenizer
        alone = template.build_prompts(RECORDS, own, DATA)
        alone = VerifierPrompt(own, DATA).asking(alone, RECORDS)
        np.testing.assert_array_equal(prompts.check_QC, alone.check_QC)
        assert prompts.prompt_QP.tolist() != alone.prompt_QP.tolist()
        want = verifier.score(params, alone, rollout(own, TEXTS, 48), frozen.verdict, reward, SMALL)
    np.testing.assert_allclose(got, want.reward_B, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(got) == 0, np.isin(np.arange(8), [1, 4]))
    assert told["verifier/blocked_frac"] == 0.25


def test_in_its_own_chat_frame_a_verifier_gives_the_same_reward_fused_and_split(tmp_path):
    """Fused, it reads the policy's ids; split, the texts again, in the tokenizer that is named."""
    folder = tmp_path / "verifier"
    folder.mkdir()
    tokenizer.open_tokenizer("byte").save(folder)
    part = dataclasses.replace(SMALL, vocab=300, weights=str(folder))
    params = parameters.init(jax.random.key(0), SMALL)
    params = {k: x * (1 if "norm" in k else 4) for k, x in params.items()}
    reward = RewardConfig(min_mass=0.0)
    stage = RlStage(policy="pretrained", verifier="pretrained", prompts=4, samples=2, reward=reward)
    rewards = {}
    for way, named in (("fused", ""), ("split", str(folder))):
        cfg = Config(
            runs=str(tmp_path / way),
            tokenizer="byte",
            verifier_tokenizer=named,
            data=dataclasses.replace(DATA, check_columns=900),
            model=SMALL,
            verifier=part,
            stages=(stage,),
        )
        ws = Workspace(Run(cfg), sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
        [(before, after)] = ws.verifier_prompt.around(RECORDS[1])
        assert "<|im_start|>assistant" in "".join(ws.judge_tokenizer.pieces([*before, *after]))
        frozen = Frozen(reference={}, verifier=params, verdict=ws.verdict())
        prompts, written = ws.columns(RECORDS), rollout(ws.tokenizer, TEXTS, 24)
        with jax.set_mesh(ws.mesh), pool.Pool() as workers:
            if way == "fused":
                cut_B = written.truncated_B
                judge = verifier.score(params, prompts, written, frozen.verdict, reward, part)
                rewards[way] = judge.reward_B
            else:
                ask = host_rewards.scorer(stage, ws, frozen, workers)
                rewards[way], _ = ask(RECORDS, prompts, written)
    np.testing.assert_allclose(rewards["fused"], rewards["split"], rtol=1e-5, atol=1e-6)
    judged = np.asarray(rewards["fused"])[~cut_B]
    assert len({*judged.round(4).tolist()}) >= 4, "the rewards differ, so that equality says much"


def test_gates_multiply_the_reward(ws):
    """`regex` passes texts with a digit, `repetition` halves what is said twice."""
    record = RECORDS[1] | {"extra": '{"pattern": ".*[0-9]"}', "answer": "2"}
    texts = ["2", "two", "2 1", "it is 2 it is 2 it is 2\n2"]
    reward = RewardConfig(source="rule", rule="contains", gates=("regex", "repetition"))
    read = rollout(ws.tokenizer, texts, 32)
    with pool.Pool() as workers:
        score_all = host_rewards.scorer(RlStage(reward=reward), ws, Frozen({}, {}, None), workers)
        got, told = score_all([record], None, read, texts)
        plain, _ = host_rewards.score_by_rule("contains", [record], texts, read, ws, workers)
        digit, _ = host_rewards.score_by_rule("regex", [record], texts, read, ws, workers)
        fresh, _ = host_rewards.score_by_rule("repetition", [record], texts, read, ws, workers)
    assert plain.tolist() == [1, 0, 1, 1], "the second row was cut off"
    assert digit[0] == 1 and 0 < fresh[3] < 1
    np.testing.assert_allclose(got, plain * digit * fresh)
    assert told["gate/regex"] == pytest.approx(digit.mean()) and "gate/repetition" in told


def score_with(ws, path, text, capsys, **reward):
    path.write_text(text)
    cfg = RewardConfig(source="rule", rule=str(path), **reward)
    stage, texts = RlStage(reward=cfg), ["2", "two"]
    host_rewards._SAID.clear()
    with pool.Pool(1, seconds=20) as workers:
        score_all = host_rewards.scorer(stage, ws, Frozen({}, {}, None), workers)
        read = rollout(ws.tokenizer, texts, 8).replace(truncated_B=np.zeros(2, bool))
        results = [score_all([RECORDS[1]], None, read, texts) for _ in range(2)]
    assert results[0][0].tolist() == results[1][0].tolist()
    return results[0][0].tolist(), results[0][1], capsys.readouterr().out


NUMBER = "def score(c, r): return float(int(c) == 2)"


def test_a_rule_that_fails_ends_the_run_with_the_answer(ws, tmp_path, capsys):
    for text, words in (
        (NUMBER, "ValueError.*two"),
        ("def score(c, r): pass", "returned None.*'2'"),
    ):
        with pytest.raises(RunError, match=words) as error:
            score_with(ws, tmp_path / "mine.py", text, capsys)
        assert "mine.py" in str(error.value) and "on_error: zero" in str(error.value)
        assert re.search(r"failed on [12] of 2 answers: ", str(error.value))
        user_file._load.cache_clear()


def test_a_rule_that_may_fail_scores_zero_and_is_named_once(ws, tmp_path, capsys):
    scores, metrics, out = score_with(ws, tmp_path / "mine.py", NUMBER, capsys, on_error="zero")
    assert scores == [1.0, 0.0] and metrics["rule/crash"] == 0.5
    assert out.count("ValueError") == 1 and "two" in out


def test_a_score_outside_the_unit_interval_is_counted_and_named(ws, tmp_path, capsys):
    text = "def score(c, r):\n    print('noise')\n    return 2.0 if c == 'two' else 1"
    scores, metrics, out = score_with(ws, tmp_path / "mine.py", text, capsys)
    assert scores == [1.0, 0.0] and metrics["rule/crash"] == 0.5
    assert "2.0 is not in [0, 1]" in out and out.count("printed: noise") == 1


@pytest.mark.parametrize("on_error", ["stop", "zero"])
def test_only_the_first_step_is_ended_by_a_rule_that_fails(on_error):
    stage = RlStage(reward=RewardConfig(source="rule", on_error=on_error))
    for number, wanted in ((0, on_error), (1, "zero"), (9, "zero")):
        state = SimpleNamespace(step=np.int32(number))
        assert host_rewards.on_rule_error(stage, state) == wanted
