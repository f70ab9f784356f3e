"""How a mixture of experts spreads tokens over its experts: counts, and the load-balancing loss.

The loss keeps a router from sending most tokens to a few experts (Switch Transformers, arXiv
2101.03961, eq. 4-6).  Over a set of tokens let f_e be the share of the tokens that are sent to
expert e, and P_e the mean of the router's probability of e.  Then

    loss = E * sum over e of f_e * P_e

As in `load_balancing_loss_func` of transformers, a token counts once for each of its k experts, so
that the f_e add up to k, and the tokens of all layers are one set.  The loss is k where all experts
get the same number of tokens, and E where all tokens go to the same k experts for sure.  The
gradient flows through P only, because f is a count.

Our choice: the set is a row, prompt and response, and the loss of a batch is the mean over its
rows.  The loss of a larger set is not the sum of the losses of its parts; that of single rows is,
so that it depends neither on the parts in which a batch is read nor on the mesh.  It is what
transformers gives for batches of one row, and what Megatron calls `seq_aux_loss`; DeepSeek-V3 has
such a loss too (arXiv 2412.19437, eq. 17-20).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax.structs import Array, Metrics

# Names of sums over rows, which `metrics` turns into metrics.
NAMES = BALANCE, ROWS, COUNT = ("router/balance", "router/rows", "router/count_E")


class Routed(NamedTuple):
    """A Routed holds sums over the tokens and the layers of each row, float32 [B, E]."""

    count_BE: Array  # how often a token was sent to each expert
    probability_BE: Array  # the router's probability of each expert; the gradient flows through it


def of_layer(probability_XE: Array, expert_Xk: Array, exists_BT: Array) -> Routed:
    """Return the sums of one layer, over the tokens in `exists_BT` (bool).

    X counts the B * T tokens.  `expert_Xk` has the numbers of the experts of each token.
    """
    experts = probability_XE.shape[-1]
    chosen_XE = jnp.sum(jax.nn.one_hot(expert_Xk, experts, dtype=probability_XE.dtype), 1)

    def of_rows(x_XE: Array) -> Array:
        x_BTE = x_XE.reshape(*exists_BT.shape, experts)
        return jnp.sum(jnp.where(exists_BT[..., None], x_BTE, 0.0), 1)

    return Routed(of_rows(chosen_XE), of_rows(probability_XE))


def balance_losses(routed: Routed, used: int) -> Array:
    """Compute the load-balancing loss of each row, [B]; 0 for a row without tokens.

    `used` is the number of experts that each token is sent to, k.
    """
    count_BE = routed.count_BE
    tokens_B1 = jnp.maximum(jnp.sum(count_BE, -1, keepdims=True) / used, 1)
    product_BE = (count_BE / tokens_B1) * (routed.probability_BE / tokens_B1)
    return count_BE.shape[-1] * jnp.sum(product_BE, -1)


def sums(routed: Routed, exists_B: Array, used: int) -> Metrics:
    """Compute sums over the rows in `exists_B` (bool), for `metrics`; `used` is k."""
    count_BE = jnp.where(exists_B[:, None], routed.count_BE, 0.0)
    return {
        BALANCE: jnp.sum(jnp.where(exists_B, balance_losses(routed, used), 0.0)),
        ROWS: jnp.sum(exists_B).astype(jnp.float32),
        COUNT: jnp.sum(count_BE, 0),
    }


def metrics(totals: Metrics) -> Metrics:
    """Compute the metrics of the sums over all rows; none where there is no mixture of experts.

    `router/balance` is the mean of the load-balancing loss over rows.  `router/busiest` is the
    share of the most used expert in all choices of an expert, 1 / E where all are used equally.
    """
    if ROWS not in totals:
        return {}
    return {
        "router/balance": totals[BALANCE] / jnp.maximum(totals[ROWS], 1),
        "router/busiest": jnp.max(totals[COUNT]) / jnp.maximum(jnp.sum(totals[COUNT]), 1),
    }
