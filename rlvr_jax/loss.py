"""Policy losses, value losses and KL estimates: pure arithmetic on [rows, response columns].

Each loss is a sum over tokens, divided once by counts over the global batch, so that the losses
of the parts of a batch add up to that of the batch.

The table gives the options of LossConfig for each published loss: `objective`, `ratio` (where
it is not the default, token), and further options.

    PPO, GRPO        clip                              arXiv 1707.06347, eq. 7
    clip-higher      clip; clip_high > clip_low        2503.14476 (DAPO)
    dual clip        clip; dual_clip                   1912.09729
    RLOO, sequence   clip, product                     2402.14740; clips off-policy updates
    GSPO             clip, sequence                    2507.18071
    GSPO-token       clip, sequence-token              2507.18071
    CISPO            cispo; clip_low: 1 (no lower bound)     2506.13585
    SAPO             sapo; gate_positive, gate_negative      2511.20347
    GMPO             gmpo; clip_low, clip_high bound log-ratios    2507.20673
    Clip-Cov         clip-cov; cov_share, cov_low, cov_high      2505.22617
    KL-Cov           kl-cov; cov_share, cov_kl         2505.22617
    DPPO             dppo-tv, dppo-kl; clip_low, clip_high bound the divergence    2602.04879
    policy gradient  plain                             Williams 1992
    a user's own     the path of a file                docs/extending.md

Where an objective belongs to a whole row, each token of the row gets its value.  With
`aggregate: seq-mean-token-mean` the loss is then the mean over rows, as GSPO, GMPO and RLOO
define it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import ratios
from rlvr_jax.config import Formula, LossConfig
from rlvr_jax.ratios import FAR
from rlvr_jax.structs import Array, Metrics


class Tokens(NamedTuple):
    """Tokens hold the inputs of the policy loss for each response token, float32 [B, R].

    The behaviour log-probs are the trainer's own, under the parameters before the first update on
    this batch.  With a single update they are `logprob_BR` with a stop-gradient, so that the ratio
    is 1 and its gradient is the score function.  With several updates (epochs, mini-batches) they
    are computed once, before the first.
    """

    logprob_BR: Array  # log-probs of the policy that learns; the gradient flows through them
    entropy_BR: Array  # entropy of the policy that learns
    behaviour_BR: Array  # log-probs of the behaviour policy, as the trainer computes them
    sampler_BR: Array  # log-probs of the behaviour policy, as they were sampled
    reference_BR: Array  # log-probs of the reference policy
    advantage_BR: Array
    mask_BR: Array  # bool, the tokens that the policy wrote
    # From `token_choice`, where the config couples all tokens of an update:
    chosen_BR: Array | None = None  # bool, tokens that get a policy gradient; None: all
    held_BR: Array | None = None  # bool, tokens that kl-cov holds back
    correct_BR: Array | None = None  # importance weights; None: those of `ratios.correction`


def row_weights(mask_BR: Array, cfg: LossConfig, counted_B: Array | bool = True) -> Array:
    """Compute the weight [B] of each token of a row; the loss is the weighted sum over all tokens.

    The weights are computed once over the whole batch, so that a loss depends neither on the mesh
    nor on the parts in which a batch is read.  `rows` below is the number of rows that `counted_B`
    marks:

        token-mean            1 / all tokens (DAPO)
        token-sum             1
        seq-mean-token-mean   1 / (rows * tokens of this row) (GRPO)
        seq-mean-token-sum    1 / rows
        constant              1 / (rows * aggregate_length), R if that is 0 (Dr. GRPO)
    """
    columns = cfg.aggregate_length or mask_BR.shape[1]
    counted_B = jnp.broadcast_to(counted_B, mask_BR.shape[:1])
    rows = jnp.maximum(jnp.sum(counted_B), 1).astype(jnp.float32)
    length_B = jnp.sum(mask_BR, -1).astype(jnp.float32)
    if cfg.aggregate == "token-mean":
        return jnp.ones_like(length_B) / jnp.maximum(jnp.sum(length_B), 1)
    if cfg.aggregate == "token-sum":
        return jnp.ones_like(length_B)
    if cfg.aggregate == "seq-mean-token-mean":
        return 1 / (rows * jnp.maximum(length_B, 1))
    if cfg.aggregate == "seq-mean-token-sum":
        return jnp.ones_like(length_B) / rows
    return jnp.ones_like(length_B) / (rows * columns)


# ---- distance to the reference ---------------------------------------------------------------


def k3(logprob_BR: Array, reference_BR: Array) -> Array:
    """Compute exp(-d) + d - 1 with d = log pi - log ref, a non-negative estimate of KL(pi || ref).

    This is k3 of Schulman 2020, "Approximating KL divergence".  d is clipped to [-FAR, FAR].
    """
    d_BR = jnp.clip(logprob_BR - reference_BR, -FAR, FAR)
    return jnp.exp(-d_BR) + d_BR - 1


def kl(logprob_BR: Array, reference_BR: Array, form: str) -> Array:
    """Compute an estimate of KL(pi || ref) per token.

    See Schulman 2020, "Approximating KL divergence".  With d = log pi - log ref, k1 is d, k2 is
    d^2/2, k3 is exp(-d) + d - 1 and abs is |d|.  k1+ and k3+ have the value of k1 and k3 and the
    gradient of k2.  If the tokens are sampled from pi, the expected gradient of k2 (so also of k1+
    and k3+) is that of the KL; those of k1, k3 and abs are not.  At d = 0 the gradient of all forms
    but k1 is exactly 0.
    """
    d_BR = logprob_BR - reference_BR
    if form == "k1":
        return d_BR
    if form == "abs":
        return absolute(d_BR)
    if form == "k3":
        return k3(logprob_BR, reference_BR)
    square_BR = d_BR**2 / 2
    if form == "k2":
        return square_BR
    value_BR = kl(logprob_BR, reference_BR, form.removesuffix("+"))
    return square_BR + jax.lax.stop_gradient(value_BR - square_BR)


def absolute(x: Array) -> Array:
    """Compute |x| with the gradient 0 at 0, where that of `jnp.abs` is 1."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def kl_form(cfg: LossConfig) -> str:
    """Return the configured KL estimate; `auto` is k1 in the reward and k3 in the loss."""
    if cfg.kl_form != "auto":
        return cfg.kl_form
    return "k1" if cfg.kl_in == "reward" else "k3"


def adapt_kl(coef: Array, kl_mean: Array, rows: int | Array, cfg: LossConfig) -> Array:
    """Compute the next KL coefficient, larger when the KL per token is above its target.

    The rule is coef * (1 + clip(kl_mean / kl_target - 1, -0.2, 0.2) * rows / kl_horizon) (arXiv
    1909.08593, section 2.2), where `rows` is the number of responses in this step.  A KL that is
    not finite leaves the coefficient as it is.
    """
    error = jnp.clip(kl_mean / cfg.kl_target - 1, -0.2, 0.2)
    moved = coef * (1 + error * (rows / cfg.kl_horizon))
    return jnp.where(jnp.isfinite(kl_mean), moved, coef)


# ---- from log-ratios to what is maximised ----------------------------------------------------


def clip(log_ratio_BR: Array, advantage_BR: Array, cfg: LossConfig) -> tuple[Array, Array]:
    """Compute min(ratio A, clip(ratio) A) and a bool mask of clipped tokens, both [B, R].

    ratio is exp(log_ratio_BR), and clip bounds it to [1 - clip_low, 1 + clip_high] (PPO, arXiv
    1707.06347, eq. 7).  If `dual_clip` is c > 0, the value is at least c A where A < 0 (arXiv
    1912.09729); where A < 0 this equals INTELLECT-2's bound of the ratio by c.
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
    """Compute sg(clip(ratio)) A log pi: every token keeps a gradient, with a bounded weight.

    sg is the stop-gradient (CISPO, 2506.13585).  Also returns which tokens are clipped.
    """
    ratio_BR = jnp.exp(log_ratio_BR)
    bounded_BR = jnp.clip(ratio_BR, 1 - cfg.clip_low, 1 + cfg.clip_high)
    return jax.lax.stop_gradient(bounded_BR) * advantage_BR * logprob_BR, bounded_BR != ratio_BR


def sapo(log_ratio_BR: Array, advantage_BR: Array, cfg: LossConfig) -> Array:
    """Compute (4 / tau) sigmoid(tau (ratio - 1)) A, [B, R] (SAPO, arXiv 2511.20347).

    tau is `gate_positive` where A > 0, else `gate_negative`.  The factor of A is a soft gate, whose
    derivative with respect to the ratio is 1 at ratio 1.
    """
    tau_BR = jnp.where(advantage_BR > 0, cfg.gate_positive, cfg.gate_negative)
    tau_BR = tau_BR.astype(log_ratio_BR.dtype)
    return jax.nn.sigmoid(tau_BR * (jnp.exp(log_ratio_BR) - 1)) * 4 / tau_BR * advantage_BR


def gmpo(
    log_ratio_BR: Array, advantage_BR: Array, mask_BR: Array, cfg: LossConfig
) -> tuple[Array, Array]:
    """Compute A times the geometric mean of the ratios of a row, [B, R] (GMPO, arXiv 2507.20673).

    Before the mean, the log-ratio of each token is bounded by `clip_high` from above where A > 0,
    and by -`clip_low` from below elsewhere.  Also returns a bool mask [B, R] of the tokens so
    clipped.
    """
    bounded_BR = jnp.where(
        advantage_BR > 0,
        jnp.minimum(log_ratio_BR, cfg.clip_high),
        jnp.maximum(log_ratio_BR, -cfg.clip_low),
    )
    return jnp.exp(ratios.row_mean(bounded_BR, mask_BR)) * advantage_BR, bounded_BR != log_ratio_BR


def dppo(tokens: Tokens, cfg: LossConfig) -> tuple[Array, Array]:
    """Compute sg(M min(ratio, dual_clip)) A log pi, [B, R] (DPPO, arXiv 2602.04879).

    M is 0 where a token has moved in the direction of its advantage by more than `clip_high` (A >
    0) or `clip_low` (else), and 1 elsewhere.  For `dppo-tv` the move is the change of the token's
    probability, the total variation between the two choices "this token" and "any other".  For
    `dppo-kl` it is KL(behaviour || pi) of these two choices.  Also returns which tokens have M = 0.
    """
    logprob_BR = jax.lax.stop_gradient(tokens.logprob_BR)
    old_BR, advantage_BR = tokens.behaviour_BR, tokens.advantage_BR
    up_BR = advantage_BR > 0
    rise_BR = jnp.exp(logprob_BR) - jnp.exp(old_BR)
    far_BR = jnp.where(up_BR, rise_BR, -rise_BR)
    if cfg.objective == "dppo-kl":
        # Probabilities of any other token; rounding may leave log-probs of a sure token above 0.
        other_old_BR, other_BR = (jnp.maximum(-jnp.expm1(x), 0.0) for x in (old_BR, logprob_BR))
        other_log_BR = jnp.log((other_old_BR + 1e-8) / (other_BR + 1e-8))
        kl_BR = jnp.exp(old_BR) * (old_BR - logprob_BR) + other_old_BR * other_log_BR
        far_BR = jnp.where(far_BR > 0, kl_BR, 0.0)
    cut_BR = far_BR > jnp.where(up_BR, cfg.clip_high, cfg.clip_low).astype(far_BR.dtype)
    ratio_BR = jnp.exp(jnp.clip(logprob_BR - old_BR, -FAR, FAR))
    if cfg.dual_clip:
        ratio_BR = jnp.minimum(ratio_BR, cfg.dual_clip)
    value_BR = ratio_BR * advantage_BR * tokens.logprob_BR
    return jnp.where(cut_BR, 0.0, value_BR), cut_BR


def kl_cov(
    log_ratio_BR: Array, advantage_BR: Array, held_BR: Array | None, cfg: LossConfig
) -> Array:
    """Compute ratio A, minus cov_kl |log ratio| for tokens that are held back (2505.22617).

    `token_choice.choose` holds back the tokens whose log-prob and advantage vary together most.

    Raises:
      ValueError: nothing was chosen.
    """
    if held_BR is None:
        raise ValueError("objective kl-cov needs the tokens that are held back")
    pull_BR = jnp.where(held_BR, cfg.cov_kl * absolute(log_ratio_BR), 0.0)
    return jnp.exp(log_ratio_BR) * advantage_BR - pull_BR


# ---- a value head ----------------------------------------------------------------------------


def value_error(
    value_BR: Array,
    old_BR: Array,
    target_BR: Array,
    mask_BR: Array,
    weight_B: Array,
    cfg: LossConfig,
) -> tuple[Array, Metrics]:
    """Compute the loss of the value head, value_coef * sum of weight * (V - target)^2 / 2.

    This is the value term of PPO (arXiv 1707.06347, eq. 9), with a factor of 1/2.  If `value_clip`
    is c > 0, the error of a token is the larger one of two: that of V, and that of V clipped to
    within c of the old value `old_BR`.  An update then gains nothing by moving a value further than
    c (the authors' code, openai/baselines, ppo2).

    Returns the loss (a scalar) and the unweighted sum of the errors as the metric "value/loss".
    """
    off_BR = jnp.where(mask_BR, value_BR - target_BR, 0.0)  # padding may hold anything
    error_BR = off_BR**2 / 2
    if cfg.value_clip:
        moved_BR = jnp.where(mask_BR, value_BR - old_BR, 0.0)
        near_BR = off_BR - moved_BR + jnp.clip(moved_BR, -cfg.value_clip, cfg.value_clip)
        error_BR = jnp.maximum(error_BR, near_BR**2 / 2)
    sums = {"value/loss": jax.lax.stop_gradient(jnp.sum(error_BR))}
    return cfg.value_coef * jnp.sum(weight_B[:, None] * error_BR), sums


# ---- the loss --------------------------------------------------------------------------------


def policy_gradient(
    tokens: Tokens, weight_B: Array, kl_coef: Array | float, cfg: LossConfig
) -> tuple[Array, Metrics]:
    """Compute the policy loss: -sum of weight * objective + KL term - entropy_coef * entropy.

    `weight_B` comes from `row_weights` over the rows of one update, and weights all three terms.
    The KL term has the coefficient `kl_coef`, which may adapt during training; it is absent unless
    `cfg.kl_in` is "loss".

    Returns the loss (a scalar) and, for logging, sums over the tokens by metric name.  No gradient
    flows through these sums.
    """
    tokens = _without_padding(tokens)
    weight_BR = jnp.where(tokens.mask_BR, weight_B[:, None], 0.0)
    objective_BR, cut_BR = objective(tokens, cfg)
    logs = _ratio_logs(tokens, cut_BR, cfg)
    objective_BR, more = _weighted(objective_BR, tokens, cfg)
    logs |= more
    loss = -jnp.sum(weight_BR * objective_BR)
    if cfg.kl_coef and cfg.kl_in == "loss":
        loss = loss + kl_coef * jnp.sum(weight_BR * _kl_in_loss(tokens, cfg))
    if cfg.kl_coef:
        logs["policy/kl"] = tokens.logprob_BR - tokens.reference_BR
    if cfg.entropy_coef:
        loss = loss - cfg.entropy_coef * jnp.sum(weight_BR * tokens.entropy_BR)
    sums = {name: jnp.sum(jnp.where(tokens.mask_BR, x, 0.0)) for name, x in logs.items()}
    return loss, jax.lax.stop_gradient(sums)


def _weighted(objective_BR: Array, tokens: Tokens, cfg: LossConfig) -> tuple[Array, Metrics]:
    """Weight or leave out tokens: chosen ones, the sampler's mismatch, stale rows; and what to log.

    Tokens that are left out still count among those over which the loss is averaged.
    """
    logs = {}
    behaviour_BR, sampler_BR, mask_BR = tokens.behaviour_BR, tokens.sampler_BR, tokens.mask_BR
    if tokens.chosen_BR is not None:
        objective_BR = jnp.where(tokens.chosen_BR, objective_BR, 0.0)
        logs["policy/chosen_frac"] = tokens.chosen_BR.astype(jnp.float32)
    if cfg.correct != "none":
        correct_BR = tokens.correct_BR
        if correct_BR is None:
            correct_BR = ratios.correction(behaviour_BR, sampler_BR, mask_BR, cfg)
        objective_BR = objective_BR * correct_BR
        logs["mismatch/weight_mean"] = correct_BR
        logs["mismatch/masked_frac"] = (correct_BR == 0).astype(jnp.float32)
    if cfg.reject != "none":
        rejected_BR = ratios.rejected(behaviour_BR, sampler_BR, mask_BR, cfg)
        objective_BR = jnp.where(rejected_BR, 0.0, objective_BR)
        logs["mismatch/rejected_frac"] = rejected_BR.astype(jnp.float32)
    if cfg.stale_kl:
        stale_BR = ratios.stale(
            tokens.logprob_BR, sampler_BR, tokens.advantage_BR, mask_BR, cfg.stale_kl
        )
        objective_BR = jnp.where(stale_BR, 0.0, objective_BR)
        logs["mismatch/stale_frac"] = stale_BR.astype(jnp.float32)
    return objective_BR, logs


def _without_padding(tokens: Tokens) -> Tokens:
    """The tokens with 0 in the padding, which may hold anything."""
    mask_BR = tokens.mask_BR
    return tokens._replace(
        logprob_BR=jnp.where(mask_BR, tokens.logprob_BR, 0.0),
        entropy_BR=jnp.where(mask_BR, tokens.entropy_BR, 0.0),
        behaviour_BR=jnp.where(mask_BR, tokens.behaviour_BR, 0.0),
        sampler_BR=jnp.where(mask_BR, tokens.sampler_BR, 0.0),
        reference_BR=jnp.where(mask_BR, tokens.reference_BR, 0.0),
    )


def _ratio_logs(tokens: Tokens, cut_BR: Array, cfg: LossConfig) -> Metrics:
    """What to log of the probability ratios, per token."""
    drift_BR = jnp.clip(tokens.logprob_BR - tokens.behaviour_BR, -FAR, FAR)
    of_policies = tokens.logprob_BR, tokens.behaviour_BR
    low_BR = ratios.log_ratios(*of_policies, tokens.mask_BR, cfg.ratio) < 0
    off_BR = jnp.exp(jnp.clip(tokens.logprob_BR - tokens.sampler_BR, -FAR, FAR))
    return {
        "policy/clip_frac": cut_BR.astype(jnp.float32),
        "policy/clip_low_frac": (cut_BR & low_BR).astype(jnp.float32),
        "policy/clip_high_frac": (cut_BR & ~low_BR).astype(jnp.float32),
        "policy/approx_kl": -drift_BR,
        "mismatch/ratio": off_BR,
        "mismatch/ratio_square": off_BR**2,
    }


def _kl_in_loss(tokens: Tokens, cfg: LossConfig) -> Array:
    kl_BR = kl(tokens.logprob_BR, tokens.reference_BR, kl_form(cfg))
    if not cfg.kl_corrected:
        return kl_BR
    return kl_BR * jnp.exp(jnp.clip(tokens.logprob_BR - tokens.behaviour_BR, -FAR, FAR))


def objective(tokens: Tokens, cfg: LossConfig) -> tuple[Array, Array]:
    """Compute what is maximised for each token, and which tokens are clipped (bool), [B, R]."""
    if isinstance(cfg.objective, Formula):
        value_BR, cut_BR = cfg.objective.function(tokens, cfg)
        return jnp.where(tokens.mask_BR, value_BR, 0.0), cut_BR
    logprob_BR, advantage_BR = tokens.logprob_BR, tokens.advantage_BR
    log_ratio_BR = ratios.log_ratios(logprob_BR, tokens.behaviour_BR, tokens.mask_BR, cfg.ratio)
    if cfg.objective in ("clip", "clip-cov"):
        return clip(log_ratio_BR, advantage_BR, cfg)
    if cfg.objective == "cispo":
        return cispo(logprob_BR, log_ratio_BR, advantage_BR, cfg)
    if cfg.objective == "gmpo":
        return gmpo(log_ratio_BR, advantage_BR, tokens.mask_BR, cfg)
    if cfg.objective.startswith("dppo"):
        return dppo(tokens, cfg)
    if cfg.objective == "kl-cov":
        value_BR = kl_cov(log_ratio_BR, advantage_BR, tokens.held_BR, cfg)
    else:
        soft = cfg.objective == "sapo"
        value_BR = sapo(log_ratio_BR, advantage_BR, cfg) if soft else logprob_BR * advantage_BR
    return value_BR, jnp.zeros_like(tokens.mask_BR)
