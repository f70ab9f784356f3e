"""An objective of the user's own: plain policy gradient, clipped at one."""

import jax.numpy as jnp


def objective(tokens, cfg):
    ratio_BR = jnp.exp(tokens.logprob_BR - tokens.behaviour_BR)
    return jnp.minimum(ratio_BR, 1.0) * tokens.advantage_BR
