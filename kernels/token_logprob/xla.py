"""The reference in chunks of columns: a bounded number of logits is alive, forward and backward."""

import jax
import jax.numpy as jnp

from rlvr_kernels.token_logprob.reference import reference

TOKENS = 4096  # whose logits exist at one time
FEWEST = 16  # columns of a chunk: thinner products waste the machine


def xla(
    hidden_BTD: jax.Array,
    head_VD: jax.Array,
    token_BT: jax.Array,
    temperature: float,
    softcap: float,
) -> tuple[jax.Array, jax.Array]:
    """The backward pass computes a chunk's logits again; one chunk keeps them."""
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
