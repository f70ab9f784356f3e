"""Adam whose moments, and parameters, are held in fewer bits than they are computed with.

All arithmetic is float32; a value is rounded when it is stored.  It is rounded at random, up or
down with the chances that make the stored value right on average: rounded to the nearest, an
average that moves by less than half a step of the format would never move at all.

    bfloat16   the moments as they are: 2 bytes each
    float8     1 byte each (E4M3), with a float32 scale for each run of the last dimension.  The
               second moment v is held as its square root, which has the range of the first.  A root
               is never stored as 0: the update divides by it  (COAT, arXiv 2410.19313, section 4,
               holds both moments so, with other groups)

Only matrices are held so.  Moments of vectors are float32: they are small.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import hashing, parameters
from rlvr_jax.structs import Array, Params

E4M3 = jnp.float8_e4m3fn
LARGEST, SMALLEST = 448.0, 2.0**-9  # of E4M3, above 0
NORMAL = 2.0**-6  # below it, E4M3 has steps of SMALLEST


class AdamState(NamedTuple):
    """An AdamState holds the moments of Adam by the names of their parameters.

    The scales of a parameter are named without its last dimension: those of `q_LDNH` are `q_LDN`.
    """

    count: Array  # type: ignore[assignment]  # int32, updates so far; a tuple has a method `count`
    mu: dict[str, Array]
    nu: dict[str, Array]  # float8: its square root
    mu_scale: dict[str, Array]  # float8 only
    nu_scale: dict[str, Array]


def scale_by_adam(
    beta1: float, beta2: float, eps: float, dtype: str
) -> optax.GradientTransformation:
    """Return Adam (arXiv 1412.6980) with moments of `dtype`, `bfloat16` or `float8`."""

    def store(x: Array, name: str, noise: Array, least: float = 0.0) -> tuple[Array, Array | None]:
        if parameters.is_vector(name):
            return x, None
        if dtype == "bfloat16":
            return to_bfloat16(x, noise), None
        return to_float8(x, noise, least)

    def kept(values: dict[str, Any], number: int) -> dict[str, Array]:
        pairs = {name: pair[number] for name, pair in values.items()}
        if not number:
            return pairs
        return {name[:-1]: x for name, x in pairs.items() if x is not None}

    def init(params) -> AdamState:
        nothing = {name: jnp.zeros(x.shape, jnp.uint32) for name, x in params.items()}
        zero = {name: store(jnp.zeros(x.shape), name, nothing[name]) for name, x in params.items()}
        first, scale = kept(zero, 0), kept(zero, 1)
        again = {name: jnp.zeros_like(x) for name, x in first.items()}
        return AdamState(jnp.int32(0), first, again, scale, {k: x + 0 for k, x in scale.items()})

    def update(grads, state: AdamState, params=None):
        del params
        count, float8 = optax.safe_increment(state.count), dtype == "float8"
        updates, mu, nu = {}, {}, {}
        for name, g in grads.items():
            m = load(state.mu[name], state.mu_scale.get(name[:-1]))
            v = load(state.nu[name], state.nu_scale.get(name[:-1]))
            rooted = float8 and not parameters.is_vector(name)
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * (v**2 if rooted else v) + (1 - beta2) * g**2
            unbiased = jnp.sqrt(v / (1 - beta2**count))
            updates[name] = m / (1 - beta1**count) / (unbiased + eps)
            root = jnp.sqrt(v) if rooted else v
            mu[name] = store(m, name, noise_of(f"mu {name}", count, m.shape))
            nu[name] = store(root, name, noise_of(f"nu {name}", count, m.shape), SMALLEST * rooted)
        return updates, AdamState(count, kept(mu, 0), kept(nu, 0), kept(mu, 1), kept(nu, 1))

    return optax.GradientTransformation(init, update)


def add(params: Params, updates: Params, opt_state: Any) -> Params:
    """Return the sum of parameters and updates, in the dtypes of the parameters.

    bfloat16 parameters are rounded at random; the noise depends on the number of updates so far,
    which the optimizer's state counts.
    """
    counts = optax.tree_utils.tree_get_all_with_path(opt_state, "count")
    count = counts[0][1] if counts else jnp.int32(0)
    new = {}
    for name, x in params.items():
        if x.dtype == jnp.bfloat16:
            noise = noise_of(name, count, x.shape)
            new[name] = to_bfloat16(x.astype(jnp.float32) + updates[name], noise)
        else:
            new[name] = jnp.asarray(x + updates[name]).astype(x.dtype)
    return new


def noise_of(name: str, count: Array, shape: tuple[int, ...]) -> Array:
    """Return random bits, uint32, for the values of this name in update number `count`."""
    seed = hashing.mix(count.astype(jnp.uint32) * jnp.uint32(hashing.LANE))
    return hashing.of_places(shape, seed ^ jnp.uint32(hashing.of_name(name)))


def to_bfloat16(x: Array, noise: Array) -> Array:
    """Round float32 values to bfloat16, up or down by random bits, so that their mean is x."""
    return _cut(x, noise, 16).astype(jnp.bfloat16)


def to_float8(x: Array, noise: Array, least: float = 0.0) -> tuple[Array, Array]:
    """Return values in E4M3 and the scale of each run of the last dimension, rounded at random.

    `noise` has random bits, uint32.  The largest value of a run becomes the largest number of the
    format.  A value above 0 is stored as at least `least` times the scale.
    """
    largest = jnp.max(jnp.abs(x), -1)
    scale = jnp.where(largest > 0, largest / LARGEST, 1.0)
    scaled = jnp.clip(x / scale[..., None], -LARGEST, LARGEST)
    uniform = (noise >> 12).astype(jnp.float32) * 2.0**-20
    small = jnp.floor(scaled / SMALLEST + uniform) * SMALLEST
    rounded = jnp.where(jnp.abs(scaled) < NORMAL, small, _cut(scaled, noise, 20))
    if least:
        rounded = jnp.where(x > 0, jnp.maximum(rounded, least), rounded)
    return jnp.clip(rounded, -LARGEST, LARGEST).astype(E4M3), scale


def load(x: Array, scale: Array | None = None) -> Array:
    """Return stored values in float32."""
    x = x.astype(jnp.float32)
    return x if scale is None else x * scale[..., None]


def _cut(x: Array, noise: Array, bits: int) -> Array:
    """Return x with its last `bits` bits of the mantissa rounded off by the first bits of `noise`.

    What is not finite stays what it is.
    """
    whole = jax.lax.bitcast_convert_type(x, jnp.uint32) + (noise >> (32 - bits))
    cut = jax.lax.bitcast_convert_type(whole & jnp.uint32(2**32 - 2**bits), jnp.float32)
    return jnp.where(jnp.isfinite(x), cut, x)
