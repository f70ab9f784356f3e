"""The judge that is a larger model: what it reads, in whatever batch, and when it says nothing."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlvr_jax import model, parameters, sharding
from rlvr_jax.config import Config, EvaluateStage, JudgeConfig, LabelStage, MeshConfig, ModelConfig
from rlvr_jax.host.processes.team import Team
from rlvr_jax.host.text import tokenizer
from rlvr_jax.host.text.wording import load_wording
from rlvr_jax.host.verdicts.judge import Rule, words
from rlvr_jax.host.verdicts.judge.endpoint import Endpoint
from rlvr_jax.stages import judges
from rlvr_jax.stages.workspace import Workspace

SIZES = dict(layers=1, width=32, heads=2, kv_heads=2, head_size=16, feedforward=32, vocab=300)
RECORDS = [{"question": "q" * n, "reference": "r"} for n in (3, 9, 4, 1, 20)]
ANSWERS = ["one", "two", "", "four", "five"]


@pytest.fixture
def ws(monkeypatch):
    """A workspace on one device, and a random model wherever one is asked for."""
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    params = parameters.init(jax.random.key(0), ModelConfig(**SIZES))
    monkeypatch.setattr(judges.weights, "find_model", lambda name: name)
    monkeypatch.setattr(judges.weights, "load_architecture", lambda path: SIZES | {"context": 2000})
    monkeypatch.setattr(judges.weights, "load", lambda path, cfg, shardings: params)
    cfg = Config(stages=(EvaluateStage(policy="pretrained", verifier=""),))
    return Workspace(SimpleNamespace(cfg=cfg, began=None, team=Team()), mesh)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A short question, since ours has 700 bytes, whose words are single bytes."""
    path = tmp_path_factory.mktemp("judge") / "short.yaml"
    path.write_text(
        'words: [Y, N]\nask: "Question: {question}\\nReference: {reference}\\nFinal: {answer}"\n'
    )
    return str(path)


def judge(ws, template, **changes):
    changes = {"tokens": 2, "batch": 4, "template": template} | changes
    cfg = JudgeConfig(kind="model", weights="w", tokenizer="byte", **changes)
    return judges.ModelJudge(cfg, ws, "label")


def test_a_reply_does_not_depend_on_who_else_is_judged(ws, short, monkeypatch):
    monkeypatch.setattr(words, "parse_vote", lambda reply, said: reply)
    together = judge(ws, short, batch=3)(ANSWERS, RECORDS)
    single = judge(ws, short, batch=1)
    alone = [single([a], [r])[0] for a, r in zip(ANSWERS, RECORDS, strict=True)]
    assert together == alone
    assert together[2] == [0], "an empty answer is wrong without asking"
    assert len({str(reply) for reply in together}) > 2, "they were asked different things"


def test_votes_are_drawn_one_by_one_and_again_the_same(ws, short, monkeypatch):
    monkeypatch.setattr(words, "parse_vote", lambda reply, said: reply)
    drawing = judge(ws, short, votes=3, temperature=1.0, batch=1)
    votes = drawing(["one"], RECORDS[:1])
    assert len(votes[0]) == 3 == len(set(votes[0]))
    assert drawing(["one"], RECORDS[:1]) != votes, "a later call draws anew"
    drawing._calls = 0
    assert drawing(["one"], RECORDS[:1]) == votes


def test_the_logit_of_the_next_token(ws, short):
    """Against the whole row through the model, without padding."""
    found = judge(ws, short, read="logit", min_mass=0.0, batch=2)(ANSWERS, RECORDS)
    tok, cfg = tokenizer.open_tokenizer("byte"), ModelConfig(**SIZES)
    params = judges.weights.load("w", cfg, None)
    for votes, answer, record in zip(found, ANSWERS, RECORDS, strict=True):
        if not answer:
            continue
        ids = np.array([tok.chat(load_wording(short).messages(record | {"answer": answer}))])
        hidden, _ = model.prefill(params, ids, np.ones(ids.shape, bool), cfg)
        logits = model.logits(params, hidden[:, -1], cfg)[0]
        assert votes == [int(logits[ord("Y")] > logits[ord("N")])]
    assert judge(ws, short, read="logit", min_mass=1.0)(["one"], RECORDS[:1]) == [[None]]


def test_a_verdict_of_several_tokens_has_no_logit(ws):
    with pytest.raises(tokenizer.TokenizerError, match="'YES' is 3 tokens"):
        judge(ws, "judge", read="logit")


def test_what_is_longer_than_the_judge_reads_gets_no_verdict(ws, short):
    record = {"question": "q" * 3000, "reference": "r"}
    one = judge(ws, short)
    one._ask = lambda asked: [[1] for _ in asked]
    assert one(["one", "one", ""], [record, RECORDS[0], record]) == [[None], [1], [0]]


def test_gibberish_is_no_verdict(ws, short):
    assert judge(ws, short, batch=1)(["one"], RECORDS[:1]) == [[None]]


def test_kinds(ws, tmp_path, monkeypatch):
    """Each kind of judge is made of its config, and refused by it before any work."""
    ws.run.check_signal, ws.run.replies = bool, lambda name: tmp_path / f"{name}.jsonl"
    local = JudgeConfig(kind="model", weights="w", tokenizer="byte")
    asked = JudgeConfig(kind="endpoint", url="http://localhost/v1", model="m", key_env="")
    kinds = ((JudgeConfig(), Rule), (local, judges.ModelJudge), (asked, Endpoint))
    for cfg, kind in kinds:
        judges.check_judge(cfg)
        made = judges.make_judge(LabelStage(judge=cfg), ws)
        assert isinstance(getattr(made, "_judge", made), kind)
        made.close()
    with pytest.raises(ValueError, match="mtah"):
        judges.check_judge(JudgeConfig(rule="mtah"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds no key"):
        judges.check_judge(JudgeConfig(kind="endpoint", url="http://localhost/v1", model="m"))
