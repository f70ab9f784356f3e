"""The implicit process reward model: a reward for each token, learned from outcomes alone.

A copy of the starting policy learns, in the step itself, to tell good responses from bad by
beta * log(pi_prm / pi_ref) of the whole response.  The same log-ratio of one token is then that
token's reward: what it adds to the expected outcome (Free Process Rewards, arXiv 2412.01981, eq. 3;
PRIME, 2502.01456, eq. 3).  Everything here is of one distribution, the sampler's untruncated one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import model, optim, policy, reading
from rlvr_jax.config import ModelConfig, PrmConfig, SampleConfig
from rlvr_jax.structs import Array, Learner, Metrics, Params, Rollout


class Read(NamedTuple):
    """A rollout as the PRM saw it, and how to change the PRM."""

    grads: Params
    loss: Array
    reward_BR: Array  # float32, beta * log-ratio of each token; 0 where there is none
    run: Array  # row-columns


def step(
    learner: Learner,
    written: Rollout,
    reference_BR: Array,
    outcome_B: Array,
    newline_V: Array | None,
    cfg: PrmConfig,
    sample_cfg: SampleConfig,
    model_cfg: ModelConfig,
    tx: optax.GradientTransformation,
) -> tuple[Learner, Array, Metrics]:
    """The PRM after one update on outcomes in [0, 1], and the reward [B, R] of each token.

    order score-first: the rewards are those of the forward pass that the update differentiates,
    of the PRM as it was.  update-first: the new PRM reads the rollout once more.
    """
    label_B = jnp.clip(outcome_B, 0.0, 1.0)
    read = gradient(learner.params, written, reference_BR, label_B, cfg.beta, sample_cfg, model_cfg)
    wrote_B = written.length_B > 0  # where a filter left places unfilled, nobody did
    rows = jnp.maximum(jnp.sum(wrote_B), 1)
    params, opt_state, norm, finite = optim.step(
        learner.params, learner.opt_state, read.grads, read.loss, tx, jnp.any(wrote_B)
    )
    reward_BR = read.reward_BR
    if cfg.order == "update-first":
        logprob_BR, _ = policy.logprobs(params, written, sample_cfg, model_cfg)
        reward_BR = rewards(logprob_BR, reference_BR, written.response_mask_BR, cfg.beta)
    score_B = jnp.sum(reward_BR, -1)
    right_B = (score_B > 0) == (label_B > 0.5)
    metrics = {
        "prm/loss": read.loss,
        "prm/acc": jnp.sum(right_B & wrote_B) / rows,
        "prm/reward_mean": jnp.sum(score_B) / rows,
        "prm/grad_norm": norm,
        "prm/skipped": (~finite).astype(jnp.int32),
    }
    ends_BR = jnp.zeros(reward_BR.shape, bool)
    if cfg.granularity == "line":
        assert newline_V is not None
        ends_BR = newline_V[written.response_BR]
    if cfg.granularity != "token":
        reward_BR = gathered(reward_BR, ends_BR, written.response_mask_BR)
    return Learner(params, opt_state), reward_BR, metrics


def rewards(logprob_BR: Array, reference_BR: Array, mask_BR: Array, beta: float) -> Array:
    """beta * (log pi_prm - log pi_ref) of each token; a row's sum is that of the response."""
    return jnp.where(mask_BR, beta * (logprob_BR - reference_BR), 0.0)


def cross_entropy(score_B: Array, label_B: Array) -> Array:
    """-(r log sigma(s) + (1 - r) log sigma(-s)), labels r hard or soft (2412.01981, eq. 5)."""
    return -label_B * jax.nn.log_sigmoid(score_B) - (1 - label_B) * jax.nn.log_sigmoid(-score_B)


def gathered(reward_BR: Array, ends_BR: Array, mask_BR: Array) -> Array:
    """The rewards of each line, ended by `ends` or with its row, added up on its last token."""
    columns = reward_BR.shape[1]
    ends_BR &= mask_BR
    line_BR = jnp.cumsum(ends_BR, -1) - ends_BR  # what ends a line is on it
    sum_BR = jax.vmap(lambda x, line: jax.ops.segment_sum(x, line, columns))(reward_BR, line_BR)
    left_BR = jnp.cumsum(mask_BR[:, ::-1], -1)[:, ::-1]
    last_BR = ends_BR | (mask_BR & (left_BR == 1))
    return jnp.where(last_BR, jnp.take_along_axis(sum_BR, line_BR, 1), 0.0)


def gradient(
    params: Params,
    written: Rollout,
    reference_BR: Array,
    label_B: Array,
    beta: float,
    sample_cfg: SampleConfig,
    model_cfg: ModelConfig,
) -> Read:
    """Mean cross-entropy of the responses' outcomes, its gradient, and the tokens' rewards."""
    rows = jnp.maximum(jnp.sum(written.length_B > 0), 1).astype(jnp.float32)

    def objective(params: Params, prefix: model.Prefix, part: reading.Part) -> Any:
        logprob_BR, _, mask_BR = policy.read(params, prefix, part, written, sample_cfg, model_cfg)
        reward_BR = rewards(logprob_BR, part.pick(reference_BR), mask_BR, beta)
        loss_B = cross_entropy(jnp.sum(reward_BR, -1), part.pick(label_B))
        loss_B = jnp.where(mask_BR[:, 0], loss_B, 0.0)
        return jnp.sum(loss_B) / rows, ({}, jnp.float32(0), reward_BR)

    out = jnp.zeros(reference_BR.shape, jnp.float32)
    found = reading.gradient(objective, params, written, model_cfg, out)
    return Read(found.grads, found.value, found.kept, found.run)
