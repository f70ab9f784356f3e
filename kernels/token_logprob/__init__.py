"""Log-prob and entropy of tokens under softmax(hidden @ head / temperature), in column chunks.

A `softcap` bounds the logits first (Gemma 2).
"""

import jax
import jax.numpy as jnp
from rlvr_kernels.token_logprob.reference import reference

CHUNK = 128  # columns whose logits exist at one time


def token_logprob(
    hidden_BTD: jax.Array,
    head_VD: jax.Array,
    token_BT: jax.Array,
    temperature: float = 1.0,
    softcap: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """(logprob_BT, entropy_BT), float32, differentiable in hidden and head.

    At most CHUNK columns of logits are alive, forward and backward: the backward pass computes a
    chunk's logits again.  Raises ValueError when the shapes do not belong together.
    """
    if hidden_BTD.shape[:2] != token_BT.shape or hidden_BTD.shape[-1] != head_VD.shape[-1]:
        raise ValueError(
            f"hidden {hidden_BTD.shape}, head {head_VD.shape} and token {token_BT.shape} must be "
            "[B, T, D], [V, D] and [B, T]"
        )
    columns = token_BT.shape[1]
    if columns <= CHUNK:
        return reference(hidden_BTD, head_VD, token_BT, temperature, softcap)
    missing = -columns % CHUNK
    hidden = jnp.pad(hidden_BTD, ((0, 0), (0, missing), (0, 0)))
    token = jnp.pad(token_BT, ((0, 0), (0, missing)))

    def chunks(x):
        return x.reshape(x.shape[0], -1, CHUNK, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def one(part):
        return reference(part[0], head_VD, part[1], temperature, softcap)

    out = jax.lax.map(one, (chunks(hidden), chunks(token)))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(x.shape[1], -1)[:, :columns], out)
