"""What is printed before the first stage: the prompts as the models read them."""

from types import SimpleNamespace

import pytest

from rlvr_jax.config import Config, DataConfig, EvaluateStage, RlStage, SftStage
from rlvr_jax.host.text import template
from rlvr_jax.host.text.tokenizer import open_tokenizer
from rlvr_jax.host.text.verifier_prompt import VerifierPrompt
from rlvr_jax.stages import first_texts

RECORD = {"question": "1 + 1?", "reference": "2", "messages": ""}
TOK = open_tokenizer("byte")


def workspace(chat, done=(), **more):
    data = DataConfig(chat=chat, **more)
    cfg = Config(data=data, stages=(SftStage(), RlStage(), EvaluateStage()))
    return SimpleNamespace(
        cfg=cfg,
        tokenizer=TOK,
        judged=True,
        data="folder",
        encode_prompt=lambda record: template.encode_prompt(record, TOK, data),
        verifier_prompt=VerifierPrompt(TOK, data),
        run=SimpleNamespace(finished=lambda name: {} if name in done else None),
    )


def test_prompts_are_shown_with_their_control_tokens():
    prompt, asked = first_texts.texts(workspace(True), RECORD)
    assert prompt.endswith(
        "as the policy reads it:\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert asked.startswith("the verifier reads this (plain), and says '1' or '0':\n<|im_start|>")
    assert "Reference: 2\nAnswer: {answer}<|im_end|>\n<|im_start|>assistant\n" in asked


def test_each_wording_is_shown():
    ws = workspace(False, check_templates=("plain", "strict"))
    prompt, plain, strict = first_texts.texts(ws, RECORD)
    assert prompt == "a prompt as the policy reads it:\n1 + 1?\n"
    assert plain.endswith("\n1 + 1?\nReference: 2\nAnswer: {answer}\nCorrect:")
    assert strict.endswith("\nAnswer: {answer}\nSame result:") and "(strict)" in strict


@pytest.mark.parametrize(
    ("done", "stage", "shown"),
    [((), 0, True), (("sft",), 1, False), ((), 1, True), (("evaluate",), 0, False)],
)
def test_only_the_first_stage_shows_them(monkeypatch, capsys, done, stage, shown):
    ws = workspace(False, done)
    monkeypatch.setattr(first_texts.dataset, "open_split", lambda folder, split: [RECORD])
    first_texts.show(ws, ws.cfg.stages[stage])
    assert ("as the policy reads it" in capsys.readouterr().out) == shown
