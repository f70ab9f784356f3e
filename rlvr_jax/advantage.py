"""Turn the rewards of responses and tokens into advantages.

All arithmetic is float32.  Means and standard deviations are taken over the global batch, and
no gradient flows through the advantages.  The table gives the options of AdvantageConfig for each
published estimator: `normalise`, `baseline`, and further options with their names.

    estimator             normalise, baseline; others                  source (arXiv)
    REINFORCE             none | batch | group, none     Williams 1992; z-score: 2503.23829, 3.3
    RLOO                  none, rloo; whiten: responses is TRL's normalised form    2402.14740
    GRPO                  group, none; ddof: 0 or 1      2402.03300
    MaxRL                 group-mean, none               2602.02710
    pass@k training       group, none; pass_k            2508.10751
    Dr. GRPO              none, mean                     2503.20783
    GRPO, std of batch    batch, mean                    2508.08221 (Lite PPO)
    OPO                   none, opo                      2505.23585: baseline weighted by length
    RAE                   none, domain; baseline_decay   2506.24119 (SPIRAL), a domain for a role
    ReMax                 none, greedy                   2310.10505
    REINFORCE++           none, none; credit: token, whiten: tokens    2501.03262
    REINFORCE++-baseline  none, mean; whiten: tokens                   2501.03262
    PPO                   none, value; whiten: tokens                  1506.02438, eq. 16
    GDPO                  group, none; mix: after, weights             2601.05242
    a user's own          none, the path of a file       docs/extending.md
    PRIME                 any of these, and process_weight             2502.01456, eq. 5, s. 4.3

A reward that is not finite is replaced by 0 and counted in `Credit.nonfinite`, because a broken
verifier must not teach the policy.

Several functions take `counted`, a bool array or True, which marks the entries over which means
are taken.  At least one entry is marked, and either all or no entries of a group are marked.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rlvr_jax import groups, returns
from rlvr_jax.config import AdvantageConfig, Formula, OverlongConfig
from rlvr_jax.structs import Array, Credit, Signals

Rewards = dict[str, Array]  # by name, [B]; the outcome is named `reward`


# ---- rewards of responses ----------------------------------------------------------------------


def total_reward(rewards: Rewards, cfg: AdvantageConfig) -> Array:
    """Compute the weighted sum [B] of the rewards; without weights, the reward named `reward`.

    Raises:
      ValueError: the names of the rewards are not those of `advantage.weights` or, without weights,
        there is any reward but `reward`.
    """
    _check_names(rewards, cfg)
    if not cfg.weights:
        return _wide(rewards["reward"])
    weighted = (_wide(rewards[name]) * weight for name, weight in cfg.weights.items())
    return sum(weighted, start=jnp.zeros(()))


def normalised_rewards(
    rewards: Rewards, samples: int, cfg: AdvantageConfig, counted_B: Array | bool = True
) -> Array:
    """Compute the normalised reward [Q, G] of each response, with G = `samples`.

    With `cfg.mix` "before", the weighted sum of the rewards is normalised as `cfg.normalise` says.
    With "after" (GDPO, arXiv 2601.05242), each reward is normalised by itself, and the weighted sum
    of the results is normalised again over the batch.  A reward with a small spread then keeps its
    weight beside one with a large spread.

    Raises:
      ValueError: as `total_reward`.
    """
    rows = jax.tree.leaves(rewards)[0].shape
    counted_QG = jnp.broadcast_to(counted_B, rows).reshape(-1, samples)
    if cfg.mix == "before":
        return _normalised(total_reward(rewards, cfg).reshape(-1, samples), cfg, counted_QG)
    _check_names(rewards, cfg)
    each = {
        name: _normalised(_wide(x).reshape(-1, samples), cfg, counted_QG)
        for name, x in rewards.items()
    }
    mixed_QG = sum((each[name] * w for name, w in cfg.weights.items()), start=jnp.zeros(()))
    return groups.zscore(mixed_QG, cfg.std_floor, cfg.ddof, counted_QG)


def response_advantages(
    rewards: Rewards,
    penalty_B: Array,
    length_B: Array,
    samples: int,
    cfg: AdvantageConfig,
    counted_B: Array | bool = True,
) -> Array:
    """Compute the advantage [B] of whole responses; a constant for the gradient.

    The rewards are normalised, then `penalty_B` (KL coefficient times KL of the response) and the
    baseline are subtracted, in the order of arXiv 2503.23829, section 3.3 (r~ = zscore(r) - beta *
    log ratio).  The baselines `greedy`, `domain` and `value` are not subtracted here.

    Raises:
      ValueError: as `total_reward`.
    """
    if isinstance(cfg.baseline, Formula):
        reward_QG = (total_reward(rewards, cfg) - penalty_B).reshape(-1, samples)
        counted_QG = jnp.broadcast_to(counted_B, length_B.shape).reshape(-1, samples)
        length_QG = length_B.reshape(-1, samples)
        own_QG = cfg.baseline.function(reward_QG, length_QG, counted_QG[:, 0])
        return jax.lax.stop_gradient(own_QG.reshape(-1))
    reward_QG = normalised_rewards(rewards, samples, cfg, counted_B)
    reward_QG = reward_QG - penalty_B.reshape(-1, samples)
    centred_QG = _less_baseline(reward_QG, length_B.reshape(-1, samples), cfg)
    return jax.lax.stop_gradient(centred_QG.reshape(-1))


def _normalised(x_QG: Array, cfg: AdvantageConfig, counted_QG: Array) -> Array:
    if cfg.pass_k > 1:
        floor = cfg.std_floor if cfg.normalise == "group" else None
        return groups.best_of_sets(x_QG, cfg.pass_k, floor)
    if cfg.normalise == "batch":
        return groups.zscore(x_QG, cfg.std_floor, cfg.ddof, counted_QG)
    if cfg.normalise == "group-mean":
        return groups.over_mean(x_QG, cfg.std_floor)
    return groups.zscore_groups(x_QG, cfg.std_floor, cfg.ddof) if cfg.normalise == "group" else x_QG


def _less_baseline(x_QG: Array, length_QG: Array, cfg: AdvantageConfig) -> Array:
    if cfg.baseline == "rloo":
        return groups.leave_one_out(x_QG)
    if cfg.baseline == "mean":
        return groups.group_centre(x_QG)
    return groups.length_centre(x_QG, length_QG) if cfg.baseline == "opo" else x_QG


def overlong_penalty(length_B: Array, columns: int, cfg: OverlongConfig) -> Array:
    """Compute the penalty [B] >= 0 for the length of responses (DAPO, arXiv 2503.14476, eq. 13).

    The penalty is 0 up to `columns - cfg.buffer` tokens, then rises linearly up to `cfg.penalty`
    for a response that fills its budget of `columns` tokens.  With `cfg.buffer` 0 it is 0
    everywhere.
    """
    over_B = (length_B - (columns - cfg.buffer)).astype(jnp.float32) / max(cfg.buffer, 1)
    return cfg.penalty * jnp.clip(over_B, 0.0, 1.0) if cfg.buffer else jnp.zeros(length_B.shape)


def less_outcome(rewards: Rewards, penalty_B: Array) -> Rewards:
    """Subtract a penalty from the outcome, and leave the other rewards as they are."""
    return {**rewards, "reward": rewards["reward"] - penalty_B}


# ---- rewards of tokens -------------------------------------------------------------------------


def process_returns(
    process_BR: Array,
    mask_BR: Array,
    samples: int,
    cfg: AdvantageConfig,
    counted_B: Array | bool = True,
) -> Array:
    """Compute the returns [B, R] of token rewards, normalised and centred (PRIME, 2502.01456).

    The return is the sum over s >= t of discount^(s - t) (r_s - b) / sigma (section 4.3).  b and
    sigma are those of the configured estimator, taken over the *mean* token reward of each row:
    with baseline rloo, b is the mean of the other rows' means.  (Equation 5 prints sums; the text,
    the figure and the code of PRIME average, so that a long response is not paid for its length.)
    """
    length_B = jnp.sum(mask_BR, 1)
    row_B = jnp.sum(jnp.where(mask_BR, process_BR, 0.0), 1)
    row_QG = (row_B / jnp.maximum(length_B, 1).astype(row_B.dtype)).reshape(-1, samples)
    process_QGR = process_BR.reshape(*row_QG.shape, -1)
    counted_QG = jnp.broadcast_to(counted_B, length_B.shape).reshape(-1, samples)
    if cfg.normalise != "none":
        by_group = cfg.normalise == "group"
        # A group counts as a whole or is equal, so that its own moments need no mask.
        over = jnp.ones_like(counted_QG) if by_group else counted_QG
        axes = (1,) if by_group else (0, 1)
        mean, spread, same = groups.moments(row_QG, axes, cfg.std_floor, cfg.ddof, over)
        scaled_QGR = (process_QGR - mean[..., None]) / spread[..., None]
        process_QGR = jnp.where(same[..., None], 0.0, scaled_QGR)
        row_QG = _normalised(row_QG, cfg, counted_QG)
    baseline_QG = row_QG - _less_baseline(row_QG, length_B.reshape(-1, samples), cfg)
    centred_BR = (process_QGR - baseline_QG[..., None]).reshape(process_BR.shape)
    return returns.returns_to_go(centred_BR, mask_BR, cfg.discount)


# ---- credit ------------------------------------------------------------------------------------


def assign_credit(
    signals: Signals,
    mask_BR: Array,
    samples: int,
    cfg: AdvantageConfig,
    counted_B: Array | bool = True,
) -> Credit:
    """Compute the advantage of each token with the estimator that `cfg` describes.

    If `signals.kl_BR` is present, kl_coef * KL is subtracted from the normalised reward: summed
    over each response, or token by token with `credit: token` or `baseline: value`.  With
    `cfg.process_weight`, the weighted returns of the token rewards are added to the advantage; with
    `baseline: value` the weighted token rewards are added to the rewards instead.  The resulting
    advantages are whitened as `cfg.whiten` says.

    Raises:
      ValueError: the estimator needs a signal that is absent, or as `total_reward`.
    """
    signals, bad = _finite_signals(signals, mask_BR, cfg)
    if cfg.baseline == "value":
        outcome_BR, target_BR = credit_with_values(signals, mask_BR, samples, cfg, counted_B)
    else:
        kind = credit_tokens if cfg.credit == "token" else credit_responses
        outcome_BR, target_BR = kind(signals, mask_BR, samples, cfg, counted_B), None
    advantage_BR, process_BR = outcome_BR, None
    if cfg.process_weight and cfg.baseline != "value":
        token_reward_BR = _token_rewards(signals, mask_BR, cfg)
        returns_BR = process_returns(token_reward_BR, mask_BR, samples, cfg, counted_B)
        process_BR = cfg.process_weight * returns_BR
        advantage_BR = advantage_BR + process_BR
    advantage_BR = _whitened(advantage_BR, mask_BR, cfg, counted_B)
    return jax.lax.stop_gradient(Credit(advantage_BR, outcome_BR, bad, process_BR, target_BR))


def _whitened(
    advantage_BR: Array, mask_BR: Array, cfg: AdvantageConfig, counted_B: Array | bool
) -> Array:
    """Whiten advantages over all tokens, or over the responses whose rows count."""
    if cfg.whiten == "none":
        return advantage_BR
    if cfg.whiten == "responses":  # all tokens of a response have the same advantage
        counted_B = jnp.broadcast_to(counted_B, mask_BR.shape[:1])
        row_B = groups.zscore(advantage_BR[:, 0], cfg.std_floor, cfg.ddof, counted_B)
        return jnp.broadcast_to(row_B[:, None], mask_BR.shape)
    keep_mean = cfg.whiten == "tokens-keep-mean"
    return returns.whiten(advantage_BR, mask_BR, cfg.std_floor, cfg.ddof, keep_mean)


def credit_responses(
    signals: Signals, mask_BR: Array, samples: int, cfg: AdvantageConfig, counted_B: Array | bool
) -> Array:
    """Compute one advantage for each response and repeat it over all R columns, [B, R].

    Columns of padding hold it too; the loss ignores them.

    Raises:
      ValueError: the baseline is `greedy` and the greedy rewards are absent, or as `total_reward`.
    """
    penalty_B = jnp.zeros(mask_BR.shape[0])
    if signals.kl_BR is not None:
        penalty_B = signals.kl_coef * jnp.sum(signals.kl_BR, -1)
    row_B = _advantages(signals, penalty_B, mask_BR, samples, cfg, counted_B)
    return jnp.broadcast_to(row_B[:, None], mask_BR.shape)


def credit_tokens(
    signals: Signals, mask_BR: Array, samples: int, cfg: AdvantageConfig, counted_B: Array | bool
) -> Array:
    """Compute the return of each token, [B, R] (REINFORCE++, arXiv 2501.03262).

    The reward of a token is -kl_coef * KL of that token, if the KL is part of the reward.  The last
    token of a response also gets the advantage of the response (without a KL penalty).  The return
    is the discounted sum of the rewards from the token on.

    Raises:
      ValueError: the baseline is `greedy` and the greedy rewards are absent, or as `total_reward`.
    """
    free_B = jnp.zeros(mask_BR.shape[0])
    row_B = _advantages(signals, free_B, mask_BR, samples, cfg, counted_B)
    token_BR = returns.on_last_token(row_B, mask_BR)
    if signals.kl_BR is not None:
        token_BR = token_BR - signals.kl_coef * signals.kl_BR
    return returns.returns_to_go(token_BR, mask_BR, cfg.discount)


def credit_with_values(
    signals: Signals, mask_BR: Array, samples: int, cfg: AdvantageConfig, counted_B: Array | bool
) -> tuple[Array, Array]:
    """Compute generalised advantages and the targets of the value head, both [B, R].

    The reward of a token is -kl_coef * KL of that token, where the KL is part of the reward, plus
    `process_weight` times its token reward.  The last token of a response also gets the normalised
    reward of the response.  See PPO (arXiv 1707.06347), GAE (arXiv 1506.02438) and PRIME (arXiv
    2502.01456, table 1).

    Raises:
      ValueError: the values are absent, or `process_weight` is set and the token rewards are
        absent, or as `total_reward`.
    """
    if signals.value_BR is None:
        raise ValueError("advantage.baseline value needs a value of each token")
    row_B = normalised_rewards(signals.rewards, samples, cfg, counted_B).reshape(-1)
    token_BR = returns.on_last_token(row_B, mask_BR)
    if signals.kl_BR is not None:
        token_BR = token_BR - signals.kl_coef * signals.kl_BR
    if cfg.process_weight:
        token_BR = token_BR + cfg.process_weight * _token_rewards(signals, mask_BR, cfg)
    return returns.gae(token_BR, signals.value_BR, mask_BR, cfg.discount, cfg.gae_lambda)


def _advantages(
    signals: Signals,
    penalty_B: Array,
    mask_BR: Array,
    samples: int,
    cfg: AdvantageConfig,
    counted_B: Array | bool,
) -> Array:
    """Compute the advantage [B] of whole responses, with any baseline but a value head."""
    length_B = jnp.sum(mask_BR, 1)
    row_B = response_advantages(signals.rewards, penalty_B, length_B, samples, cfg, counted_B)
    if cfg.baseline not in ("greedy", "domain"):
        return row_B
    baseline_Q = signals.greedy_Q if cfg.baseline == "greedy" else signals.baseline_Q
    if baseline_Q is None:
        needed = {
            "greedy": "the reward of a greedy answer to each prompt",
            "domain": "a running mean for each prompt",
        }
        raise ValueError(f"advantage.baseline {cfg.baseline} needs {needed[cfg.baseline]}")
    return row_B - jnp.repeat(baseline_Q, samples)


def _token_rewards(signals: Signals, mask_BR: Array, cfg: AdvantageConfig) -> Array:
    if signals.token_reward_BR is None:
        raise ValueError("advantage.process_weight needs a reward of each token")
    if cfg.process_scale == "batch":
        return returns.scale_by_largest_return(signals.token_reward_BR, mask_BR)
    return signals.token_reward_BR


def _finite_signals(
    signals: Signals, mask_BR: Array, cfg: AdvantageConfig
) -> tuple[Signals, Array]:
    """Return the signals with 0 for padding and non-finite numbers, and the count of the latter."""
    per_row = {
        "rewards": signals.rewards,
        "greedy_Q": signals.greedy_Q,
        "baseline_Q": signals.baseline_Q,
    }
    per_token = {"kl_BR": signals.kl_BR, "token_reward_BR": signals.token_reward_BR}
    if cfg.baseline == "value":
        per_token["value_BR"] = signals.value_BR
    per_token = jax.tree.map(lambda x_BR: jnp.where(mask_BR, x_BR, 0.0), per_token)
    clean, bad = finite(per_row | per_token)
    return signals._replace(**clean), bad


def finite(x: Any) -> tuple[Any, Array]:
    """Return a pytree in float32 with 0 for numbers that are not finite, and their count (int32).

    Leaves in float64 stay in float64.
    """
    bad = jax.tree.map(lambda x: ~jnp.isfinite(x), x)
    count = sum((jnp.sum(b, dtype=jnp.int32) for b in jax.tree.leaves(bad)), start=jnp.int32(0))
    return jax.tree.map(lambda x, b: jnp.where(b, 0.0, _wide(x)), x, bad), count


def _wide(x: Array) -> Array:
    """Convert to float32; float64, which only tests use, stays."""
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _check_names(rewards: Rewards, cfg: AdvantageConfig) -> None:
    if set(rewards) != set(cfg.weights or {"reward"}):
        raise ValueError(f"rewards {sorted(rewards)} but advantage.weights {sorted(cfg.weights)}")
