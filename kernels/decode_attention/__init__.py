"""Attention for decoding: one query per row, over the row's own cache and its prompt's prefix.

Rows of one prompt share the keys and values of the prefix, which are stored once.
"""

from functools import partial

import jax
import jax.numpy as jnp

from rlvr_kernels.decode_attention.columns import Columns
from rlvr_kernels.decode_attention.int8 import Scales
from rlvr_kernels.decode_attention.pallas_gpu import pallas_gpu
from rlvr_kernels.decode_attention.pallas_tpu import pallas_tpu
from rlvr_kernels.decode_attention.places import Places
from rlvr_kernels.decode_attention.reference import reference
from rlvr_kernels.decode_attention.xla import xla
from rlvr_kernels.dispatch import choose_implementation

IMPLEMENTATIONS = {
    "reference": reference,
    "xla": xla,
    "pallas_tpu": pallas_tpu,
    "pallas_gpu": pallas_gpu,
    "pallas_tpu_interpret": partial(pallas_tpu, interpret=True),
    "pallas_gpu_interpret": partial(pallas_gpu, interpret=True),
}
DEFAULT: dict[str, str] = {}  # platform -> name; "xla" until a kernel has earned it (README.md)


def decode_attention(
    q_BNH: jax.Array,
    k_LBKSH: jax.Array,
    v_LBKSH: jax.Array,
    see_BS: jax.Array,
    prefix_k_LQKPH: jax.Array,
    prefix_v_LQKPH: jax.Array,
    see_BP: jax.Array,
    layer: jax.Array | int = 0,
    places: Places | None = None,
    scales: Scales | None = None,
    *,
    scale: float,
    softcap: float = 0.0,
    impl: str | None = None,
) -> jax.Array:
    """Return the attention output [B, N, H]: one float32 softmax over prefix and own columns.

    Keys and values come with all L layers, and `layer` (int32) is the number of the one to read:
    a layer that is cut out of its stack before the call is copied.  Rows of one prompt are
    adjacent: row b continues prefix b // (B // Q), unless `places` says where the rows are.  The
    boolean masks `see_BS` and `see_BP` say which own columns and prefix columns a row sees.  A row
    that sees nothing or has no place gives finite but meaningless output.  Do not differentiate
    this function: not every implementation has derivatives.

    With `scales`, keys and values are int8 as `int8.quantise` returns them.

    `impl` names an implementation.  None is the platform's in `DEFAULT`, or "xla".

    Raises:
      ValueError: the shapes do not fit together, keys and values are int8 without scales or other
        than int8 with scales, there is no such implementation, or it takes no places.
    """
    (rows, heads, size), (layers, _, kv_heads, columns, _) = q_BNH.shape, k_LBKSH.shape
    _, prompts, _, prefix, _ = prefix_k_LQKPH.shape
    fits = k_LBKSH.shape == v_LBKSH.shape == (layers, rows, kv_heads, columns, size)
    fits &= prefix_k_LQKPH.shape == prefix_v_LQKPH.shape
    fits &= prefix_k_LQKPH.shape == (layers, prompts, kv_heads, prefix, size)
    fits &= see_BS.shape == (rows, columns) and see_BP.shape == (rows, prefix)
    fits &= jnp.shape(layer) == ()
    if places is None:
        fits &= rows % prompts == 0
    else:
        parts = len(places.place_ZM)
        fits &= rows % parts == 0 and places.place_ZM.shape == (parts, rows // parts)
        fits &= prompts % parts == 0 and places.row_ZQG.shape[:2] == (parts, prompts // parts)
    if not fits or heads % kv_heads:
        raise ValueError(
            f"q {q_BNH.shape}, k {k_LBKSH.shape}, v {v_LBKSH.shape}, see {see_BS.shape}, prefix k "
            f"{prefix_k_LQKPH.shape}, prefix v {prefix_v_LQKPH.shape}, see {see_BP.shape} and "
            f"layer {jnp.shape(layer)} must be [B, N, H], [L, B, K, S, H] twice, [B, S], "
            "[L, Q, K, P, H] twice, [B, P] and [], with N a multiple of K, and B a multiple of Q "
            "or places [Z, Q / Z, G] and [Z, B / Z]"
        )
    _check_scales((k_LBKSH, v_LBKSH, prefix_k_LQKPH, prefix_v_LQKPH), scales)
    run = choose_implementation(impl, IMPLEMENTATIONS, DEFAULT)
    own = Columns(k_LBKSH, v_LBKSH, see_BS, *(scales or ())[:2])
    prefixes = Columns(prefix_k_LQKPH, prefix_v_LQKPH, see_BP, *(scales or ())[2:])
    return run(q_BNH, own, prefixes, jnp.asarray(layer, jnp.int32), places, scale, softcap)


def _check_scales(held: tuple[jax.Array, ...], scales: Scales | None) -> None:
    """Check that keys and values are int8 where they have scales, and that the shapes fit.

    Raises:
      ValueError: they are not.
    """
    if any((x.dtype == jnp.int8) != (scales is not None) for x in held):
        given = "with" if scales else "without"
        raise ValueError(
            f"keys and values are {', '.join(str(x.dtype) for x in held)} {given} scales"
        )
    for x, scale in zip(held, scales or (), strict=False):
        *several, columns, _ = x.shape
        if scale.shape != (*several, 1, columns):
            raise ValueError(f"scales {scale.shape} of {x.shape} must be [L, B, K, 1, S]")
