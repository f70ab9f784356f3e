"""Which groups of a rollout teach the policy, and the places of a step that they fill.

    DAPO dynamic sampling   spread        2503.14476 eq. 11: neither all right nor all wrong
    PRIME prompt filter     low, high     2502.01456, section 4: mean accuracy from 0.2 to 0.8;
                            whole         its code's option, no response that was cut off

A step has Q places.  Kept groups take them from the first on, round by round; an unfilled place has
no prompt, and G rows without tokens.  It is never filled with a group that was rejected.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import advantage, sharding
from rlvr_jax.config import FilterConfig
from rlvr_jax.structs import Array, Metrics, Rollout

UNTRIED, PLACED, REJECTED, SURPLUS = 0, 1, 2, 3  # what becomes of a prompt
NEAR = 1e-6  # a mean of 4 in 5 is 0.8 however it is rounded


class Held(NamedTuple):
    """What fills the places of a step so far, and counts over all rounds."""

    written: Rollout
    rewards: advantage.Rewards  # finite
    rounds: Array  # int32
    kept: Array  # int32, groups; those for whom no place was left too
    hard: Array  # int32, groups whose mean outcome is too low
    easy: Array  # int32, too high
    bad: Array  # int32, rewards that were not finite and are taken as 0
    total: Array  # float32, sum of all rewards

    @property
    def outcome_B(self) -> Array:
        return advantage.outcome(self.rewards)

    @property
    def filled_Q(self) -> Array:
        """Bool: the places that are filled."""
        return jnp.arange(self.written.prompt_QP.shape[0]) < self.kept


def nothing(written: Rollout, rewards: advantage.Rewards) -> Held:
    """No place filled, for rounds of these shapes."""

    def empty(x: Array) -> Array:
        return sharding.split_rows(jnp.zeros(x.shape, x.dtype))

    zero = jnp.int32(0)
    none = jax.tree.map(lambda x_B: empty(x_B).astype(jnp.float32), rewards)
    return Held(jax.tree.map(empty, written), none, zero, zero, zero, zero, zero, jnp.float32(0))


def sift(
    held: Held, written: Rollout, rewards: advantage.Rewards, samples: int, cfg: FilterConfig
) -> tuple[Held, Array]:
    """One round of Q groups: those that pass fill places.  Each group's fate is as in `merge`."""
    rewards, bad = advantage.finite(rewards)
    reward_B = advantage.outcome(rewards)
    keep_Q = keeps(reward_B, written.truncated_B, samples, cfg)
    hard_Q, easy_Q = outside(reward_B, samples, cfg)
    held, fate_Q = merge(held, written, rewards, keep_Q)
    return held._replace(
        rounds=held.rounds + 1,
        hard=held.hard + jnp.sum(hard_Q, dtype=jnp.int32),
        easy=held.easy + jnp.sum(easy_Q, dtype=jnp.int32),
        bad=held.bad + bad,
        total=held.total + jnp.sum(reward_B),
    ), fate_Q


def outside(reward_B: Array, samples: int, cfg: FilterConfig) -> tuple[Array, Array]:
    """[Q] bool: whose mean outcome is below the range, and whose is above it."""
    mean_Q = jnp.mean(reward_B.reshape(-1, samples), 1)
    return mean_Q < cfg.low - NEAR, mean_Q > cfg.high + NEAR


def keeps(reward_B: Array, truncated_B: Array, samples: int, cfg: FilterConfig) -> Array:
    """[Q] bool: which groups of finite outcomes teach the policy."""
    hard_Q, easy_Q = outside(reward_B, samples, cfg)
    keep_Q = ~(hard_Q | easy_Q)
    if cfg.spread:
        reward_QG = reward_B.reshape(-1, samples)
        keep_Q &= jnp.max(reward_QG, 1) - jnp.min(reward_QG, 1) >= NEAR
    if cfg.whole:
        keep_Q &= ~jnp.any(truncated_B.reshape(-1, samples), 1)
    return keep_Q


def merge(
    held: Held, written: Rollout, rewards: advantage.Rewards, keep_Q: Array
) -> tuple[Held, Array]:
    """Kept groups of a round into free places, in order.

    Also what became of each group, int32: it has a place (PLACED), it is not kept (REJECTED), or it
    is and there was no place left (SURPLUS).
    """
    places = keep_Q.shape[0]
    place_Q = held.kept + jnp.cumsum(keep_Q, dtype=jnp.int32) - 1
    fate_Q = jnp.where(keep_Q, jnp.where(place_Q < places, PLACED, SURPLUS), REJECTED)
    kept = jnp.sum(keep_Q, dtype=jnp.int32)
    # Seen from the places: the how-manieth kept group of this round stands there.
    number_Q = jnp.arange(places) - held.kept
    new_Q = (number_Q >= 0) & (number_Q < kept)
    source_Q = jnp.argsort(~keep_Q, stable=True)[jnp.clip(number_Q, 0, places - 1)]

    def place(old: Array, new: Array) -> Array:
        old_QX, new_QX = (x.reshape(places, -1) for x in (old, new))
        placed_QX = jnp.where(new_Q[:, None], jnp.take(new_QX, source_Q, 0), old_QX)
        return sharding.split_rows(placed_QX.reshape(old.shape))

    rows = jax.tree.map(place, (held.written, held.rewards), (written, rewards))
    return held._replace(written=rows[0], rewards=rows[1], kept=held.kept + kept), fate_Q


def describe(held: Held) -> Metrics:
    """What to log of all rounds: shares are of the groups that were tried."""
    places = held.written.prompt_QP.shape[0]
    tried = held.rounds * places
    return {
        "filter/rounds": held.rounds,
        "filter/kept_frac": held.kept / tried,
        "filter/too_hard": held.hard / tried,
        "filter/too_easy": held.easy / tried,
        "filter/unfilled": jnp.maximum(places - held.kept, 0),
        "filter/surplus": jnp.maximum(held.kept - places, 0),
        "filter/reward": held.total / (held.rounds * held.outcome_B.size),
    }
