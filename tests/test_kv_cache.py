"""Keys and values as int8: responses against a float64 oracle, slots, meshes, families, bytes."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import block, engine, kv_cache, likelihood, parameters, sharding
from rlvr_jax.config import MeshConfig, ModelConfig, SampleConfig
from rlvr_jax.structs import Prompts, Rollout
from rlvr_kernels.decode_attention import cases

pytestmark = pytest.mark.usefixtures("strict_dtypes")

P, R, END = 5, 10, 1
TINY = ModelConfig(
    layers=2, width=16, heads=4, kv_heads=2, head_size=6, feedforward=24, vocab=8, tied=False
)
INT8 = dataclasses.replace(TINY, cache_dtype="int8")


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def write(params, prompts, samples, columns, cfg):
    sampler = engine.Sampler(jax.random.key(0), (END,), samples, columns, SampleConfig())
    return engine.generate(params, prompts, sampler, cfg)[0]


def random_params(cfg: ModelConfig) -> dict:
    rng = np.random.default_rng(0)
    return {
        name: (rng.normal(0, 0.3, x.shape) + ("norm" in name and not cfg.has.from_one)).astype(
            np.float32
        )
        for name, x in parameters.abstract(cfg).items()
    }


def prompts_of(count: int) -> Prompts:
    rng = np.random.default_rng(count)
    ids = rng.integers(0, 8, (count, P)).astype(np.int32)
    mask = np.arange(P) >= P - rng.integers(1, P + 1, (count, 1))
    return Prompts(ids, mask, ids[:, :0], mask[:, :0])


# -- against an oracle ----------------------------------------------------------------------------


def on_grid(x: np.ndarray) -> np.ndarray:
    """The nearest multiples of 1 / 127 of the largest entry."""
    step = np.abs(x).max() / 127
    return np.rint(x / step) * step if step else x


def oracle(params, tokens, prompt: int, cfg: ModelConfig) -> np.ndarray:
    """Log-probs of the tokens behind the first `prompt` ones: float64, no padding, no cache.

    A prompt reads itself exactly.  A response reads all keys and values, its own too, on a grid.
    """
    w = {name: np.asarray(x, np.float64) for name, x in params.items()}
    half, per_kv, count = cfg.head_size // 2, cfg.heads // cfg.kv_heads, len(tokens)
    angle = np.arange(count)[:, None] / cfg.rope_theta ** (np.arange(half) / half)

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + cfg.norm_eps) * scale

    def rotate(x):
        turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag], 1)

    x = w["embed_VD"][tokens]
    for layer in range(cfg.layers):
        h, mixed = norm(x, w["norm1_LD"][layer]), np.zeros_like(x)
        for n in range(cfg.heads):
            q = rotate(h @ w["q_LDNH"][layer, :, n])
            k = rotate(h @ w["k_LDKH"][layer, :, n // per_kv])
            v = h @ w["v_LDKH"][layer, :, n // per_kv]
            stored = [np.array([on_grid(row) for row in y]) for y in (k, v)]
            for t in range(count):
                keys, values = (k, v) if t < prompt or cfg.cache_dtype != "int8" else stored
                first = max(0, t + 1 - cfg.window) if cfg.window else 0
                score = np.exp(keys[first : t + 1] @ q[t] / np.sqrt(cfg.head_size))
                out = score / score.sum() @ values[first : t + 1]
                mixed[t] += out @ w["out_LNHD"][layer, n]
        x = x + mixed
        h = norm(x, w["norm2_LD"][layer])
        gate = h @ w["gate_LDF"][layer]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up_LDF"][layer])) @ w["down_LFD"][layer]
    logits = norm(x, w["norm_D"]) @ w["head_VD"].T
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits[np.arange(prompt - 1, count - 1), tokens[prompt:]]


def oracle_rows(params, written: Rollout, cfg: ModelConfig) -> list[np.ndarray]:
    rows, samples = len(written.length_B), len(written.length_B) // len(written.prompt_QP)
    found = []
    for b in range(rows):
        prompt = written.prompt_QP[b // samples][written.prompt_mask_QP[b // samples]]
        tokens = [*prompt, *written.response_BR[b, : written.length_B[b]]]
        found.append(oracle(params, np.array(tokens), len(prompt), cfg))
    return found


def largest_gap(written: Rollout, wanted: list[np.ndarray]) -> float:
    return max(
        np.abs(written.logprob_BR[b, : len(x)] - x).max(initial=0) for b, x in enumerate(wanted)
    )


@pytest.mark.parametrize(
    "count, samples, options",
    [
        (3, 5, dict()),  # shared prefixes, shrinking
        (3, 5, dict(slots=3, unroll=True)),  # refilled, prefixes of their own
        (7, 1, dict(slots=2, family="mistral", window=3)),
    ],
)
def test_a_response_has_the_logprobs_of_the_oracle(count, samples, options) -> None:
    cfg = dataclasses.replace(INT8, **options)
    params = random_params(cfg)
    written = jax.device_get(write(params, prompts_of(count), samples, R, cfg))
    assert len(set(written.length_B.tolist())) >= 3
    near = largest_gap(written, oracle_rows(params, written, cfg))
    plain = dataclasses.replace(cfg, cache_dtype="compute")
    far = largest_gap(written, oracle_rows(params, written, plain))
    assert near < 2e-5 and far > 1e-3


# -- slots, meshes, families ----------------------------------------------------------------------


def assert_same(written: Rollout, plain: Rollout) -> None:
    for name in ("length_B", "response_BR", "truncated_B"):
        np.testing.assert_array_equal(getattr(written, name), getattr(plain, name))
    # Not nearer: what lies between two steps of the grid may be rounded to either.
    np.testing.assert_allclose(written.logprob_BR, plain.logprob_BR, atol=2e-4, rtol=0)


def test_a_long_ring_of_int8_is_read_in_chunks(monkeypatch) -> None:
    """130 columns make a ring of 192, read 64 at a time or at once; rows depend on neither."""
    params, prompts = random_params(TINY), prompts_of(2)
    cfg = dataclasses.replace(INT8, unroll=True)
    whole = jax.device_get(write(params, prompts, 2, 130, cfg))
    monkeypatch.setattr(sys.modules["rlvr_kernels.decode_attention.xla"], "WIDE", 64)
    again = dataclasses.replace(cfg, slots=4)  # of its own: what was compiled is not used again
    assert_same(jax.device_get(write(params, prompts, 2, 130, again)), whole)


@pytest.mark.parametrize("shape, shared, slots", [((2, 2, 2), 0, 3), ((1, 2, 2), 4, 0)])
def test_a_mesh_writes_what_one_device_writes(shape, shared, slots, monkeypatch) -> None:
    """With `decode_tensor` 4, two kv heads and their scales are on two devices each."""
    monkeypatch.setattr(block, "takes_places", lambda cfg: True)  # as on an accelerator
    params, prompts = random_params(TINY), prompts_of(8)
    plain = jax.device_get(write(params, prompts, 3, R, INT8))
    mesh_cfg = MeshConfig(*shape)
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[: int(np.prod(shape))])
    cfg = dataclasses.replace(INT8, slots=slots, decode_tensor=shared)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.shard_tree(params, mesh, mesh_cfg))
        written = write(placed, sharding.place_rows(prompts, mesh), 3, R, cfg)
        written = jax.device_get(written)
    assert_same(written, plain)


def test_kernels_get_the_scales_of_their_own_rows_and_heads(monkeypatch) -> None:
    monkeypatch.setattr(block, "kernel_name", lambda *args, **names: "reference")
    a = cases.inputs(cases.SMALL["int8"])
    own = a["k_LBKSH"], a["v_LBKSH"], a["see_BS"]
    prefix = a["prefix_k_LQKPH"], a["prefix_v_LQKPH"], a["see_BP"]
    args = a["q_BNH"], own, prefix, (a["layer"], None, a["scales"])

    def attend(*args):
        return block.attend_cache(*args, INT8)

    plain = attend(*args)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(2, 1, 2), jax.devices()[:4])):
        split = jax.jit(attend)(*args)
    np.testing.assert_allclose(split, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name, slots", [("qwen3_moe", 2), ("gemma3_text", 0)])
def test_every_family_is_near_what_the_trainer_reads(name, slots, of_family) -> None:
    """The trainer's log-probs do not know of int8, and differ by its grid."""
    plain = dataclasses.replace(TINY, family=name, **of_family[name])
    cfg = dataclasses.replace(plain, cache_dtype="int8", slots=slots)
    params = random_params(cfg)
    written = write(params, prompts_of(3), 3, R, cfg)
    read, _ = jax.jit(likelihood.logprobs, static_argnums=(2, 3))(
        params, written, SampleConfig(), cfg
    )
    gap = np.abs(np.where(written.response_mask_BR, read - written.logprob_BR, 0))
    assert 1e-4 < gap.max() < 0.1
    same, _ = jax.jit(likelihood.logprobs, static_argnums=(2, 3))(
        params, written, SampleConfig(), plain
    )
    np.testing.assert_array_equal(read, same)  # the trainer reads in compute dtype


# -- what is held ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stacked", [False, True])
def test_a_column_is_written_where_it_belongs(stacked) -> None:
    layers = (3,) if stacked else ()
    pair = tuple(jax.random.normal(jax.random.key(i), (*layers, 2, 2, 4, 6)) for i in range(2))
    held = kv_cache.hold(pair, INT8)
    cache = kv_cache.empty(held, 4, 7)
    assert [x.shape for x in cache] == [(*layers, 4, 2, 7, 6)] * 2 + [(*layers, 4, 2, 1, 7)] * 2
    assert [x.dtype for x in cache] == [jnp.int8] * 2 + [jnp.float32] * 2
    new = tuple(jax.random.normal(jax.random.key(i), (4, 2, 1, 6)) for i in range(2, 4))
    cache = kv_cache.write(cache, new, jnp.int32(5), jnp.int32(1))
    for x, stored, scale in zip(new, cache[:2], cache[2:], strict=True):
        back = np.asarray(stored, np.float32) * np.asarray(scale).swapaxes(-1, -2)
        at = (1, ...) if stacked else (...,)
        assert np.abs(back[at][:, :, 5] - x[:, :, 0]).max() < np.abs(x).max() / 250
        back[at][:, :, 5] = 0
        assert not back.any()


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("cache_dtype", ["compute", "int8"])
def test_the_bytes_of_a_column_are_those_of_its_arrays(compute, cache_dtype) -> None:
    cfg = dataclasses.replace(TINY, compute=compute, cache_dtype=cache_dtype)
    pair = tuple(jnp.zeros((3, 2, cfg.kv_heads, 1, cfg.head_size), compute) for _ in range(2))
    cache = kv_cache.empty(kv_cache.hold(pair, cfg), rows=5, columns=7)
    assert sum(x.nbytes for x in cache) == 3 * 5 * 7 * kv_cache.column_bytes(cfg)
    wide = dataclasses.replace(cfg, head_size=128)
    held = {"compute": {"float32": 512, "bfloat16": 256}[compute], "int8": 132}[cache_dtype]
    assert kv_cache.column_bytes(wide) == 2 * cfg.kv_heads * held
