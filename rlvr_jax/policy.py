"""The policy: writes responses, and scores them as the trainer does."""

import jax
import jax.numpy as jnp
from rlvr_kernels.token_logprob import token_logprob

from rlvr_jax import model, sampling, sharding
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.structs import Array, Params, Prompts, Rollout


def generate(
    params: Params,
    prompts: Prompts,
    key: Array,
    eos: int,
    samples: int,
    columns: int,
    sample_cfg: SampleConfig,
    cfg: ModelConfig,
) -> Rollout:
    """`samples` responses of at most `columns` tokens to each prompt.

    Each distinct prompt is prefilled once.  A token is drawn with the key folded by row, then by
    column: it does not depend on the other rows.  The loop ends when every row has ended.
    """
    hidden_QPD, prefix = model.prefill(params, prompts.prompt_QP, prompts.prompt_mask_QP, cfg)
    rows = prompts.prompt_QP.shape[0] * samples
    key_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))

    def unfinished(carry):
        column, done_B, *_ = carry
        return (column < columns) & ~jnp.all(done_B)

    def write_column(carry):
        column, done_B, hidden_BD, response_BR, logprob_BR, length_B, cache = carry
        step_key_B = jax.vmap(jax.random.fold_in, (0, None))(key_B, column)
        token_B, logprob_B = sampling.sample(
            model.logits(params, hidden_BD, cfg), step_key_B, sample_cfg
        )
        live_B = ~done_B
        response_BR = _write(response_BR, jnp.where(live_B, token_B, 0), column)
        logprob_BR = _write(logprob_BR, jnp.where(live_B, logprob_B, 0.0), column)
        length_B = length_B + live_B.astype(jnp.int32)
        done_B = done_B | (token_B == eos)
        hidden_BD, cache = model.decode(params, token_B, column, prefix, cache, cfg)
        return column + 1, done_B, hidden_BD, response_BR, logprob_BR, length_B, cache

    carry = (
        jnp.int32(0),
        jnp.zeros(rows, bool),
        sharding.rows(jnp.repeat(hidden_QPD[:, -1], samples, axis=0)),
        jnp.zeros((rows, columns), jnp.int32),
        jnp.zeros((rows, columns), jnp.float32),
        jnp.zeros(rows, jnp.int32),
        model.empty_cache(prefix, rows, columns),
    )
    _, done_B, _, response_BR, logprob_BR, length_B, _ = jax.lax.while_loop(
        unfinished, write_column, carry
    )
    return Rollout(
        prompt_QP=prompts.prompt_QP,
        prompt_mask_QP=prompts.prompt_mask_QP,
        response_BR=response_BR,
        length_B=length_B,
        truncated_B=~done_B,
        logprob_BR=logprob_BR,
    )


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
            before_BRD, model.head(params, cfg), rollout.response_BR, sample_cfg.temperature
        )
    return jnp.where(mask_BR, logprob_BR, 0.0), jnp.where(mask_BR, entropy_BR, 0.0)


def _write(x_BR: Array, value_B: Array, column: Array) -> Array:
    return jax.lax.dynamic_update_slice(x_BR, value_B[:, None].astype(x_BR.dtype), (0, column))
