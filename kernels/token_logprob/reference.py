"""`token_logprob` in plain JAX and float32, the definition that tests compare with."""

import jax
import jax.numpy as jnp


def reference(
    hidden_BTD: jax.Array,
    head_VD: jax.Array,
    token_BT: jax.Array,
    temperature: float = 1.0,
    softcap: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Return log-probs and entropies, both float32 [B, T].

    With z = softcap(hidden @ head.T) / temperature,

        logprob = z[token] - logsumexp(z)
        entropy = logsumexp(z) - sum(softmax(z) * z).
    """
    logits_BTV = jnp.einsum("btd,vd->btv", hidden_BTD, head_VD, preferred_element_type=jnp.float32)
    if softcap:
        logits_BTV = softcap * jnp.tanh(logits_BTV / softcap)
    logits_BTV = logits_BTV / temperature
    total_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    chosen_BT = jnp.take_along_axis(logits_BTV, token_BT[..., None], axis=-1)[..., 0]
    prob_BTV = jnp.exp(logits_BTV - total_BT[..., None])
    return chosen_BT - total_BT, total_BT - jnp.sum(prob_BTV * logits_BTV, axis=-1)
