"""Rotary fields of config.json: YaRN and LongRoPE as models have them, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest

from rlvr_jax import positions
from rlvr_jax.config import ModelConfig
from rlvr_jax.host.weights import WeightsError
from rlvr_jax.host.weights.families import parse_config

SIZES = dict(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=4)
SIZES |= dict(num_attention_heads=4, num_key_value_heads=2, hidden_act="silu")
LN4 = 0.1 * math.log(4) + 1


def read(kind: str, scaling: dict | None, **more) -> dict:
    return parse_config(SIZES | dict(model_type=kind, rope_scaling=scaling) | more, "config.json")


def yarn(**more) -> dict:
    return dict(type="yarn", factor=4.0, original_max_position_embeddings=32768) | more


def test_the_yarn_of_deepseek_r1_qwen3_8b() -> None:
    """Its attn_factor takes back what YaRN multiplies rotated entries by."""
    given = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
    fields = read("qwen3", given | dict(attn_factor=0.8782488562869419), rope_theta=1000000)
    assert fields["rope_amplitude"] == pytest.approx(1.0, abs=1e-12)
    assert (fields["rope_low"], fields["rope_high"], fields["rope_truncate"]) == (1.0, 32.0, True)


def test_yarn_added_to_a_qwen2_lengthens_its_context() -> None:
    fields = read("qwen2", yarn(), max_position_embeddings=32768)
    assert fields["context"] == 131072 and fields["rope_amplitude"] == LN4
    alone = dict(type="yarn", factor=4.0)  # the original length is then max_position_embeddings
    assert read("qwen2", alone, max_position_embeddings=32768) == fields
    assert read("qwen2", yarn(), max_position_embeddings=262144)["context"] == 262144


@pytest.mark.parametrize(
    "more, amplitude",
    [
        (dict(attention_factor=0.7), 0.7),
        (dict(attention_factor=0.7, mscale=1.0, mscale_all_dim=0.5), 0.7),
        (dict(mscale=1.0, mscale_all_dim=1.0), 1.0),
        (dict(mscale=2.0, mscale_all_dim=1.0), (0.2 * math.log(4) + 1) / LN4),
        (dict(mscale=2.0), LN4),
        (dict(mscale=2.0, mscale_all_dim=0), LN4),
        (dict(attention_factor=None, attn_factor=2), 2 * LN4),
        (dict(factor=1.0), 1.0),
    ],
)
def test_the_amplitude_of_yarn(more, amplitude) -> None:
    assert read("qwen3", yarn(**more))["rope_amplitude"] == pytest.approx(amplitude, abs=1e-12)


def test_yarn_keeps_high_frequencies_and_divides_low_ones() -> None:
    """Dimensions 20 to 46 of 64 are the ramp of a Qwen2.5 (number of turns 32 and 1 in 32768)."""
    cfg = ModelConfig(**read("qwen2", yarn(), rope_theta=1e6, head_dim=128))
    frequency = np.asarray(positions.rotary_frequencies(cfg), np.float64)[0]
    number = np.arange(64)
    plain = 1e6 ** -(number / 64)
    turns = 32768 * plain / (2 * np.pi)
    first, last = np.floor(np.interp(-32, -turns, number)), np.ceil(np.interp(-1, -turns, number))
    share = np.clip((number - first) / (last - first), 0, 1)
    np.testing.assert_allclose(frequency, plain * (1 - share * 0.75), rtol=1e-5)
    assert 0 < first < last < 63


def test_layers_without_rotation_have_no_amplitude() -> None:
    cfg = ModelConfig(**read("smollm3", yarn()))
    cos, sin = np.asarray(positions.cos_sin(np.arange(9)[None], cfg))[1]
    assert np.all(cos == 1) and np.all(sin == 0)
    cos, sin = np.asarray(positions.cos_sin(np.arange(9)[None], cfg))[0]
    np.testing.assert_allclose(cos**2 + sin**2, LN4**2, rtol=1e-6)


# -- phi3 -----------------------------------------------------------------------------------------

LONG = dict(type="longrope", short_factor=[1, 1.5, 2.0, 3.0, 4.0, 5.0], long_factor=[9.0] * 6)
PHI4_MINI = dict(partial_rotary_factor=0.75, original_max_position_embeddings=4096)
PHI4_MINI |= dict(max_position_embeddings=131072, sliding_window=262144, full_attn_mod=1)
PHI4_MINI |= dict(interpolate_factor=1, lm_head_bias=False, mlp_bias=False, embd_pdrop=0.0)
PHI4_MINI |= dict(
    auto_map={
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
        "AutoTokenizer": "Xenova/gpt-4o",
    }
)


@pytest.mark.parametrize("name", ["longrope", "su", "yarn"])
def test_the_longrope_of_phi4_mini(name) -> None:
    """`su` and `yarn` are older names of it; rows are short unless the config says otherwise."""
    fields = read("phi3", LONG | dict(type=name), **PHI4_MINI)
    assert (fields["rope_scaling"], fields["rope_size"]) == ("longrope", 12)
    assert fields["rope_short"] == (1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
    assert fields["rope_amplitude"] == math.sqrt(1 + math.log(32) / math.log(4096))
    cfg = ModelConfig(**fields)
    plain = 1e4 ** -(np.arange(6) / 6)
    np.testing.assert_allclose(
        positions.rotary_frequencies(cfg), [plain / fields["rope_short"]] * 2, rtol=1e-6
    )
    long = dataclasses.replace(cfg, long_rows=True)
    np.testing.assert_allclose(positions.rotary_frequencies(long), [plain / 9] * 2, rtol=1e-6)
    assert (cfg.longest, long.longest) == (4096, 131072)


def test_both_places_of_the_fields_of_a_phi3() -> None:
    inside = LONG | dict(partial_rotary_factor=0.75, original_max_position_embeddings=4096)
    config = SIZES | PHI4_MINI | dict(model_type="phi3", rope_parameters=inside, rope_theta=None)
    assert parse_config(config, "config.json") == read("phi3", LONG, **PHI4_MINI)


# -- refused --------------------------------------------------------------------------------------

BAD = [
    ("qwen3", yarn(attn_factor=1.0, attention_factor=1.0), "attn_factor and attention_factor"),
    ("qwen3", yarn(factor=None), "factor of rotary scaling yarn is missing"),
    ("qwen3", yarn(original_max_position_embeddings=None), "original_max_position_embeddings"),
    ("qwen3", yarn(extrapolation_factor=1.0), "extrapolation_factor of rotary scaling yarn"),
    ("qwen3", yarn(mscale="1"), "mscale of yarn is '1'"),
    ("qwen3", yarn(truncate=1), "rope_truncate is 1"),
    ("qwen3", yarn(original_max_position_embeddings=4e3), "rope_original is 4000.0"),
    ("qwen3", yarn(partial_rotary_factor=0.5), "partial_rotary_factor = 0.5"),
    ("qwen3", LONG, "'longrope' of a qwen3"),
    ("phi3", dict(type="linear", factor=2.0), "'linear' of a phi3"),
    ("phi3", LONG | dict(long_factor=[9.0]), "long_factor of longrope is not 6 numbers"),
    ("phi3", LONG | dict(short_factor=None), "short_factor of longrope"),
    ("phi3", LONG | dict(short_factor=[0.0] * 6), "short_factor of longrope"),
]


@pytest.mark.parametrize("kind, scaling, words", BAD, ids=[x[2] for x in BAD])
def test_rotary_fields_that_are_refused_by_name(kind, scaling, words) -> None:
    with pytest.raises(WeightsError) as error:
        read(kind, scaling, **(PHI4_MINI if kind == "phi3" else {}))
    assert words in str(error.value) and "config.json" in str(error.value)


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("outside", [4096, None])
def test_fields_of_a_phi3_that_contradict_each_other(place, outside) -> None:
    """transformers takes the number outside, which is 4096 if absent."""
    inside = LONG | dict(original_max_position_embeddings=8192)
    config = SIZES | PHI4_MINI | {"model_type": "phi3", place: inside}
    config["original_max_position_embeddings"] = outside
    with pytest.raises(WeightsError, match="original_max_position_embeddings is 4096, and 8192"):
        parse_config(config, "config.json")


def test_longrope_without_the_longest_row() -> None:
    with pytest.raises(WeightsError, match="needs max_position_embeddings"):
        read("phi3", LONG, **PHI4_MINI | dict(max_position_embeddings=None))
