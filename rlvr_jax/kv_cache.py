"""How decoding holds keys and values: in compute dtype, or as int8 with a scale for each column.

A pair of keys and values [rows, K, columns, H] is held as it is, or with two arrays behind it: the
scales [rows, K, 1, columns] of the keys and of the values, float32, as
`rlvr_kernels.decode_attention.int8` defines them.  Rows are split over devices as those of keys and
values, and are at the same place, so that slots move both alike.  Only decoding reads what is held:
prompts are read, and responses are learnt from, in compute dtype.
"""

import jax
import jax.numpy as jnp

from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array
from rlvr_kernels.decode_attention import Scales
from rlvr_kernels.decode_attention.int8 import quantise

Held = tuple[Array, ...]  # keys, values and, if they are int8, the scales of both


def hold(pair: Held, cfg: ModelConfig) -> Held:
    """Return a pair of keys and values as `cfg.cache_dtype` says, with or without all layers."""
    return _quantised(pair) if cfg.cache_dtype == "int8" else pair


def empty(held: Held, rows: int, columns: int) -> Held:
    """Return zeros for so many rows and columns, in the form of `held`."""
    like, scales = held[:2], held[2:]

    def zeros(x: Array, *last: int) -> Array:
        *layers, _, heads, _, _ = x.shape
        return jnp.zeros((*layers, rows, heads, *last), x.dtype)

    stored = tuple(zeros(x, columns, x.shape[-1]) for x in like)
    return *stored, *(zeros(x, 1, columns) for x in scales)


def write(cache: Held, pair: Held, column: Array, layer: Array) -> Held:
    """Return the cache with the keys and values [rows, K, 1, H] of a column.

    A cache with a dimension of layers in front is written at `layer`.
    """
    new = _quantised(pair) if len(cache) > 2 else tuple(x.astype(cache[0].dtype) for x in pair)

    def put(x: Array, new: Array, axis: int) -> Array:
        at: list[Array | int] = [layer, 0, 0, 0, 0] if x.ndim == 5 else [0, 0, 0, 0]
        at[axis] = column
        return jax.lax.dynamic_update_slice(x, new[None] if x.ndim == 5 else new, at)

    return tuple(
        put(x, y, -2 if i < 2 else -1) for i, (x, y) in enumerate(zip(cache, new, strict=True))
    )


def scales_of(held: Held, prefix: Held) -> Scales | None:
    """Return the scales of a cache and of the prefixes; None: they are not int8."""
    return Scales(*held[2:], *prefix[2:]) if len(held) > 2 else None


def column_bytes(cfg: ModelConfig) -> int:
    """Return the bytes of the keys and values of one token in one layer, scales included."""
    sizes = {"int8": 1, "float32": 4, "bfloat16": 2}
    int8 = cfg.cache_dtype == "int8"
    entry = cfg.head_size * sizes["int8" if int8 else cfg.compute] + (4 if int8 else 0)
    return 2 * cfg.kv_heads * entry


def _quantised(pair: Held) -> Held:
    (k, k_scale), (v, v_scale) = map(quantise, pair)
    return k, v, k_scale, v_scale
