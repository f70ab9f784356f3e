"""Log-probs of tokens and entropies of their distributions, from hidden states and output head.

The distribution is softmax(logits / temperature) with logits = hidden @ head.T.  Except
for "reference", and for "xla" with few columns, no implementation holds an array [B, T, V] of
logits.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax

from rlvr_kernels import dispatch
from rlvr_kernels.token_logprob.pallas_gpu import measure as measure_gpu
from rlvr_kernels.token_logprob.pallas_gpu import pallas_gpu
from rlvr_kernels.token_logprob.pallas_gpu import pull as pull_gpu
from rlvr_kernels.token_logprob.pallas_tpu import measure as measure_tpu
from rlvr_kernels.token_logprob.pallas_tpu import pallas_tpu
from rlvr_kernels.token_logprob.pallas_tpu import pull as pull_tpu
from rlvr_kernels.token_logprob.reference import reference
from rlvr_kernels.token_logprob.xla import measure as measure_xla
from rlvr_kernels.token_logprob.xla import pull as pull_xla
from rlvr_kernels.token_logprob.xla import xla

IMPLEMENTATIONS = {
    "reference": reference,
    "xla": xla,
    "pallas_tpu": pallas_tpu,
    "pallas_gpu": pallas_gpu,
    "pallas_tpu_interpret": partial(pallas_tpu, interpret=True),
    "pallas_gpu_interpret": partial(pallas_gpu, interpret=True),
}


class Piece(NamedTuple):
    """A Piece is the two functions of an implementation that work on a piece of the vocabulary.

    Several devices, each with some rows of the head, can share the work by them.  A token is given
    as a row of the piece; a number that is no row of it is a token of another piece.

        measure(hidden_BTD, head_VD, token_BT, temperature, softcap)
            -> log-probs, log-sum-exp and entropies within the piece, [B, T] float32
        pull(hidden_BTD, head_VD, token_BT, total_BT, entropy_BT, d_logprob_BT, d_entropy_BT,
             temperature, softcap)
            -> the gradients of the hidden states and of the head that this piece contributes;
               log-sum-exp and entropy are those of the whole vocabulary

    The log-prob of a token of another piece is finite and means nothing.
    """

    measure: Callable
    pull: Callable


PIECES = {  # name -> measure and pull
    "xla": (measure_xla, pull_xla),
    "pallas_tpu": (measure_tpu, pull_tpu),
    "pallas_gpu": (measure_gpu, pull_gpu),
    "pallas_tpu_interpret": (
        partial(measure_tpu, interpret=True),
        partial(pull_tpu, interpret=True),
    ),
    "pallas_gpu_interpret": (
        partial(measure_gpu, interpret=True),
        partial(pull_gpu, interpret=True),
    ),
}
DEFAULT = {"tpu": "pallas_tpu"}  # platform -> name; else "xla".  README.md has the numbers
WIDEST = 8192  # width up to which `DEFAULT` holds: blocks of wider rows do not fit into VMEM


def earned(width: int) -> str:
    """Return the name of the implementation to take unasked for hidden states of that width."""
    return dispatch.earned(DEFAULT, width <= WIDEST)


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

    `impl` names an implementation.  None is the one that `earned` names.

    Raises:
      ValueError: the shapes do not fit together, or there is no such implementation.
    """
    if hidden_BTD.shape[:2] != token_BT.shape or hidden_BTD.shape[-1] != head_VD.shape[-1]:
        raise ValueError(
            f"hidden {hidden_BTD.shape}, head {head_VD.shape} and token {token_BT.shape} must be "
            "[B, T, D], [V, D] and [B, T]"
        )
    impl = impl or earned(head_VD.shape[-1])
    run = dispatch.choose_implementation(impl, IMPLEMENTATIONS, DEFAULT)
    return run(hidden_BTD, head_VD, token_BT, temperature, softcap)


def piece(impl: str) -> Piece:
    """Return the functions of an implementation for a piece of the vocabulary.

    Raises:
      ValueError: there is no such implementation for pieces; the message lists those there are.
    """
    if impl not in PIECES:
        raise ValueError(f"no pieces of {impl!r}; there are {', '.join(sorted(PIECES))}")
    return Piece(*PIECES[impl])
