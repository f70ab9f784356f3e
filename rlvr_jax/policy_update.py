"""From what a policy is told of its tokens to the policy that has learned it.

advantage -> loss -> update
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import loss, model, optim, policy, ragged, sharding, step_metrics
from rlvr_jax.config import ModelConfig, RlStage
from rlvr_jax.structs import Array, Metrics, Params, Rollout, TrainState


class Lesson(NamedTuple):
    """What the policy is told of each token it wrote; constants for the gradient."""

    advantage_BR: Array
    reference_BR: Array  # log-probs
    behaviour_BR: Array | None = None  # log-probs; None: those of the parameters that learn
    value_BR: Array | None = None  # of the value head before this rollout's updates, and
    target_BR: Array | None = None  # what it is taught
    held_B: Array | None = None  # bool, rows that a filter filled; None: all


def improve(
    state: TrainState,
    written: Rollout,
    lesson: Lesson,
    kl_coef: Array,
    cfg: RlStage,
    model_cfg: ModelConfig,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """The policy's updates on one rollout: one, or one for each mini-batch of each epoch.

    What is told of tokens is their mean over one epoch.
    """

    def once(state: TrainState, written: Rollout, lesson: Lesson):
        found = gradient(state.policy, written, lesson, kl_coef, cfg, model_cfg)
        taught = None if lesson.held_B is None else jnp.any(lesson.held_B)
        state, norm = apply(state, found.grads, found.value, tx, taught)
        return state, (found.value, found.sums, found.most, found.run, norm)

    if cfg.updates == 1:
        state, found = once(state, written, lesson)
        return state, step_metrics.of_tokens(written, cfg.epochs, *found)
    # Of the trainer, not the sampler: what sets these two apart is not the policy's doing.
    if lesson.behaviour_BR is None:
        behaviour_BR, _ = policy.logprobs(state.policy, written, cfg.sample, model_cfg)
        lesson = lesson._replace(behaviour_BR=behaviour_BR)
    shards, prompts = sharding.data_shards(), written.prompt_QP.shape[0]
    # Every n-th prompt: the same ones however many shards they lie on.
    number_NM = jnp.arange(prompts // shards, dtype=jnp.int32).reshape(-1, cfg.minibatches).T
    number_NSM = jnp.tile(number_NM[:, None], (cfg.epochs, shards, 1))

    def body(state: TrainState, number_SM: Array):
        rows = (number_SM[..., None] * cfg.samples + jnp.arange(cfg.samples)).reshape(shards, -1)

        def some(x):
            return sharding.take(x, number_SM if x.shape[0] == prompts else rows)

        return once(state, *jax.tree.map(some, (written, lesson)))

    state, (value_N, sums_N, gap_N, run_N, norm_N) = jax.lax.scan(body, state, number_NSM)
    sums = jax.tree.map(lambda x_N: jnp.sum(x_N) / cfg.epochs, sums_N)
    all_of = jnp.mean(value_N), sums, jnp.max(gap_N), jnp.sum(run_N), jnp.mean(norm_N)
    return state, step_metrics.of_tokens(written, cfg.epochs, *all_of)


def gradient(
    params: Params,
    written: Rollout,
    lesson: Lesson,
    kl_coef: Array,
    cfg: RlStage,
    model_cfg: ModelConfig,
) -> ragged.Gradient:
    """What `reading.gradient` gives for the policy's loss on a rollout."""
    weight_B = loss.row_weights(written.response_mask_BR, cfg.loss, lesson.held_B)

    def objective(params: Params, prefix: model.Prefix, part: ragged.Part):
        before_BRD, mask_BR = policy.before(params, prefix, part, written, model_cfg)
        token_BR = part.pick(written.response_BR)
        logprob_BR, entropy_BR = policy.said(
            params, before_BRD, token_BR, mask_BR, cfg.sample, model_cfg
        )
        behaviour_BR, sampler_BR = jax.lax.stop_gradient(logprob_BR), part.pick(written.logprob_BR)
        if lesson.behaviour_BR is not None:
            behaviour_BR = part.pick(lesson.behaviour_BR)
        value, sums = loss.policy_gradient(
            logprob_BR,
            behaviour_BR,
            part.pick(lesson.reference_BR),
            part.pick(lesson.advantage_BR),
            mask_BR,
            part.pick(weight_B),
            cfg.loss,
            sampler_BR=sampler_BR,
            entropy_BR=entropy_BR,
            kl_coef=kl_coef,
        )
        if lesson.target_BR is not None:
            assert lesson.value_BR is not None
            error, told = loss.value_error(
                model.value(params, before_BRD),
                part.pick(lesson.value_BR),
                part.pick(lesson.target_BR),
                mask_BR,
                part.pick(weight_B),
                cfg.loss,
            )
            value, sums = value + error, sums | told
        gap_BR = jnp.where(mask_BR, jnp.abs(behaviour_BR - sampler_BR), 0.0)
        sums = sums | {
            "policy/entropy": jnp.sum(entropy_BR),
            "mismatch/logprob_diff_mean": jnp.sum(gap_BR),
        }
        return value, (sums, jnp.max(gap_BR), ())

    return ragged.gradient(objective, params, written, model_cfg)


def apply(
    state: TrainState,
    grads: Params,
    value: Array,
    tx: optax.GradientTransformation,
    taught: Array | None = None,
) -> tuple[TrainState, Array]:
    """One optimizer step, left out and counted when loss or gradient is not finite.

    Where no row `taught` (None: some did) it is left out and not counted: zeros would still move
    by momentum and decay.
    """
    params, opt_state, grad_norm, finite = optim.step(
        *(state.policy, state.opt_state, grads, value, tx),
        jnp.bool_(True) if taught is None else taught,
    )
    new_state = dataclasses.replace(
        state,
        policy=params,
        opt_state=opt_state,
        skipped=state.skipped + (~finite).astype(jnp.int32),
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    )
    return new_state, grad_norm
