"""The places of a prefix: where rows have left, the others are no longer G for each prompt.

Each prompt keeps G places, of which some are empty.  So a prefix is still read once for all rows
that share it.  Rows and prompts are cut into Z equal parts, one for each device that holds rows,
and are numbered within their part: no row is taken from another device.
"""

from typing import NamedTuple

import jax


class Places(NamedTuple):
    """Places say which row is at which place, and the place of each row; too large: none."""

    row_ZQG: jax.Array  # int32, Q / Z prompts with G places each
    place_ZM: jax.Array  # int32, M = B / Z rows; prompt * G + place of the prompt


def to_places(x_B: jax.Array, prompts: int, places: Places | None) -> jax.Array:
    """Return rows [B, ...] at their places [Q, G, ...]; an empty place holds any row."""
    if places is not None:
        x_B = _take(x_B, places.row_ZQG.reshape(len(places.row_ZQG), -1))
    return x_B.reshape(prompts, -1, *x_B.shape[1:])


def to_rows(x_QG: jax.Array, places: Places | None) -> jax.Array:
    """Return what is at the places [Q, G, ...] for each row [B, ...]; any, for a row without."""
    x_B = x_QG.reshape(-1, *x_QG.shape[2:])
    return x_B if places is None else _take(x_B, places.place_ZM)


def _take(x_B: jax.Array, index_ZM: jax.Array) -> jax.Array:
    x = x_B.reshape(len(index_ZM), -1, *x_B.shape[1:])
    x = jax.vmap(lambda x, i: x.at[i].get(mode="clip"))(x, index_ZM)
    return x.reshape(-1, *x_B.shape[1:])
