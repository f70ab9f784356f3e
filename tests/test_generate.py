"""`python -m rlvr_jax.generate`: what training would sample, on the terminal."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest

from rlvr_jax import engine, generate, parameters
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.host import weights
from rlvr_jax.host.text import template
from rlvr_jax.host.text.tokenizer import open_tokenizer
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


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
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
        generate, "generate_tokens", lambda params, cfg, prompt, *rest: seen.append(prompt)
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
    ids = list(generate.generate_tokens(params, CFG, [1, 2, 3], tuple(range(259)), 5, sample, key))
    assert len(ids) == 1


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
