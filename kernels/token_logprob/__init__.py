"""Log-probs of tokens and entropies of their distributions, from hidden states and output head.

The distribution is softmax(logits / temperature) with logits = hidden @ head.T.  Except
for "reference", and for "xla" with few columns, no implementation holds an array [B, T, V] of
logits.
"""

from functools import partial

import jax

from rlvr_kernels.dispatch import choose_implementation
from rlvr_kernels.token_logprob.pallas_gpu import pallas_gpu
from rlvr_kernels.token_logprob.pallas_tpu import pallas_tpu
from rlvr_kernels.token_logprob.reference import reference
from rlvr_kernels.token_logprob.xla import xla

IMPLEMENTATIONS = {
    "reference": reference,
    "xla": xla,
    "pallas_tpu": pallas_tpu,
    "pallas_gpu": pallas_gpu,
    "pallas_tpu_interpret": partial(pallas_tpu, interpret=True),
    "pallas_gpu_interpret": partial(pallas_gpu, interpret=True),
}
DEFAULT: dict[str, str] = {}  # platform -> name; "xla" until a kernel has a measured number


def token_logprob(
    hidden_BTD: jax.Array,
    head_VD: jax.Array,
    token_BT: jax.Array,
    temperature: float = 1.0,
    softcap: float = 0.0,
    *,
    impl: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the log-prob of each token and the entropy of its distribution, both [B, T] float32.

    Both are differentiable with respect to `hidden_BTD` and `head_VD`.  `softcap` bounds the logits
    to both sides by a scaled tanh before the temperature applies (Gemma 2, arXiv 2408.00118,
    section 2); 0 means no bound.

    `impl` names an implementation.  None is "xla" on every platform, until another one has been
    measured on hardware.

    Raises:
      ValueError: the shapes do not fit together, or there is no such implementation.
    """
    if hidden_BTD.shape[:2] != token_BT.shape or hidden_BTD.shape[-1] != head_VD.shape[-1]:
        raise ValueError(
            f"hidden {hidden_BTD.shape}, head {head_VD.shape} and token {token_BT.shape} must be "
            "[B, T, D], [V, D] and [B, T]"
        )
    run = choose_implementation(impl, IMPLEMENTATIONS, DEFAULT)
    return run(hidden_BTD, head_VD, token_BT, temperature, softcap)
