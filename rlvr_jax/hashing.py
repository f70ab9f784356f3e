"""A hash of places in an array: noise and digests that depend on no mesh and cost little.

A value is mixed by the finaliser of MurmurHash3 (public domain, A. Appleby), which changes half of
all bits where one bit of the value changes.  Random numbers of JAX would do too; a step that rounds
all moments at random would then take minutes longer to compile.
"""

import zlib

import jax
import jax.numpy as jnp

LANE = 0x9E3779B9  # 2^32 divided by the golden ratio


def of_places(shape: tuple[int, ...], seed: jax.Array | int, lane: int = LANE) -> jax.Array:
    """Return a uint32 array of a shape whose values depend on their place and on a seed (uint32).

    `lane` is any odd number; another one gives other values.
    """
    place = jnp.full(shape, seed, jnp.uint32)
    for axis in range(len(shape)):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place = mix(place + index * jnp.uint32(lane))
    return place


def of_name(name: str) -> int:
    """Return a number from 0 to 2^32 - 1 for a name."""
    return zlib.crc32(name.encode())


def mix(x: jax.Array) -> jax.Array:
    """Return uint32 values whose bits all depend on all bits of x."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
