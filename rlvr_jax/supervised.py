"""The sft stage and the verifier stage train on given responses with this supervised step."""

import dataclasses

import jax.numpy as jnp
import optax

from rlvr_jax import adapters, likelihood, policy_update, routing
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.structs import Array, Params, Rollout, TrainState, UpdateResult

PLAIN = SampleConfig()  # the model's own distribution


def supervised_step(
    state: TrainState,
    rows: Rollout,
    base: Params | None = None,
    learned_BR: Array | None = None,
    *,
    model_cfg: ModelConfig,
    tx: optax.GradientTransformation,
) -> UpdateResult:
    """Update a model once on given responses, one response per prompt.

    The loss is the mean negative log-likelihood per response token over the global batch, and
    what `likelihood.gradient` adds for a mixture of experts.  `base` is what an adapter lies on, as
    in `Frozen`.  `learned_BR` (bool) marks the response tokens of which the loss is the mean; None:
    all of them.
    """
    counted_B = rows.length_B
    if learned_BR is not None:
        counted_B = jnp.sum(learned_BR & rows.response_mask_BR, -1)
    tokens = jnp.maximum(jnp.sum(counted_B), 1).astype(jnp.float32)

    def objective(states: likelihood.States):
        logprob_BR, _ = likelihood.token_logprobs(states, PLAIN, model_cfg)
        if learned_BR is not None:
            logprob_BR = jnp.where(states.part.pick(learned_BR), logprob_BR, 0.0)
        return -jnp.sum(logprob_BR) / tokens, ({}, jnp.float32(0), ())

    result = likelihood.gradient(objective, adapters.over(base, state.params), rows, model_cfg)
    new_state, grad_norm, _ = policy_update.apply_gradient(state, result.grads, result.value, tx)
    new_state = dataclasses.replace(new_state, step=state.step + 1)
    return UpdateResult(
        new_state,
        {
            "loss": result.value,
            "policy/grad_norm": grad_norm,
            "policy/skipped": new_state.skipped,
        }
        | routing.metrics(result.sums),
    )
