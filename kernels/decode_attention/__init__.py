"""Attention for decoding: one query per row, over the row's own cache and its prompt's prefix.

Rows of one prompt share the keys and values of the prefix, which are stored once.
"""

from functools import partial

import jax

from rlvr_kernels.decode_attention.pallas_gpu import pallas_gpu
from rlvr_kernels.decode_attention.pallas_tpu import pallas_tpu
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
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    see_BS: jax.Array,
    prefix_k_QKPH: jax.Array,
    prefix_v_QKPH: jax.Array,
    see_BP: jax.Array,
    *,
    scale: float,
    softcap: float = 0.0,
    impl: str | None = None,
) -> jax.Array:
    """Return the attention output [B, N, H]: one float32 softmax over prefix and own columns.

    Rows of one prompt are adjacent: row b continues prefix b // (B // Q).  The boolean masks
    `see_BS` and `see_BP` say which own columns and prefix columns a row sees.  A row that sees
    nothing gives finite but meaningless output.  Do not differentiate this function: not every
    implementation has derivatives.

    `impl` names an implementation.  None is the platform's in `DEFAULT`, or "xla".

    Raises:
      ValueError: the shapes do not fit together, or there is no such implementation.
    """
    (rows, heads, size), (_, kv_heads, columns, _) = q_BNH.shape, k_BKSH.shape
    prompts, _, prefix, _ = prefix_k_QKPH.shape
    fits = k_BKSH.shape == v_BKSH.shape == (rows, kv_heads, columns, size)
    fits &= prefix_k_QKPH.shape == prefix_v_QKPH.shape == (prompts, kv_heads, prefix, size)
    fits &= see_BS.shape == (rows, columns) and see_BP.shape == (rows, prefix)
    if not fits or heads % kv_heads or rows % prompts:
        raise ValueError(
            f"q {q_BNH.shape}, k {k_BKSH.shape}, v {v_BKSH.shape}, see {see_BS.shape}, prefix k "
            f"{prefix_k_QKPH.shape}, prefix v {prefix_v_QKPH.shape} and see {see_BP.shape} must "
            "be [B, N, H], [B, K, S, H] twice, [B, S], [Q, K, P, H] twice and [B, P], with B a "
            "multiple of Q and N of K"
        )
    run = choose_implementation(impl, IMPLEMENTATIONS, DEFAULT)
    own, prefixes = (k_BKSH, v_BKSH, see_BS), (prefix_k_QKPH, prefix_v_QKPH, see_BP)
    return run(q_BNH, *own, *prefixes, scale, softcap)
