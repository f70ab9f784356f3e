"""Search for adversarial answers: tokens that the verifier accepts, though they answer nothing.

The search is greedy coordinate gradient (arXiv 2307.15043, section 2).  Like AdvJudge-Zero
(arXiv 2512.17375) it raises the gap between the logits of the accept token and the reject
token.  In each round the gradient of the gap at the embeddings of the answer proposes
replacements of single tokens.  TRIALS of the most promising replacements are drawn at random
and tried, and the best one is kept if it raises the gap.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import model
from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array, Params

TRIALS = 8  # replacements tried per row and round
CANDIDATES = 16  # most promising tokens at each place, from which the trials are drawn


class Target(NamedTuple):
    """A Target is the prompt of the verifier around each attacked answer."""

    context_BC: Array  # int32, everything in front of the answer
    context_mask_BC: Array  # bool
    tail_BC: Array  # int32, what follows the answer
    tail_mask_BC: Array  # bool
    accept: Array  # int32, id of the verdict word for correct
    reject: Array  # int32, id of the verdict word for wrong


class SearchResult(NamedTuple):
    """A SearchResult holds the best answer of each row and the verdict on it."""

    token_BR: Array  # int32
    gap_B: Array  # log p(accept) - log p(reject)
    p1_B: Array  # probability of the accept token


def search(
    params: Params,
    target: Target,
    start_BR: Array,
    allowed_V: Array,
    key: Array,
    steps: Array | int,
    cfg: ModelConfig,
) -> SearchResult:
    """Search for adversarial answers, starting from the tokens `start_BR`, in `steps` rounds.

    `params` and `cfg` are those of the verifier.  `allowed_V` (bool) marks the tokens that may be
    inserted.  The answers keep their length R.  Jit this function with `cfg` static.
    """

    def one_round(number, state):
        return _round(params, target, state, allowed_V, jax.random.fold_in(key, number), cfg)

    state = (start_BR, _gap(params, target, start_BR, cfg))
    token_BR, gap_B = jax.lax.fori_loop(0, steps, one_round, state)
    p1_B = jax.nn.softmax(_verdict_logits(params, target, token_BR, cfg))[:, target.accept]
    return SearchResult(token_BR, gap_B, p1_B)


def _round(params: Params, target: Target, state, allowed_V: Array, key: Array, cfg: ModelConfig):
    """Return (tokens, gap) of each row after the best of its trials, if that raises the gap."""
    token_BR, gap_B = state
    rows, length = token_BR.shape
    gain_BRV = jnp.where(allowed_V, _gain(params, target, token_BR, cfg), -jnp.inf)
    _, likely_BRk = jax.lax.top_k(gain_BRV, min(CANDIDATES, gain_BRV.shape[-1]))
    place_key, token_key = jax.random.split(key)
    place_BX = jax.random.randint(place_key, (rows, TRIALS), 0, length)
    which_BX = jax.random.randint(token_key, (rows, TRIALS), 0, likely_BRk.shape[-1])
    row_B1 = jnp.arange(rows)[:, None]
    new_BX = likely_BRk[row_B1, place_BX, which_BX].astype(jnp.int32)
    at_BXR = jnp.arange(length) == place_BX[..., None]
    trial_BXR = jnp.where(at_BXR, new_BX[..., None], token_BR[:, None])
    gap_BX = _gap(params, target, trial_BXR.reshape(-1, length), cfg).reshape(rows, TRIALS)
    gap_BX = jnp.where(allowed_V[new_BX], gap_BX, -jnp.inf)
    winner_B = jnp.argmax(gap_BX, 1)
    best_B = jnp.take_along_axis(gap_BX, winner_B[:, None], 1)[:, 0]
    better_B1 = (best_B > gap_B)[:, None]
    token_BR = jnp.where(better_B1, trial_BXR[jnp.arange(rows), winner_B], token_BR)
    return token_BR, jnp.maximum(gap_B, best_B)


def _gain(params: Params, target: Target, token_BR: Array, cfg: ModelConfig) -> Array:
    """Return by how much each replacement would raise the gap, to first order: [B, R, V]."""
    embed_VD = params["embed_VD"]
    # The answer's tokens get rows of their own behind the vocabulary.  The gradient at such a row
    # is that of one token at one place only.
    own_BR = embed_VD.shape[0] + jnp.arange(token_BR.size, dtype=jnp.int32).reshape(token_BR.shape)

    def total_gap(x_XD):
        table_VD = jnp.concatenate([embed_VD, x_XD])
        return jnp.sum(_gap(params | {"embed_VD": table_VD}, target, own_BR, cfg))

    slope_XD = jax.grad(total_gap)(embed_VD[token_BR.reshape(-1)])
    return (slope_XD @ embed_VD.T).reshape(*token_BR.shape, -1)


def _gap(params: Params, target: Target, token_BR: Array, cfg: ModelConfig) -> Array:
    logits_BV = _verdict_logits(params, target, token_BR, cfg)
    return logits_BV[:, target.accept] - logits_BV[:, target.reject]


def _verdict_logits(params: Params, target: Target, token_BR: Array, cfg: ModelConfig) -> Array:
    """Return the logits [B, V] of the verdict on answers; several answers of a row are adjacent."""
    rows = token_BR.shape[0]
    repeat = partial(jnp.repeat, repeats=rows // target.context_BC.shape[0], axis=0)
    exists_BR = jnp.ones(token_BR.shape, bool)
    token_BT = jnp.concatenate([repeat(target.context_BC), token_BR, repeat(target.tail_BC)], 1)
    masks = repeat(target.context_mask_BC), exists_BR, repeat(target.tail_mask_BC)
    mask_BT = jnp.concatenate(masks, 1)
    hidden_BTD, _ = model.prefill(params, token_BT, mask_BT, cfg)
    return model.logits(params, hidden_BTD[:, -1], cfg)
