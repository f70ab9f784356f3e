"""From rewards to advantages.  Float32, over the global batch, constants for the gradient.

The estimators by name, as (normalise, baseline) and what else an AdvantageConfig says:

    REINFORCE             none | batch | group, none     Williams 1992; z-score: 2503.23829 s. 3.3
    RLOO                  none, rloo                     2402.14740
    GRPO                  group, none (ddof)             2402.03300
    Dr. GRPO              none, mean                     2503.20783
    GRPO, std of batch    batch, mean                    2508.08221 (Lite PPO)
    OPO                   none, opo                      2505.23585: baseline weighted by length
    ReMax                 none, greedy                   2310.10505
    REINFORCE++           none, none; credit: token, whiten: tokens    2501.03262
    REINFORCE++-baseline  none, mean; whiten: tokens                   2501.03262
    PPO                   none, value; whiten: tokens                  1506.02438 eq. 16
    GDPO                  group, none; mix: after (weights)            2601.05242
    PRIME                 any of these, and process_weight             2502.01456 eq. 5, s. 4.3

Rewards that are not finite count as 0 (and are counted): a broken verifier must not teach.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax.config import AdvantageConfig, OverlongConfig
from rlvr_jax.structs import Array

Rewards = Array | dict[str, Array]  # one outcome reward [B], or several by name


class Estimate(NamedTuple):
    """What the loss is given, and what a value head is taught."""

    advantage_BR: Array  # 0 behind a row's end where credit goes to single tokens
    target_BR: Array | None  # A + V, with baseline: value
    outcome_BR: Array  # what it is of before whitening, and
    process_BR: Array | None  # what token rewards add to that
    bad: Array  # int32, numbers that were not finite and are taken as 0


# ---- of a whole response ---------------------------------------------------------------------


def zscore(
    x: Array, floor: float, axis: int | None = None, ddof: int = 0, held: Array | None = None
) -> Array:
    """(x - mean) / max(std, floor) over `axis` (None: over everything); std over n - ddof.

    Of what is `held` (None: all), at least one value; the rest is 0.

    Equal values give exactly 0, as arXiv 2503.23829 section 3.3 asks: rounding of the mean must
    not become a signal.  `floor` is in units of x; below it noise is not blown up to size 1.
    """
    mean, spread, same = _moments(x, floor, axis, ddof, held)
    if held is not None:
        same |= ~held
    return jnp.where(same, 0.0, (x - mean) / spread)


def _moments(
    x: Array, floor: float, axis: int | None, ddof: int, held: Array | None = None
) -> tuple[Array, Array, Array]:
    """Mean, floored standard deviation, and whether all values are equal."""
    count: Any = x.size if axis is None else x.shape[axis]
    mean = jnp.mean(x, axis, keepdims=True, where=held)
    std = jnp.sqrt(jnp.mean((x - mean) ** 2, axis, keepdims=True, where=held))
    if held is not None:
        count = jnp.sum(held, axis, keepdims=True)
        std = std * jnp.sqrt(count / jnp.maximum(count - ddof, 1))
    elif ddof and count > 1:
        std = std * (count / (count - ddof)) ** 0.5
    most = jnp.max(x, axis, keepdims=True, initial=-jnp.inf, where=held)
    least = jnp.min(x, axis, keepdims=True, initial=jnp.inf, where=held)
    return mean, jnp.maximum(std, floor), most == least


def leave_one_out(x_QG: Array) -> Array:
    """x_i minus the mean of its group's others: (G / (G - 1)) (x_i - mean) (RLOO, 2402.14740).

    A group of one has no others, and no signal: 0.
    """
    groups = x_QG.shape[1]
    return group_centre(x_QG) * (groups / max(groups - 1, 1))


def group_centre(x_QG: Array) -> Array:
    """x_i minus the mean of its group; exactly 0 where the group is equal."""
    same = jnp.max(x_QG, 1, keepdims=True) == jnp.min(x_QG, 1, keepdims=True)
    return jnp.where(same, 0.0, x_QG - jnp.mean(x_QG, 1, keepdims=True))


def length_centre(x_QG: Array, length_QG: Array) -> Array:
    """x_i minus sum_j |y_j| x_j / sum_j |y_j| (OPO); exactly 0 where the group is equal."""
    same = jnp.max(x_QG, 1, keepdims=True) == jnp.min(x_QG, 1, keepdims=True)
    length_QG = length_QG.astype(x_QG.dtype)
    total_Q1 = jnp.maximum(jnp.sum(length_QG, 1, keepdims=True), 1)
    return jnp.where(same, 0.0, x_QG - jnp.sum(length_QG * x_QG, 1, keepdims=True) / total_Q1)


def total(reward: Rewards, cfg: AdvantageConfig) -> Array:
    """The reward [B] that is reported: the weighted sum of the named ones."""
    if not isinstance(reward, dict):
        return _wide(reward)
    _same_names(reward, cfg)
    return sum((_wide(reward[name]) * w for name, w in cfg.weights.items()), start=jnp.zeros(()))


def scored(
    reward: Rewards, samples: int, cfg: AdvantageConfig, held_B: Array | None = None
) -> Array:
    """Rewards [Q, G], normalised.

    Of several, the weighted sum is normalised (mix: before), or each is, and their weighted sum
    again over the batch (mix: after, GDPO 2601.05242), so that none drowns in another's spread.
    """
    held_QG = None if held_B is None else held_B.reshape(-1, samples)
    if cfg.mix == "before" or not isinstance(reward, dict):
        return _normalised(total(reward, cfg).reshape(-1, samples), cfg, held_QG)
    _same_names(reward, cfg)
    each = {
        name: _normalised(_wide(x).reshape(-1, samples), cfg, held_QG) for name, x in reward.items()
    }
    mixed_QG = sum((each[name] * w for name, w in cfg.weights.items()), start=jnp.zeros(()))
    return zscore(mixed_QG, cfg.std_floor, None, cfg.ddof, held_QG)


def combine(
    reward: Rewards,
    penalty_B: Array,
    samples: int,
    cfg: AdvantageConfig,
    length_B: Array | None = None,
    greedy_Q: Array | None = None,
    held_B: Array | None = None,
) -> Array:
    """Advantage [B]: rewards normalised, the KL penalty taken off, the baseline subtracted.

    The order is the paper's (arXiv 2503.23829 section 3.3: r~ = zscore(r) - beta * log ratio).
    """
    reward_QG = scored(reward, samples, cfg, held_B) - penalty_B.reshape(-1, samples)
    length_QG = None if length_B is None else length_B.reshape(-1, samples)
    reward_QG = _baselined(reward_QG, cfg, length_QG, greedy_Q)
    return jax.lax.stop_gradient(reward_QG.reshape(-1))


def _normalised(x_QG: Array, cfg: AdvantageConfig, held_QG: Array | None) -> Array:
    if cfg.normalise == "none":
        return x_QG
    axis, held_QG = _over(cfg, held_QG)
    return zscore(x_QG, cfg.std_floor, axis, cfg.ddof, held_QG)


def _over(cfg: AdvantageConfig, held_QG: Array | None) -> tuple[int | None, Array | None]:
    """What moments are taken over; a group is held whole or is equal, all 0."""
    return (None, held_QG) if cfg.normalise == "batch" else (1, None)


def _baselined(
    x_QG: Array, cfg: AdvantageConfig, length_QG: Array | None, greedy_Q: Array | None
) -> Array:
    if cfg.baseline == "rloo":
        return leave_one_out(x_QG)
    if cfg.baseline == "mean":
        return group_centre(x_QG)
    if cfg.baseline == "opo":
        return length_centre(
            x_QG, _given(length_QG, "baseline opo", "the lengths of the responses")
        )
    if cfg.baseline == "greedy":
        greedy_Q = _given(
            greedy_Q, "baseline greedy", "the reward of a greedy answer to each prompt"
        )
        return x_QG - greedy_Q[:, None]
    return x_QG


def overlong(length_B: Array, columns: int, cfg: OverlongConfig) -> Array:
    """What a response loses for its length: 0 up to columns - buffer, then evenly more, up to
    `penalty` where it fills the budget (soft overlong punishment, DAPO, 2503.14476, eq. 13).
    """
    over_B = (length_B - (columns - cfg.buffer)).astype(jnp.float32) / max(cfg.buffer, 1)
    return cfg.penalty * jnp.clip(over_B, 0.0, 1.0) if cfg.buffer else jnp.zeros(length_B.shape)


def outcome(rewards: Rewards) -> Array:
    """The reward [B] of answers as such, of several the one named `reward`."""
    return rewards["reward"] if isinstance(rewards, dict) else rewards


def less(rewards: Rewards, lost_B: Array) -> Rewards:
    """The rewards, the outcome without what its length costs."""
    if isinstance(rewards, dict):
        return {**rewards, "reward": rewards["reward"] - lost_B}
    return rewards - lost_B


# ---- of single tokens ------------------------------------------------------------------------


def gae(
    reward_BR: Array, value_BR: Array, mask_BR: Array, discount: float, decay: float
) -> tuple[Array, Array]:
    """Generalised advantage estimate and value targets A + V (arXiv 1506.02438, eq. 16).

    delta_t = r_t + discount * V_{t+1} - V_t;  A_t = delta_t + discount * decay * A_{t+1}, where
    t + 1 is the next token of the mask; what is not the policy's own is stepped over.
    """

    def step(carry, column):
        value_next_B, advantage_next_B = carry
        reward_B, value_B, mask_B = column
        delta_B = reward_B + discount * value_next_B - value_B
        found_B = delta_B + discount * decay * advantage_next_B
        carry = (
            jnp.where(mask_B, value_B, value_next_B),
            jnp.where(mask_B, found_B, advantage_next_B),
        )
        return carry, jnp.where(mask_B, found_B, 0.0)

    zero_B = jnp.zeros_like(reward_BR[:, 0])
    columns = (reward_BR.T, value_BR.T, mask_BR.T)
    _, advantage_RB = jax.lax.scan(step, (zero_B, zero_B), columns, reverse=True)
    advantage_BR = advantage_RB.T
    return advantage_BR, jnp.where(mask_BR, advantage_BR + value_BR, 0.0)


def to_go(reward_BR: Array, mask_BR: Array, discount: float) -> Array:
    """sum_{s >= t} discount^(s - t) r_s over the tokens of the mask."""
    return gae(reward_BR, jnp.zeros_like(reward_BR), mask_BR, discount, 1.0)[0]


def at_last(x_B: Array, mask_BR: Array) -> Array:
    """x on each row's last token, 0 elsewhere; a row without tokens has no place for it."""
    left_BR = jnp.cumsum(mask_BR[:, ::-1], 1)[:, ::-1]
    return jnp.where(mask_BR & (left_BR == 1), x_B[:, None], 0.0)


def whiten(x_BR: Array, mask_BR: Array, floor: float, ddof: int) -> Array:
    """z-score over all tokens of the mask (REINFORCE++, 2501.03262); equal values give exactly 0.

    `floor` on the deviation is 1e-8 on the variance (OpenRLHF) when it is 1e-4.
    """
    count = jnp.sum(mask_BR).astype(x_BR.dtype)
    x_BR = jnp.where(mask_BR, x_BR, 0.0)
    mean = jnp.sum(x_BR) / jnp.maximum(count, 1)
    square = jnp.sum(jnp.where(mask_BR, (x_BR - mean) ** 2, 0.0))
    spread = jnp.maximum(jnp.sqrt(square / jnp.maximum(count - ddof, 1)), floor)
    most = jnp.max(x_BR, initial=-jnp.inf, where=mask_BR)
    least = jnp.min(x_BR, initial=jnp.inf, where=mask_BR)
    return jnp.where(mask_BR & (most > least), (x_BR - mean) / spread, 0.0)


def batch_scale(process_BR: Array, mask_BR: Array) -> Array:
    """Divided by the largest |sum_{s >= t} r_s| of the batch (PRIME's code, `batch_norm`)."""
    return process_BR / (jnp.max(jnp.abs(to_go(process_BR, mask_BR, 1.0))) + 1e-6)


def process_returns(
    process_BR: Array,
    mask_BR: Array,
    samples: int,
    cfg: AdvantageConfig,
    held_B: Array | None = None,
) -> Array:
    """sum_{s >= t} discount^(s - t) (r_s - b) / sigma of token rewards (2502.01456, s. 4.3).

    b and sigma are the estimator's own, taken of the rows' *mean* token rewards: with rloo b is
    the mean of the others' means.  (Equation 5 prints their sums; its text, figure and code
    average, which keeps a long answer from paying for its length.)
    """
    length_B = jnp.sum(mask_BR, 1)
    row_B = jnp.sum(jnp.where(mask_BR, process_BR, 0.0), 1)
    row_QG = (row_B / jnp.maximum(length_B, 1).astype(row_B.dtype)).reshape(-1, samples)
    process_QGR = process_BR.reshape(*row_QG.shape, -1)
    held_QG = None if held_B is None else held_B.reshape(-1, samples)
    if cfg.normalise != "none":
        axis, of_axis = _over(cfg, held_QG)
        mean, spread, same = _moments(row_QG, cfg.std_floor, axis, cfg.ddof, of_axis)
        scaled_QGR = (process_QGR - mean[..., None]) / spread[..., None]
        process_QGR = jnp.where(same[..., None], 0.0, scaled_QGR)
        row_QG = _normalised(row_QG, cfg, held_QG)
    baseline_QG = row_QG - _baselined(row_QG, cfg, length_B.reshape(-1, samples), None)
    centred_BR = (process_QGR - baseline_QG[..., None]).reshape(process_BR.shape)
    return to_go(centred_BR, mask_BR, cfg.discount)


# ---- both ------------------------------------------------------------------------------------


def estimate(
    reward: Rewards,
    mask_BR: Array,
    samples: int,
    cfg: AdvantageConfig,
    *,
    kl_BR: Array | None = None,
    kl_coef: float | Array = 0.0,
    process_BR: Array | None = None,
    value_BR: Array | None = None,
    greedy_Q: Array | None = None,
    held_B: Array | None = None,
) -> Estimate:
    """Each token's advantage, by the estimator that `cfg` describes.

    `kl_BR` goes off the reward: its sum per response, or token by token where credit is.  Process
    rewards have returns of their own, which are added (with baseline: value they join the rewards).
    Moments are of the rows that are `held` (None: all), one or more; whole groups are or are not.
    """
    zero_BR = jnp.zeros(mask_BR.shape, jnp.float32)
    if cfg.process_weight:
        process_BR = _given(process_BR, "process_weight", "a reward of each token")

    def own(x_BR: Array | None) -> tuple[Array, Array]:
        return finite(zero_BR if x_BR is None else jnp.where(mask_BR, x_BR, 0.0))

    reward, bad = finite(reward)
    greedy_Q, bad_greedy = finite(greedy_Q)
    bad = bad + bad_greedy
    kl_BR, bad_kl = own(kl_BR)
    process_BR, bad_process = own(process_BR)
    if cfg.process_scale == "batch":
        process_BR = batch_scale(process_BR, mask_BR)

    target_BR, added_BR, length_B = None, None, jnp.sum(mask_BR, 1)
    if cfg.baseline == "value":
        value_BR, bad_value = own(_given(value_BR, "baseline value", "a value of each token"))
        bad = bad + bad_value
        row_B = scored(reward, samples, cfg, held_B).reshape(-1)
        token_BR = at_last(row_B, mask_BR) - kl_coef * kl_BR
        token_BR = token_BR + cfg.process_weight * process_BR
        advantage_BR, target_BR = gae(token_BR, value_BR, mask_BR, cfg.discount, cfg.gae_lambda)
    elif cfg.credit == "token":
        free_B = jnp.zeros_like(kl_BR[:, 0])
        row_B = combine(reward, free_B, samples, cfg, length_B, greedy_Q, held_B)
        token_BR = at_last(row_B, mask_BR) - kl_coef * kl_BR
        advantage_BR = to_go(token_BR, mask_BR, cfg.discount)
    else:
        penalty_B = kl_coef * jnp.sum(kl_BR, -1)
        row_B = combine(reward, penalty_B, samples, cfg, length_B, greedy_Q, held_B)
        advantage_BR = jnp.broadcast_to(row_B[:, None], mask_BR.shape)
    outcome_BR = advantage_BR
    if cfg.process_weight and cfg.baseline != "value":
        returns_BR = process_returns(process_BR, mask_BR, samples, cfg, held_B)
        added_BR = cfg.process_weight * returns_BR
        advantage_BR = advantage_BR + added_BR
    if cfg.whiten == "tokens":
        advantage_BR = whiten(advantage_BR, mask_BR, cfg.std_floor, cfg.ddof)
    found = Estimate(advantage_BR, target_BR, outcome_BR, added_BR, bad + bad_kl + bad_process)
    return jax.lax.stop_gradient(found)


def describe(found: Estimate, mask_BR: Array) -> dict[str, Array]:
    """Spread over tokens of what outcomes and token rewards say, and how far they agree.

    A correlation of 0 also stands for one of the two saying nothing.
    """
    count = jnp.maximum(jnp.sum(mask_BR), 1)

    def centred(x_BR):
        mean = jnp.sum(jnp.where(mask_BR, x_BR, 0.0)) / count
        return jnp.where(mask_BR, x_BR - mean, 0.0)

    process_BR, outcome_BR = centred(found.process_BR), centred(found.outcome_BR)
    process, outcome = (jnp.sqrt(jnp.sum(x**2) / count) for x in (process_BR, outcome_BR))
    both = jnp.sum(process_BR * outcome_BR) / count
    return {
        "advantage/process_std": process,
        "advantage/outcome_std": outcome,
        "advantage/correlation": both / jnp.maximum(process * outcome, 1e-12),
    }


def explained(value_BR: Array, target_BR: Array, mask_BR: Array) -> dict[str, Array]:
    """Mean value of the tokens, and the share of the targets' variance that the values explain.

    1 - var(target - V) / var(target); 0 also stands for targets that are all equal.
    """
    count = jnp.maximum(jnp.sum(mask_BR), 1)

    def mean(x_BR):
        return jnp.sum(jnp.where(mask_BR, x_BR, 0.0)) / count

    def variance(x_BR):
        return mean((x_BR - mean(x_BR)) ** 2)

    most = jnp.max(target_BR, initial=-jnp.inf, where=mask_BR)
    least = jnp.min(target_BR, initial=jnp.inf, where=mask_BR)
    share = 1 - variance(target_BR - value_BR) / jnp.maximum(variance(target_BR), 1e-12)
    return {"value/mean": mean(value_BR), "value/explained": jnp.where(most > least, share, 0.0)}


def finite(x: Any) -> tuple[Any, Array]:
    """Arrays with 0 for what is no finite number, and how many those were."""
    bad = jax.tree.map(lambda x: ~jnp.isfinite(x), x)
    count = sum((jnp.sum(b, dtype=jnp.int32) for b in jax.tree.leaves(bad)), start=jnp.int32(0))
    return jax.tree.map(lambda x, b: jnp.where(b, 0.0, _wide(x)), x, bad), count


def _wide(x: Array) -> Array:
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _same_names(reward: dict[str, Array], cfg: AdvantageConfig) -> None:
    if set(reward) != set(cfg.weights):
        raise ValueError(f"rewards {sorted(reward)} but advantage.weights {sorted(cfg.weights)}")


def _given(x: Array | None, option: str, what: str) -> Array:
    if x is None:
        raise ValueError(f"advantage.{option} needs {what}")
    return x
