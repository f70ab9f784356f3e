"""A search for the tokens that a verifier accepts most, whatever they say.

Greedy coordinate search (arXiv 2307.15043, section 2) on the logit gap of the verdict, which is
what AdvJudge-Zero moves too (arXiv 2512.17375): the gradient at the answer's embeddings says which
replacements promise most, a sample of them is tried, and the best is kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import model
from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array, Params, Verdict

TRIED = 8  # replacements that are tried for each row and step
PROMISING = 16  # tokens at each place, by the gradient, from which they are drawn


class Found(NamedTuple):
    """The best answer of each row, and what it did."""

    token_BR: Array  # int32
    gap_B: Array  # log p(accept) - log p(reject)
    p1_B: Array  # probability of the accept token


def search(
    params: Params,
    check_BC: Array,
    check_mask_BC: Array,
    start_BR: Array,
    allowed_V: Array,
    verdict: Verdict,
    key: Array,
    steps: Array | int,
    cfg: ModelConfig,
) -> Found:
    """From the tokens `start_BR`, `steps` rounds of replacements among `allowed_V`.

    Of several templates the first is attacked.  Jit it with `cfg` static.
    """
    rows, length = start_BR.shape
    vocab = params["embed_VD"].shape[0]
    own_BR = vocab + jnp.arange(rows * length, dtype=jnp.int32).reshape(rows, length)

    def logits(params: Params, token_BR: Array, repeat: int) -> Array:
        check, mask = (jnp.repeat(x, repeat, 0) for x in (check_BC, check_mask_BC))
        tail, tail_mask = (
            jnp.broadcast_to(x, (token_BR.shape[0], *x.shape))
            for x in (verdict.tail_JC[0], verdict.tail_mask_JC[0])
        )
        token_BT = jnp.concatenate([check, token_BR, tail], 1)
        mask_BT = jnp.concatenate([mask, jnp.ones(token_BR.shape, bool), tail_mask], 1)
        hidden_BTD, _ = model.prefill(params, token_BT, mask_BT, cfg)
        return model.logits(params, hidden_BTD[:, -1], cfg)

    def gap(params: Params, token_BR: Array, repeat: int = 1) -> Array:
        logits_BV = logits(params, token_BR, repeat)
        return logits_BV[:, verdict.accept] - logits_BV[:, verdict.reject]

    def promise(token_BR: Array) -> Array:
        """[B, R, V]: by how much each replacement would raise the gap, to first order."""

        def of_embedding(x_XD):
            # The answer's embeddings as rows of their own: their gradient is theirs alone.
            table_VD = jnp.concatenate([params["embed_VD"], x_XD])
            return jnp.sum(gap(params | {"embed_VD": table_VD}, own_BR))

        x_XD = params["embed_VD"][token_BR.reshape(-1)]
        slope_XD = jax.grad(of_embedding)(x_XD)
        gain_XV = slope_XD @ params["embed_VD"].T
        return jnp.where(allowed_V, gain_XV, -jnp.inf).reshape(rows, length, vocab)

    def round_(step, state):
        token_BR, best_B = state
        _, likely_BRk = jax.lax.top_k(promise(token_BR), min(PROMISING, vocab))
        place_key, token_key = jax.random.split(jax.random.fold_in(key, step))
        place_BX = jax.random.randint(place_key, (rows, TRIED), 0, length)
        which_BX = jax.random.randint(token_key, (rows, TRIED), 0, likely_BRk.shape[-1])
        row_B1 = jnp.arange(rows)[:, None]
        new_BX = likely_BRk[row_B1, place_BX, which_BX].astype(jnp.int32)
        at_BXR = jnp.arange(length) == place_BX[..., None]
        tried_BXR = jnp.where(at_BXR, new_BX[..., None], token_BR[:, None])
        gap_BX = gap(params, tried_BXR.reshape(-1, length), TRIED).reshape(rows, TRIED)
        gap_BX = jnp.where(allowed_V[new_BX], gap_BX, -jnp.inf)
        winner_B = jnp.argmax(gap_BX, 1)
        value_B = jnp.take_along_axis(gap_BX, winner_B[:, None], 1)[:, 0]
        better_B = value_B > best_B
        token_BR = jnp.where(better_B[:, None], tried_BXR[jnp.arange(rows), winner_B], token_BR)
        return token_BR, jnp.maximum(best_B, value_B)

    state = (start_BR, gap(params, start_BR))
    token_BR, gap_B = jax.lax.fori_loop(0, steps, round_, state)
    p1_B = jax.nn.softmax(logits(params, token_BR, 1))[:, verdict.accept]
    return Found(token_BR, gap_B, p1_B)
