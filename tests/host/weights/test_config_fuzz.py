"""Whatever a config.json holds: sizes, or one sentence; never a crash or a hang."""

import json
import os

import pytest

from rlvr_jax.config import ModelConfig
from rlvr_jax.host import weights
from rlvr_jax.host.weights import WeightsError, families, rotary

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SIZES = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 100}
SIZES |= {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128}
CONFIGS = {
    "llama": SIZES | {"rope_theta": 1e4, "rope_scaling": LLAMA3},
    "gemma3_text": SIZES
    | {"sliding_window": 16, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]},
}
HUGE = [10**12, 10**400, -(10**400), 1e308, float("nan"), float("inf"), -float("inf")]
VALUES = [None, True, False, 0, -1, 1, 1.5, *HUGE, "", "x", "\x00\x1b[2J", [], [1], [[1]], {}]
VALUES += [{"a": 1}, {"rope_type": []}, {"rope_type": "llama3", "factor": 10**400}]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_with_every_wrong_value(kind):
    config, counts = {"model_type": kind} | CONFIGS[kind], {"refused": 0, "read": 0}
    families.parse_config(config, "config.json")
    fields = {
        *families.READ[kind],
        *rotary.FIELDS,
        "layer_types",
        *families.REQUIRED[kind],
        *config,
        "other",
    }
    for field in sorted(fields):
        for value in VALUES:
            trees = [config | {field: value}]
            trees += [config | {"rope_scaling": LLAMA3 | {field: value}}] * (kind == "llama")
            for tree in trees:
                try:
                    found = ModelConfig(**families.parse_config(tree, "config.json"))
                except ValueError as error:  # WeightsError is one
                    assert str(error)
                    counts["refused"] += 1
                    continue
                counts["read"] += 1
                assert 0 < found.width * found.layers * found.vocab < 2**160
    assert counts["refused"] > 400 and counts["read"] > 20


@pytest.mark.parametrize("text", ["[" * 10_000, '{"a":' * 10_000, "9" * 10_000, "NaN", "\0"])
def test_a_file_that_is_no_config(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match="config.json"):
        weights.load_architecture(tmp_path)


def test_a_pipe_is_no_config(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(WeightsError, match=r"config\.json is not a file"):
        weights.load_architecture(tmp_path)


def test_layers_without_end_are_counted_before_they_are_listed(tmp_path):
    tree = {"model_type": "gemma3_text"} | CONFIGS["gemma3_text"] | {"num_hidden_layers": 10**12}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(WeightsError, match="6 entries for 1000000000000 layers"):
        families.parse_config(tree, "config.json")
