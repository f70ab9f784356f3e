"""Causal attention of the last T of S columns, with columns that do not exist; differentiable.

S = T is a prompt read by itself; S = P + T is an answer that continues a prefix of P columns.
"""

from functools import partial

import jax

from rlvr_kernels.attention.cudnn import cudnn
from rlvr_kernels.attention.reference import reference
from rlvr_kernels.attention.splash import splash
from rlvr_kernels.attention.xla import xla
from rlvr_kernels.dispatch import choose

IMPLEMENTATIONS = {
    "reference": reference,
    "xla": xla,
    "splash": splash,
    "splash_interpret": partial(splash, interpret=True),
    "cudnn": cudnn,
}
TAKE_NEAR = ("reference", "xla")
DEFAULT: dict[str, str] = {}  # platform -> name; "xla" until another one has a measured number


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    valid_BS: jax.Array,
    near_BTS: jax.Array | None = None,
    *,
    scale: float,
    softcap: float = 0.0,
    impl: str | None = None,
) -> jax.Array:
    """out_BTNH: query t sees column s where s <= S - T + t, valid[b, s] and near[b, t, s] if given.

    Both masks are boolean.  A query that sees nothing gives finite numbers and gradients that mean
    nothing.  `impl` names an implementation; None is "xla" on every platform until another one has
    been measured on hardware.  "splash" and "cudnn" refuse `near`, "cudnn" `softcap` and float32.
    """
    (rows, queries, heads, size), (_, columns, kv_heads, _) = q_BTNH.shape, k_BSKH.shape
    fits = k_BSKH.shape == v_BSKH.shape == (rows, columns, kv_heads, size)
    fits &= valid_BS.shape == (rows, columns) and columns >= queries
    fits &= near_BTS is None or near_BTS.shape == (rows, queries, columns)
    if not fits or heads % kv_heads:
        near = None if near_BTS is None else near_BTS.shape
        raise ValueError(
            f"q {q_BTNH.shape}, k {k_BSKH.shape}, v {v_BSKH.shape}, valid {valid_BS.shape} and "
            f"near {near} must be [B, T, N, H], [B, S, K, H] twice, [B, S] and [B, T, S] or None, "
            "with S >= T and N a multiple of K"
        )
    run = choose(impl, IMPLEMENTATIONS, DEFAULT)
    if near_BTS is None:
        return run(q_BTNH, k_BSKH, v_BSKH, valid_BS, scale, softcap)
    if run not in [IMPLEMENTATIONS[name] for name in TAKE_NEAR]:
        raise ValueError(f"only {' and '.join(TAKE_NEAR)} take near")
    return run(q_BTNH, k_BSKH, v_BSKH, valid_BS, scale, softcap, near_BTS)
