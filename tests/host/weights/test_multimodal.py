"""The language model of a Gemma 3 with a vision tower: both layouts, what is said and refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlvr_jax import parameters
from rlvr_jax.config import ModelConfig
from rlvr_jax.host import weights
from rlvr_jax.host.weights import WeightsError
from rlvr_jax.host.weights.families import parse_config

GEMMA3 = Path(__file__).parents[2] / "golden" / "models" / "gemma3"


def load(path: Path, say=lambda text: None) -> tuple[ModelConfig, dict]:
    cfg = ModelConfig(**weights.load_architecture(path))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return cfg, weights.load(path, cfg, dict.fromkeys(parameters.names(cfg), one), say)


def newer(name: str) -> str:
    """The name that a tensor has inside of transformers since 4.52."""
    return "model." + name.replace("language_model.model.", "language_model.")


@pytest.fixture
def copy(tmp_path):
    """A copy of the folder, its config and tensors changed."""

    def copy(change=lambda tensors: tensors, text=None, **config) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(GEMMA3, folder)
        (folder / "logits.safetensors").unlink()
        told = json.loads((folder / "config.hub.json").read_text()) | config
        told["text_config"] = told["text_config"] and told["text_config"] | (text or {})
        (folder / "config.json").write_text(json.dumps(told))
        tensors = change(load_file(folder / "model.safetensors"))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder

    return copy


def test_both_layouts_hold_the_same_language_model(copy) -> None:
    folder = copy(lambda tensors: {newer(name): x for name, x in tensors.items()})
    names = load_file(folder / "model.safetensors")
    assert "model.language_model.layers.2.mlp.up_proj.weight" in names
    assert any(name.startswith("model.vision_tower.") for name in names)
    said: list[str] = []
    (cfg, params), (same_cfg, same) = load(folder, said.append), load(GEMMA3)
    assert cfg == same_cfg and all(np.array_equal(params[x], same[x]) for x in same)
    tower = sum(".vision_tower." in x or "multi_modal_projector" in x for x in names)
    assert said == [f"{folder}: the vision tower ({tower} tensors) is not read"] and tower > 10


def test_the_language_model_is_written_alone(copy, tmp_path) -> None:
    folder = copy()
    cfg, params = load(folder)
    weights.save(tmp_path / "out", params, cfg, folder)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert (config["model_type"], config["eos_token_id"]) == ("gemma3_text", [2, 5])
    assert config["rope_scaling"] == {"factor": 8.0, "rope_type": "linear"}
    assert not set(config) & {"vision_config", "text_config", "mm_tokens_per_image"}
    said: list[str] = []
    again, same = load(tmp_path / "out", said.append)
    assert again == cfg and not said
    assert all(np.array_equal(params[x], same[x]) for x in params)
    written, read = (load_file(x / "model.safetensors") for x in (tmp_path / "out", folder))
    inside = {x.removeprefix("language_model.") for x in read if x.startswith("language_model.")}
    assert set(written) == inside - {"lm_head.weight"}


def test_a_gemma_3_4b_names_few_fields_of_its_language_model() -> None:
    """transformers' values stand for the rest."""
    text = dict(hidden_size=2560, intermediate_size=10240, num_hidden_layers=34)
    text |= dict(model_type="gemma3_text", sliding_window=1024)
    text |= dict(rope_scaling=dict(factor=8.0, rope_type="linear"))
    config = dict(architectures=["Gemma3ForConditionalGeneration"], model_type="gemma3")
    config |= dict(boi_token_index=255999, eoi_token_index=256000, image_token_index=262144)
    config |= dict(eos_token_id=[1, 106], initializer_range=0.02, mm_tokens_per_image=256)
    config |= dict(torch_dtype="bfloat16", transformers_version="4.50.0.dev0")
    config |= dict(vision_config=dict(hidden_size=1152, model_type="siglip_vision_model"))
    cfg = ModelConfig(**parse_config(config | dict(text_config=text), "config.json"))
    assert (cfg.heads, cfg.kv_heads, cfg.head_size, cfg.vocab) == (8, 4, 256, 262208)
    assert (cfg.window, cfg.global_every, cfg.query_scale) == (1024, 6, 256.0)
    assert (cfg.rope_scaling, cfg.rope_factor, cfg.rope_theta) == ("linear", 8.0, 1e6)
    assert (cfg.rope_theta_window, cfg.context, cfg.tied) == (1e4, 131072, True)


def _more(name):
    return lambda tensors: tensors | {name: np.zeros(3, np.float32)}


BAD = [
    (dict(model_type="qwen2_5_vl"), "vision tower (qwen2_5_vl)"),
    (dict(text_config=None), "text_config is missing"),
    (dict(text_config=[]), "text_config is not a dict"),
    (dict(text=dict(model_type="llama")), "'llama' and not of gemma3_text"),
    (dict(tie_word_embeddings=False), "tie_word_embeddings = False"),
    (dict(text=dict(tie_word_embeddings=False)), "tie_word_embeddings = False"),
    (dict(text=dict(final_logit_softcapping=30.0)), "final_logit_softcapping = 30.0"),
    (dict(text=dict(wholly_new=7)), "field wholly_new = 7"),
    (dict(audio_config={}), "field audio_config = {}"),
    (dict(quantization_config={"quant_method": "awq"}), "quantization_config"),
    (dict(change=_more("audio_tower.weight")), "tensor audio_tower.weight"),
    (dict(change=_more("language_model.model.odd")), "tensor language_model.model.odd"),
]


@pytest.mark.parametrize("change, words", BAD, ids=[x[1] for x in BAD])
def test_what_is_not_that_language_model_is_refused_by_name(copy, change, words) -> None:
    folder = copy(**change)
    with pytest.raises(WeightsError) as error:
        load(folder)
    assert words in str(error.value) and str(folder) in str(error.value)


def test_a_vision_tower_beside_a_language_model_alone_is_refused(copy) -> None:
    told = json.loads((GEMMA3 / "config.hub.json").read_text())["text_config"]
    folder = copy(lambda tensors: {newer(name): x for name, x in tensors.items()})
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(WeightsError, match=r"model\.embed_tokens\.weight is missing"):
        load(folder)
