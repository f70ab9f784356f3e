"""Frozen matrices as int8, with a float32 scale for each output of a layer's matrix.

    scale = max |W| / 127        stored = round(W / scale)        W = scale * stored, about

The maximum is over the inputs.  The scales lie in the same dict of parameters beside the matrix,
under its name: `qs_LNH` belongs to `q_LDNH`, `downs_LED` to `down_LEFD`.

Reading computes (x stored) * scale (`multiply`), so that of a base only the layer that is being
read exists in the compute dtype, forward and backward.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array

# Output dimensions of the matrices of a layer, by the first part of their name.
OUTPUTS = {"q": "NH", "k": "KH", "v": "KH", "out": "D", "gate": "F", "up": "F", "down": "D"}


def stack(name: str) -> str:
    """Return the dimensions of a matrix's name that count matrices: layers, and experts."""
    dims = name.rpartition("_")[2]
    return dims[: len(dims) - len(dims.lstrip("LE"))]


def is_matrix(name: str) -> bool:
    """Return whether a parameter is a matrix of a layer that can be held as int8."""
    return name.partition("_")[0] in OUTPUTS


def scale_of(name: str) -> str:
    """Return the name of the scales of a matrix: `qs_LNH` of `q_LDNH`."""
    kind = name.partition("_")[0]
    return f"{kind}s_{stack(name)}{OUTPUTS[kind]}"


def is_scale(name: str) -> bool:
    """Return whether a parameter holds the scales of a matrix."""
    kind = name.partition("_")[0]
    return kind[:-1] in OUTPUTS and kind.endswith("s")


def quantise(name: str, x: Array) -> dict[str, Array]:
    """Return a matrix as int8 with its scales; the matrices of all layers may be stacked.

    Values are rounded to the nearest integer, to the even one of two.  The scales are the same
    bits on every backend, as a product is; a division is not, so a stored value may differ by 1.
    """
    x, inputs = x.astype(jnp.float32), _inputs(name)
    scale = jnp.max(jnp.abs(x), inputs, keepdims=True) * jnp.float32(1 / 127)
    stored = jnp.round(x / jnp.where(scale == 0, 1.0, scale)).astype(jnp.int8)  # 0: all are 0
    return {name: stored, scale_of(name): jnp.squeeze(scale, inputs)}


def widen(name: str, params: dict[str, Array]) -> Array:
    """Return a matrix in float32, whether it is held as int8 or not."""
    x = params[name].astype(jnp.float32)
    scale = params.get(scale_of(name))
    return x if scale is None else x * jnp.expand_dims(scale, _inputs(name))


def _inputs(name: str) -> tuple[int, ...]:
    """Return the places of a matrix's inputs among its dimensions."""
    dims = name.rpartition("_")[2]
    outputs = OUTPUTS[name.partition("_")[0]]
    return tuple(range(len(stack(name)), len(dims) - len(outputs)))


def multiply(
    product: Callable[[Array, Array], Array],
    x: Array,
    w: dict[str, Array],
    name: str,
    spread: Callable[[Array], Array] = lambda scale: scale,
) -> Array:
    """Return `product(x, W)` of a matrix in `w`, in the dtype of x, whether it is int8 or not.

    `spread` brings its scales into the form of the product, where they are not so already.

    The backward pass widens the matrix again: kept from the forward pass, the matrices of all
    layers would exist in the dtype of x at once.
    """
    scale = w.get(scale_of(name))
    if scale is None:
        return product(x, w[name])
    widened = jax.checkpoint(lambda x, stored: product(x, stored.astype(x.dtype)))
    return (widened(x, w[name]) * spread(scale)).astype(x.dtype)
