"""The implicit process reward model (PRM): token rewards that are learned from outcomes alone.

A copy of the starting policy learns to tell right responses from wrong ones by the score of a
response, s = beta * log(pi_prm / pi_ref) of the whole response.  The same log-ratio of one
token is then the reward of that token: what the token adds to the expected outcome (Free
Process Rewards, arXiv 2412.01981, eq. 3; PRIME, 2502.01456, eq. 3).  The PRM learns inside the
training step, or alone.  All log-probs are those of the sampler's distribution without top-k
and top-p.

The losses are functions of the scores s and the labels r in [0, 1] of all responses.  A
response with r > 0.5 is right, any other is wrong; only `ce` uses r itself.  Rows without
tokens do not count.  `ce` and `kto` are means over rows.  `dpo` and `nca` are means over all
pairs of a right response w and a wrong response l to the same prompt.

    ce   -r log sigma(s) - (1 - r) log sigma(-s)    (arXiv 2412.01981, eq. 5)
    dpo  -log sigma(s_w - s_l)    (arXiv 2305.18290, eq. 7)
    nca  -log sigma(s_w) - (log sigma(-s_w) + log sigma(-s_l)) / 2    (arXiv 2402.05369, pairs)
    kto  1 - sigma(s - z) if right, 1 - sigma(z - s) if wrong    (arXiv 2402.01306, eq. 8)

Our choices: each pair of the batch has the same weight.  In kto, z is max(0, mean of s over the
batch), a constant for the gradient, where the paper estimates z from responses to other
prompts; the paper's separate weights of right and wrong rows are both 1.

Token rewards need a forward pass over every response.  Learning needs a backward pass too,
which is most of the cost.  With `share` below 1 the PRM learns from a random draw of the
responses: a response about which the PRM is more wrong is drawn more often, and the drawn
responses are weighted so that the expected gradient is that of all responses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import adapters, likelihood, optim, ragged, routing
from rlvr_jax.config import ModelConfig, PrmConfig, SampleConfig
from rlvr_jax.structs import Array, Learner, Metrics, Params, Rollout

PairLoss = Callable[[Array, Array, Array, int], Array]  # (scores, right, wrong [B]; G) -> loss
STREAM = 2**32 - 1  # folded into the step's key; no row and no round of the filter has this number


class PrmSetup(NamedTuple):
    """A PrmSetup is what is static about a PRM: its configs and its optimizer."""

    cfg: PrmConfig
    sample: SampleConfig  # the sampler's, without top-k and top-p
    model: ModelConfig
    tx: optax.GradientTransformation


class Labelled(NamedTuple):
    """Labelled responses are what a PRM learns from."""

    rollout: Rollout
    reference_BR: Array  # log-probs of the model that the PRM is compared with
    outcome_B: Array  # float32, finite; clipped to [0, 1] it is the label


class PrmGradient(NamedTuple):
    """A PrmGradient is the gradient of the PRM's loss, and the rewards of its forward pass."""

    grads: Params
    loss: Array
    reward_BR: Array  # float32, beta * log-ratio of each token; 0 in padding
    drawn_B: Array  # bool, the rows that the gradient comes from
    sums: Metrics  # those of `routing.sums` over the drawn rows


def update(
    learner: Learner,
    labelled: Labelled,
    newline_V: Array,
    key: Array,
    setup: PrmSetup,
    base: Params | None = None,
) -> tuple[Learner, Array, Metrics]:
    """Update the PRM once, and compute the token rewards [B, R].

    With `granularity: token` each token has its own reward.  With `line` or `whole` the rewards are
    added up on the last token of each line or of the response; only `line` uses `newline_V`.  `key`
    is the key of the step, from which the draw of rows derives its own.  With `order: score-first`
    the rewards come from the PRM before its update, from a forward pass that the update needs
    anyway; with `update-first` the updated PRM reads the rollout once more.  `base` is what the
    PRM's adapter lies on, as in `Frozen`.

    Returns the PRM, the token rewards and scalars to log.
    """
    cfg, rollout = setup.cfg, labelled.rollout
    key = jax.random.fold_in(key, jnp.uint32(STREAM))
    result = gradient(adapters.over(base, learner.params), labelled, key, setup)
    exists_B = rollout.length_B > 0  # an unfilled place of a prompt filter has rows without tokens
    params, opt_state, norm, finite, _ = optim.step(
        learner.params, learner.opt_state, result.grads, result.loss, setup.tx
    )
    reward_BR = result.reward_BR
    if cfg.order == "update-first":
        read = adapters.over(base, params)
        logprob_BR, _ = likelihood.logprobs(read, rollout, setup.sample, setup.model)
        mask_BR = rollout.response_mask_BR
        reward_BR = token_rewards(logprob_BR, labelled.reference_BR, mask_BR, cfg.beta)
    score_B = jnp.sum(reward_BR, -1)
    metrics = {
        "prm/loss": result.loss,
        "prm/acc": _mean(agreement(score_B, _labels(labelled)), exists_B),
        "prm/reward_mean": _mean(score_B, exists_B),
        "prm/grad_norm": norm,
        "prm/taught_frac": _mean(result.drawn_B.astype(jnp.float32), exists_B),
        "prm/skipped": (~finite).astype(jnp.int32),
    }
    metrics |= {f"prm/{name}": x for name, x in routing.metrics(result.sums).items()}
    if cfg.granularity != "token":
        ends_BR = jnp.zeros(reward_BR.shape, bool)
        if cfg.granularity == "line":
            ends_BR = newline_V[rollout.response_BR]
        reward_BR = sum_on_line_ends(reward_BR, ends_BR, rollout.response_mask_BR)
    return Learner(params, opt_state), reward_BR, metrics


def token_rewards(logprob_BR: Array, reference_BR: Array, mask_BR: Array, beta: float) -> Array:
    """Compute beta * (log pi_prm - log pi_ref) of each token; the sum of a row is its score."""
    return jnp.where(mask_BR, beta * (logprob_BR - reference_BR), 0.0)


# ---- losses ------------------------------------------------------------------------------------


def cross_entropy(score_B: Array, label_B: Array) -> Array:
    """Compute -(r log sigma(s) + (1 - r) log sigma(-s)) with labels r in [0, 1].

    This is arXiv 2412.01981, eq. 5.
    """
    return -label_B * jax.nn.log_sigmoid(score_B) - (1 - label_B) * jax.nn.log_sigmoid(-score_B)


def agreement(score_B: Array, label_B: Array) -> Array:
    """Return 1 [B] where the sign of the score agrees with the label, else 0.

    A positive score agrees with a label above 1/2.  A score of 0, as all scores are at first, says
    nothing and counts 1/2.
    """
    right_B = ((score_B > 0) == (label_B > 0.5)).astype(jnp.float32)
    return jnp.where(score_B == 0, 0.5, right_B)


def dpo(score_B: Array, right_B: Array, wrong_B: Array, samples: int) -> Array:
    """Compute DPO's loss, the mean of -log sigma(s_w - s_l) over all pairs; 0 without a pair.

    A pair is a right response w (`right_B`) and a wrong response l (`wrong_B`) to the same prompt;
    s is the score of a response.  Each prompt has `samples` adjacent rows.  The source is arXiv
    2305.18290, eq. 7.
    """
    score_QG = score_B.reshape(-1, samples)
    loss_QGG = -jax.nn.log_sigmoid(score_QG[:, :, None] - score_QG[:, None, :])
    return _mean(loss_QGG, _pairs(right_B, wrong_B, samples))


def nca(score_B: Array, right_B: Array, wrong_B: Array, samples: int) -> Array:
    """Compute NCA's loss, the mean over all pairs of right and wrong responses; 0 without a pair.

    The loss of a pair is -log sigma(s_w) - (log sigma(-s_w) + log sigma(-s_l)) / 2, with w, l, s
    and `samples` as in `dpo`.  The source is arXiv 2402.05369, for pairs.
    """
    score_QG = score_B.reshape(-1, samples)
    up_QG, down_QG = -jax.nn.log_sigmoid(score_QG), -jax.nn.log_sigmoid(-score_QG)
    loss_QGG = (up_QG + down_QG / 2)[:, :, None] + down_QG[:, None, :] / 2
    return _mean(loss_QGG, _pairs(right_B, wrong_B, samples))


def kto(score_B: Array, right_B: Array, wrong_B: Array, samples: int) -> Array:
    """Compute KTO's loss, one mean over right and wrong rows; 0 without any row.

    The loss of a right row is 1 - sigma(s - z), that of a wrong row 1 - sigma(z - s).  z is max(0,
    mean score of these rows), a constant for the gradient.  The source is arXiv 2402.01306, eq. 8,
    with weights of 1.  `samples` is not used.
    """
    del samples  # this loss does not look at groups
    exists_B = right_B | wrong_B
    z = jax.lax.stop_gradient(jnp.maximum(_mean(score_B, exists_B), 0.0))
    return _mean(1 - jax.nn.sigmoid(jnp.where(right_B, score_B - z, z - score_B)), exists_B)


def _pairs(right_B: Array, wrong_B: Array, samples: int) -> Array:
    """[Q, G, G] bool: the first response is right and the second is wrong."""
    right_QG, wrong_QG = right_B.reshape(-1, samples), wrong_B.reshape(-1, samples)
    return right_QG[:, :, None] & wrong_QG[:, None, :]


def _mean(x: Array, where: Array) -> Array:
    """The mean of the entries where `where` holds, or 0."""
    return jnp.sum(jnp.where(where, x, 0.0)) / jnp.maximum(jnp.sum(where), 1).astype(jnp.float32)


def _labels(labelled: Labelled) -> Array:
    return jnp.clip(labelled.outcome_B, 0.0, 1.0)


def _loss(score_B: Array, label_B: Array, exists_B: Array, samples: int, name: str) -> Array:
    if name == "ce":
        return _mean(cross_entropy(score_B, label_B), exists_B)
    right_B = label_B > 0.5
    pair_loss: PairLoss = {"dpo": dpo, "nca": nca, "kto": kto}[name]
    return pair_loss(score_B, right_B & exists_B, ~right_B & exists_B, samples)


# ---- learning ----------------------------------------------------------------------------------


def gradient(params: Params, labelled: Labelled, key: Array, setup: PrmSetup) -> PrmGradient:
    """Compute the loss of the PRM, its gradient, and the token rewards before the update.

    With `loss: ce` and `share: 1` the loss is a mean of independent rows, so that one forward and
    backward pass is enough.  Otherwise a forward pass computes the scores s of all rows, the loss L
    and its slopes dL/ds.  Rows are then drawn with the probabilities p of `row_chances`, by
    |dL/ds|, and the gradient is that of the sum of (dL/ds / p) * s over the drawn rows, where dL/ds
    and p are constants.  `key` is the random key of the draw.
    """
    cfg, rollout = setup.cfg, labelled.rollout
    exists_B, label_B = rollout.length_B > 0, _labels(labelled)

    def backward(row_loss: Callable[[Array, ragged.Part], Array], rows: Rollout) -> ragged.Gradient:
        """The gradient of the sum of row_loss(scores, part) over the rows, and token rewards."""

        def objective(states: likelihood.States) -> Any:
            logprob_BR, _ = likelihood.token_logprobs(states, setup.sample, setup.model)
            reference_BR = states.part.pick(labelled.reference_BR)
            reward_BR = token_rewards(logprob_BR, reference_BR, states.mask_BR, cfg.beta)
            loss_B = row_loss(jnp.sum(reward_BR, -1), states.part)
            loss = jnp.sum(jnp.where(states.mask_BR[:, 0], loss_B, 0.0))
            return loss, ({}, jnp.float32(0), reward_BR)

        out = jnp.zeros(labelled.reference_BR.shape, jnp.float32)
        return likelihood.gradient(objective, params, rows, setup.model, out)

    if cfg.loss == "ce" and cfg.share == 1:
        count = jnp.maximum(jnp.sum(exists_B), 1).astype(jnp.float32)
        result = backward(lambda s_B, part: cross_entropy(s_B, part.pick(label_B)) / count, rollout)
        return PrmGradient(result.grads, result.value, result.kept, exists_B, result.sums)
    logprob_BR, _ = likelihood.logprobs(params, rollout, setup.sample, setup.model)
    mask_BR = rollout.response_mask_BR
    reward_BR = token_rewards(logprob_BR, labelled.reference_BR, mask_BR, cfg.beta)
    samples = label_B.shape[0] // rollout.prompt_QP.shape[0]
    value, slope_B = jax.value_and_grad(_loss)(
        jnp.sum(reward_BR, -1), label_B, exists_B, samples, cfg.loss
    )
    chance_B = row_chances(jnp.abs(slope_B), exists_B, cfg.share)
    drawn_B = draw_rows(key, chance_B)
    weight_B = jnp.where(drawn_B, slope_B / chance_B, 0.0)
    drawn = dataclasses.replace(rollout, length_B=jnp.where(drawn_B, rollout.length_B, 0))
    result = backward(lambda s_B, part: part.pick(weight_B) * s_B, drawn)
    if setup.model.router_aux_loss_coef:
        balance = routing.metrics(result.sums)["router/balance"]
        value += setup.model.router_aux_loss_coef * balance
    return PrmGradient(result.grads, value, reward_BR, drawn_B, result.sums)


def row_chances(weight_B: Array, exists_B: Array, share: float) -> Array:
    """Compute the probability [B] with which each row is drawn; `weight_B` is not negative.

    With `share` below 1 the probability is proportional to the weight, such that the probabilities
    add up to `share` times the number of rows in `exists_B`, and is then cut to at most 1.  A drawn
    row counts weight / probability, which is the same for all rows that were not cut.  With `share`
    1 every row with a weight above 0 has probability 1.
    """
    if share == 1:
        return (weight_B > 0).astype(jnp.float32)
    total = jnp.maximum(jnp.sum(weight_B), jnp.finfo(jnp.float32).tiny)
    return jnp.minimum(share * jnp.sum(exists_B) * weight_B / total, 1.0)


def draw_rows(key: Array, chance_B: Array) -> Array:
    """Draw rows with the given probabilities by systematic sampling; the result is bool [B].

    The probabilities are laid end to end on a line, and a row is drawn if its stretch contains a
    point of a grid with step 1 and a random start.  In any run of adjacent rows, such as those of
    one prompt, the number of drawn rows differs from its mean by less than 1.
    """
    upto_B = jnp.floor(jnp.cumsum(chance_B) + jax.random.uniform(key))
    passed_B = upto_B > jnp.concatenate([jnp.zeros(1, upto_B.dtype), upto_B[:-1]])
    return passed_B & (chance_B > 0)  # a sum may be rounded across a row without a chance


# ---- rewards of lines --------------------------------------------------------------------------


def score_responses(
    params: Params,
    reference: Params,
    rollout: Rollout,
    newline_V: Array,
    beta: float,
    sample_cfg: SampleConfig,
    model_cfg: ModelConfig,
) -> tuple[Array, Array]:
    """Compute two scores [B] by which to choose among responses.

    The first is the smallest reward of a line: the paper's choice is the minimum over steps
    (2412.01981, section 4.1), and a line is a step here.  The second is the sum of all rewards.
    """
    logprob_BR, _ = likelihood.logprobs(params, rollout, sample_cfg, model_cfg)
    reference_BR, _ = likelihood.logprobs(reference, rollout, sample_cfg, model_cfg)
    mask_BR = rollout.response_mask_BR
    reward_BR = token_rewards(logprob_BR, reference_BR, mask_BR, beta)
    ends_BR = newline_V[rollout.response_BR]
    return smallest_line_reward(reward_BR, ends_BR, mask_BR), jnp.sum(reward_BR, -1)


def smallest_line_reward(reward_BR: Array, ends_BR: Array, mask_BR: Array) -> Array:
    """Compute the smallest reward [B] among the lines of each row; 0 for a row without tokens.

    The reward of a line is the sum of its token rewards.  `ends_BR` (bool) marks the
    tokens that end a line.
    """
    line_BR = sum_on_line_ends(reward_BR, ends_BR, mask_BR)
    smallest_B = jnp.min(jnp.where(_line_ends(ends_BR, mask_BR), line_BR, jnp.inf), -1)
    return jnp.where(mask_BR[:, 0], smallest_B, 0.0)


def sum_on_line_ends(reward_BR: Array, ends_BR: Array, mask_BR: Array) -> Array:
    """Add up the token rewards of each line on the last token of that line, [B, R].

    A line ends with a token of `ends_BR`, which belongs to the line, or with the row.
    """
    columns = reward_BR.shape[1]
    ends_BR &= mask_BR
    line_BR = jnp.cumsum(ends_BR, -1) - ends_BR
    sum_BR = jax.vmap(lambda x, line: jax.ops.segment_sum(x, line, columns))(reward_BR, line_BR)
    return jnp.where(_line_ends(ends_BR, mask_BR), jnp.take_along_axis(sum_BR, line_BR, 1), 0.0)


def _line_ends(ends_BR: Array, mask_BR: Array) -> Array:
    """[B, R] bool: the last token of each line."""
    tokens_from_here_BR = jnp.cumsum(mask_BR[:, ::-1], -1)[:, ::-1]
    return mask_BR & (ends_BR | (tokens_from_here_BR == 1))
