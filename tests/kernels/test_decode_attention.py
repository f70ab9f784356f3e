"""The op `decode_attention` against a float64 numpy oracle and against its reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_kernels.decode_attention import cases, decode_attention
from rlvr_kernels.decode_attention.int8 import Scales, quantise

pytestmark = pytest.mark.usefixtures("strict_dtypes")

EVERY = ["reference", "xla", "pallas_tpu_interpret", "pallas_gpu_interpret"]


def oracle(a, scale, softcap=0.0) -> np.ndarray:
    rows, heads, _ = a["q_BNH"].shape
    layer, places = int(a["layer"]), a.get("places")
    scales = a.get("scales")
    a = {k: np.asarray(x, np.float64) for k, x in a.items() if k not in ("places", "scales")}
    for name, of_columns in zip(cases.HELD, scales or (), strict=False):
        a[name] = a[name] * np.moveaxis(np.asarray(of_columns, np.float64), -2, -1)
    k_BKSH, v_BKSH = a["k_LBKSH"][layer], a["v_LBKSH"][layer]
    prefix_k_QKPH, prefix_v_QKPH = a["prefix_k_LQKPH"][layer], a["prefix_v_LQKPH"][layer]
    per_kv = heads // k_BKSH.shape[1]
    if places is None:
        owner = np.arange(rows) // (rows // len(prefix_k_QKPH))
    else:
        owner = np.asarray(places.place_ZM)[0] // places.row_ZQG.shape[2]
    out = np.zeros(a["q_BNH"].shape)
    for b, n in np.ndindex(rows, heads):
        at, prefix = (b, n // per_kv), (owner[b], n // per_kv)
        k = np.concatenate([prefix_k_QKPH[prefix], k_BKSH[at]])
        v = np.concatenate([prefix_v_QKPH[prefix], v_BKSH[at]])
        see = np.concatenate([a["see_BP"][b], a["see_BS"][b]]) > 0
        score = scale * k[see] @ a["q_BNH"][b, n]
        if softcap:
            score = softcap * np.tanh(score / softcap)
        weight = np.exp(score - score.max())
        out[b, n] = weight / weight.sum() @ v[see]
    return out


def run(a, options, impl):
    return jax.jit(lambda a: decode_attention(**a, **options, impl=impl))(a)


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("name", cases.SMALL)
def test_each_implementation_meets_the_oracle(name, impl) -> None:
    case = cases.SMALL[name]
    a, options = cases.inputs(case), cases.options(case)
    if case.left and "tpu" in impl:
        with pytest.raises(ValueError, match="takes no places"):
            run(a, options, impl)
        return
    got = run(a, options, impl)
    assert got.dtype == a["q_BNH"].dtype and got.shape == a["q_BNH"].shape
    near = 2e-6 if case.dtype == "float32" else 0.02
    np.testing.assert_allclose(np.asarray(got, np.float32), oracle(a, **options), atol=near)


@pytest.mark.parametrize("impl", EVERY)
def test_what_nobody_sees_does_not_matter(impl) -> None:
    """Masks with holes, as sliding windows make them; masked columns hold numbers around 1e4."""
    case = cases.SMALL["softcap"]
    a, options = cases.inputs(case), cases.options(case)
    key = jax.random.key(7)
    a["see_BS"] = jax.random.bernoulli(key, 0.3, a["see_BS"].shape).at[:, :5].set(False)
    a["see_BP"] = jax.random.bernoulli(key, 0.5, a["see_BP"].shape).at[:, 3].set(True)
    seen = a["see_BS"][:, None, :, None]
    garbage = a | {name: jnp.where(seen, a[name], 1e4) for name in ("k_LBKSH", "v_LBKSH")}
    np.testing.assert_allclose(run(garbage, options, impl), oracle(a, **options), atol=2e-6)


@pytest.mark.parametrize("impl", EVERY)
def test_what_nobody_sees_of_int8_does_not_matter(impl) -> None:
    case = cases.SMALL["int8"]
    a, options = cases.inputs(case), cases.options(case)
    wanted = oracle(a, **options)
    seen = a["see_BS"][:, None, None]  # [B, 1, 1, S], as scales are
    own = (jnp.where(seen, x, 1e4) for x in a["scales"][:2])
    a["scales"] = Scales(*own, *a["scales"][2:])
    for name in ("k_LBKSH", "v_LBKSH"):
        a[name] = jnp.where(seen.swapaxes(2, 3), a[name], jnp.int8(-128))
    np.testing.assert_allclose(run(a, options, impl), wanted, atol=2e-6)


@pytest.mark.parametrize("impl", EVERY)
@pytest.mark.parametrize("prefix_too", [False, True])
def test_rows_that_see_nothing_are_finite_and_leave_the_others_alone(impl, prefix_too) -> None:
    case = cases.SMALL["one_block"]
    a, options = cases.inputs(case), cases.options(case)
    a["see_BS"] = a["see_BS"].at[1].set(False)
    if prefix_too:
        a["see_BP"] = a["see_BP"].at[1].set(False)
    got = np.asarray(run(a, options, impl))
    assert np.all(np.isfinite(got))
    rest = [b for b in range(case.rows) if b != 1] if prefix_too else list(range(case.rows))
    whole = a | {"see_BP": a["see_BP"].at[1].set(True)} if prefix_too else a
    np.testing.assert_allclose(got[rest], oracle(whole, **options)[rest], atol=2e-6)


@pytest.mark.parametrize("impl", EVERY)
def test_nobody_sees_anything_of_the_own_cache(impl) -> None:
    """The first token of a response sees no column of the cache."""
    a, options = cases.inputs(cases.SMALL["one_block"]), {"scale": 0.3}
    a["see_BS"] = jnp.zeros_like(a["see_BS"])
    np.testing.assert_allclose(run(a, options, impl), oracle(a, **options), atol=2e-6)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("q_BNH", (6, 5, 16)),
        ("q_BNH", (6, 6, 8)),
        ("q_BNH", (5, 6, 16)),
        ("k_LBKSH", (2, 6, 2, 11, 16)),
        ("v_LBKSH", (2, 6, 1, 12, 16)),
        ("v_LBKSH", (3, 6, 2, 12, 16)),
        ("see_BS", (6, 11)),
        ("prefix_k_LQKPH", (2, 4, 2, 9, 16)),
        ("prefix_v_LQKPH", (2, 2, 2, 8, 16)),
        ("prefix_v_LQKPH", (1, 2, 2, 9, 16)),
        ("layer", (1,)),
        ("see_BP", (2, 9)),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(name, shape) -> None:
    a = cases.inputs(cases.SMALL["one_block"])
    a[name] = jnp.zeros(shape, a[name].dtype)
    with pytest.raises(ValueError, match="must be"):
        decode_attention(**a, scale=1.0)


def test_int8_needs_scales_and_only_int8_has_them() -> None:
    plain, held = (cases.inputs(cases.SMALL[name]) for name in ("bfloat16", "int8_bfloat16"))
    for wrong in (plain | {"scales": held["scales"]}, held | {"scales": None}):
        with pytest.raises(ValueError, match="with(out)? scales"):
            decode_attention(**wrong, scale=1.0)
    for i, scale in enumerate(held["scales"]):
        wrong = list(held["scales"])
        wrong[i] = scale[..., :-1]
        with pytest.raises(ValueError, match="must be"):
            decode_attention(**held | {"scales": Scales(*wrong)}, scale=1.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_is_the_nearest_of_255_steps(dtype) -> None:
    x_BKSH = jax.random.normal(jax.random.key(3), (2, 3, 50, 8)).astype(dtype)
    x_BKSH = x_BKSH.at[0, 1, 4].set(0).at[1, 2, 7].multiply(1e-30)
    stored, scale = quantise(x_BKSH)
    assert stored.dtype == jnp.int8 and scale.dtype == jnp.float32 and scale.shape == (2, 3, 1, 50)
    x = np.asarray(x_BKSH, np.float64)
    step = np.abs(x).max(-1) / 127
    wanted = np.rint(x / np.where(step > 0, step, 1)[..., None])
    np.testing.assert_allclose(scale[:, :, 0], step, rtol=1e-6)
    same = np.asarray(stored) == wanted
    assert same.mean() > 0.999 and np.abs(np.asarray(stored) - wanted).max() <= 1
    assert not stored[0, 1, 4].any() and np.abs(stored).max(-1)[1, 2, 7] == 127
    back = np.asarray(stored, np.float64) * np.asarray(scale, np.float64)[:, :, 0, :, None]
    assert np.all(np.abs(back - x) <= 0.5001 * step[..., None])


def test_int8_of_what_is_not_finite_is_not_finite() -> None:
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        _, scale = quantise(jnp.ones((1, 2, 4)).at[0, 1, 2].set(bad))
        assert np.isfinite(scale).tolist() == [[[True, False]]]
