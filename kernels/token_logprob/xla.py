"""Token log-probs in plain JAX: the reference in chunks of columns.

Only the logits of one chunk exist at a time, forward and backward.
"""

import jax
import jax.numpy as jnp

from rlvr_kernels.token_logprob.reference import reference

TOKENS = 4096  # tokens of a chunk
TOKENS_OF_PIECE = 1024  # the same where pieces of the vocabulary are measured, on accelerators
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

    def one(part):
        return reference(part[0], head_VD, part[1], temperature, softcap)

    rows, columns = token_BT.shape
    if columns <= _chunk(rows, TOKENS):
        return one((hidden_BTD, token_BT))
    one = jax.checkpoint(one)
    args = (hidden_BTD, token_BT)
    return _walk(lambda _, part: (None, one(part)), None, args, TOKENS)[1]


def measure(
    hidden_BTD: jax.Array,
    head_VD: jax.Array,
    token_BT: jax.Array,
    temperature: float,
    softcap: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return log-probs, log-sum-exp and entropies over a piece of the vocabulary."""

    def one(_, part):
        hidden_BTD, token_BT = part
        z_BTV, _ = _logits(hidden_BTD, head_VD, temperature, softcap)
        total_BT = jax.nn.logsumexp(z_BTV, axis=-1)
        log_BTV = z_BTV - total_BT[..., None]
        chosen_BT = jnp.sum(jnp.where(_hit(token_BT, log_BTV), log_BTV, 0.0), -1)
        return None, (chosen_BT, total_BT, -jnp.sum(jnp.exp(log_BTV) * log_BTV, -1))

    return _walk(one, None, (hidden_BTD, token_BT), TOKENS_OF_PIECE)[1]


def pull(
    hidden_BTD,
    head_VD,
    token_BT,
    total_BT,
    entropy_BT,
    d_logprob_BT,
    d_entropy_BT,
    temperature,
    softcap,
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of hidden states and of a piece of the head; sums are float32.

    `total_BT` and `entropy_BT` are those of the whole vocabulary.  `pallas_tpu.py` has the formula.
    """

    def one(d_head_VD, part):
        hidden_BTD, token_BT, *of_token = part
        total, entropy, d_logprob, d_entropy = (x[..., None] for x in of_token)
        z_BTV, slope = _logits(hidden_BTD, head_VD, temperature, softcap)
        log_BTV = z_BTV - total
        d_BTV = jnp.where(_hit(token_BT, log_BTV), d_logprob, 0.0)
        d_BTV -= jnp.exp(log_BTV) * (d_logprob + d_entropy * (log_BTV + entropy))
        d_BTV = (d_BTV * slope).astype(head_VD.dtype)

        def product(spec, a, b):
            return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)

        d_head_VD = d_head_VD + product("btv,btd->vd", d_BTV, hidden_BTD)
        return d_head_VD, product("btv,vd->btd", d_BTV, head_VD).astype(hidden_BTD.dtype)

    args = (hidden_BTD, token_BT, total_BT, entropy_BT, d_logprob_BT, d_entropy_BT)
    zero_VD = jnp.zeros(head_VD.shape, jnp.float32)
    d_head_VD, d_hidden_BTD = _walk(one, zero_VD, args, TOKENS_OF_PIECE)
    return d_hidden_BTD, d_head_VD.astype(head_VD.dtype)


def _logits(hidden_BTD, head_VD, temperature, softcap):
    """Return z = softcap(hidden @ head.T) / temperature, and d z / d raw logit."""
    raw_BTV = jnp.einsum("btd,vd->btv", hidden_BTD, head_VD, preferred_element_type=jnp.float32)
    slope = 1.0 / temperature
    if softcap:
        tanh_BTV = jnp.tanh(raw_BTV / softcap)
        raw_BTV, slope = softcap * tanh_BTV, (1.0 - tanh_BTV * tanh_BTV) / temperature
    return raw_BTV / temperature, slope


def _hit(token_BT, z_BTV):
    """Return where a logit is that of the row's token; nowhere for a token of another piece."""
    return jax.lax.broadcasted_iota(jnp.int32, z_BTV.shape, 2) == token_BT[..., None]


def _chunk(rows: int, tokens: int) -> int:
    """Return the columns of a chunk of so many rows and about so many tokens."""
    return max(FEWEST, tokens // max(rows, 1))


def _walk(one, carry, args, tokens: int):
    """Fold `one(carry, part) -> carry, out` over chunks of the columns of arrays [B, T, ...].

    Returns the last carry and the outputs [B, T, ...], put together again.
    """
    rows, columns = args[0].shape[:2]
    chunk = _chunk(rows, tokens)
    if columns <= chunk:
        return one(carry, args)
    missing = -columns % chunk

    def chunks(x):
        x = jnp.pad(x, ((0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(rows, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    def whole(x):
        return x.swapaxes(0, 1).reshape(rows, -1, *x.shape[3:])[:, :columns]

    carry, out = jax.lax.scan(one, carry, jax.tree.map(chunks, args))
    return carry, jax.tree.map(whole, out)
