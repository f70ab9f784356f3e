"""Adapters in PEFT's format: written, read back, refused, and read by PEFT with equal logits."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlvr_jax import adapters, convert, model, parameters, sharding
from rlvr_jax.config import AdapterConfig, Config, MeshConfig, ModelConfig, SftStage
from rlvr_jax.host import weights
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.checkpoint import Checkpoints
from rlvr_jax.host.text import tokenizer
from rlvr_jax.host.weights import WeightsError, peft
from rlvr_jax.stages.models import digest

MODELS = Path(__file__).parents[2] / "golden" / "models"
QWEN = MODELS / "qwen2"
BASE = peft.Base(str(QWEN), "0123456789abcdef")
FORM = AdapterConfig(rank=3, alpha=6.0, targets=("q", "v", "o", "down"), rslora=True)
CFG = ModelConfig(**weights.load_architecture(QWEN), adapter=FORM)


@pytest.fixture(scope="module")
def spm(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    tokenizer.train([f"What is {a} + {b}?" for a in range(30) for b in range(30)], 300, path)
    return path


def learned(cfg=CFG, seed=0):
    rng = np.random.default_rng(seed)
    shapes = parameters.abstract_learned(cfg)
    return {name: np.float32(rng.normal(0, 0.3, x.shape)) for name, x in shapes.items()}


def placed(cfg, shape=(1, 1, 1)):
    mesh_cfg = MeshConfig(*shape)
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[: int(np.prod(shape))])
    return sharding.shard_tree(parameters.abstract_learned(cfg), mesh, mesh_cfg)


def logits(params, cfg):
    """Of tokens 3, 4, ... in one row."""

    @jax.jit
    def read(params):
        token = jnp.arange(3, 17)[None]
        hidden, _ = model.prefill(params, token, jnp.ones(token.shape, bool), cfg)
        return model.logits(params, hidden, cfg)[0]

    return np.asarray(read(params))


@pytest.fixture
def folder(tmp_path) -> Path:
    peft.save(tmp_path / "adapter", learned(), CFG, BASE, "float32")
    return tmp_path / "adapter"


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2)])
def test_what_is_written_is_read_back(folder, shape):
    assert peft.load_fields(folder) == {
        **{"rank": 3, "alpha": 6.0, "rslora": True, "targets": ["q", "v", "o", "down"]}
    }
    got = peft.load(folder, CFG, placed(CFG, shape), BASE)
    want = learned()
    assert set(got) == set(want)
    assert all(
        np.array_equal(got[name], x) and got[name].dtype == x.dtype for name, x in want.items()
    )


def test_names_and_layouts_are_those_of_peft(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    size, want = CFG.sizes, learned()
    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    a, b = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
    assert a.shape == (3, size["D"]) and b.shape == (size["N"] * size["H"], 3)
    assert np.array_equal(a, want["qa_LDU"][1].T)
    assert np.array_equal(b, want["qb_LUNH"][1].reshape(3, -1).T)
    assert len(tensors) == 2 * 4 * CFG.layers
    out = tensors["base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight"]
    assert np.array_equal(out, want["outa_LNHU"][0].reshape(-1, 3).T)


def change(folder: Path, **fields) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"use_dora": True}, "field use_dora is True"),
        ({"bias": "all"}, "field bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"r": 0}, "above 0"),
        ({"r": True}, "above 0"),
        ({"lora_alpha": "6"}, "above 0"),
        ({"lora_alpha": 10**400}, "above 0"),
        ({"lora_alpha": float("inf")}, "above 0"),
        ({"r": 10**40}, "above 0"),
        ({"target_modules": [["q_proj"]]}, "not a list"),
        ({"target_modules": "all-linear"}, "not a list"),
        ({"target_modules": ["q_proj", "lm_head"]}, "not a list of q_proj"),
        ({"new_field": 1}, "field new_field is 1"),
    ],
)
def test_what_is_no_plain_adapter_is_refused(folder, fields, words):
    change(folder, **fields)
    with pytest.raises(WeightsError, match=words):
        peft.load_fields(folder)


def test_an_adapter_of_another_base_is_refused(folder):
    other = BASE._replace(digest="f" * 16)
    with pytest.raises(WeightsError, match="lies on other weights than those of .*: it was made"):
        peft.load(folder, CFG, placed(CFG), other)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors, folder / "adapter_model.safetensors")  # as PEFT writes it
    peft.load(folder, CFG, placed(CFG), other)
    for named, fits in (("hub/Qwen2", True), (None, True), ("hub/qwen2-instruct", False)):
        change(folder, base_model_name_or_path=named)
        if fits:
            peft.load(folder, CFG, placed(CFG), other)
        else:
            with pytest.raises(WeightsError, match="is of hub/qwen2-instruct and the weights are"):
                peft.load(folder, CFG, placed(CFG), other)


def test_what_does_not_fit_is_refused(folder):
    path = folder / "adapter_model.safetensors"
    tensors, whole = load_file(path), path.read_bytes()
    first = sorted(tensors)[0]

    def refused(tensors, words):
        save_file(tensors, path)
        with pytest.raises(WeightsError, match=words):
            peft.load(folder, CFG, placed(CFG), BASE)

    refused({k: x for k, x in tensors.items() if k != first}, "lacks")
    refused(tensors | {"base_model.model.lm_head.lora_A.weight": np.zeros(3)}, "does not name")
    refused(tensors | {first: tensors[first][:, :-1].copy()}, "an adapter of another base")
    refused(tensors | {first: tensors[first] * np.float32(np.nan)}, "NaN")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(WeightsError, match="its tensors are not those that were written"):
        peft.load(folder, CFG, placed(CFG), BASE)
    path.write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match="is damaged"):
        peft.load(folder, CFG, placed(CFG), BASE)
    path.unlink()
    with pytest.raises(WeightsError, match="only safetensors"):
        peft.load(folder, CFG, placed(CFG), BASE)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(WeightsError, match="name the folder of an adapter"):
        peft.load_fields(folder)


@pytest.mark.parametrize("name", ["phi3", "mixtral"])
def test_forms_that_peft_has_not_are_refused(tmp_path, name):
    form = AdapterConfig(rank=2)
    cfg = ModelConfig(**weights.load_architecture(MODELS / name), adapter=form)
    with pytest.raises(WeightsError, match="write merged weights"):
        peft.save(tmp_path / "out", learned(cfg), cfg, BASE, "float32")
    assert not any(tmp_path.iterdir())


def test_a_config_takes_the_form_of_a_given_adapter(folder, tmp_path):
    text = f"""
name: demo
model: {{weights: {QWEN}, adapter: {{weights: {folder}}}}}
stages: [{{stage: evaluate, policy: pretrained, verifier: ""}}]
"""
    path = tmp_path / "demo.yaml"
    path.write_text(text)
    cfg = settings.load(path)
    assert cfg.model.adapter == dataclasses.replace(FORM, weights=str(folder))
    again = tmp_path / "again.yaml"
    again.write_text(settings.dump(cfg))
    assert settings.load(again) == cfg
    with pytest.raises(ValueError, match="model.adapter.rank is 8 in the config and 3 in"):
        settings.load(path, ["model.adapter.rank=8"])


# ---- convert ---------------------------------------------------------------------------------


OWN = ModelConfig(
    layers=2, width=16, heads=2, kv_heads=2, head_size=8, feedforward=24, vocab=300, adapter=FORM
)


@pytest.fixture
def run(tmp_path, spm) -> Path:
    """A run whose stage sft has trained an adapter."""
    base = parameters.init(jax.random.key(0), OWN)
    weights.save(tmp_path / "base", base, OWN)
    named = dataclasses.replace(OWN, weights=str(tmp_path / "base"))
    stages = (SftStage(init="pretrained"),)
    cfg = Config(name="demo", model=named, tokenizer=str(spm), stages=stages)
    folder = tmp_path / "demo"
    (folder / "stages").mkdir(parents=True)
    (folder / "config.resolved.yaml").write_text(settings.dump(cfg))
    (folder / "stages" / "sft.json").write_text("{}")
    with Checkpoints(folder / "checkpoints" / "sft") as checkpoints:
        checkpoints.save(1, {"params": jax.tree.map(jnp.asarray, learned(OWN))}, {})
    (folder / "bases.json").write_text(json.dumps({named.weights: digest(base)}))
    return folder


def test_a_trained_adapter_is_written_merged_or_alone(run, tmp_path, capsys):
    base = parameters.init(jax.random.key(0), OWN)
    want = logits(base | learned(OWN), OWN)
    assert convert.main([f"{run}:sft", str(tmp_path / "merged")]) == 0
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    plain = dataclasses.replace(OWN, adapter=AdapterConfig())
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    to = sharding.shard_tree(parameters.abstract(plain), mesh, MeshConfig())
    merged = weights.load(tmp_path / "merged", plain, to)
    np.testing.assert_allclose(logits(merged, plain), want, atol=1e-5)
    assert convert.main([f"{run}:sft", str(tmp_path / "alone"), "--adapter"]) == 0
    known = peft.Base(str(tmp_path / "base"), digest(base))
    alone = peft.load(tmp_path / "alone", OWN, placed(OWN), known)
    assert all(np.array_equal(alone[name], x) for name, x in learned(OWN).items())
    assert convert.main([str(tmp_path / "merged"), str(tmp_path / "x"), "--adapter"]) == 2
    assert "has no adapter" in " ".join(capsys.readouterr().err.split())
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    assert convert.main([f"{run}:sft", str(tmp_path / "y")]) == 2
    assert "are not those that the adapter" in " ".join(capsys.readouterr().err.split())


# ---- the library itself ----------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")
@pytest.mark.parametrize("name", ["qwen2", "gemma2", "llama"])
def test_peft_gives_the_same_logits(tmp_path, name):
    """From our folder in PEFT, and from PEFT's folder in ours."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    source = MODELS / name
    form = AdapterConfig(rank=4, alpha=6.0)
    cfg = ModelConfig(**weights.load_architecture(source), adapter=form)
    to = sharding.shard_tree(
        parameters.abstract(cfg), sharding.make_mesh(MeshConfig(), jax.devices()[:1]), MeshConfig()
    )
    base = weights.load(source, cfg, to)
    token = torch.arange(3, 17)[None]

    def theirs() -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager"
        )

    known = peft.Base(str(source), digest(base))
    peft.save(tmp_path / "ours", learned(cfg), cfg, known, "float32")
    with torch.no_grad():
        want = PeftModel.from_pretrained(theirs(), tmp_path / "ours")(token).logits[0].numpy()
    got = logits(base | learned(cfg), cfg)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.abs(got - logits(base, cfg)).max() > 0.1

    modules = list(peft.MODULES.values())
    made = get_peft_model(theirs(), LoraConfig(r=5, lora_alpha=7, target_modules=modules))
    with torch.no_grad():
        for key, x in made.named_parameters():
            if "lora_" in key:
                x.normal_(0, 0.2)
        want = made(token).logits[0].numpy()
    made.save_pretrained(tmp_path / "theirs")
    fields = peft.load_fields(tmp_path / "theirs")
    assert set(fields["targets"]) == set(peft.MODULES)
    theirs_cfg = dataclasses.replace(
        cfg, adapter=AdapterConfig(**fields | {"targets": tuple(fields["targets"])})
    )
    read = peft.load(tmp_path / "theirs", theirs_cfg, placed(theirs_cfg), known)
    np.testing.assert_allclose(logits(base | read, theirs_cfg), want, atol=1e-4)
    merged = adapters.merge(base | read, theirs_cfg, jnp.float32)
    np.testing.assert_allclose(logits(merged, theirs_cfg), want, atol=1e-4)
