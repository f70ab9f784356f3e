"""Turn rewards of single tokens into returns: sums over a token and those that follow it.

All functions are float32 arithmetic on [rows, response columns].  A mask marks the tokens that
the policy wrote; columns outside the mask are skipped, and their results are 0.
"""

import jax
import jax.numpy as jnp

from rlvr_jax.structs import Array


def gae(
    reward_BR: Array, value_BR: Array, mask_BR: Array, discount: float, decay: float
) -> tuple[Array, Array]:
    """Compute generalised advantage estimates and value targets (arXiv 1506.02438, eq. 16).

    delta_t = r_t + discount * V_{t+1} - V_t;  A_t = delta_t + discount * decay * A_{t+1}, where
    t + 1 is the next token of the mask.

    Returns A and the targets A + V, both [B, R].
    """

    def step(carry, column):
        value_next_B, advantage_next_B = carry
        reward_B, value_B, mask_B = column
        delta_B = reward_B + discount * value_next_B - value_B
        advantage_B = delta_B + discount * decay * advantage_next_B
        carry = (
            jnp.where(mask_B, value_B, value_next_B),
            jnp.where(mask_B, advantage_B, advantage_next_B),
        )
        return carry, jnp.where(mask_B, advantage_B, 0.0)

    zero_B = jnp.zeros_like(reward_BR[:, 0])
    columns = (reward_BR.T, value_BR.T, mask_BR.T)
    _, advantage_RB = jax.lax.scan(step, (zero_B, zero_B), columns, reverse=True)
    advantage_BR = advantage_RB.T
    return advantage_BR, jnp.where(mask_BR, advantage_BR + value_BR, 0.0)


def returns_to_go(reward_BR: Array, mask_BR: Array, discount: float) -> Array:
    """Compute the return of each token: sum over s >= t of discount^(s - t) r_s."""
    return gae(reward_BR, jnp.zeros_like(reward_BR), mask_BR, discount, 1.0)[0]


def on_last_token(x_B: Array, mask_BR: Array) -> Array:
    """Place x on the last token of each row, and 0 on the others, [B, R].

    The x of a row without tokens is dropped.
    """
    tokens_from_here_BR = jnp.cumsum(mask_BR[:, ::-1], 1)[:, ::-1]
    return jnp.where(mask_BR & (tokens_from_here_BR == 1), x_B[:, None], 0.0)


def whiten(x_BR: Array, mask_BR: Array, floor: float, ddof: int, keep_mean: bool = False) -> Array:
    """Compute the z-score over all tokens of the mask, [B, R] (REINFORCE++, arXiv 2501.03262).

    The sum of squared deviations is divided by n - `ddof`.  If all values are equal the result is
    exactly 0.  A standard deviation below `floor` is replaced by `floor`; OpenRLHF's lower bound of
    1e-8 on the variance corresponds to a floor of 1e-4.  With `keep_mean` the mean is added to the
    result again, also to that of equal values.
    """
    count = jnp.sum(mask_BR).astype(x_BR.dtype)
    x_BR = jnp.where(mask_BR, x_BR, 0.0)
    mean = jnp.sum(x_BR) / jnp.maximum(count, 1)
    square = jnp.sum(jnp.where(mask_BR, (x_BR - mean) ** 2, 0.0))
    spread = jnp.maximum(jnp.sqrt(square / jnp.maximum(count - ddof, 1)), floor)
    largest = jnp.max(x_BR, initial=-jnp.inf, where=mask_BR)
    smallest = jnp.min(x_BR, initial=jnp.inf, where=mask_BR)
    scaled_BR = jnp.where(largest > smallest, (x_BR - mean) / spread, 0.0)
    if keep_mean:  # the mean of equal values is their value, without rounding
        scaled_BR = scaled_BR + jnp.where(largest > smallest, mean, smallest)
    return jnp.where(mask_BR, scaled_BR, 0.0)


def scale_by_largest_return(reward_BR: Array, mask_BR: Array) -> Array:
    """Divide token rewards by the largest absolute return of the batch.

    This is `batch_norm` in the code of PRIME (arXiv 2502.01456); the return is undiscounted.
    """
    return reward_BR / (jnp.max(jnp.abs(returns_to_go(reward_BR, mask_BR, 1.0))) + 1e-6)
