"""Random inputs for the cases of tests and benchmark."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def noise(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Return standard normal numbers for every array but boolean ones, which are left out."""
    key, out = jax.random.key(0), {}
    for index, (name, like) in enumerate(shapes.items()):
        if like.dtype != jnp.bool_:
            drawn = jax.random.normal(jax.random.fold_in(key, index), like.shape)
            out[name] = drawn.astype(like.dtype)
    return out
