"""Token log-probs in plain JAX: the reference in chunks of columns.

Only the logits of one chunk exist at a time, forward and backward.
"""

import jax
import jax.numpy as jnp

from rlvr_kernels.token_logprob.reference import reference

TOKENS = 4096  # tokens of a chunk
FEWEST = 16  # columns of a chunk, at least; narrower matrix products are inefficient


def xla(
    hidden_BTD: jax.Array,
    head_VD: jax.Array,
    token_BT: jax.Array,
    temperature: float,
    softcap: float,
) -> tuple[jax.Array, jax.Array]:
    """Return log-probs and entropies.

    The backward pass computes the logits of each chunk again.  If all columns fit in a single
    chunk, its logits are kept instead.
    """
    rows, columns = token_BT.shape
    chunk = max(FEWEST, TOKENS // max(rows, 1))
    if columns <= chunk:
        return reference(hidden_BTD, head_VD, token_BT, temperature, softcap)
    missing = -columns % chunk
    hidden = jnp.pad(hidden_BTD, ((0, 0), (0, missing), (0, 0)))
    token = jnp.pad(token_BT, ((0, 0), (0, missing)))

    def chunks(x):
        return x.reshape(rows, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def one(part):
        return reference(part[0], head_VD, part[1], temperature, softcap)

    out = jax.lax.map(one, (chunks(hidden), chunks(token)))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, -1)[:, :columns], out)
