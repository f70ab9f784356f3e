"""This module computes log-probs, entropies and values of the tokens of written responses.

The reference policy, the PRM, the trainer and supervised training all read responses here, with
the positions and masks with which the engine wrote them.  The caller's SampleConfig chooses the
distribution: temperature, top-k and top-p.  Reading is length-adaptive: `ragged` visits the
rows part by part, at a cost close to that of their real tokens.

    logprobs, values    forward only, for a whole rollout
    gradient            forward and backward, for a loss that is a function of the hidden states
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import context, model, parameters, ragged, routing, sampling, sharding
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.structs import Array, Params, Rollout


class States(NamedTuple):
    """States hold the hidden states that predict each response token of a part, and these tokens.

    B counts the rows of the part and R its columns.
    """

    params: Params  # unstacked where `cfg.unroll` is set; gradients are taken for them
    before_BRD: Array  # hidden states from which the token of each column is predicted
    token_BR: Array  # int32
    mask_BR: Array  # bool, columns that hold a token
    part: ragged.Part  # the rows and columns of the rollout that these are
    routed: routing.Routed | None  # of prompt and response; None: no mixture of experts


# states -> loss, (sums to add up, maximum to keep, values of rows to keep)
Objective = Callable[[States], tuple[Array, tuple[dict[str, Array], Array, Any]]]


def logprobs(
    params: Params, rollout: Rollout, sample_cfg: SampleConfig, cfg: ModelConfig
) -> tuple[Array, Array]:
    """Compute the log-probs and the entropies of all response tokens, both [B, R]; 0 in padding.

    Both are those of the distribution that `sample_cfg` describes (temperature, top-k, top-p).
    """

    def of_states(states: States) -> tuple[Array, Array]:
        return token_logprobs(states, sample_cfg, cfg)

    zero_BR = jnp.zeros_like(rollout.logprob_BR)
    return _read(of_states, (zero_BR, zero_BR), params, rollout, cfg)


def values(params: Params, rollout: Rollout, cfg: ModelConfig) -> Array:
    """Compute the value [B, R] of the text before each response token, by the value head.

    The value is 0 in padding.
    """

    def of_states(states: States) -> Array:
        return token_values(states)

    return _read(of_states, jnp.zeros_like(rollout.logprob_BR), params, rollout, cfg)


def values_and_logprobs(
    params: Params, rollout: Rollout, sample_cfg: SampleConfig, cfg: ModelConfig
) -> tuple[Array, Array]:
    """Compute `values` and the log-probs of `logprobs`, both [B, R], in one pass."""

    def of_states(states: States) -> tuple[Array, Array]:
        return token_values(states), token_logprobs(states, sample_cfg, cfg)[0]

    zero_BR = jnp.zeros_like(rollout.logprob_BR)
    return _read(of_states, (zero_BR, zero_BR), params, rollout, cfg)


def gradient(
    objective: Objective, params: Params, rollout: Rollout, cfg: ModelConfig, out: Any = ()
) -> ragged.Gradient:
    """Compute the gradient of `objective` over all responses of a rollout.

    The objective gets the states of a part of the rows and returns the part's share of the loss;
    `ragged.gradient` says what else it returns and how the parts add up.  `out` holds arrays [B, R]
    or [B] into which the row values that the objective keeps are written.

    The loss of a mixture of experts includes `cfg.router_aux_loss_coef` times the mean over rows of
    its load-balancing loss, and its sums include those of `routing.sums`.
    """
    rows = jnp.maximum(jnp.sum(rollout.length_B > 0), 1).astype(jnp.float32)

    def of_part(params: Params, prefix: model.Prefix, part: ragged.Part):
        states = part_states(params, prefix, part, rollout, cfg)
        value, (sums, most, kept) = objective(states)
        if states.routed is not None:
            routed = routing.sums(states.routed, states.mask_BR[:, 0], cfg.experts_used)
            if cfg.router_aux_loss_coef:
                value += cfg.router_aux_loss_coef * routed[routing.BALANCE] / rows
            sums = sums | routed
        return value, (sums, most, kept)

    return ragged.gradient(of_part, params, rollout, cfg, out)


def token_logprobs(
    states: States, sample_cfg: SampleConfig, cfg: ModelConfig
) -> tuple[Array, Array]:
    """Compute log-probs and entropies [rows, columns] of a part; differentiable, 0 in padding."""
    if sample_cfg.temperature == 0 or sample_cfg.top_k or sample_cfg.top_p < 1:
        logits_BRV = model.logits(states.params, states.before_BRD, cfg)
        logprob_BRV = sampling.log_distribution(logits_BRV, sample_cfg)
        logprob_BR = jnp.take_along_axis(logprob_BRV, states.token_BR[..., None], -1)[..., 0]
        entropy_BR = -jnp.sum(jnp.exp(logprob_BRV) * logprob_BRV, -1)
    else:
        logprob_BR, entropy_BR = model.logprob(
            states.params, states.before_BRD, states.token_BR, sample_cfg.temperature, cfg
        )
    mask_BR = states.mask_BR
    return jnp.where(mask_BR, logprob_BR, 0.0), jnp.where(mask_BR, entropy_BR, 0.0)


def token_values(states: States) -> Array:
    """Compute the value head's values [rows, columns] of a part; differentiable, 0 in padding."""
    return jnp.where(states.mask_BR, model.value(states.params, states.before_BRD), 0.0)


def _read(
    of_states: Callable[[States], Any], out: Any, params: Params, rollout: Rollout, cfg: ModelConfig
) -> Any:
    """Write `of_states` of every part into `out`, arrays [B, R]."""
    layers = parameters.unstack(params, cfg)
    prefix, _ = ragged.read_prompts(layers, rollout.prompt_QP, rollout.prompt_mask_QP, cfg)

    def of_part(part: ragged.Part) -> Any:
        return of_states(part_states(layers, prefix, part, rollout, cfg))

    return ragged.map_rows(of_part, out, rollout.length_B, rollout.response_BR.shape[1], cfg)


def part_states(
    params: Params, prefix: model.Prefix, part: ragged.Part, rollout: Rollout, cfg: ModelConfig
) -> States:
    """Run the responses of a part through the model, after the prefixes of their prompts."""
    samples = rollout.length_B.shape[0] // prefix.mask_QP.shape[0]
    owner_SM = part.index_SM // samples
    token_BR = part.pick(rollout.response_BR)
    mask_BR = part.pick(rollout.response_mask_BR) & part.exists(rollout.length_B)[:, None]
    hidden_BRD, routed = model.extend_and_count(params, token_BR, mask_BR, prefix, owner_SM, cfg)
    if routed is not None:
        asked = jax.tree.map(lambda x: sharding.take(x, owner_SM), prefix.routed)
        routed = jax.tree.map(jnp.add, asked, routed)
    first_BD = sharding.take(prefix.last_QD, owner_SM)
    before_BRD = context.shift(first_BD, hidden_BRD)
    return States(params, before_BRD, token_BR, mask_BR, part, routed)
