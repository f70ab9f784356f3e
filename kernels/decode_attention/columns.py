"""What a row attends to: keys and values, and which of them it sees."""

from typing import NamedTuple

import jax


class Columns(NamedTuple):
    """Columns are keys and values of all layers, and which of them each row sees.

    X counts what the columns belong to: rows (their own caches) or prompts (their prefixes).
    """

    k_LXKSH: jax.Array
    v_LXKSH: jax.Array
    see_BS: jax.Array  # bool
    k_scale_LXK1S: jax.Array | None = None  # float32; None: keys and values are not int8
    v_scale_LXK1S: jax.Array | None = None
