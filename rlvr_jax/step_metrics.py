"""What to log of a step: scalars of rollouts, verdicts and updates, computed on the device."""

import jax
import jax.numpy as jnp

from rlvr_jax import advantage, verifier
from rlvr_jax.structs import Array, Metrics, Rollout


def describe(
    written: Rollout, reward_B: Array, samples: int, held_B: Array | None = None
) -> Metrics:
    """Statistics of a batch of rollouts, for the log; of the rows that are `held` (None: all)."""
    reward_QG = reward_B.reshape(-1, samples)
    equal_B = jnp.repeat(jnp.max(reward_QG, 1) - jnp.min(reward_QG, 1) < 1e-6, samples)
    length_B = written.length_B.astype(jnp.float32)
    bins = jnp.clip((reward_B * 10).astype(jnp.int32), 0, 9)
    if held_B is not None:
        bins = jnp.where(held_B, bins, 10)  # of no bin
    ranges = of_rows("reward", reward_B, held_B) | of_rows("length", length_B, held_B)
    ranges = {name.replace("length/", "completion/length_"): x for name, x in ranges.items()}
    return ranges | {
        "reward/std": jnp.std(reward_B, where=held_B),
        "reward/frac_zero_std": jnp.mean(equal_B.astype(jnp.float32), where=held_B),
        "reward/histogram": jnp.sum(jax.nn.one_hot(bins, 10), 0),
        "completion/truncated_frac": jnp.mean(
            written.truncated_B.astype(jnp.float32), where=held_B
        ),
        "completion/tokens": jnp.sum(length_B),
        "completion/identical_frac": identical(written),
    }


def of_rows(name: str, x_B: Array, held_B: Array | None) -> Metrics:
    """Mean and range over the rows that are `held` (None: all)."""
    return {
        f"{name}/mean": jnp.mean(x_B, where=held_B),
        f"{name}/min": jnp.min(x_B, initial=jnp.inf, where=held_B),
        f"{name}/max": jnp.max(x_B, initial=-jnp.inf, where=held_B),
    }


def identical(written: Rollout) -> Array:
    """The share of responses that are the most frequent one, by a hash of their tokens."""
    wrote_B = written.length_B > 0  # where a filter left places unfilled, nobody did
    columns = written.response_BR.shape[1]
    odd_R = jnp.arange(columns, dtype=jnp.uint32) * jnp.uint32(2654435761) * 2 + 1
    mixed_BR = (written.response_BR.astype(jnp.uint32) + 1) * jnp.uint32(2246822519)
    mixed_BR = (mixed_BR ^ (mixed_BR >> 15)) * odd_R
    hash_B = jnp.sum(jnp.where(written.response_mask_BR, mixed_BR, 0), -1, dtype=jnp.uint32)
    sorted_B = jnp.sort(hash_B)
    behind_B = jnp.searchsorted(sorted_B, hash_B, side="right")
    count_B = behind_B - jnp.searchsorted(sorted_B, hash_B, side="left")
    most = jnp.max(jnp.where(wrote_B, count_B, 0)).astype(jnp.float32)
    return most / jnp.maximum(jnp.sum(wrote_B), 1)


def useful(written: Rollout, decoded: Array) -> Array:
    """The share of decoded rows that gave a token; of none, all.

    Every response's first token is drawn from its prompt, without a row decoded for it.
    """
    tokens = jnp.sum(written.response_mask_BR[:, 1:])
    return jnp.where(decoded > 0, tokens / jnp.maximum(decoded, 1), 1.0)


def of_estimate(
    found: advantage.Estimate, value_BR: Array | None, mask_BR: Array, held_B: Array | None
) -> Metrics:
    """Advantages of first tokens, and what the values explain and the token rewards add."""
    metrics = of_rows("advantage", found.advantage_BR[:, 0], held_B)
    if found.target_BR is not None:
        assert value_BR is not None
        metrics |= advantage.explained(value_BR, found.target_BR, mask_BR)
    if found.process_BR is not None:
        metrics |= advantage.describe(found, mask_BR)
    return metrics


def verdicts(score: verifier.Score) -> Metrics:
    """What to log of a verifier's verdicts."""
    return {
        "verifier/p1_mean": jnp.mean(score.p1_B),
        "verifier/mass01": jnp.mean(score.mass_B),
        "verifier/ambiguous_frac": jnp.mean(score.ambiguous_B.astype(jnp.float32)),
        "verifier/blocked_frac": jnp.mean(score.blocked_B.astype(jnp.float32)),
    }


def of_tokens(
    written: Rollout, epochs: int, value: Array, sums: Metrics, gap: Array, run: Array, norm: Array
) -> Metrics:
    """What to log of the updates: the loss, sums over the tokens of an epoch as their means, the
    largest gap between sampler and trainer, the useful share of row-columns, the gradient's norm.
    """
    read = jnp.maximum(jnp.sum(written.length_B), 1).astype(jnp.float32)
    asked = jnp.sum(written.prompt_mask_QP)
    means = {name: total / read for name, total in sums.items()}
    square = means.pop("mismatch/ratio_square")
    return means | {
        "mismatch/ess": means["mismatch/ratio"] ** 2 / jnp.maximum(square, 1e-12),
        "policy/loss": value,
        "policy/grad_norm": norm,
        "mismatch/logprob_diff_max": gap,
        "perf/update_useful": epochs * (read + asked) / jnp.maximum(run, 1),
    }
