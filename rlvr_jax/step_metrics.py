"""The scalars that a step logs, computed on the device: of rollouts, verdicts, credit and updates.

Means of rows are taken over `counted`, a bool array [B] or True: the rows of places that the prompt
filter has filled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import grm, routing, verifier
from rlvr_jax.structs import Array, Credit, Metrics, Rollout, Signals


class UpdateLogs(NamedTuple):
    """UpdateLogs hold what was measured during the policy updates of a step."""

    loss: Array  # mean over the updates
    # Sums over the tokens of all updates, by metric, and those of `routing.sums` over their rows;
    # divided by the number of epochs.
    sums: Metrics
    gap: Array  # largest absolute difference between log-probs of the sampler and of the trainer
    run: Array  # token positions that were run through the model, padding included


def of_rollout(
    rollout: Rollout, reward_B: Array, samples: int, counted: Array | bool = True
) -> Metrics:
    """Compute statistics of the rewards and lengths of a rollout."""
    reward_QG = reward_B.reshape(-1, samples)
    equal_B = jnp.repeat(jnp.max(reward_QG, 1) - jnp.min(reward_QG, 1) < 1e-6, samples)
    length_B = rollout.length_B.astype(jnp.float32)
    truncated_B = rollout.truncated_B.astype(jnp.float32)
    bins = jnp.clip((reward_B * 10).astype(jnp.int32), 0, 9)
    bins = jnp.where(counted, bins, 10)  # outside the histogram
    ranges = of_rows("reward", reward_B, counted)
    ranges |= of_rows("completion/length", length_B, counted, separator="_")
    return ranges | {
        "reward/std": jnp.std(reward_B, where=counted),
        "reward/frac_zero_std": jnp.mean(equal_B.astype(jnp.float32), where=counted),
        "reward/histogram": jnp.sum(jax.nn.one_hot(bins, 10), 0),
        "completion/truncated_frac": jnp.mean(truncated_B, where=counted),
        "completion/tokens": jnp.sum(length_B),
        "completion/identical_frac": identical_share(rollout),
    }


def of_rows(name: str, x_B: Array, counted: Array | bool = True, separator: str = "/") -> Metrics:
    """Compute mean, minimum and maximum over the rows of x_B.

    A metric is called `name` + `separator` + "mean", "min" or "max", such as "reward/mean".
    """
    return {
        f"{name}{separator}mean": jnp.mean(x_B, where=counted),
        f"{name}{separator}min": jnp.min(x_B, initial=jnp.inf, where=counted),
        f"{name}{separator}max": jnp.max(x_B, initial=-jnp.inf, where=counted),
    }


def identical_share(rollout: Rollout) -> Array:
    """Compute the share of the responses that equal the most frequent response.

    Responses are compared by a hash of their tokens.  Rows without tokens do not count.
    """
    exists_B = rollout.length_B > 0
    columns = rollout.response_BR.shape[1]
    odd_R = jnp.arange(columns, dtype=jnp.uint32) * jnp.uint32(2654435761) * 2 + 1
    mixed_BR = (rollout.response_BR.astype(jnp.uint32) + 1) * jnp.uint32(2246822519)
    mixed_BR = (mixed_BR ^ (mixed_BR >> 15)) * odd_R
    hash_B = jnp.sum(jnp.where(rollout.response_mask_BR, mixed_BR, 0), -1, dtype=jnp.uint32)
    sorted_B = jnp.sort(hash_B)
    behind_B = jnp.searchsorted(sorted_B, hash_B, side="right")
    count_B = behind_B - jnp.searchsorted(sorted_B, hash_B, side="left")
    largest = jnp.max(jnp.where(exists_B, count_B, 0)).astype(jnp.float32)
    return largest / jnp.maximum(jnp.sum(exists_B), 1)


def decoding_occupancy(rollout: Rollout, decoded: Array) -> Array:
    """Compute the share of the row-steps that gave a token; 1 if nothing was decoded.

    `decoded` is the number of row-steps, as in `engine.generate`.  The first token of each
    response is drawn from its prompt, without a row-step.
    """
    tokens = jnp.sum(rollout.response_mask_BR[:, 1:])
    return jnp.where(decoded > 0, tokens / jnp.maximum(decoded, 1), 1.0)


def of_votes(valid_B: Array, tied_B: Array) -> Metrics:
    """Compute the share of judgements that are votes, and of those that tie at the top."""
    return {
        "grm/valid_frac": jnp.mean(valid_B.astype(jnp.float32)),
        "grm/tie_frac": jnp.mean(tied_B.astype(jnp.float32)),
    }


def of_judged(judged: grm.Judged) -> Metrics:
    """Compute statistics of the judgements that a generative reward model gave."""
    length_X = judged.judgements.length_B.astype(jnp.float32)
    return of_votes(judged.valid_X, judged.tied_X) | {
        "grm/reward": jnp.mean(judged.reward_B),
        "grm/votes": jnp.mean(judged.votes_B.astype(jnp.float32)),
        "grm/unjudged_frac": jnp.mean((judged.votes_B == 0).astype(jnp.float32)),
        "grm/length": jnp.mean(length_X),
        "grm/rollout_useful": decoding_occupancy(judged.judgements, judged.decoded),
    }


def of_credit(
    credit: Credit, signals: Signals, mask_BR: Array, counted: Array | bool = True
) -> Metrics:
    """Compute statistics of the advantages of first tokens, of values and of token rewards."""
    metrics = of_rows("advantage", credit.advantage_BR[:, 0], counted)
    if credit.target_BR is not None and signals.value_BR is not None:
        metrics |= explained_variance(signals.value_BR, credit.target_BR, mask_BR)
    if credit.process_BR is not None:
        metrics |= process_shares(credit.process_BR, credit.outcome_BR, mask_BR)
    return metrics


def process_shares(process_BR: Array, outcome_BR: Array, mask_BR: Array) -> Metrics:
    """Compute standard deviations over tokens of the parts of the advantage, and their correlation.

    The parts come from token rewards and from outcomes.  The correlation is 0 if a part is
    constant.
    """
    count = jnp.maximum(jnp.sum(mask_BR), 1)

    def centred(x_BR: Array) -> Array:
        mean = jnp.sum(jnp.where(mask_BR, x_BR, 0.0)) / count
        return jnp.where(mask_BR, x_BR - mean, 0.0)

    process_BR, outcome_BR = centred(process_BR), centred(outcome_BR)
    process, outcome = (jnp.sqrt(jnp.sum(x**2) / count) for x in (process_BR, outcome_BR))
    both = jnp.sum(process_BR * outcome_BR) / count
    return {
        "advantage/process_std": process,
        "advantage/outcome_std": outcome,
        "advantage/correlation": both / jnp.maximum(process * outcome, 1e-12),
    }


def explained_variance(value_BR: Array, target_BR: Array, mask_BR: Array) -> Metrics:
    """Compute the mean of the values V, and the share of the targets' variance that V explains.

    The share is 1 - var(target - V) / var(target), and 0 for targets that are all equal.
    """
    count = jnp.maximum(jnp.sum(mask_BR), 1)

    def mean(x_BR: Array) -> Array:
        return jnp.sum(jnp.where(mask_BR, x_BR, 0.0)) / count

    def variance(x_BR: Array) -> Array:
        return mean((x_BR - mean(x_BR)) ** 2)

    largest = jnp.max(target_BR, initial=-jnp.inf, where=mask_BR)
    smallest = jnp.min(target_BR, initial=jnp.inf, where=mask_BR)
    share = 1 - variance(target_BR - value_BR) / jnp.maximum(variance(target_BR), 1e-12)
    return {
        "value/mean": mean(value_BR),
        "value/explained": jnp.where(largest > smallest, share, 0.0),
    }


def of_verdicts(score: verifier.Score) -> Metrics:
    """Compute means over the verdicts of a verifier."""
    return {
        "verifier/p1_mean": jnp.mean(score.p1_B),
        "verifier/mass01": jnp.mean(score.mass_B),
        "verifier/ambiguous_frac": jnp.mean(score.ambiguous_B.astype(jnp.float32)),
        "verifier/blocked_frac": jnp.mean(score.blocked_B.astype(jnp.float32)),
    }


def of_updates(rollout: Rollout, epochs: int, logs: UpdateLogs, norm: Array) -> Metrics:
    """Compute the metrics of the policy's updates; sums over tokens become means.

    `norm` is the norm of the gradient.
    """
    read = jnp.maximum(jnp.sum(rollout.length_B), 1).astype(jnp.float32)
    prompt_tokens = jnp.sum(rollout.prompt_mask_QP)
    routed = routing.metrics(logs.sums)
    means = {name: x / read for name, x in logs.sums.items() if name not in routing.NAMES}
    square = means.pop("mismatch/ratio_square")
    return (
        means
        | routed
        | {
            "mismatch/ess": means["mismatch/ratio"] ** 2 / jnp.maximum(square, 1e-12),
            "policy/loss": logs.loss,
            "policy/grad_norm": norm,
            "mismatch/logprob_diff_max": logs.gap,
            "perf/update_useful": epochs * (read + prompt_tokens) / jnp.maximum(logs.run, 1),
        }
    )
