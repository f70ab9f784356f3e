"""Rounding at random against tables of the formats, and Adam in few bits against Adam."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from rlvr_jax import moments, optim, sharding
from rlvr_jax.config import MeshConfig, OptimConfig
from rlvr_jax.host.runs.checkpoint import Checkpoints

E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
BF16 = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
with np.errstate(invalid="ignore"):  # the formats have NaN
    E4M3, BF16 = (x.astype(np.float64) for x in (E4M3, BF16))
E4M3, BF16 = (np.sort(x[np.isfinite(x)]) for x in (E4M3, BF16))
TIMES = 4096


def neighbours(x, table):
    """The nearest numbers of a format below and above, and the chance of the upper one."""
    at = np.searchsorted(table, x, side="right") - 1
    low = table[at]
    high = np.where(low == x, low, table[np.minimum(at + 1, len(table) - 1)])
    return low, high, np.where(low == x, 0.0, (x - low) / np.where(high > low, high - low, 1))


@pytest.mark.parametrize("name, table", [("bfloat16", BF16), ("float8", E4M3)])
def test_rounding_goes_to_a_neighbour_and_is_right_on_average(name, table):
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.normal(size=40), 2.0 ** rng.uniform(-12, 8, 60) * (-1) ** np.arange(60)]
    )
    x = np.float32(np.concatenate([x, [0, 448, -448, 1.0, 2.0**-9, -(2.0**-7), 3e-4]]))

    @functools.partial(jax.vmap, in_axes=(None, 0))
    def draw(x, count):
        noise = moments.noise_of("q_LDNH", count, x.shape)
        if name == "bfloat16":
            return moments.load(moments.to_bfloat16(x, noise))
        return moments.load(*moments.to_float8(x, noise))

    got = np.float64(jax.jit(draw)(x, jnp.arange(TIMES)))
    low, high, chance = neighbours(np.float64(x), table)
    assert np.all((got == low) | (got == high))
    both = high > low
    rose = (got == high)[:, both].mean(0)
    spread = np.sqrt(chance[both] * (1 - chance[both]) / TIMES)
    assert np.all(np.abs(rose - chance[both]) < 5 * spread + 2.0**-15)
    assert both.sum() > 90


def test_a_scale_is_that_of_a_run_and_roots_are_never_0():
    x = np.float32([[1e-30, 3e-30, 0.0], [5.0, -1e-9, 1e9], [0, 0, 0]])
    noise = moments.noise_of("", jnp.int32(0), x.shape)
    q, scale = moments.to_float8(jnp.asarray(x), noise)
    assert q.dtype == jnp.float8_e4m3fn and q.shape == x.shape and scale.shape == (3,)
    got = np.asarray(moments.load(q, scale))
    assert got[0, 1] == pytest.approx(3e-30, rel=1e-6) and got[1, 2] == pytest.approx(1e9)
    np.testing.assert_allclose(got[0, 0], 1e-30, rtol=0.13)
    assert not np.any(got[2]) and got[0, 2] == 0
    q, scale = moments.to_float8(jnp.abs(jnp.asarray(x)), noise, moments.SMALLEST)
    got = np.asarray(moments.load(q, scale))
    assert np.array_equal(got > 0, x != 0)


def test_noise_is_even_and_of_no_pattern():
    """Over places, updates and names alike; neighbours have nothing to do with each other."""
    noise = np.float64(jax.vmap(lambda n: moments.noise_of("a", n, (64, 32)))(jnp.arange(64)))
    other = np.float64(jax.vmap(lambda n: moments.noise_of("b", n, (64, 32)))(jnp.arange(64)))
    noise, other = noise / 2**32 - 0.5, other / 2**32 - 0.5
    limit = 5 * 12**-0.5 / noise.size**0.5
    assert abs(noise.mean()) < limit and noise.std() == pytest.approx(12**-0.5, rel=0.01)
    for axis in range(3):
        assert abs((noise * np.roll(noise, 1, axis)).mean()) < limit
    assert abs((noise * other).mean()) < limit
    bits = np.asarray(moments.noise_of("a", jnp.int32(5), (256, 256)))
    for bit in range(32):
        assert (bits >> bit & 1).mean() == pytest.approx(0.5, abs=0.01)


def test_what_is_not_finite_stays_so():
    x = jnp.float32([jnp.inf, -jnp.inf, jnp.nan])
    got = np.asarray(moments.to_bfloat16(x, jnp.full(3, 2**32 - 1, jnp.uint32)).astype(jnp.float32))
    assert got[0] == np.inf and got[1] == -np.inf and np.isnan(got[2])


SHAPES = {"embed_VD": (6, 16), "q_LDNH": (2, 16, 2, 8), "norm_D": (16,), "value_D": (16,)}


def walk(cfg, steps=30, dtype=jnp.float32, start=1.0):
    """Parameters after steps along noisy gradients of |x|^2 / 2, and the last state."""
    tx = optim.make_optimizer(cfg, steps)
    params = {
        name: jnp.full(shape, start, jnp.float32 if len(shape) < 2 else dtype)
        for name, shape in SHAPES.items()
    }
    state = optim.init(params, tx)

    @jax.jit
    def step(params, state, key):
        grads = {
            name: x.astype(jnp.float32)
            * (1 + jax.random.normal(jax.random.fold_in(key, i), x.shape))
            for i, (name, x) in enumerate(sorted(params.items()))
        }
        return optim.step(params, state, grads, jnp.float32(0), tx)[:2]

    for n in range(steps):
        params, state = step(params, state, jax.random.fold_in(jax.random.key(3), n))
    return params, state


@pytest.mark.parametrize("name, apart", [("bfloat16", 0.01), ("float8", 0.1)])
def test_the_path_is_near_that_of_float32(name, apart):
    cfg = OptimConfig(lr=0.02, moments=name, weight_decay=0.1, grad_clip=1e9)
    want, _ = walk(OptimConfig(lr=0.02, weight_decay=0.1, grad_clip=1e9))
    got, state = walk(cfg)
    for key, x in want.items():
        moved = np.linalg.norm(np.asarray(x) - 1)
        gap = np.linalg.norm(np.asarray(got[key]) - np.asarray(x))
        assert gap < (apart if len(SHAPES[key]) > 1 else 1e-5) * moved
    adam = state[1][0]
    size = {"bfloat16": 2, "float8": 1}[name]
    assert {x.dtype.itemsize for k, x in adam.mu.items() if len(SHAPES[k]) > 1} == {size}
    assert adam.mu["norm_D"].dtype == adam.nu["value_D"].dtype == jnp.float32
    assert set(adam.nu_scale) == ({"embed_V", "q_LDN"} if name == "float8" else set())


def test_small_updates_of_bfloat16_parameters_are_not_lost():
    """Half a step of bfloat16 at 1 is 2^-9 = 0.002: to the nearest, 30 steps of 1e-4 are none."""
    cfg = OptimConfig(lr=1e-4, grad_clip=1e9)
    want, _ = walk(cfg)
    got, state = walk(cfg, dtype=jnp.bfloat16)
    assert got["q_LDNH"].dtype == jnp.bfloat16 and got["norm_D"].dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(state[1][0].mu)} == {jnp.dtype("float32")}
    moved = 1 - float(want["q_LDNH"].mean())
    assert moved > 1e-3
    assert 1 - float(got["q_LDNH"].astype(jnp.float32).mean()) == pytest.approx(moved, rel=0.3)


def test_the_rounding_of_a_step_is_the_same_on_a_mesh():
    mesh_cfg = MeshConfig(1, 2, 2)
    mesh = sharding.make_mesh(mesh_cfg, jax.devices()[:4])
    tx = optim.make_optimizer(OptimConfig(moments="float8"), 3)
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in SHAPES.items()}

    def step(params):
        return optim.step(params, optim.init(params, tx), params, jnp.float32(0), tx)[:2]

    alone = jax.jit(step)(params)
    with jax.set_mesh(mesh):
        to = sharding.shard_tree(jax.eval_shape(step, params), mesh, mesh_cfg)
        split = jax.jit(step, out_shardings=to)(
            jax.device_put(params, sharding.shard_tree(params, mesh, mesh_cfg))
        )
    assert split[1][1][0].mu["q_LDNH"].sharding.spec == sharding.param_spec("q_LDNH", mesh_cfg)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(split), strict=True):
        close = np.isclose(np.float32(one), np.float32(other), rtol=1e-5, atol=1e-7)
        assert close.mean() > 0.99  # a sum of another order may round one value otherwise


def test_the_sum_of_float32_is_that_of_optax():
    params = {"q_LDNH": jnp.float32([1.0, 2.0])}
    updates = {"q_LDNH": jnp.float32([1e-8, 3e-7])}
    want = optax.apply_updates(params, updates)
    assert np.array_equal(moments.add(params, updates, ())["q_LDNH"], want["q_LDNH"])


def test_a_checkpoint_holds_what_is_stored(tmp_path):
    tx = optim.make_optimizer(OptimConfig(moments="float8"), 3)
    params = {"q_LDNH": jnp.full((2, 16, 2, 8), 1.5, jnp.bfloat16), "norm_D": jnp.ones(16)}
    state = {"params": params, "opt_state": optim.init(params, tx)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)
        again, _ = checkpoints.restore(1, like)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)
    assert {str(x.dtype) for x in jax.tree.leaves(again)} >= {"float8_e4m3fn", "bfloat16"}
