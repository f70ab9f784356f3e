"""This module updates the policy on one round: gradient, optimizer, order of mini-batches.

Credit -> loss -> gradient -> TrainState
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import (
    adapters,
    likelihood,
    loss,
    optim,
    ragged,
    sharding,
    step_metrics,
    token_choice,
)
from rlvr_jax.config import ReferenceConfig, RlStage
from rlvr_jax.structs import Array, Metrics, Params, Rollout, Setup, TrainState


class Batch(NamedTuple):
    """A Batch holds the rollout that the policy learns from, and constants for the gradient."""

    rollout: Rollout  # rows of length 0 teach nothing
    own_BR: Array  # bool, the tokens that the policy wrote itself
    advantage_BR: Array
    reference_BR: Array  # log-probs of the reference policy
    filled_B: Array  # bool, rows of places that the prompt filter has filled
    behaviour_BR: Array | None = None  # log-probs; None: those of the parameters that learn
    value_BR: Array | None = None  # of the value head, before this step's updates
    target_BR: Array | None = None  # what the value head learns
    at_reference: Array | None = None  # bool, whether the reference is the policy itself, bit by
    # bit: its log-probs are then those of the policy, and not another program's rounding of them
    draw_BR: Array | None = None  # random numbers in [0, 1), where tokens are drawn by them


def update_policy(
    state: TrainState,
    batch: Batch,
    kl_coef: Array,
    setup: Setup[RlStage],
    base: Params | None = None,
) -> tuple[TrainState, Metrics]:
    """Update the policy on one round: once, or once for each mini-batch of each epoch.

    `base` is what an adapter lies on, as in `Frozen`.

    Returns the new state and scalars to log.  A metric of tokens is a mean over all tokens and
    epochs; each token is measured with the parameters before the update that learns from it.
    """
    stage = setup.stage

    def once(state: TrainState, batch: Batch):
        result = gradient(adapters.over(base, state.params), batch, kl_coef, setup)
        state, norm, moved = apply_gradient(state, result.grads, result.value, setup.tx)
        return state, (result, norm, moved)

    if stage.updates == 1:
        state, (result, norm, _) = once(state, batch)
        return state, step_metrics.of_updates(batch.rollout, stage.epochs, _logs(result), norm)
    if batch.behaviour_BR is None:
        # The trainer's, not the sampler's: the ratio must not measure what sets these two apart.
        behaviour_BR, _ = likelihood.logprobs(
            adapters.over(base, state.params), batch.rollout, stage.sample, setup.model
        )
        batch = batch._replace(behaviour_BR=behaviour_BR)
    shards, prompts = sharding.data_shards(), batch.rollout.prompt_QP.shape[0]
    # A mini-batch takes every n-th prompt: the same prompts for any number of shards.
    number_NM = jnp.arange(prompts // shards, dtype=jnp.int32).reshape(-1, stage.minibatches).T
    number_NSM = jnp.tile(number_NM[:, None], (stage.epochs, shards, 1))
    of_rows = batch._replace(at_reference=None)

    def body(carry: tuple[TrainState, Array | None], number_SM: Array):
        state, at_reference = carry
        rows = number_SM[..., None] * stage.samples + jnp.arange(stage.samples)
        rows = rows.reshape(shards, -1)

        def take(x: Array) -> Array:
            return sharding.take(x, number_SM if x.shape[0] == prompts else rows)

        mini = jax.tree.map(take, of_rows)._replace(at_reference=at_reference)
        state, (result, norm, moved) = once(state, mini)
        if at_reference is not None:
            at_reference = at_reference & ~moved
        return (state, at_reference), (_logs(result), norm)

    (state, _), (logs_N, norm_N) = jax.lax.scan(body, (state, batch.at_reference), number_NSM)
    logs = step_metrics.UpdateLogs(
        loss=jnp.mean(logs_N.loss),
        sums=jax.tree.map(lambda x_N: jnp.sum(x_N, 0) / stage.epochs, logs_N.sums),
        gap=jnp.max(logs_N.gap),
        run=jnp.sum(logs_N.run),
    )
    return state, step_metrics.of_updates(batch.rollout, stage.epochs, logs, jnp.mean(norm_N))


def gradient(
    params: Params, batch: Batch, kl_coef: Array | float, setup: Setup[RlStage]
) -> ragged.Gradient:
    """Compute the gradient of the policy loss, and of the value loss if the batch has values.

    In the result, `sums` holds sums over tokens by metric name, and those of `routing.sums`; `most`
    is the largest absolute difference between the log-probs of the sampler and of the trainer.
    """
    cfg, rollout = setup.stage.loss, batch.rollout
    own_BR = batch.own_BR & rollout.response_mask_BR
    weight_B = loss.row_weights(own_BR, cfg, batch.filled_B)
    choice = choose_tokens(params, batch, setup)

    def objective(states: likelihood.States):
        part = states.part
        logprob_BR, entropy_BR = likelihood.token_logprobs(states, setup.stage.sample, setup.model)
        tokens = _tokens(logprob_BR, entropy_BR, batch, part.pick)
        tokens = tokens._replace(mask_BR=tokens.mask_BR & states.mask_BR)
        tokens = tokens._replace(**jax.tree.map(part.pick, choice)._asdict())
        value, sums = loss.policy_gradient(tokens, part.pick(weight_B), kl_coef, cfg)
        if batch.value_BR is not None and batch.target_BR is not None:
            error, value_sums = loss.value_error(
                likelihood.token_values(states),
                part.pick(batch.value_BR),
                part.pick(batch.target_BR),
                tokens.mask_BR,
                part.pick(weight_B),
                cfg,
            )
            value, sums = value + error, sums | value_sums
        gap_BR = jnp.abs(tokens.behaviour_BR - tokens.sampler_BR)
        gap_BR = jnp.where(tokens.mask_BR, gap_BR, 0.0)
        sums = sums | {
            "policy/entropy": jnp.sum(jnp.where(tokens.mask_BR, entropy_BR, 0.0)),
            "mismatch/logprob_diff_mean": jnp.sum(gap_BR),
        }
        return value, (sums, jnp.max(gap_BR), ())

    return likelihood.gradient(objective, params, rollout, setup.model)


def choose_tokens(params: Params, batch: Batch, setup: Setup[RlStage]) -> token_choice.Choice:
    """Choose among all tokens of an update, where the config couples them.

    This reads all rows once, with the parameters that learn.
    """
    cfg, rollout = setup.stage.loss, batch.rollout
    if not cfg.couples_tokens:
        return token_choice.Choice()
    logprob_BR, entropy_BR = likelihood.logprobs(params, rollout, setup.stage.sample, setup.model)
    tokens = _tokens(logprob_BR, entropy_BR, batch, lambda x_BR: x_BR)
    tokens = tokens._replace(mask_BR=tokens.mask_BR & rollout.response_mask_BR)
    return token_choice.choose(tokens, batch.draw_BR, cfg)


def _tokens(
    logprob_BR: Array, entropy_BR: Array, batch: Batch, pick: Callable[[Array], Array]
) -> loss.Tokens:
    """Return the inputs of the loss for the rows that `pick` takes from arrays of the batch."""
    still_BR = jax.lax.stop_gradient(logprob_BR)
    reference_BR = pick(batch.reference_BR)
    if batch.at_reference is not None:
        reference_BR = jnp.where(batch.at_reference, still_BR, reference_BR)
    return loss.Tokens(
        logprob_BR=logprob_BR,
        entropy_BR=entropy_BR,
        behaviour_BR=still_BR if batch.behaviour_BR is None else pick(batch.behaviour_BR),
        sampler_BR=pick(batch.rollout.logprob_BR),
        reference_BR=reference_BR,
        advantage_BR=pick(batch.advantage_BR),
        mask_BR=pick(batch.own_BR),
    )


def apply_gradient(
    state: TrainState, grads: Params, value: Array, tx: optax.GradientTransformation
) -> tuple[TrainState, Array, Array]:
    """Take one optimizer step; return the state, the norm of the gradient, and whether it moved.

    If the loss `value` or the gradient is not finite, the step is left out and counted.  If the
    gradient is exactly 0, the step is left out and not counted.
    """
    params, opt_state, grad_norm, finite, moved = optim.step(
        state.params, state.opt_state, grads, value, tx
    )
    new_state = dataclasses.replace(
        state,
        params=params,
        opt_state=opt_state,
        skipped=state.skipped + (~finite).astype(jnp.int32),
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    )
    return new_state, grad_norm, moved


def move_reference(state: TrainState, cfg: ReferenceConfig) -> TrainState:
    """Move the reference policy towards the policy, if this step is one after which it moves.

    The new reference is mixup * policy + (1 - mixup) * reference (TR-DPO, arXiv 2404.09656).
    """
    if state.reference is None:
        return state
    policy = {name: state.params[name] for name in state.reference}

    def mix(new: Array, old: Array) -> Array:
        return new if cfg.mixup == 1 else cfg.mixup * new + (1 - cfg.mixup) * old

    reference = jax.lax.cond(
        state.step % cfg.update_every == 0,
        lambda: jax.tree.map(mix, policy, state.reference),
        lambda: state.reference,
    )
    return dataclasses.replace(state, reference=reference)


def _logs(result: ragged.Gradient) -> step_metrics.UpdateLogs:
    return step_metrics.UpdateLogs(result.value, result.sums, result.most, result.run)
