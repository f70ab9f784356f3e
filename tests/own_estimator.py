"""An estimator of the user's own: the reward less the mean of its group."""

import jax.numpy as jnp


def advantages(reward_QG, length_QG, counted_Q):
    return reward_QG - jnp.mean(reward_QG, 1, keepdims=True)
