"""The implicit process reward model: a reward for each token, learned from outcomes alone.

A copy of the starting policy learns, in the step itself or alone, to tell good responses from bad
by beta * log(pi_prm / pi_ref) of the whole response, its score.  The same log-ratio of one token is
then that token's reward: what it adds to the expected outcome (Free Process Rewards, arXiv
2412.01981, eq. 3; PRIME, 2502.01456, eq. 3).  Everything here is of one distribution, the sampler's
untruncated one.

The losses are functions of scores s and labels r in [0, 1].  Right is what has r > 0.5, as these
losses but ce know right and wrong only; rows without tokens do not count.

    ce   -r log sigma(s) - (1 - r) log sigma(-s), mean of the rows (2412.01981, eq. 5)
    dpo  -log sigma(s_w - s_l) (arXiv 2305.18290, eq. 7)
    nca  -log sigma(s_w) - (log sigma(-s_w) + log sigma(-s_l)) / 2 (arXiv 2402.05369, of pairs)
    kto  1 - sigma(s - z) of a right row, 1 - sigma(z - s) of a wrong one (arXiv 2402.01306, eq. 8)

Ours: dpo and nca are means of all pairs, right w and wrong l, of responses to one prompt, each pair
of the batch counted alike.  z of kto is max(0, mean of s over the batch), a constant for the
gradient; the paper's is of responses to other prompts, and its weights of both kinds are 1 here.

Rewards need a forward pass over every response, learning a backward pass too, which is most of the
cost.  With `share` below 1 the PRM learns from a draw of the responses, those oftener that it is
more wrong about, weighted so that the expected gradient is that of all.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import model, optim, policy, ragged
from rlvr_jax.config import ModelConfig, PrmConfig, SampleConfig
from rlvr_jax.structs import Array, Learner, Metrics, Params, Rollout

Scored = Callable[[Array, Array, Array, int], Array]  # of scores, right, wrong [B]; and G
STREAM = 2**32 - 1  # folded into a step's key: the number of no row, and of no round of a filter


class Read(NamedTuple):
    """A rollout as the PRM saw it, and how to change the PRM."""

    grads: Params
    loss: Array
    reward_BR: Array  # float32, beta * log-ratio of each token; 0 where there is none
    taught_B: Array  # bool, the rows that it is of


def step(
    learner: Learner,
    written: Rollout,
    reference_BR: Array,
    outcome_B: Array,
    newline_V: Array | None,
    key: Array,
    cfg: PrmConfig,
    sample_cfg: SampleConfig,
    model_cfg: ModelConfig,
    tx: optax.GradientTransformation,
) -> tuple[Learner, Array, Metrics]:
    """The PRM after one update on outcomes in [0, 1], and the reward [B, R] of each token.

    `key` is the step's, for the draw of a share of the rows.
    order score-first: the rewards are those of the forward pass that the update differentiates,
    of the PRM as it was.  update-first: the new PRM reads the rollout once more.
    """
    label_B = jnp.clip(outcome_B, 0.0, 1.0)
    key = jax.random.fold_in(key, jnp.uint32(STREAM))
    read = gradient(learner.params, written, reference_BR, label_B, key, cfg, sample_cfg, model_cfg)
    wrote_B = written.length_B > 0  # where a filter left places unfilled, nobody did
    params, opt_state, norm, finite = optim.step(
        learner.params, learner.opt_state, read.grads, read.loss, tx, jnp.any(wrote_B)
    )
    reward_BR = read.reward_BR
    if cfg.order == "update-first":
        logprob_BR, _ = policy.logprobs(params, written, sample_cfg, model_cfg)
        reward_BR = rewards(logprob_BR, reference_BR, written.response_mask_BR, cfg.beta)
    score_B = jnp.sum(reward_BR, -1)
    metrics = {
        "prm/loss": read.loss,
        "prm/acc": _mean(agreed(score_B, label_B), wrote_B),
        "prm/reward_mean": _mean(score_B, wrote_B),
        "prm/grad_norm": norm,
        "prm/taught_frac": _mean(read.taught_B.astype(jnp.float32), wrote_B),
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


def agreed(score_B: Array, label_B: Array) -> Array:
    """1 [B] where a score is above 0 and the label above 1/2, or neither is; 0 where they differ.

    A score of 0, as all are at first, says nothing and counts half.
    """
    right_B = ((score_B > 0) == (label_B > 0.5)).astype(jnp.float32)
    return jnp.where(score_B == 0, 0.5, right_B)


def dpo(score_B: Array, right_B: Array, wrong_B: Array, samples: int) -> Array:
    """Mean of -log sigma(s_w - s_l) over all pairs; 0 without one."""
    score_QG = score_B.reshape(-1, samples)
    loss_QGG = -jax.nn.log_sigmoid(score_QG[:, :, None] - score_QG[:, None, :])
    return _mean(loss_QGG, _pairs(right_B, wrong_B, samples))


def nca(score_B: Array, right_B: Array, wrong_B: Array, samples: int) -> Array:
    """Mean of -log sigma(s_w) - (log sigma(-s_w) + log sigma(-s_l)) / 2 over all pairs."""
    score_QG = score_B.reshape(-1, samples)
    up_QG, down_QG = -jax.nn.log_sigmoid(score_QG), -jax.nn.log_sigmoid(-score_QG)
    loss_QGG = (up_QG + down_QG / 2)[:, :, None] + down_QG[:, None, :] / 2
    return _mean(loss_QGG, _pairs(right_B, wrong_B, samples))


def kto(score_B: Array, right_B: Array, wrong_B: Array, samples: int) -> Array:
    """Mean of 1 - sigma(s - z) over right rows and 1 - sigma(z - s) over wrong ones, at a z."""
    del samples  # of groups it knows nothing
    exists_B = right_B | wrong_B
    z = jax.lax.stop_gradient(jnp.maximum(_mean(score_B, exists_B), 0.0))
    return _mean(1 - jax.nn.sigmoid(jnp.where(right_B, score_B - z, z - score_B)), exists_B)


def _pairs(right_B: Array, wrong_B: Array, samples: int) -> Array:
    """[Q, G, G] bool: the first is right, the second wrong."""
    right_QG, wrong_QG = right_B.reshape(-1, samples), wrong_B.reshape(-1, samples)
    return right_QG[:, :, None] & wrong_QG[:, None, :]


def _mean(x: Array, where: Array) -> Array:
    """Mean of the chosen entries, 0 of none."""
    return jnp.sum(jnp.where(where, x, 0.0)) / jnp.maximum(jnp.sum(where), 1).astype(jnp.float32)


def scores(
    params: Params,
    reference: Params,
    written: Rollout,
    newline_V: Array,
    beta: float,
    sample_cfg: SampleConfig,
    model_cfg: ModelConfig,
) -> tuple[Array, Array]:
    """The least reward of a line [B], and the sum of all [B], by which to choose of responses.

    The paper's choice is the minimum over steps (2412.01981, section 4.1); here a line is a step.
    """
    logprob_BR, _ = policy.logprobs(params, written, sample_cfg, model_cfg)
    reference_BR, _ = policy.logprobs(reference, written, sample_cfg, model_cfg)
    mask_BR = written.response_mask_BR
    reward_BR = rewards(logprob_BR, reference_BR, mask_BR, beta)
    return least(reward_BR, newline_V[written.response_BR], mask_BR), jnp.sum(reward_BR, -1)


def least(reward_BR: Array, ends_BR: Array, mask_BR: Array) -> Array:
    """The least reward [B] of a row's lines; 0 of a row without tokens."""
    line_BR = gathered(reward_BR, ends_BR, mask_BR)
    least_B = jnp.min(jnp.where(lasts(ends_BR, mask_BR), line_BR, jnp.inf), -1)
    return jnp.where(mask_BR[:, 0], least_B, 0.0)


def lasts(ends_BR: Array, mask_BR: Array) -> Array:
    """[B, R] bool: the last tokens of lines, ended by `ends` or with their row."""
    left_BR = jnp.cumsum(mask_BR[:, ::-1], -1)[:, ::-1]
    return mask_BR & (ends_BR | (left_BR == 1))


def gathered(reward_BR: Array, ends_BR: Array, mask_BR: Array) -> Array:
    """The rewards of each line, ended by `ends` or with its row, added up on its last token."""
    columns = reward_BR.shape[1]
    ends_BR &= mask_BR
    line_BR = jnp.cumsum(ends_BR, -1) - ends_BR  # what ends a line is on it
    sum_BR = jax.vmap(lambda x, line: jax.ops.segment_sum(x, line, columns))(reward_BR, line_BR)
    return jnp.where(lasts(ends_BR, mask_BR), jnp.take_along_axis(sum_BR, line_BR, 1), 0.0)


def gradient(
    params: Params,
    written: Rollout,
    reference_BR: Array,
    label_B: Array,
    key: Array,
    cfg: PrmConfig,
    sample_cfg: SampleConfig,
    model_cfg: ModelConfig,
) -> Read:
    """The loss of the responses' outcomes, its gradient, and the tokens' rewards.

    Rows are read in parts, and ce of all rows is a sum over them.  Losses that tie rows together,
    and those of a share, read all scores first; then sum of dL/ds * s is differentiated through
    the model, of the rows that are drawn.
    """
    exists_B = written.length_B > 0

    def reward(logprob_BR: Array, reference_BR: Array, mask_BR: Array) -> Array:
        return rewards(logprob_BR, reference_BR, mask_BR, cfg.beta)

    def read(of_row: Callable[[Array, ragged.Part], Array], rows: Rollout) -> ragged.Gradient:
        def objective(params: Params, prefix: model.Prefix, part: ragged.Part) -> Any:
            logprob_BR, _, mask_BR = policy.read(params, prefix, part, rows, sample_cfg, model_cfg)
            reward_BR = reward(logprob_BR, part.pick(reference_BR), mask_BR)
            loss_B = of_row(jnp.sum(reward_BR, -1), part)
            loss = jnp.sum(jnp.where(mask_BR[:, 0], loss_B, 0.0))
            return loss, ({}, jnp.float32(0), reward_BR)

        out = jnp.zeros(reference_BR.shape, jnp.float32)
        return ragged.gradient(objective, params, rows, model_cfg, out)

    if cfg.loss == "ce" and cfg.share == 1:
        rows = jnp.maximum(jnp.sum(exists_B), 1).astype(jnp.float32)
        found = read(lambda s_B, part: cross_entropy(s_B, part.pick(label_B)) / rows, written)
        return Read(found.grads, found.value, found.kept, exists_B)
    logprob_BR, _ = policy.logprobs(params, written, sample_cfg, model_cfg)
    reward_BR = reward(logprob_BR, reference_BR, written.response_mask_BR)
    samples = label_B.shape[0] // written.prompt_QP.shape[0]
    value, slope_B = jax.value_and_grad(_loss)(
        jnp.sum(reward_BR, -1), label_B, exists_B, samples, cfg.loss
    )
    chance_B = chances(jnp.abs(slope_B), exists_B, cfg.share)
    drawn_B = draw(key, chance_B)
    weight_B = jnp.where(drawn_B, slope_B / chance_B, 0.0)
    taught = dataclasses.replace(written, length_B=jnp.where(drawn_B, written.length_B, 0))
    found = read(lambda s_B, part: part.pick(weight_B) * s_B, taught)
    return Read(found.grads, value, reward_BR, drawn_B)


def _loss(score_B: Array, label_B: Array, exists_B: Array, samples: int, name: str) -> Array:
    """The loss of that name, of scores and labels [B]."""
    if name == "ce":
        return _mean(cross_entropy(score_B, label_B), exists_B)
    right_B = label_B > 0.5
    tied: Scored = {"dpo": dpo, "nca": nca, "kto": kto}[name]
    return tied(score_B, right_B & exists_B, ~right_B & exists_B, samples)


def chances(weight_B: Array, exists_B: Array, share: float) -> Array:
    """How likely each row is drawn: in proportion to its weight, at most 1, in all `share` of them.

    So that what a drawn row counts, its weight over its chance, is the same of all but the largest.
    """
    if share == 1:
        return (weight_B > 0).astype(jnp.float32)
    total = jnp.maximum(jnp.sum(weight_B), jnp.finfo(jnp.float32).tiny)
    return jnp.minimum(share * jnp.sum(exists_B) * weight_B / total, 1.0)


def draw(key: Array, chance_B: Array) -> Array:
    """[B] bool, rows drawn with these chances: their number differs from its mean by less than 1.

    Systematic sampling: chances laid end to end, and what stands on a grid of step 1 is drawn, so
    rows of one prompt, being neighbours, are drawn in proportion too.
    """
    upto_B = jnp.floor(jnp.cumsum(chance_B) + jax.random.uniform(key))
    passed_B = upto_B > jnp.concatenate([jnp.zeros(1, upto_B.dtype), upto_B[:-1]])
    return passed_B & (chance_B > 0)  # sums in a tree, as of other backends, may round up and down
