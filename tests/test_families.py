"""Each model family against the logits of Hugging Face transformers, for all three passes."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rlvr_jax import model, parameters, sharding
from rlvr_jax.config import FAMILIES, MeshConfig, ModelConfig
from rlvr_jax.host import weights

MODELS = Path(__file__).parent / "golden" / "models"
NAMES = sorted(path.name for path in MODELS.iterdir())
LONG = "phi3_longrope_long"  # its rows are longer than the original length
# These differ from others of their family in tables, not in how they decode.
VARIANTS = ("llama_linear", "qwen3_moe_raw", "qwen2_yarn", "qwen3_yarn", "gemma3", LONG)
PREFIX = 12
LIMIT = 1e-4

prefill = jax.jit(model.prefill, static_argnums=3)
extend = jax.jit(model.extend, static_argnums=5)
decode = jax.jit(model.decode, static_argnums=6)
logits = jax.jit(model.logits, static_argnums=2)


def loaded(path: Path, mesh_cfg: MeshConfig = MeshConfig()) -> tuple[ModelConfig, dict]:  # noqa: B008
    """A model on the mesh of `mesh_cfg`."""
    cfg = ModelConfig(**weights.load_architecture(path), long_rows=path.name == LONG)
    parts = mesh_cfg.data * mesh_cfg.fsdp * mesh_cfg.tensor
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[:parts])
    like = parameters.abstract(cfg)
    return cfg, weights.load(path, cfg, sharding.shard_tree(like, mesh, mesh_cfg))


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    cfg, params = loaded(MODELS / request.param)
    return cfg, params, load_file(MODELS / request.param / "logits.safetensors")


def gap(got, want, mask) -> float:
    return float(np.abs(np.asarray(got) - want)[mask].max())


def test_every_family_has_a_model():
    models = [ModelConfig(**weights.load_architecture(MODELS / name)) for name in NAMES]
    assert {cfg.family for cfg in models} == set(FAMILIES)


def test_the_goldens_try_what_they_are_for():
    """Windows are shorter than rows, there are holes, and logits are not small."""
    for name in NAMES:
        cfg, golden = ModelConfig(**weights.load_architecture(MODELS / name)), load_logits(name)
        wide = "longrope" in name  # Phi-4-mini has a window that no row fills
        assert wide or cfg.window < golden["mask"].sum(-1).min()
        assert not golden["mask"].all()
        assert np.abs(golden["full"]).max() > 2
        np.testing.assert_allclose(
            golden["full"][golden["mask"]], golden["cached"][golden["mask"]], atol=2e-4
        )


def load_logits(name: str) -> dict:
    return load_file(MODELS / name / "logits.safetensors")


def test_prefill_gives_the_logits_of_transformers(case) -> None:
    cfg, params, golden = case
    hidden, _ = prefill(params, golden["token"], golden["mask"], cfg)
    assert gap(logits(params, hidden, cfg), golden["full"], golden["mask"]) <= LIMIT


def test_extend_gives_the_logits_of_transformers(case) -> None:
    cfg, params, golden = case
    token, mask = golden["token"], golden["mask"]
    _, prefix = prefill(params, token[:, :PREFIX], mask[:, :PREFIX], cfg)
    owner = np.arange(len(token), dtype=np.int32)[None]
    hidden = extend(params, token[:, PREFIX:], mask[:, PREFIX:], prefix, owner, cfg)
    got = logits(params, hidden, cfg)
    assert gap(got, golden["cached"][:, PREFIX:], mask[:, PREFIX:]) <= LIMIT


def test_decode_gives_the_logits_of_transformers(case, request) -> None:
    """The cache is longer than needed, and two rows share each prefix."""
    cfg, params, golden = case
    if request.node.callspec.params["case"] in VARIANTS:
        pytest.skip("another of its family is decoded")
    token, mask = golden["token"], golden["mask"]
    columns = token.shape[1] - PREFIX
    _, prefix = prefill(params, token[:, :PREFIX], mask[:, :PREFIX], cfg)
    cache = model.empty_cache(prefix, 2 * len(token), columns + 2)
    start = np.zeros(2 * len(token), np.int32)
    for column in range(columns):
        now = np.repeat(token[:, PREFIX + column], 2)
        hidden, cache = decode(params, now, jnp.int32(column), start, prefix, cache, cfg)
        want = np.repeat(golden["cached"][:, PREFIX + column], 2, 0)
        assert gap(logits(params, hidden, cfg), want, ...) <= LIMIT


@pytest.mark.parametrize("name", ["smollm3", "phi3_longrope", "olmo2"])
def test_unrolled_layers_give_the_logits_of_transformers(name) -> None:
    cfg, params = loaded(MODELS / name)
    cfg, golden = dataclasses.replace(cfg, unroll=True), load_logits(name)
    token, mask = golden["token"], golden["mask"]
    apart = parameters.unstack(params, cfg)
    hidden, prefix = prefill(apart, token[:, :PREFIX], mask[:, :PREFIX], cfg)
    got = logits(params, hidden, cfg)
    assert gap(got, golden["cached"][:, :PREFIX], mask[:, :PREFIX]) <= LIMIT
    cache, start = model.empty_cache(prefix, len(token), 4), np.zeros(len(token), np.int32)
    for column in range(3):
        now = token[:, PREFIX + column]
        hidden, cache = decode(apart, now, jnp.int32(column), start, prefix, cache, cfg)
        assert gap(logits(params, hidden, cfg), golden["cached"][:, PREFIX + column], ...) <= LIMIT


@pytest.mark.parametrize(
    "name",
    ["mistral", "qwen2", "qwen3_moe", "mixtral", "gemma3_text", "phi3_longrope", "olmo2"],
)
def test_a_split_model_is_the_whole_model(name) -> None:
    """On a mesh of 2 x 2 x 2 devices the split model gives the same logits."""
    cfg, params = loaded(MODELS / name)
    golden = load_logits(name)
    mesh_cfg = MeshConfig(2, 2, 2, letters={"K": ()} if cfg.kv_heads % 2 else {})
    _, split = loaded(MODELS / name, mesh_cfg)
    for key, x in params.items():
        np.testing.assert_array_equal(x, split[key], key)
    assert any(not x.sharding.is_fully_replicated for x in split.values())
    token, mask = (np.concatenate([golden[x], golden[x][:1]]) for x in ("token", "mask"))
    with jax.set_mesh(sharding.make_mesh(mesh_cfg)):
        hidden, _ = prefill(split, token, mask, cfg)
        got = np.asarray(logits(split, hidden, cfg))[:3]
    assert gap(got, golden["full"], golden["mask"]) <= LIMIT


def test_names_and_shapes_are_those_of_init(case) -> None:
    cfg, params, _ = case
    made = jax.eval_shape(lambda: parameters.init(jax.random.key(0), cfg))
    assert {k: (x.shape, x.dtype) for k, x in params.items()} == {
        k: (x.shape, x.dtype) for k, x in made.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_both_styles_of_config_say_the_same(name) -> None:
    texts = [(MODELS / name / x).read_text() for x in ("config.json", "config.hub.json")]
    new, hub = (weights.families.parse_config(json.loads(x), name) for x in texts)
    assert ModelConfig(**new) == ModelConfig(**hub)


# -- with transformers at hand --------------------------------------------------------------------


def makers():
    """The script that made the golden models."""
    path = MODELS.parent / "make_models.py"
    spec = importlib.util.spec_from_file_location("make_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.peers
@pytest.mark.parametrize("name", NAMES)
def test_transformers_agrees_on_other_numbers(name, tmp_path) -> None:
    """New weights go from transformers to this project and back, bit by bit."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    make = makers()
    theirs = make.build(*make.MODELS[name], seed=100)
    theirs.save_pretrained(tmp_path / name)
    cfg, params = loaded(tmp_path / name)
    token, mask = make.inputs(seed=101)
    hidden, _ = prefill(params, token.astype(np.int32), mask, cfg)
    got = logits(params, hidden, cfg)
    assert gap(got, make.full(theirs, token, mask), mask) <= LIMIT
    assert gap(got, make.cached(theirs, token, mask), mask) <= 2 * LIMIT

    for source, out in ((tmp_path / name, "copy"), (None, "fresh")):
        weights.save(tmp_path / out, params, cfg, source)
        again = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / out, attn_implementation="eager"
        ).eval()
        want, state = theirs.state_dict(), again.state_dict()
        if name == "gemma3":  # the copy is the language model alone
            prefix = "model.language_model."
            inside = {x: y for x, y in want.items() if x.startswith((prefix, "lm_head"))}
            want = {x.replace(prefix, "model."): y for x, y in inside.items()}
        assert want.keys() == state.keys() and again.dtype == torch.float32
        assert all(torch.equal(want[x], state[x]) for x in want)
        np.testing.assert_array_equal(make.full(again, token, mask), make.full(theirs, token, mask))
