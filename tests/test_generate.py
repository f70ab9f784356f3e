"""`python -m rlvr_jax.generate`: what training would sample, on the terminal."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rlvr_jax import engine, generate, model, parameters
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.host import weights
from rlvr_jax.host.runs import compiles
from rlvr_jax.host.text import template
from rlvr_jax.host.text.tokenizer import open_tokenizer
from rlvr_jax.stages import responses
from rlvr_jax.structs import Prompts

CFG = ModelConfig(
    layers=2, width=16, heads=2, kv_heads=1, head_size=8, feedforward=24, vocab=259, context=256
)
TOKENS = 12
QWEN2 = str(Path(__file__).parent / "golden" / "models" / "qwen2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model whose tokens are bytes."""
    path = tmp_path_factory.mktemp("generate") / "model"
    tok = open_tokenizer("byte")
    params = parameters.init(jax.random.key(0), CFG)
    weights.save(path, params, CFG, extra={"eos_token_id": list(tok.eos)})
    return path


def said(capsys, *args) -> str:
    """The answer, which stands alone on standard output."""
    assert generate.main([*map(str, args)]) == 0
    seen = capsys.readouterr()
    assert seen.err.startswith(f"{TOKENS} tokens; ") and "tokens/s" in seen.err
    assert "tokens/s" not in seen.out
    return seen.out.removesuffix("\n")


@pytest.fixture
def one_device(monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)


@pytest.mark.parametrize(
    "raw, temperature",
    [
        (True, 0.0),
        (False, 1.0),
        pytest.param(True, 1.0, marks=pytest.mark.slow),
        pytest.param(False, 0.0, marks=pytest.mark.slow),
    ],
)
def test_it_says_what_training_would_sample(folder, capsys, one_device, raw, temperature):
    tok, asked = open_tokenizer("byte"), "Why? \u00e9"
    sample = SampleConfig(temperature)
    args = ["--model", folder, "--tokenizer", "byte", "--prompt", asked, "--seed", 3]
    args += ["--tokens", TOKENS, "--temperature", temperature, *(["--raw"] if raw else [])]
    text = said(capsys, *args)

    ids = tok.raw_prompt(asked) if raw else tok.chat([{"role": "user", "content": asked}])
    prompts = Prompts(*template.left_pad([ids], len(ids), "prompt"), None, None)
    params = parameters.init(jax.random.key(0), CFG)
    key = jax.random.key(3)
    want, _ = engine.generate(params, prompts, engine.Sampler(key, tok.eos, 1, TOKENS, sample), CFG)
    assert text == tok.decode(np.asarray(want.response_BR[0, : want.length_B[0]]))


def test_the_prompt_can_come_from_the_input(folder, capsys, one_device, monkeypatch):
    args = ["--model", folder, "--tokenizer", "byte", "--tokens", TOKENS, "--prompt"]
    direct = said(capsys, *args, "Why?")
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?"))
    assert said(capsys, *args, "-") == direct


def test_the_system_message_reaches_the_model(folder, one_device, monkeypatch):
    seen = []
    monkeypatch.setattr(
        responses, "generate_tokens", lambda params, cfg, prompt, *rest: seen.append(prompt)
    )
    with pytest.raises(TypeError):  # nothing to iterate over
        generate.main(
            ["--model", str(folder), "--tokenizer", "byte", "--prompt", "q", "--system", "s"]
        )
    tok = open_tokenizer("byte")
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert seen == [tok.chat(messages)]


def test_it_stops_at_any_eos(folder, one_device):
    """With every token an end, one token is all there is."""
    params = parameters.init(jax.random.key(0), CFG)
    sample, key = SampleConfig(0.0), jax.random.key(0)
    ids = list(responses.generate_tokens(params, CFG, [1, 2, 3], tuple(range(259)), 5, sample, key))
    assert len(ids) == 1


def test_a_response_is_written_with_the_cache_that_the_config_asks_for(one_device, monkeypatch):
    params, key = parameters.init(jax.random.key(0), CFG), jax.random.key(0)
    cfg, seen, decode = dataclasses.replace(CFG, cache_dtype="int8"), [], model.decode

    def watched(params, token, column, start, prefix, cache, cfg):
        seen.extend(x.dtype.name for held in (*cache, *prefix.kv) for x in held[:2])
        return decode(params, token, column, start, prefix, cache, cfg)

    monkeypatch.setattr(model, "decode", watched)
    list(responses.generate_tokens(params, cfg, [1, 2, 3], (), 3, SampleConfig(), key))
    assert set(seen) == {"int8"}


@pytest.mark.parametrize(
    "change, words",
    [
        (["--model", "nowhere"], "there is no model at nowhere"),
        (["--temperature", "-1"], "temperature >= 0"),
        (["--tokens", "0"], "--tokens must be at least 1"),
        (["--prompt", "", "--raw"], "the prompt is empty"),
        (["--raw", "--system", "s"], "--system needs a chat"),
        (["--seed", "99999999999999999999"], "--seed must be from 0"),
        (["--prompt", "q" * 260], "tokens and the model was made for 256"),
        (["--model", QWEN2], "the tokenizer has 259 tokens and the model 64"),
    ],
)
def test_what_cannot_work_is_one_sentence(folder, capsys, one_device, change, words):
    args = ["--model", str(folder), "--tokenizer", "byte", "--prompt", "q", *change]
    assert generate.main(args) == 2
    seen = capsys.readouterr()
    assert words in seen.err.replace("\n", " ") and not seen.out


def answered(folder, file, *more) -> list[dict]:
    out = file.parent / "out.jsonl"
    out.unlink(missing_ok=True)
    args = ["--model", folder, "--tokenizer", "byte", "--prompts", file, "--out", out]
    args += ["--tokens", TOKENS, "--temperature", 1, *more]
    assert generate.main([*map(str, args)]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_file_is_answered_in_its_order_with_one_program_for_each_width(
    folder, tmp_path, one_device
):
    """Three widths of prompts, 64, 128 and 256; no answer depends on the prompts beside its own."""
    texts = ["a", "b" * 70, "c" * 150, "d", "e" * 60, "f" * 80, "g"]
    (tmp_path / "p.txt").write_text("\n".join(texts[:4]) + "\n\n" + "\n".join(texts[4:]))
    counted = compiles.Compiles()
    rows = answered(folder, tmp_path / "p.txt", "--raw", "--batch", 2)
    assert counted.count("write_batch") == 3
    assert [row["prompt"] for row in rows] == texts
    assert all(row["tokens"] <= TOKENS and isinstance(row["finished"], bool) for row in rows)
    lines = [{"prompt": text, "id": text} for text in ("a", "x", "y", "d")]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    again = answered(folder, tmp_path / "p.jsonl", "--raw", "--batch", 3)
    assert [row["id"] for row in again] == ["a", "x", "y", "d"]
    assert [again[i]["text"] for i in (0, 3)] == [rows[i]["text"] for i in (0, 3)]


def test_a_row_of_a_file_is_what_training_would_draw(folder, tmp_path, one_device):
    """The second of two chats: the second row of a batch of training."""
    chats = [[{"role": "user", "content": text}] for text in ("Why?", "How?")]
    lines = [{"messages": chats[0]}, {"prompt": "How?"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    rows = answered(folder, tmp_path / "p.jsonl")
    tok = open_tokenizer("byte")
    ids, mask = template.left_pad([tok.chat(chat) for chat in chats], 64, "prompt")
    sampler = engine.Sampler(jax.random.key(0), tok.eos, 1, TOKENS, SampleConfig(1.0))
    params = parameters.init(jax.random.key(0), CFG)
    want, _ = engine.generate(params, Prompts(ids, mask, None, None), sampler, CFG)
    assert [row["text"] for row in rows] == [
        tok.decode(np.asarray(want.response_BR[i, : want.length_B[i]])) for i in range(2)
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "has no prompts"),
        ('{"text": 1}', "line 1: give a text `prompt`, or `messages`"),
        ('{"prompt": ""}', "line 1: its prompt must end with a user message"),
        ('{"messages": [{"role": "user"}]}', "line 1: each message needs a role"),
        ("{", "line 1: not JSON"),
        (json.dumps({"prompt": "q" * 250}), "prompt 1 of"),
    ],
)
def test_a_file_that_cannot_be_answered_is_one_sentence(
    folder, tmp_path, capsys, one_device, text, words
):
    (tmp_path / "p.jsonl").write_text(text)
    args = ["--model", str(folder), "--tokenizer", "byte", "--prompts", str(tmp_path / "p.jsonl")]
    assert generate.main([*args, "--out", str(tmp_path / "o.jsonl")]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o.jsonl").exists()
    assert generate.main(args) == 2
    assert "belong together" in capsys.readouterr().err
