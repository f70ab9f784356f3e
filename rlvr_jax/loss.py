"""Policy losses.  Sums come out, divided once by global counts, so that parts of a batch add up.

The losses by name, as (objective, ratio) and what else a LossConfig says:

    PPO, GRPO        clip, token                       1707.06347 eq. 7
    clip-higher      clip, token; clip_high > clip_low 2503.14476 (DAPO)
    dual clip        clip, token; dual_clip            1912.09729
    RLOO, sequence   clip, product                     2402.14740, where it is off-policy
    GSPO             clip, sequence                    2507.18071
    GSPO-token       clip, sequence-token              2507.18071
    CISPO            cispo; clip_low: 1 is no floor    2506.13585
    SAPO             sapo; gate_positive, gate_negative    2511.20347
    GMPO             gmpo; clip ranges are of logarithms   2507.20673
    policy gradient  plain                             Williams 1992

A value of a whole row is given to each of its tokens, so that with aggregate seq-mean-token-mean
the loss is the mean over rows that GSPO, GMPO and RLOO write.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rlvr_jax.config import LossConfig
from rlvr_jax.structs import Array, Metrics

FAR = 20.0  # log-ratios beyond it are a bug elsewhere; they must not become infinities


def row_weights(mask_BR: Array, cfg: LossConfig, held_B: Array | None = None) -> Array:
    """[B] weight of each of a row's tokens, such that the loss is the weighted sum of all tokens.

    Computed once over the whole batch: with it, neither the mesh nor micro-batches change a loss.
    token-mean: 1 / all tokens (DAPO).  seq-mean-token-mean: 1 / (rows * own tokens) (GRPO).
    seq-mean-token-sum: 1 / rows.  constant: 1 / (rows * R) (Dr.GRPO).  Rows are counted where they
    are `held` (None: all).
    """
    rows: Any
    rows, columns = mask_BR.shape
    weight_B = jnp.ones(rows)
    if held_B is not None:
        rows = jnp.maximum(jnp.sum(held_B), 1).astype(jnp.float32)
    length_B = jnp.sum(mask_BR, -1).astype(jnp.float32)
    if cfg.aggregate == "token-mean":
        return weight_B / jnp.maximum(jnp.sum(length_B), 1)
    if cfg.aggregate == "seq-mean-token-mean":
        return 1 / (rows * jnp.maximum(length_B, 1))
    if cfg.aggregate == "seq-mean-token-sum":
        return weight_B / rows
    return weight_B / (rows * columns)


# ---- distance to the reference ---------------------------------------------------------------


def k3(logprob_BR: Array, reference_BR: Array) -> Array:
    """exp(-d) + d - 1 with d = log pi - log ref: non-negative estimate of the KL per token."""
    d_BR = jnp.clip(logprob_BR - reference_BR, -FAR, FAR)
    return jnp.exp(-d_BR) + d_BR - 1


def kl(logprob_BR: Array, reference_BR: Array, form: str) -> Array:
    """An estimate of the KL per token (Schulman 2020, "Approximating KL divergence").

    d = log pi - log ref.  k1: d.  k2: d^2 / 2.  k3: exp(-d) + d - 1.  abs: |d|.  k1+ and k3+ have
    the value of k1 and k3 and the gradient of k2, the only one of them whose gradient on samples of
    the policy is that of the KL.
    """
    d_BR = logprob_BR - reference_BR
    if form == "k1":
        return d_BR
    if form == "abs":
        return jnp.abs(d_BR)
    if form == "k3":
        return k3(logprob_BR, reference_BR)
    square_BR = d_BR**2 / 2
    if form == "k2":
        return square_BR
    value_BR = kl(logprob_BR, reference_BR, form.removesuffix("+"))
    return square_BR + jax.lax.stop_gradient(value_BR - square_BR)


def kl_form(cfg: LossConfig) -> str:
    """The estimate that is asked for; `auto` is k1 in the reward and k3 in the loss."""
    if cfg.kl_form != "auto":
        return cfg.kl_form
    return "k1" if cfg.kl_in == "reward" else "k3"


def adapt_kl(coef: Array, kl_mean: Array, rows: int | Array, cfg: LossConfig) -> Array:
    """The next KL coefficient: up where the KL per token is above its target (1909.08593).

    coef * (1 + clip(kl / target - 1, -0.2, 0.2) * rows / horizon); a KL that is no number
    changes nothing.
    """
    error = jnp.clip(kl_mean / cfg.kl_target - 1, -0.2, 0.2)
    moved = coef * (1 + error * (rows / cfg.kl_horizon))
    return jnp.where(jnp.isfinite(kl_mean), moved, coef)


# ---- from log-ratios to what is maximised ----------------------------------------------------


def row_mean(x_BR: Array, mask_BR: Array) -> Array:
    """[B, 1] means over each row's own tokens; 0 for a row without any."""
    length_B1 = jnp.sum(mask_BR, -1, keepdims=True).astype(x_BR.dtype)
    return jnp.sum(jnp.where(mask_BR, x_BR, 0.0), -1, keepdims=True) / jnp.maximum(length_B1, 1)


def log_ratios(logprob_BR: Array, behaviour_BR: Array, mask_BR: Array, ratio: str) -> Array:
    """log pi - log behaviour, of tokens or of whole responses, for every token.

    sequence: the mean over the response (GSPO).  sequence-token: its value, with the
    gradient of the token's own log-prob (GSPO-token).  product: the sum over the response.
    """
    token_BR = jnp.clip(logprob_BR - behaviour_BR, -FAR, FAR)
    if ratio == "token":
        return token_BR
    if ratio == "product":
        sum_B1 = jnp.sum(jnp.where(mask_BR, token_BR, 0.0), -1, keepdims=True)
        return jnp.broadcast_to(jnp.clip(sum_B1, -FAR, FAR), token_BR.shape)
    mean_BR = jnp.broadcast_to(row_mean(token_BR, mask_BR), token_BR.shape)
    if ratio == "sequence":
        return mean_BR
    return jax.lax.stop_gradient(mean_BR - logprob_BR) + logprob_BR


def clip(log_ratio_BR: Array, advantage_BR: Array, cfg: LossConfig) -> tuple[Array, Array]:
    """min(ratio A, clip(ratio) A), and which tokens are cut.

    dual_clip c: not below c A where A < 0.  That is also INTELLECT-2's cap of the ratio at c.
    """
    ratio_BR = jnp.exp(log_ratio_BR)
    gain_BR = ratio_BR * advantage_BR
    bounded_BR = jnp.clip(ratio_BR, 1 - cfg.clip_low, 1 + cfg.clip_high) * advantage_BR
    value_BR, cut_BR = jnp.minimum(gain_BR, bounded_BR), bounded_BR < gain_BR
    if cfg.dual_clip:
        least_BR = cfg.dual_clip * advantage_BR
        low_BR = (advantage_BR < 0) & (value_BR < least_BR)
        value_BR, cut_BR = jnp.where(low_BR, least_BR, value_BR), cut_BR | low_BR
    return value_BR, cut_BR


def cispo(
    logprob_BR: Array, log_ratio_BR: Array, advantage_BR: Array, cfg: LossConfig
) -> tuple[Array, Array]:
    """sg(clip(ratio)) A log pi: every token keeps a gradient, its weight is bounded."""
    ratio_BR = jnp.exp(log_ratio_BR)
    bounded_BR = jnp.clip(ratio_BR, 1 - cfg.clip_low, 1 + cfg.clip_high)
    value_BR = jax.lax.stop_gradient(bounded_BR) * advantage_BR * logprob_BR
    return value_BR, bounded_BR != ratio_BR


def sapo(log_ratio_BR: Array, advantage_BR: Array, cfg: LossConfig) -> Array:
    """sigmoid(tau (ratio - 1)) 4 / tau A: a gate that closes softly, of slope 1 at ratio 1."""
    tau_BR = jnp.where(advantage_BR > 0, cfg.gate_positive, cfg.gate_negative)
    tau_BR = tau_BR.astype(log_ratio_BR.dtype)
    return jax.nn.sigmoid(tau_BR * (jnp.exp(log_ratio_BR) - 1)) * 4 / tau_BR * advantage_BR


def gmpo(
    log_ratio_BR: Array, advantage_BR: Array, mask_BR: Array, cfg: LossConfig
) -> tuple[Array, Array]:
    """A times the geometric mean of a row's ratios, each clipped in log space where A pushes it."""
    bounded_BR = jnp.where(
        advantage_BR > 0,
        jnp.minimum(log_ratio_BR, cfg.clip_high),
        jnp.maximum(log_ratio_BR, -cfg.clip_low),
    )
    return jnp.exp(row_mean(bounded_BR, mask_BR)) * advantage_BR, bounded_BR != log_ratio_BR


# ---- rows that another policy wrote ----------------------------------------------------------


def correction(behaviour_BR: Array, sampler_BR: Array, mask_BR: Array, cfg: LossConfig) -> Array:
    """Weight of each token for the sampler's log-probs not being the trainer's, a constant.

    w = exp(behaviour - sampler), of the token or the product over the row.  truncate: w clipped
    (TIS).  mask: w, and 0 outside (IcePop).  geometric-mask: 1, and 0 for rows whose geometric
    mean is outside.
    """
    log_BR = jnp.where(mask_BR, jnp.clip(behaviour_BR - sampler_BR, -FAR, FAR), 0.0)
    if cfg.correct.startswith("sequence"):
        sum_B1 = jnp.sum(log_BR, -1, keepdims=True)
        log_BR = jnp.broadcast_to(jnp.clip(sum_B1, -FAR, FAR), log_BR.shape)
    elif cfg.correct == "geometric-mask":
        log_BR = jnp.broadcast_to(row_mean(log_BR, mask_BR), log_BR.shape)
    weight_BR = jnp.exp(log_BR)
    if cfg.correct.endswith("truncate"):
        return jax.lax.stop_gradient(jnp.clip(weight_BR, cfg.correct_low, cfg.correct_high))
    inside_BR = (weight_BR >= cfg.correct_low) & (weight_BR <= cfg.correct_high)
    kept_BR = jnp.ones_like(weight_BR) if cfg.correct == "geometric-mask" else weight_BR
    return jax.lax.stop_gradient(jnp.where(inside_BR, kept_BR, 0.0))


def stale(
    logprob_BR: Array, sampler_BR: Array, advantage_BR: Array, mask_BR: Array, most: float
) -> Array:
    """[B, R] bool: A < 0 in a row whose mean log(sampler / pi) is above `most` (DeepSeek-V3.2)."""
    drift_B1 = row_mean(sampler_BR - jax.lax.stop_gradient(logprob_BR), mask_BR)
    return (advantage_BR < 0) & (drift_B1 > most)


# ---- a value head ----------------------------------------------------------------------------


def value_error(
    value_BR: Array,
    old_BR: Array,
    target_BR: Array,
    mask_BR: Array,
    weight_B: Array,
    cfg: LossConfig,
) -> tuple[Array, Metrics]:
    """value_coef * sum of weight * (V - target)^2 / 2 (1707.06347, eq. 9), and sums to log.

    value_clip c: of the errors of V and of V within c of the old value the larger one, so that an
    update gains nothing by going further (the authors' code, openai/baselines, ppo2).
    """
    off_BR = jnp.where(mask_BR, value_BR - target_BR, 0.0)  # behind the end may be anything
    error_BR = off_BR**2 / 2
    if cfg.value_clip:
        moved_BR = jnp.where(mask_BR, value_BR - old_BR, 0.0)
        near_BR = off_BR - moved_BR + jnp.clip(moved_BR, -cfg.value_clip, cfg.value_clip)
        error_BR = jnp.maximum(error_BR, near_BR**2 / 2)
    told = {"value/loss": jax.lax.stop_gradient(jnp.sum(error_BR))}
    return cfg.value_coef * jnp.sum(weight_B[:, None] * error_BR), told


# ---- the loss --------------------------------------------------------------------------------


def policy_gradient(
    logprob_BR: Array,
    behaviour_BR: Array,
    reference_BR: Array,
    advantage: Array,
    mask_BR: Array,
    weight_B: Array,
    cfg: LossConfig,
    *,
    sampler_BR: Array | None = None,
    entropy_BR: Array | None = None,
    kl_coef: Array | float | None = None,
) -> tuple[Array, Metrics]:
    """-sum of weight * objective, plus KL and entropy terms: a scalar and sums to log.

    `behaviour_BR` are the trainer's log-probs under the parameters at which this batch's first
    update began; in it they are `logprob_BR` itself behind a stop-gradient, and the ratio is 1 with
    the score function as its gradient.  For later epochs and mini-batches they are kept, and the
    weights are of the rows of one update.  `sampler_BR` are the log-probs as they were sampled.
    `advantage` is [B] or [B, R]; `kl_coef` replaces the config's where it adapts.
    """
    advantage_BR = advantage[:, None] if advantage.ndim == 1 else advantage
    weight_BR = jnp.where(mask_BR, weight_B[:, None], 0.0)
    logprob_BR = jnp.where(mask_BR, logprob_BR, 0.0)  # behind the end there may be anything
    behaviour_BR = jnp.where(mask_BR, behaviour_BR, 0.0)
    reference_BR = jnp.where(mask_BR, reference_BR, 0.0)
    drift_BR = jnp.clip(logprob_BR - behaviour_BR, -FAR, FAR)

    value_BR, cut_BR = objective(logprob_BR, behaviour_BR, advantage_BR, mask_BR, cfg)
    low_BR = log_ratios(logprob_BR, behaviour_BR, mask_BR, cfg.ratio) < 0
    sampler_BR = behaviour_BR if sampler_BR is None else jnp.where(mask_BR, sampler_BR, 0.0)
    off_BR = jnp.exp(jnp.clip(logprob_BR - sampler_BR, -FAR, FAR))
    tokens = {
        "policy/clip_frac": cut_BR.astype(jnp.float32),
        "policy/clip_low_frac": (cut_BR & low_BR).astype(jnp.float32),
        "policy/clip_high_frac": (cut_BR & ~low_BR).astype(jnp.float32),
        "policy/approx_kl": -drift_BR,
        "mismatch/ratio": off_BR,
        "mismatch/ratio_square": off_BR**2,
    }
    if cfg.correct != "none":
        correct_BR = correction(behaviour_BR, sampler_BR, mask_BR, cfg)
        value_BR = value_BR * correct_BR
        tokens["mismatch/weight_mean"] = correct_BR
        tokens["mismatch/masked_frac"] = (correct_BR == 0).astype(jnp.float32)
    if cfg.stale_kl:
        stale_BR = stale(logprob_BR, sampler_BR, advantage_BR, mask_BR, cfg.stale_kl)
        value_BR = jnp.where(stale_BR, 0.0, value_BR)
        tokens["mismatch/stale_frac"] = stale_BR.astype(jnp.float32)
    loss = -jnp.sum(weight_BR * value_BR)

    if cfg.kl_coef and cfg.kl_in == "loss":
        kl_BR = kl(logprob_BR, reference_BR, kl_form(cfg))
        if cfg.kl_corrected:
            kl_BR = kl_BR * jnp.exp(drift_BR)
        loss = loss + (cfg.kl_coef if kl_coef is None else kl_coef) * jnp.sum(weight_BR * kl_BR)
    if cfg.kl_coef:
        tokens["policy/kl"] = logprob_BR - reference_BR
    if cfg.entropy_coef:
        if entropy_BR is None:
            raise ValueError("loss.entropy_coef needs the entropy of each token")
        loss = loss - cfg.entropy_coef * jnp.sum(weight_BR * jnp.where(mask_BR, entropy_BR, 0.0))
    sums = {k: jnp.sum(jnp.where(mask_BR, v, 0.0)) for k, v in tokens.items()}
    return loss, jax.lax.stop_gradient(sums)


def objective(
    logprob_BR: Array, behaviour_BR: Array, advantage_BR: Array, mask_BR: Array, cfg: LossConfig
) -> tuple[Array, Array]:
    """What is maximised, per token, and which tokens are cut."""
    log_ratio_BR = log_ratios(logprob_BR, behaviour_BR, mask_BR, cfg.ratio)
    if cfg.objective == "clip":
        return clip(log_ratio_BR, advantage_BR, cfg)
    if cfg.objective == "cispo":
        return cispo(logprob_BR, log_ratio_BR, advantage_BR, cfg)
    if cfg.objective == "gmpo":
        return gmpo(log_ratio_BR, advantage_BR, mask_BR, cfg)
    if cfg.objective == "sapo":
        return sapo(log_ratio_BR, advantage_BR, cfg), jnp.zeros_like(mask_BR)
    return logprob_BR * advantage_BR, jnp.zeros_like(mask_BR)
