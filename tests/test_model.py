"""The transformer against a float64 numpy oracle of forty lines without padding or caches."""

import contextlib
import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import block, model, parameters, sharding
from rlvr_jax.config import MeshConfig, ModelConfig

pytestmark = pytest.mark.usefixtures("strict_dtypes")

prefill = jax.jit(model.prefill, static_argnums=3)
extend = jax.jit(model.extend, static_argnums=5)
decode = jax.jit(model.decode, static_argnums=6)
logits = jax.jit(model.logits, static_argnums=2)

Q, G, P, R = 3, 2, 7, 6
PROMPT_LENGTHS = (7, 1, 4)
OWNER = np.repeat(np.arange(Q, dtype=np.int32), G)[None]  # of each row, its prompt; one shard


@pytest.fixture(scope="module")
def untied(tiny) -> ModelConfig:
    return dataclasses.replace(tiny, tied=False)


@pytest.fixture(scope="module")
def params(untied) -> dict:
    return random_params(untied)


@pytest.fixture(scope="module")
def prompt() -> tuple:
    return left_padded(PROMPT_LENGTHS, P, seed=1)


@pytest.fixture(scope="module")
def suffix() -> tuple:
    """G rows per prompt: a full one, ragged ones, a row that starts with holes, an empty one."""
    token = np.random.default_rng(2).integers(0, 48, (Q * G, R)).astype(np.int32)
    rows = ["111111", "111000", "010011", "001101", "000000", "100001"]
    mask = np.array([[c == "1" for c in row] for row in rows])
    return token, mask


def random_params(cfg: ModelConfig) -> dict:
    """Random parameters; no norm scale is 1, so that a missing norm makes a difference."""
    rng = np.random.default_rng(0)
    return {
        name: rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        if "norm" in name
        else rng.normal(0, 0.15, x.shape).astype(np.float32)
        for name, x in parameters.abstract(cfg).items()
    }


def left_padded(lengths, width: int, seed: int) -> tuple:
    """Random ids in every column, padding too, and the mask of the last `lengths` columns."""
    mask = np.arange(width)[None] >= width - np.array(lengths)[:, None]
    ids = np.random.default_rng(seed).integers(0, 48, (len(lengths), 40)).astype(np.int32)
    return np.where(mask, ids[:, -width:], ids[:, :width]).astype(np.int32), mask


def oracle(params, tokens, cfg: ModelConfig) -> np.ndarray:
    """Logits [T, V] of one sequence without padding: float64, one head and column at a time."""
    w = {name: np.asarray(x, np.float64) for name, x in params.items()}
    half = cfg.head_size // 2
    per_kv = cfg.heads // cfg.kv_heads

    def norm(x, scale):
        return x / np.sqrt((x * x).mean() + cfg.norm_eps) * scale

    def rotate(x, position):
        out = np.empty_like(x)
        for i in range(half):
            angle = position / cfg.rope_theta ** (2 * i / cfg.head_size)
            pair = x[i] + 1j * x[i + half]  # a rotation is a complex product
            pair *= np.exp(1j * angle)
            out[i], out[i + half] = pair.real, pair.imag
        return out

    stream = [w["embed_VD"][t] for t in tokens]
    for layer in range(cfg.layers):
        normed = [norm(x, w["norm1_LD"][layer]) for x in stream]
        for t in reversed(range(len(stream))):
            for n in range(cfg.heads):
                k = n // per_kv
                query = rotate(normed[t] @ w["q_LDNH"][layer, :, n], t)
                keys = [rotate(normed[s] @ w["k_LDKH"][layer, :, k], s) for s in range(t + 1)]
                score = np.exp([query @ key / np.sqrt(cfg.head_size) for key in keys])
                values = [normed[s] @ w["v_LDKH"][layer, :, k] for s in range(t + 1)]
                mixed = sum(a * v for a, v in zip(score / score.sum(), values, strict=True))
                stream[t] = stream[t] + mixed @ w["out_LNHD"][layer, n]
        for t, x in enumerate(stream):
            h = norm(x, w["norm2_LD"][layer])
            gate = h @ w["gate_LDF"][layer]
            swish = gate / (1 + np.exp(-gate))
            stream[t] = x + (swish * (h @ w["up_LDF"][layer])) @ w["down_LFD"][layer]
    table = w["embed_VD"] if cfg.tied else w["head_VD"]
    return np.array([table @ norm(x, w["norm_D"]) for x in stream])


# -- prefill --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_prefill_is_the_transformer_of_the_oracle(tiny, tied) -> None:
    cfg = dataclasses.replace(tiny, tied=tied)
    params = random_params(cfg)
    token, mask = left_padded(PROMPT_LENGTHS, P, seed=3)
    hidden, _ = prefill(params, token, mask, cfg)
    got = np.asarray(logits(params, hidden, cfg))
    for q in range(Q):
        want = oracle(params, token[q, mask[q]], cfg)
        np.testing.assert_allclose(got[q, mask[q]], want, atol=1e-5, rtol=0)


def test_left_padding_changes_nothing(untied, params, prompt) -> None:
    token, mask = (np.repeat(x, G, 0) for x in prompt)
    hidden, prefix = prefill(params, *prompt, untied)
    wide = np.pad(token, ((0, 0), (R, 0)), constant_values=17)
    hidden_wide, prefix_wide = prefill(params, wide, np.pad(mask, ((0, 0), (R, 0))), untied)
    want = np.repeat(hidden, G, 0)
    np.testing.assert_allclose(np.asarray(hidden_wide)[:, R:][mask], want[mask], atol=5e-6, rtol=0)
    for narrow, wide in zip(prefix.kv[0], prefix_wide.kv[0], strict=True):
        want = np.repeat(narrow, G, 1)
        got = np.asarray(wide)[:, :, :, R:]
        seen = np.broadcast_to(mask[None, :, None, :, None], want.shape)
        np.testing.assert_allclose(got[seen], want[seen], atol=5e-6, rtol=0)


# -- extend and decode ----------------------------------------------------------------------------


def test_extend_is_prefill_of_the_concatenation(untied, params, prompt, suffix) -> None:
    (token, mask), (more, more_mask) = prompt, suffix
    hidden, prefix = prefill(params, token, mask, untied)
    got = extend(params, more, more_mask, prefix, OWNER, untied)

    whole = np.concatenate([np.repeat(token, G, 0), more], 1)
    whole_mask = np.concatenate([np.repeat(mask, G, 0), more_mask], 1)
    want, _ = prefill(params, whole, whole_mask, untied)
    np.testing.assert_allclose(got[more_mask], want[:, P:][more_mask], atol=5e-6, rtol=0)


def test_extend_counts_positions_over_holes(untied, params, prompt, suffix) -> None:
    """A row with holes gives the logits of the oracle for the row without them."""
    (token, mask), (more, more_mask) = prompt, suffix
    _, prefix = prefill(params, token, mask, untied)
    hidden = extend(params, more, more_mask, prefix, OWNER, untied)
    got = np.asarray(logits(params, hidden, untied))
    for b in (2, 5):
        text = [*token[b // G, mask[b // G]], *more[b, more_mask[b]]]
        want = oracle(params, text, untied)[mask[b // G].sum() :]
        np.testing.assert_allclose(got[b, more_mask[b]], want, atol=1e-5, rtol=0)


def test_extend_does_not_see_what_is_masked(untied, params, prompt, suffix) -> None:
    (token, mask), (more, more_mask) = prompt, suffix
    _, prefix = prefill(params, token, mask, untied)
    other = np.where(more_mask, more, (more + 5) % 48).astype(np.int32)
    a = extend(params, more, more_mask, prefix, OWNER, untied)
    b = extend(params, other, more_mask, prefix, OWNER, untied)
    np.testing.assert_array_equal(a[more_mask], b[more_mask])
    assert np.any(np.asarray(a)[~more_mask] != np.asarray(b)[~more_mask])


def test_decode_column_by_column_is_extend(untied, params, prompt, suffix) -> None:
    (token, mask), (more, _) = prompt, suffix
    _, prefix = prefill(params, token, mask, untied)
    want = extend(params, more, np.ones_like(more, bool), prefix, OWNER, untied)
    # More room than columns, and rubbish in it: what is not written yet must not be read.
    cache = jax.tree.map(lambda x: x + 100, model.empty_cache(prefix, Q * G, R + 2))
    start = np.zeros(Q * G, np.int32)
    for column in range(R):
        at = jnp.int32(column)
        hidden, cache = decode(params, more[:, column], at, start, prefix, cache, untied)
        np.testing.assert_allclose(hidden, want[:, column], atol=5e-6, rtol=0)


@pytest.mark.parametrize("unroll", [False, True])
def test_decode_goes_around_the_ring_with_a_start_for_each_row(
    untied, params, prompt, suffix, unroll
) -> None:
    """A row may start at any loop column and wrap around the ring.

    It must not see the numbers in ring columns from before its start or after its end.
    """
    cfg = dataclasses.replace(untied, unroll=unroll)
    (token, mask), (more, _) = prompt, suffix
    _, prefix = prefill(params, token, mask, untied)
    want = extend(params, more, np.ones_like(more, bool), prefix, OWNER, untied)
    _, prefix = prefill(params, token, mask, cfg)
    lean = parameters.for_decoding(params, cfg)
    start = np.array([0, 5, 2, 13, 8, 11], np.int32)
    cache = jax.tree.map(lambda x: x + 100, model.empty_cache(prefix, Q * G, R))
    assert {x.shape[-2] for x in jax.tree.leaves(cache)} == {R}
    checked = 0
    for column in range(max(start) + R):
        place = column - start
        live = (place >= 0) & (place < R)
        drawn = np.where(live, more[np.arange(Q * G), np.clip(place, 0, R - 1)], 3)
        args = drawn.astype(np.int32), jnp.int32(column), start, prefix, cache
        hidden, cache = decode(lean, *args, cfg)
        assert np.all(np.isfinite(hidden))
        for b in np.flatnonzero(live):
            np.testing.assert_allclose(hidden[b], want[b, place[b]], atol=5e-6, rtol=0)
        checked += live.sum()
    assert checked == Q * G * R


def test_layers_are_unstacked_and_stacked_again(untied, params) -> None:
    cfg = dataclasses.replace(untied, unroll=True)
    layers = parameters.unstack(params, cfg)
    for name, x in layers.items():
        one = name in ("embed_VD", "norm_D", "head_VD")
        assert isinstance(x, tuple) != one
        if not one:
            assert len(x) == 3 and all(np.array_equal(x[i], params[name][i]) for i in range(3))
    again = parameters.restack(layers)
    assert all(np.array_equal(again[name], params[name]) for name in params)
    assert parameters.unstack(params, untied) is params


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_the_head_laid_out_for_decoding_is_the_head(untied, params, unroll, tied) -> None:
    for compute in ("float32", "bfloat16"):
        cfg = dataclasses.replace(untied, unroll=unroll, tied=tied, compute=compute)
        lean = parameters.for_decoding(params, cfg)
        assert lean["head_DV"].shape == (32, 48) and lean["head_DV"].dtype == compute
        hidden = jnp.asarray(np.random.default_rng(0).normal(size=(5, 32)), compute)
        want = logits(params, hidden, cfg)
        got = logits(lean, hidden, cfg)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


# -- gradients and layouts ------------------------------------------------------------------------


def shared_loss(params, prompt, suffix, cfg):
    """A scalar that depends on all logits; each prompt is read once for its group."""
    hidden, prefix = model.prefill(params, *prompt, cfg)
    more = model.extend(params, *suffix, prefix, OWNER, cfg)
    return G * total(params, hidden, prompt[1], cfg) + total(params, more, suffix[1], cfg)


def repeated_loss(params, prompt, suffix, cfg):
    """The same scalar from plain rows: prompt and response concatenated."""
    token = jnp.concatenate([jnp.repeat(prompt[0], G, 0), suffix[0]], 1)
    mask = jnp.concatenate([jnp.repeat(prompt[1], G, 0), suffix[1]], 1)
    hidden, _ = model.prefill(params, token, mask, cfg)
    return total(params, hidden, mask, cfg)


def total(params, hidden, mask, cfg):
    return jnp.sum(jnp.where(mask[..., None], jnp.sin(model.logits(params, hidden, cfg)), 0.0))


@partial(jax.jit, static_argnums=(0, 4))
def value_and_grad(loss, params, prompt, suffix, cfg):
    return jax.value_and_grad(loss)(params, prompt, suffix, cfg)


def relative(a, b) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_gradient_through_a_shared_prefix_is_that_of_repeated_prompts(
    untied, params, prompt, suffix
) -> None:
    value, grads = value_and_grad(shared_loss, params, prompt, suffix, untied)
    want, want_grads = value_and_grad(repeated_loss, params, prompt, suffix, untied)
    assert float(value) == pytest.approx(float(want), rel=1e-5)
    for name in params:
        assert np.linalg.norm(want_grads[name]) > 0.1, name
        assert relative(grads[name], want_grads[name]) < 1e-6, name


def test_unrolled_and_recomputed_layers_give_the_same(untied, params, prompt, suffix) -> None:
    want, want_grads = value_and_grad(shared_loss, params, prompt, suffix, untied)
    cfg = dataclasses.replace(untied, unroll=True, remat=True)
    value, grads = value_and_grad(shared_loss, params, prompt, suffix, cfg)
    assert float(value) == pytest.approx(float(want), rel=1e-5)
    for name in params:
        assert relative(grads[name], want_grads[name]) < 1e-6, name


def test_gradient_is_the_slope_of_the_oracle(untied, params, prompt, suffix) -> None:
    """Central differences in float64, at the steepest coordinate of each parameter."""
    ask, ask_mask = prompt[0], np.arange(P) >= np.array([[P - 2], [P - 1], [P - 1]])
    more, more_mask = suffix[0], np.arange(R) == np.array([[0], [3], [9], [9], [9], [9]])
    _, grads = value_and_grad(shared_loss, params, (ask, ask_mask), (more, more_mask), untied)

    def loss(changed) -> float:
        rows = [[*ask[b // G, ask_mask[b // G]], *more[b, more_mask[b]]] for b in range(Q * G)]
        return sum(np.sin(oracle(changed, row, untied)).sum() for row in rows)

    for name, slope in grads.items():
        at = np.unravel_index(np.argmax(np.abs(slope)), slope.shape)
        step = np.zeros(slope.shape)
        step[at] = 1e-5
        up, down = (loss(params | {name: params[name] + way * step}) for way in (1, -1))
        assert float(slope[at]) == pytest.approx((up - down) / 2e-5, rel=1e-4), name


# -- parameters -----------------------------------------------------------------------------------


def test_names_are_the_shapes(tiny, untied) -> None:
    size = dict(L=3, D=32, N=8, K=4, H=6, F=40, V=48)
    for cfg in (tiny, untied):
        made = jax.eval_shape(partial(parameters.init, cfg=cfg), jax.random.key(0))
        shapes = parameters.abstract(cfg)
        assert sorted(made) == sorted(parameters.names(cfg)) == sorted(shapes)
        for name in made:
            assert made[name].shape == tuple(size[x] for x in sharding.letters(name)), name
            assert made[name].shape == tuple(shapes[name].shape)
            assert made[name].dtype == shapes[name].dtype == jnp.float32
    assert set(parameters.names(untied)) - set(parameters.names(tiny)) == {"head_VD"}
    # 48*32 + 3 * (2*32 + 32*(8 + 4 + 4)*6 + 8*6*32 + 3*32*40) + 32, counted by hand
    assert sum(x.size for x in parameters.abstract(tiny).values()) == 27104


def test_initial_sizes(untied) -> None:
    """Norms are 1; a matrix has std fan_in^-1/2, times (2 L)^-1/2 into the residual stream."""
    init = jax.jit(parameters.init, static_argnums=1)
    keys = [jax.random.key(seed, impl="rbg") for seed in (6, 6, 7)]  # rbg: compiles faster
    params, again, other = (init(key, untied) for key in keys)
    want = dict.fromkeys(["embed_VD", "head_VD", "q_LDNH", "k_LDKH", "v_LDKH"], 32**-0.5)
    want |= dict.fromkeys(["gate_LDF", "up_LDF"], 32**-0.5)
    want |= {"out_LNHD": (8 * 6 * 2 * 3) ** -0.5, "down_LFD": (40 * 2 * 3) ** -0.5}
    for name, x in params.items():
        assert np.array_equal(x, again[name])
        if "norm" in name:
            assert np.all(np.asarray(x) == 1)
        else:
            assert np.std(x) == pytest.approx(want.pop(name), rel=5 / np.sqrt(2 * x.size)), name
            assert abs(np.mean(x)) < 5 * np.std(x) / np.sqrt(x.size), name
            assert not np.array_equal(x, other[name])
    assert not want
    assert not np.array_equal(params["gate_LDF"], params["up_LDF"])


# -- precision ------------------------------------------------------------------------------------


def test_bfloat16_computes_in_bfloat16_and_gives_float32_logits(
    untied, params, prompt, suffix
) -> None:
    cfg = dataclasses.replace(untied, compute="bfloat16")

    def run(params, cfg=cfg):
        hidden, prefix = model.prefill(params, *prompt, cfg)
        more = model.extend(params, *suffix, prefix, OWNER, cfg)
        return hidden, prefix, more, model.logits(params, more, cfg)

    def step(params):
        _, prefix, *_ = run(params)
        cache = model.empty_cache(prefix, Q * G, R)
        start = jnp.zeros(Q * G, jnp.int32)
        return model.decode(params, suffix[0][:, 0], jnp.int32(0), start, prefix, cache, cfg)

    hidden, prefix, more, _ = jax.eval_shape(run, params)
    last, cache = jax.eval_shape(step, params)
    for x in (hidden, *prefix.kv[0], more, last, *cache[0]):
        assert x.dtype == jnp.bfloat16

    got = jax.jit(run)(params)[3]
    assert got.dtype == jnp.float32
    # Not rounded to bfloat16 on the way: float32 logits have more than 8 bits.
    assert np.any(np.asarray(got).astype(jnp.bfloat16).astype(np.float32) != np.asarray(got))
    exact = extend(params, *suffix, prefill(params, *prompt, untied)[1], OWNER, untied)
    exact = np.asarray(logits(params, exact, untied))
    gap = np.abs(np.asarray(got) - exact)[suffix[1]]
    assert 1e-4 < gap.max() < 0.05 * np.abs(exact).max()


def test_a_row_that_sees_nothing_stays_finite(untied, params, prompt, suffix) -> None:
    """Filler rows of an evaluation batch may have an empty prompt: no NaN, forward or backward."""
    nothing = [(token, np.zeros_like(mask)) for token, mask in (prompt, suffix)]
    _, prefix = prefill(params, *nothing[0], untied)
    assert np.all(np.isfinite(extend(params, *nothing[1], prefix, OWNER, untied)))
    _, grads = value_and_grad(shared_loss, params, *nothing, untied)
    assert all(np.all(np.asarray(x) == 0) for x in grads.values())


# -- kernels ---------------------------------------------------------------------------------------


@pytest.fixture
def interpreted(monkeypatch):
    """`kernels: pallas` runs the TPU kernels in interpret mode; the fixture lists their names."""
    asked = []

    def named(cfg, earned, uneven="", *, tpu, gpu):
        name = "xla" if cfg.kernels == "xla" else f"{tpu}_interpret"
        asked.append(name)
        return name

    monkeypatch.setattr(block, "kernel_name", named)
    return asked


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_kernels_give_what_xla_gives(untied, params, prompt, suffix, interpreted, devices) -> None:
    """Compare loss, gradient and decoding; on the mesh each device runs its part of the arrays."""
    prompt, suffix = (tuple(np.concatenate([x, x[-1:]])[:4] for x in y) for y in (prompt, suffix))
    shards = 2 if devices == 8 else 1
    owner = np.arange(4, dtype=np.int32).reshape(shards, -1) % (4 // shards)

    def run(params, kernels):
        cfg = dataclasses.replace(untied, kernels=kernels)

        def loss(params):
            hidden, prefix = model.prefill(params, *prompt, cfg)
            more = model.extend(params, *suffix, prefix, owner, cfg)
            logprob, entropy = model.logprob(params, more, suffix[0], 0.7, cfg)
            seen = jnp.where(suffix[1], logprob + 0.1 * entropy, 0.0)
            return jnp.sum(seen) + jnp.mean(hidden[:, -1]), prefix

        (value, prefix), grads = jax.value_and_grad(loss, has_aux=True)(params)
        cache = model.empty_cache(prefix, 4, 4)
        start = jnp.zeros(4, jnp.int32)
        ready = parameters.for_decoding(params, cfg)
        for column in range(2):
            token = suffix[0][:, column]
            hidden, cache = model.decode(ready, token, jnp.int32(column), start, prefix, cache, cfg)
        return value, grads, hidden

    mesh_cfg = MeshConfig(data=2, fsdp=1, tensor=2)
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[:4]) if devices == 8 else None
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        want, got = (jax.jit(partial(run, kernels=k))(params) for k in ("xla", "pallas"))
    assert {"splash_interpret", "pallas_tpu_interpret"} <= set(interpreted)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[2], want[2], atol=2e-5)
    for name in want[1]:
        assert relative(got[1][name], want[1][name]) < 2e-5, name


def test_kernels_are_refused_where_there_are_none(untied, params, prompt) -> None:
    cfg = dataclasses.replace(untied, kernels="pallas")
    with pytest.raises(ValueError, match="no kernels for cpu: set kernels to xla"):
        model.prefill(params, *prompt, cfg)


def device(platform):
    """An ambient mesh of one device of that platform, enough to choose a kernel."""
    name, cores = ("TPU v5 lite", 1) if platform == "tpu" else ("NVIDIA H100", None)
    kind = jax.sharding.AbstractDevice(device_kind=name, num_cores=cores, platform=platform)
    mesh = jax.sharding.AbstractMesh((1, 1, 1, 1), sharding.AXES, abstract_device=kind)
    return jax.sharding.use_abstract_mesh(mesh)


@pytest.mark.parametrize(
    "platform, compute, kernels, want",
    [
        ("cpu", "bfloat16", "auto", "xla"),
        ("cuda", "bfloat16", "auto", "xla"),  # nothing was measured there
        ("tpu", "bfloat16", "auto", "splash"),
        ("tpu", "float32", "auto", "xla"),
        ("tpu", "bfloat16", "xla", "xla"),
        ("tpu", "float32", "pallas", "splash"),
        ("cuda", "bfloat16", "pallas", "cudnn"),
    ],
)
def test_kernels_are_those_that_the_config_asks_for(untied, platform, compute, kernels, want):
    cfg = dataclasses.replace(untied, compute=compute, kernels=kernels)
    with device(platform) if platform != "cpu" else contextlib.nullcontext():
        earned = block.earned_attention(512, near=False)
        assert block.kernel_name(cfg, earned, tpu="splash", gpu="cudnn") == want


def test_by_default_kernels_run_where_they_fit(untied) -> None:
    """In an update on a TPU: splash in layers without a window and for rows that fill a block."""
    cfg = dataclasses.replace(untied, compute="bfloat16")
    assert cfg.kernels == "auto"
    row = np.zeros((2, 128), np.int32), np.ones((2, 128), bool)

    def text(cfg, columns=128):
        short = tuple(x[:, :columns] for x in row)

        def run(params):
            hidden, _ = model.prefill(params, *short, cfg)
            return model.logprob(params, hidden, short[0], 1.0, cfg)

        with device("tpu"):
            traced = jax.jit(run).trace(parameters.abstract(cfg))
            return traced.lower(lowering_platforms=("tpu",)).as_text()

    assert set(kernels_in(text(cfg))) == {"splash", "token_logprob"}
    assert set(kernels_in(text(cfg, 16))) == {"token_logprob"}
    windowed = dataclasses.replace(cfg, window=8)
    assert set(kernels_in(text(windowed))) == {"token_logprob"}
    capped = dataclasses.replace(cfg, attention_softcap=5.0, logit_softcap=3.0)
    assert set(kernels_in(text(capped))) == {"splash", "token_logprob"}
    assert kernels_in(text(dataclasses.replace(cfg, compute="float32"))) == []


def kernels_in(text):
    return re.findall(r'kernel_name = "(splash|token_logprob)', text)


def test_rows_and_heads_that_a_mesh_does_not_divide_have_no_kernel(untied) -> None:
    cfg = dataclasses.replace(untied, compute="bfloat16", kernels="auto")
    with jax.set_mesh(sharding.make_mesh(MeshConfig(1, 1, 8))):
        assert block._uneven(3, 4) == "4 kv heads in 8 shards"
    with jax.set_mesh(sharding.make_mesh(MeshConfig(4, 2, 1))):
        uneven = block._uneven(3, 4)
        assert block._uneven(16, 4) == ""
    assert uneven == "3 rows in 8 shards"
    names = {"tpu": "splash", "gpu": "cudnn"}
    with device("tpu"):
        assert block.kernel_name(cfg, "splash", uneven, **names) == "xla"
        named = dataclasses.replace(cfg, kernels="pallas")
        with pytest.raises(ValueError, match="whole shards: 3 rows in 8 shards; set kernels to au"):
            block.kernel_name(named, "splash", uneven, **names)
