"""A scalar reward model gives a response one number, read by a value head; it writes nothing.

It is what a generative reward model (GRM) is compared with ("Inference-Time Scaling for Generalist
Reward Modeling", arXiv 2504.02495, section 5.1), in two forms:

    scalar        it reads query and response
    semi-scalar   it reads query, response and a critique of that response, which a GRM wrote
                  before ("Critique-out-Loud Reward Models", arXiv 2408.11791)

1. Rows.  The query is the prompt, read once for all responses of an item.  A response in its frame,
   the words that ask for a judgement, the critique, and an end-of-sequence token are a row.
2. Reward.  The value of the text before the end-of-sequence token, which is a linear function of
   the hidden state of the last token.
3. Loss.  Bradley-Terry: the reward of the best response against that of every other one.

The random stream of a critique comes with its row, so that it does not depend on the row's place.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlvr_jax import (
    adapters,
    engine,
    likelihood,
    model,
    parameters,
    policy_update,
    ragged,
    routing,
    sharding,
)
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.structs import Array, Metrics, Params, Ranking, Rollout, TrainState, UpdateResult


class Texts(NamedTuple):
    """Texts hold the responses of Q items, N rows for each, up to where a judgement begins."""

    rows: Rollout  # of length 0 where an item has fewer responses
    ranking: Ranking  # [Q, N], which response of an item is the best
    stream_B: Array  # uint32, the random stream of each row's critique


class Writer(NamedTuple):
    """A Writer says how critiques are written; it is fixed at compile time."""

    eos: tuple[int, ...]  # ids of the tokens that end a critique; the first ends a row
    columns: int = 0  # token budget of a critique; 0: no critiques
    sample: SampleConfig = SampleConfig()


class Gradient(NamedTuple):
    """A Gradient holds the gradient of the loss, and the rewards of its forward pass."""

    grads: Params
    loss: Array
    reward_B: Array  # float32, 0 where there is no response
    sums: Metrics  # those of `routing.sums`


def scalar_step(
    state: TrainState,
    critic: Params,
    texts: Texts,
    base: Params | None = None,
    *,
    writer: Writer,
    cfg: ModelConfig,
    tx: optax.GradientTransformation,
) -> UpdateResult:
    """Update a scalar reward model once; `critic` is the GRM that writes critiques, or empty.

    `base` is what an adapter lies on, as in `Frozen`.
    """
    key = jax.random.fold_in(state.key, state.step)
    rows = write_rows(critic, texts, key, writer, cfg)
    result = gradient(adapters.over(base, state.params), rows, texts.ranking, cfg)
    new_state, grad_norm, _ = policy_update.apply_gradient(state, result.grads, result.loss, tx)
    new_state = dataclasses.replace(new_state, step=state.step + 1)
    right_Q = is_right(result.reward_B, texts.ranking).astype(jnp.float32)
    return UpdateResult(
        new_state,
        {
            "loss": result.loss,
            "scalar/acc": jnp.mean(right_Q),
            "policy/grad_norm": grad_norm,
            "policy/skipped": new_state.skipped,
        }
        | routing.metrics(result.sums),
    )


# ---- rewards and loss --------------------------------------------------------------------------


def score(params: Params, rows: Rollout, cfg: ModelConfig) -> Array:
    """Return the reward of each row, float32 [B]; 0 for a row without tokens."""
    return _last(likelihood.values(params, rows, cfg), rows.length_B)


def loss(reward_B: Array, ranking: Ranking) -> Array:
    """Return the mean over items of the Bradley-Terry loss.

    Of an item with several responses it is the mean of -log sigma(r_best - r_other) over all
    others (arXiv 2203.02155, equation 1, with the pairs of the best one only).  Of a single
    response it is the cross-entropy of sigma(r) with right or wrong.
    """
    reward_QN = reward_B.reshape(ranking.exists_BN.shape)
    best_QN = _is_best(ranking)
    best_Q = jnp.sum(jnp.where(best_QN, reward_QN, 0.0), 1)
    pair_QN = -jax.nn.log_sigmoid(best_Q[:, None] - reward_QN)
    others_QN = ranking.exists_BN & ~best_QN
    pairs_Q = jnp.maximum(ranking.count_B - 1, 1).astype(jnp.float32)
    several_Q = jnp.sum(jnp.where(others_QN, pair_QN, 0.0), 1) / pairs_Q
    sign_Q = jnp.where(ranking.best_B == 1, 1.0, -1.0)
    single_Q = -jax.nn.log_sigmoid(sign_Q * reward_QN[:, 0])
    return jnp.mean(jnp.where(ranking.count_B == 1, single_Q, several_Q))


def is_right(reward_B: Array, ranking: Ranking) -> Array:
    """Return bool [Q]: the best response has the only greatest reward of its item.

    The reward of a single response must be above 0 if it is right, and below if it is wrong.
    """
    reward_QN = reward_B.reshape(ranking.exists_BN.shape)
    best_QN = _is_best(ranking)
    best_Q = jnp.sum(jnp.where(best_QN, reward_QN, 0.0), 1)
    other_QN = jnp.where(ranking.exists_BN & ~best_QN, reward_QN, -jnp.inf)
    sign_Q = jnp.where(ranking.best_B == 1, 1.0, -1.0)
    several_Q = best_Q > jnp.max(other_QN, 1)
    return jnp.where(ranking.count_B == 1, sign_Q * reward_QN[:, 0] > 0, several_Q)


def gradient(params: Params, rows: Rollout, ranking: Ranking, cfg: ModelConfig) -> Gradient:
    """Compute the loss of a batch, its gradient and the rewards.

    The loss ties the rows of an item together, and the rows are read in parts.  So a forward pass
    computes all rewards r and the slopes dL/dr; the gradient is that of the sum of (dL/dr) * r,
    where dL/dr is a constant, and of what `likelihood.gradient` adds for a mixture of experts.
    """
    reward_B = score(params, rows, cfg)
    value, slope_B = jax.value_and_grad(loss)(reward_B, ranking)

    def objective(states: likelihood.States):
        part = states.part
        last_B = _last(likelihood.token_values(states), part.pick(rows.length_B))
        return jnp.sum(part.pick(slope_B) * last_B), ({}, jnp.float32(0), ())

    result = likelihood.gradient(objective, params, rows, cfg)
    if cfg.router_aux_loss_coef:
        value += cfg.router_aux_loss_coef * routing.metrics(result.sums)["router/balance"]
    return Gradient(result.grads, value, reward_B, result.sums)


def _last(value_BR: Array, length_B: Array) -> Array:
    """Return the value in the last column of each row, [B]; 0 for a row without tokens."""
    last_BR = jnp.arange(value_BR.shape[1]) == length_B[:, None] - 1
    return jnp.sum(jnp.where(last_BR, value_BR, 0.0), 1)


def _is_best(ranking: Ranking) -> Array:
    """Return bool [Q, N]: the best of several responses."""
    places_N = jnp.arange(ranking.exists_BN.shape[1])
    return ranking.exists_BN & (places_N == ranking.best_B[:, None])


# ---- rows --------------------------------------------------------------------------------------


def write_rows(
    critic: Params, texts: Texts, key: Array, writer: Writer, cfg: ModelConfig
) -> Rollout:
    """Return the rows that the model reads: texts, critiques if there are any, and an end."""
    rows = texts.rows
    length_B1, columns = rows.length_B[:, None], rows.response_BR.shape[1]
    place_W = jnp.arange(columns + writer.columns + 1)
    token_BW = jnp.pad(rows.response_BR, ((0, 0), (0, writer.columns + 1)))
    end_B1 = length_B1
    if writer.columns:
        critique = write_critiques(critic, texts, key, writer, cfg)
        place_BW = jnp.clip(place_W - length_B1, 0, writer.columns - 1)
        of_critique_BW = jnp.take_along_axis(critique.response_BR, place_BW, 1)
        token_BW = jnp.where(place_W < length_B1, token_BW, of_critique_BW)
        # The end of a critique is the end of the row, also where the critique was cut off.
        own_B = critique.length_B - jnp.where(critique.truncated_B, 0, 1)
        end_B1 = length_B1 + own_B[:, None]
    token_BW = jnp.where(place_W < end_B1, token_BW, writer.eos[0])
    return dataclasses.replace(
        rows,
        response_BR=token_BW,
        length_B=jnp.where(rows.length_B > 0, end_B1[:, 0] + 1, 0),
        logprob_BR=jnp.zeros(token_BW.shape, jnp.float32),
    )


def write_critiques(
    critic: Params, texts: Texts, key: Array, writer: Writer, cfg: ModelConfig
) -> Rollout:
    """Let a GRM write a critique of each response alone, as it would judge it.

    Where there is no response, the critique has one token, which is not read.
    """
    rows = texts.rows
    count, columns = rows.response_BR.shape
    place_BR = jnp.arange(columns) - columns + rows.length_B[:, None]
    token_BR = jnp.take_along_axis(rows.response_BR, jnp.maximum(place_BR, 0), 1)
    mask_BR = (place_BR >= 0) | (jnp.arange(columns) == columns - 1)
    sampler = engine.Sampler(
        key=key,
        eos=writer.eos,
        samples=1,
        columns=writer.columns,
        cfg=writer.sample,
        limit_B=jnp.where(rows.length_B > 0, writer.columns, 1),
        stream_B=texts.stream_B,
    )
    with sharding.decode_view(cfg.decode_tensor):
        params = parameters.for_decoding(critic, cfg)
        prompt_QP, mask_QP = sharding.split_rows((rows.prompt_QP, rows.prompt_mask_QP))
        shown_BR, exists_BR = sharding.split_rows((token_BR, mask_BR))
        shards = sharding.data_shards()
        owner_M = jnp.arange(count // shards, dtype=jnp.int32)
        owner_M //= texts.ranking.exists_BN.shape[1]
        owner_SM = jnp.broadcast_to(owner_M, (shards, count // shards))
        prefix, _ = ragged.read_prompts(params, prompt_QP, mask_QP, cfg)
        prefix = model.lengthen(params, shown_BR, exists_BR, prefix, owner_SM, cfg)
        written = engine.write(params, prefix, sampler, cfg)
    return engine.rollout_of(token_BR, mask_BR, engine.leave_view(written))
