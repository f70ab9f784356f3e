"""The sft stage: the tokens that it counts as learned are those of the assistant's turns."""

import json

import jax
import numpy as np
import pytest

from rlvr_jax import sharding
from rlvr_jax.config import (
    Config,
    DataConfig,
    EvaluateStage,
    MeshConfig,
    ModelConfig,
    SftStage,
    SourceConfig,
    count_steps,
)
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.stages import programs, sft
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import UpdateResult

SMALL = ModelConfig(layers=1, width=8, heads=1, kv_heads=1, head_size=8, feedforward=8, vocab=259)
SUMS = SourceConfig(file="sums.jsonl")
STAGE = SftStage(steps=3, batch=4)


def talk(i):
    texts = [f"hi {i}", "ho" * (1 + i % 3), "and?", f"no {i}"]
    roles = ["user", "assistant"] * 2
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def solved(i):
    return {"question": f"{i} + 1?", "answer": str(i + 1)}


@pytest.fixture
def make(tmp_path):
    def make(rows, **changes):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        fields = dict(sources=(SourceConfig(file=str(path)),), sft=12, label=0, train=0, test=0)
        fields |= dict(prompt_columns=64, response_columns=96, chat=True) | changes
        stages = fields.pop("stages", (STAGE,))
        cfg = Config(
            runs=str(tmp_path),
            tokenizer="byte",
            data=DataConfig(**fields),
            model=SMALL,
            stages=stages,
        )
        ws = Workspace(Run(cfg), sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
        ws.write_problems()
        return ws

    return make


@pytest.fixture
def seen(monkeypatch):
    """What the steps are given, in place of steps that learn."""
    calls = []

    def step(state, rows, base, learned_BR):
        calls.append((rows, learned_BR))
        return UpdateResult(state, {"loss": np.float32(0)})

    monkeypatch.setattr(programs, "jit_supervised", lambda *_: step)
    return calls


def test_the_turns_of_the_assistant_are_learned(make, seen):
    ws = make([{"messages": talk(i)} for i in range(20)])
    with jax.set_mesh(ws.mesh):
        sft.run(STAGE, ws)
    assert len(seen) == STAGE.steps
    for rows, learned_BR in seen:
        rows, learned_BR = jax.device_get((rows, learned_BR))
        for b in range(STAGE.batch):
            ids = rows.response_BR[b]
            flags = learned_BR[b]
            assert not flags[rows.length_B[b] :].any()
            text = ws.tokenizer.decode([i for i in ids[flags] if i not in ws.tokenizer.eos])
            prompt = ws.tokenizer.decode(rows.prompt_QP[b][rows.prompt_mask_QP[b]])
            number = int(prompt.split("hi ")[1].split()[0].removesuffix("assistant"))
            assert text == "ho" * (1 + number % 3) + f"no {number}"
            assert np.isin(ids[flags], ws.tokenizer.eos).sum() == 2


def test_problems_need_no_mask(make, seen):
    ws = make([solved(i) for i in range(20)])
    with jax.set_mesh(ws.mesh):
        sft.run(STAGE, ws)
    assert len(seen) == STAGE.steps and all(learned is None for _, learned in seen)


def test_conversations_that_are_too_long_name_their_columns(make):
    ws = make([{"messages": talk(i)} for i in range(20)], response_columns=20)
    with pytest.raises(RunError, match="raise data.response_columns to at least"):
        ws.problems("sft")


def test_conversations_are_not_graded(make):
    asked = EvaluateStage(policy="sft", verifier="")
    ws = make([{"messages": talk(i)} for i in range(20)], stages=(STAGE, asked))
    check = ws.record_check([], "test")
    with pytest.raises(ValueError, match="a conversation without a reference, for sft stages"):
        check(ws.problems("sft")[0])


def test_passes_become_steps(make, seen, capsys):
    stage = SftStage(steps=0, passes=3, batch=5)
    judged = SftStage(steps=0, passes=2, batch=64, name="more", others="items", role="grm")
    rows = [{"messages": talk(i)} for i in range(20)]
    ws = make(rows, sft=17, stages=(stage,))
    known = count_steps(stage, ws.cfg.data)
    assert (known.steps, known.passes) == (9, 0), "3 * (17 // 5)"
    assert count_steps(stage, DataConfig(sources=(SUMS,), sft="all")) is stage
    with jax.set_mesh(ws.mesh):
        assert sft.run(stage, ws) == {"steps": 9}, "of a stage whose rows the config does not know"
    assert len(seen) == 9
    assert "sft: 9 steps of 5 rows (passes: 3, rows: 17)" in capsys.readouterr().out
    assert count_steps(judged, ws.cfg.data) is judged
