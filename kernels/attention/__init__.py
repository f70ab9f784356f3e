"""Causal attention for reading whole rows; it is differentiable.

Queries are the last T of S columns.  S = T reads a prompt by itself; S = P + T reads a response
that continues a prefix of P columns.  Columns may be padding.  Where devices share the T queries,
each calls the op with its own of them and says with `share` which these are.
"""

from functools import partial

import jax

from rlvr_kernels import dispatch
from rlvr_kernels.attention.cudnn import cudnn
from rlvr_kernels.attention.reference import reference
from rlvr_kernels.attention.splash import BLOCK, splash
from rlvr_kernels.attention.xla import xla

__all__ = ["BLOCK", "attention", "earned"]
IMPLEMENTATIONS = {
    "reference": reference,
    "xla": xla,
    "splash": splash,
    "splash_interpret": partial(splash, interpret=True),
    "cudnn": cudnn,
}
TAKE_NEAR = ("reference", "xla")  # implementations that take a sliding window
DEFAULT = {"tpu": "splash"}  # platform -> name; else "xla".  README.md has the numbers
SHORTEST = 128  # queries from which on `DEFAULT` holds: a kernel pads them to blocks of 128


def earned(queries: int, near: bool) -> str:
    """Return the name of the implementation to take unasked for so many queries.

    `near` says whether there is a sliding window.
    """
    return dispatch.earned(DEFAULT, queries >= SHORTEST and not near)


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    valid_BS: jax.Array,
    near_BTS: jax.Array | None = None,
    *,
    scale: float,
    softcap: float = 0.0,
    share: tuple[jax.Array | int, int] = (0, 1),
    impl: str | None = None,
) -> jax.Array:
    """Return the attention output [B, T, N, H]: softmax(softcap(scale * q . k)) . v for each query.

    Query t of row b sees column s where s <= S - T + t and `valid_BS[b, s]`.  With `share` = (i, n)
    the queries are number i, from 0 on, of n equal parts of the last n * T columns: the bound is
    S - (n - i) * T + t.  With `near_BTS`, the mask of a sliding window, `near_BTS[b, t, s]` must
    hold too.  Both masks are boolean.  A query that sees nothing gives finite but meaningless
    output and gradients.  N is a multiple of the number of kv heads K; adjacent query heads share a
    kv head.  `softcap` bounds the scores to both sides by a scaled tanh; 0 means no bound.

    `impl` names an implementation.  None is the one that `earned` names.

    Raises:
      ValueError: the shapes do not fit together, there is no such implementation, or it does not
        take the arguments: only "reference" and "xla" take `near_BTS`, "cudnn" takes neither
        `softcap` nor float32, and "splash" takes shares of whole blocks of queries.
    """
    (rows, queries, heads, size), (_, columns, kv_heads, _) = q_BTNH.shape, k_BSKH.shape
    fits = k_BSKH.shape == v_BSKH.shape == (rows, columns, kv_heads, size)
    fits &= valid_BS.shape == (rows, columns) and columns >= queries * share[1]
    fits &= near_BTS is None or near_BTS.shape == (rows, queries, columns)
    if not fits or heads % kv_heads:
        near = None if near_BTS is None else near_BTS.shape
        raise ValueError(
            f"q {q_BTNH.shape}, k {k_BSKH.shape}, v {v_BSKH.shape}, valid {valid_BS.shape} and "
            f"near {near} must be [B, T, N, H], [B, S, K, H] twice, [B, S] and [B, T, S] or None, "
            "with S >= T and N a multiple of K"
        )
    impl = impl or earned(queries, near_BTS is not None)
    run = dispatch.choose_implementation(impl, IMPLEMENTATIONS, DEFAULT)
    if near_BTS is None:
        return run(q_BTNH, k_BSKH, v_BSKH, valid_BS, scale, softcap, share=share)
    if run not in [IMPLEMENTATIONS[name] for name in TAKE_NEAR]:
        raise ValueError(f"only {' and '.join(TAKE_NEAR)} take near")
    return run(q_BTNH, k_BSKH, v_BSKH, valid_BS, scale, softcap, near_BTS, share=share)
