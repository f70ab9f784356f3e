"""Named cases: shapes and options, small ones for the tests and large ones for the benchmark."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rlvr_kernels.noise import noise


@dataclass(frozen=True)
class Case:
    """A Case holds the sizes and options of one call of `attention`."""

    rows: int  # B
    prefix: int  # P, columns before the queries
    queries: int  # T
    heads: int  # N
    kv_heads: int  # K
    size: int  # H, the head size
    softcap: float = 0.0
    dtype: str = "float32"

    @property
    def columns(self) -> int:
        """Return the number of columns S = prefix + queries."""
        return self.prefix + self.queries


SMALL = {
    "prompt": Case(2, 0, 12, heads=4, kv_heads=2, size=16),
    "continued": Case(2, 9, 14, heads=3, kv_heads=1, size=16),
    "many_blocks": Case(1, 70, 131, heads=2, kv_heads=1, size=16),  # more than 128 of both
    "softcap": Case(2, 5, 8, heads=2, kv_heads=2, size=8, softcap=2.0),
    "bfloat16": Case(2, 4, 13, heads=4, kv_heads=2, size=16, dtype="bfloat16"),
}
LARGE = {
    "smollm2_135m": Case(16, 256, 512, heads=9, kv_heads=3, size=64, dtype="bfloat16"),
    "qwen2.5_1.5b": Case(4, 512, 1024, heads=12, kv_heads=2, size=128, dtype="bfloat16"),
}


def abstract(case: Case) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and dtype of each array argument."""
    dtype = jnp.dtype(case.dtype)
    kv = jax.ShapeDtypeStruct((case.rows, case.columns, case.kv_heads, case.size), dtype)
    return {
        "q_BTNH": jax.ShapeDtypeStruct((case.rows, case.queries, case.heads, case.size), dtype),
        "k_BSKH": kv,
        "v_BSKH": kv,
        "valid_BS": jax.ShapeDtypeStruct((case.rows, case.columns), jnp.bool_),
    }


def inputs(case: Case) -> dict[str, jax.Array]:
    """Return random arrays for the op, with masks as of left-padded prompts and ragged responses.

    Without a prefix some queries see nothing.
    """
    out = noise(abstract(case))
    row_B1, column_S = jnp.arange(case.rows)[:, None], jnp.arange(case.columns)
    out["valid_BS"] = (column_S >= 2 * row_B1 + 1) & (column_S < case.columns - row_B1)
    return out


def options(case: Case) -> dict[str, float]:
    """Return the other arguments of the op."""
    return {"scale": case.size**-0.5, "softcap": case.softcap}


def cost(case: Case) -> tuple[int, int]:
    """Return (bytes to move, floating point operations) of a forward pass.

    Each array moves once, and only pairs under the causal mask are computed.
    """
    item = jnp.dtype(case.dtype).itemsize
    moved = 2 * case.rows * case.size * item
    moved *= case.queries * case.heads + case.columns * case.kv_heads
    pairs = case.queries * case.prefix + case.queries * (case.queries + 1) // 2
    return moved, 4 * case.rows * pairs * case.heads * case.size
