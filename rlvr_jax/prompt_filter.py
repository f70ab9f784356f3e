"""The prompt filter chooses which groups of a round teach the policy, and places them in the step.

    DAPO dynamic sampling   spread        2503.14476 eq. 11: neither all right nor all wrong
    PRIME prompt filter     low, high     2502.01456, section 4: mean accuracy from 0.2 to 0.8;
                            whole         an option of its code, no truncated response in a group

A step has Q places.  The groups that pass the filter take the places from the first on, round by
round.  An unfilled place has no prompt, and G rows without tokens; it is never filled with a group
that was rejected.  A step without a filter is one round that keeps every group.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import advantage, sharding
from rlvr_jax.config import FilterConfig
from rlvr_jax.structs import Array, Metrics, Outcome, Rollout, Round, Selection

UNTRIED, PLACED, REJECTED, SURPLUS = 0, 1, 2, 3  # the fate of a prompt
TOLERANCE = 1e-6  # a mean of 4 in 5 is 0.8 however it is rounded


class Held(NamedTuple):
    """Held holds the groups that fill the places of a step so far, and their rewards."""

    round: Round
    outcome: Outcome  # rewards of the rows of `round`


def keep_all(rollout: Rollout, decoded: Array, greedy: Rollout | None, outcome: Outcome) -> Held:
    """Fill all places with the groups of one round, whatever their rewards.

    Rewards that are not finite become 0.
    """
    outcome, bad = advantage.finite(outcome)
    places = rollout.prompt_QP.shape[0]
    selection = Selection(
        rounds=jnp.int32(1),
        kept=jnp.int32(places),
        too_hard=jnp.int32(0),
        too_easy=jnp.int32(0),
        nonfinite=bad,
        reward_sum=jnp.sum(outcome.rewards["reward"]),
        fate_X=jnp.full(places, PLACED, jnp.int32),
        mean_X=_means(outcome.rewards["reward"].reshape(places, -1)),
    )
    return Held(Round(rollout, decoded, selection, greedy), outcome)


def no_groups(rollout: Rollout, outcome: Outcome, rounds: int) -> Held:
    """Return a Held without any group, to which up to `rounds` rounds can be added.

    `rollout` and `outcome` give the shapes of one round; their values are not used.
    """

    def empty(x: Array) -> Array:
        return sharding.split_rows(jnp.zeros(x.shape, x.dtype))

    zero = jnp.int32(0)
    fate_X = jnp.full(rounds * rollout.prompt_QP.shape[0], UNTRIED, jnp.int32)
    none_X = jnp.zeros(fate_X.shape, jnp.float32)
    selection = Selection(zero, zero, zero, zero, zero, jnp.float32(0), fate_X, none_X)
    rewards = {name: empty(x_B).astype(jnp.float32) for name, x_B in outcome.rewards.items()}
    return Held(Round(jax.tree.map(empty, rollout), zero, selection), Outcome(rewards))


def more_rounds(held: Held, cfg: FilterConfig) -> Array:
    """Return whether another round is due: places are unfilled and rounds are left (bool)."""
    places = held.round.rollout.prompt_QP.shape[0]
    selection = held.round.selection
    return (selection.rounds < cfg.rounds) & (selection.kept < places)


def add_round(
    held: Held, rollout: Rollout, decoded: Array, outcome: Outcome, cfg: FilterConfig
) -> Held:
    """Add the groups of another round that pass the filter to the free places of a step.

    The selection records the fate of each prompt and counts the groups.  Rewards that are not
    finite become 0 and are counted.
    """
    outcome, bad = advantage.finite(outcome)
    places = rollout.prompt_QP.shape[0]
    reward_QG = outcome.rewards["reward"].reshape(places, -1)
    keep_Q = passing_groups(reward_QG, rollout.truncated_B, cfg)
    too_hard_Q, too_easy_Q = outside_range(reward_QG, cfg)
    old = held.round.selection
    held, fate_Q = place_groups(held, rollout, outcome, keep_Q)
    first, mean_Q = old.rounds * places, _means(reward_QG)
    selection = old._replace(
        rounds=old.rounds + 1,
        kept=held.round.selection.kept,
        too_hard=old.too_hard + jnp.sum(too_hard_Q, dtype=jnp.int32),
        too_easy=old.too_easy + jnp.sum(too_easy_Q, dtype=jnp.int32),
        nonfinite=old.nonfinite + bad,
        reward_sum=old.reward_sum + jnp.sum(reward_QG),
        fate_X=jax.lax.dynamic_update_slice_in_dim(old.fate_X, fate_Q, first, 0),
        mean_X=jax.lax.dynamic_update_slice_in_dim(old.mean_X, mean_Q, first, 0),
    )
    round_ = held.round._replace(selection=selection, decoded=held.round.decoded + decoded)
    return held._replace(round=round_)


def _means(reward_QG: Array) -> Array:
    """Compute the mean outcome of each group, float32 [Q], whole on every device for the host."""
    return sharding.replicate(jnp.mean(reward_QG, 1).astype(jnp.float32))


def outside_range(reward_QG: Array, cfg: FilterConfig) -> tuple[Array, Array]:
    """Return the groups whose mean outcome is below the range, and above it, both bool [Q]."""
    mean_Q = jnp.mean(reward_QG, 1)
    return mean_Q < cfg.low - TOLERANCE, mean_Q > cfg.high + TOLERANCE


def passing_groups(reward_QG: Array, truncated_B: Array, cfg: FilterConfig) -> Array:
    """Return bool [Q], the groups that pass the filter; all outcomes must be finite."""
    too_hard_Q, too_easy_Q = outside_range(reward_QG, cfg)
    keep_Q = ~(too_hard_Q | too_easy_Q)
    if cfg.spread:
        keep_Q &= jnp.max(reward_QG, 1) - jnp.min(reward_QG, 1) >= TOLERANCE
    if cfg.whole:
        keep_Q &= ~jnp.any(truncated_B.reshape(reward_QG.shape), 1)
    return keep_Q


def place_groups(
    held: Held, rollout: Rollout, outcome: Outcome, keep_Q: Array
) -> tuple[Held, Array]:
    """Move the kept groups of a round into free places, in order.

    Also returns the fate of each group, int32 [Q]: it has a place (PLACED), it did not pass
    (REJECTED), or it passed and no place was free (SURPLUS).
    """
    places, selection = keep_Q.shape[0], held.round.selection
    place_Q = selection.kept + jnp.cumsum(keep_Q, dtype=jnp.int32) - 1
    fate_Q = jnp.where(keep_Q, jnp.where(place_Q < places, PLACED, SURPLUS), REJECTED)
    kept = jnp.sum(keep_Q, dtype=jnp.int32)
    # Seen from the places: the kept group of this round, counted from 0, that each place takes.
    number_Q = jnp.arange(places) - selection.kept
    new_Q = (number_Q >= 0) & (number_Q < kept)
    source_Q = jnp.argsort(~keep_Q, stable=True)[jnp.clip(number_Q, 0, places - 1)]

    def place(old: Array, new: Array) -> Array:
        old_QX, new_QX = (x.reshape(places, -1) for x in (old, new))
        placed_QX = jnp.where(new_Q[:, None], jnp.take(new_QX, source_Q, 0), old_QX)
        return sharding.split_rows(placed_QX.reshape(old.shape))

    held_rows = (held.round.rollout, held.outcome.rewards)
    placed, rewards = jax.tree.map(place, held_rows, (rollout, outcome.rewards))
    selection = selection._replace(kept=selection.kept + kept)
    round_ = held.round._replace(rollout=placed, selection=selection)
    return Held(round_, Outcome(rewards)), fate_Q.astype(jnp.int32)


def filter_metrics(round_: Round) -> Metrics:
    """Compute metrics of all rounds; shares are relative to the number of groups tried."""
    places, selection = round_.rollout.prompt_QP.shape[0], round_.selection
    tried = selection.rounds * places
    rows = selection.rounds * round_.rollout.length_B.shape[0]
    return {
        "filter/rounds": selection.rounds,
        "filter/kept_frac": selection.kept / tried,
        "filter/too_hard": selection.too_hard / tried,
        "filter/too_easy": selection.too_easy / tried,
        "filter/unfilled": jnp.maximum(places - selection.kept, 0),
        "filter/surplus": jnp.maximum(selection.kept - places, 0),
        "filter/reward": selection.reward_sum / rows,
    }
