"""The policy: writes responses, and scores them as the trainer does."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from rlvr_kernels.token_logprob import token_logprob

from rlvr_jax import model, sampling, sharding
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.structs import Array, Params, Prompts, Rollout


class Writing(NamedTuple):
    """Responses that are being written, one column at a time."""

    column: Array  # int32, the next one
    done_B: Array  # bool, the response has ended
    hidden_BD: Array  # what the next token is drawn from
    response_BR: Array
    logprob_BR: Array
    length_B: Array
    cache: model.Cache


def generate(
    params: Params,
    prompts: Prompts,
    key: Array,
    eos: tuple[int, ...],
    samples: int,
    columns: int,
    sample_cfg: SampleConfig,
    cfg: ModelConfig,
) -> Rollout:
    """`samples` responses of at most `columns` tokens to each prompt.

    Each distinct prompt is prefilled once.  A token is drawn with the key folded by row, then by
    column: it does not depend on the other rows.  A row ends with any of the `eos` tokens, the loop
    when every row has ended.
    """
    prefix, writing = begin(params, prompts, samples, columns, cfg)

    def unfinished(writing):
        return (writing.column < columns) & ~jnp.all(writing.done_B)

    def body(writing):
        return write_column(params, prefix, writing, key, eos, sample_cfg, cfg)

    writing = jax.lax.while_loop(unfinished, body, writing)
    return Rollout(
        prompt_QP=prompts.prompt_QP,
        prompt_mask_QP=prompts.prompt_mask_QP,
        response_BR=writing.response_BR,
        length_B=writing.length_B,
        truncated_B=~writing.done_B,
        logprob_BR=writing.logprob_BR,
    )


def begin(
    params: Params, prompts: Prompts, samples: int, columns: int, cfg: ModelConfig
) -> tuple[model.Prefix, Writing]:
    """Prefill each prompt once, and room for `samples` responses to it."""
    hidden_QPD, prefix = model.prefill(params, prompts.prompt_QP, prompts.prompt_mask_QP, cfg)
    rows = prompts.prompt_QP.shape[0] * samples
    return prefix, Writing(
        column=jnp.int32(0),
        done_B=jnp.zeros(rows, bool),
        hidden_BD=sharding.rows(jnp.repeat(hidden_QPD[:, -1], samples, axis=0)),
        response_BR=jnp.zeros((rows, columns), jnp.int32),
        logprob_BR=jnp.zeros((rows, columns), jnp.float32),
        length_B=jnp.zeros(rows, jnp.int32),
        cache=model.empty_cache(prefix, rows, columns),
    )


def write_column(
    params: Params,
    prefix: model.Prefix,
    writing: Writing,
    key: Array,
    eos: tuple[int, ...],
    sample_cfg: SampleConfig,
    cfg: ModelConfig,
) -> Writing:
    """One more token of every response that has not ended."""
    column, done_B, hidden_BD, response_BR, logprob_BR, length_B, cache = writing
    key_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(done_B.shape[0]))
    key_B = jax.vmap(jax.random.fold_in, (0, None))(key_B, column)
    token_B, logprob_B = sampling.sample(model.logits(params, hidden_BD, cfg), key_B, sample_cfg)
    live_B = ~done_B
    response_BR = _write(response_BR, jnp.where(live_B, token_B, 0), column)
    logprob_BR = _write(logprob_BR, jnp.where(live_B, logprob_B, 0.0), column)
    length_B = length_B + live_B.astype(jnp.int32)
    done_B = done_B | jnp.isin(token_B, jnp.asarray(eos))
    hidden_BD, cache = model.decode(params, token_B, column, prefix, cache, cfg)
    return Writing(column + 1, done_B, hidden_BD, response_BR, logprob_BR, length_B, cache)


def logprobs(
    params: Params, rollout: Rollout, sample_cfg: SampleConfig, cfg: ModelConfig
) -> tuple[Array, Array]:
    """Log-probability and entropy [B, R] of the responses, teacher-forced and differentiable.

    Same distribution as the sampler's (temperature, top-k, top-p); 0 where there is no token.
    A group's prompt is run once, forward and backward.
    """
    hidden_QPD, prefix = model.prefill(params, rollout.prompt_QP, rollout.prompt_mask_QP, cfg)
    mask_BR = rollout.response_mask_BR
    hidden_BRD = model.extend(params, rollout.response_BR, mask_BR, prefix, cfg)
    samples = mask_BR.shape[0] // hidden_QPD.shape[0]
    first_B1D = jnp.repeat(hidden_QPD[:, -1:], samples, axis=0)
    before_BRD = jnp.concatenate([first_B1D, hidden_BRD[:, :-1]], axis=1)
    if sample_cfg.temperature == 0 or sample_cfg.top_k or sample_cfg.top_p < 1:
        logits_BRV = model.logits(params, before_BRD, cfg)
        logprob_BRV = sampling.log_distribution(logits_BRV, sample_cfg)
        logprob_BR = jnp.take_along_axis(logprob_BRV, rollout.response_BR[..., None], -1)[..., 0]
        entropy_BR = -jnp.sum(jnp.exp(logprob_BRV) * logprob_BRV, -1)
    else:
        logprob_BR, entropy_BR = token_logprob(
            before_BRD,
            model.head(params, cfg),
            rollout.response_BR,
            sample_cfg.temperature,
            cfg.logit_softcap,
        )
    return jnp.where(mask_BR, logprob_BR, 0.0), jnp.where(mask_BR, entropy_BR, 0.0)


def _write(x_BR: Array, value_B: Array, column: Array) -> Array:
    return jax.lax.dynamic_update_slice(x_BR, value_B[:, None].astype(x_BR.dtype), (0, column))
