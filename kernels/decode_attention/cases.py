"""Named cases: shapes and options, small ones for the tests and large ones for the benchmark."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rlvr_kernels.decode_attention.int8 import Scales, quantise
from rlvr_kernels.decode_attention.places import Places
from rlvr_kernels.noise import noise


@dataclass(frozen=True)
class Case:
    """A Case holds the sizes and options of one call of `decode_attention`."""

    prompts: int  # Q
    group: int  # rows of a prompt, B / Q
    prefix: int  # P, columns of a prefix
    columns: int  # S, columns of a row's own cache
    heads: int  # N
    kv_heads: int  # K
    size: int  # H, the head size
    softcap: float = 0.0
    dtype: str = "float32"
    layers: int = 2  # L, of which one is read
    left: int = 0  # rows that have left the batch; the others stand at places
    int8: bool = False  # keys and values are int8 with scales; `dtype` is that of the queries

    @property
    def rows(self) -> int:
        """Return the number of rows B = prompts * group - left."""
        return self.prompts * self.group - self.left


SMALL = {
    "one_block": Case(2, 3, 9, 12, heads=6, kv_heads=2, size=16),
    "many_blocks": Case(2, 2, 530, 650, heads=3, kv_heads=1, size=16),  # last ones not whole
    "many_rows": Case(1, 34, 20, 130, heads=2, kv_heads=2, size=16),  # more than one group's
    "places": Case(3, 4, 9, 12, heads=6, kv_heads=2, size=16, left=7),
    "softcap": Case(2, 4, 16, 140, heads=4, kv_heads=2, size=24, softcap=2.0),
    "bfloat16": Case(2, 3, 40, 70, heads=4, kv_heads=2, size=16, dtype="bfloat16"),
    "int8": Case(2, 2, 530, 650, heads=6, kv_heads=2, size=16, softcap=2.0, int8=True),
    "int8_bfloat16": Case(2, 3, 40, 70, heads=4, kv_heads=2, size=16, dtype="bfloat16", int8=True),
}
LARGE = {
    "smollm2_135m_half": Case(
        8, 8, 256, 512, heads=9, kv_heads=3, size=64, dtype="bfloat16", left=32
    ),
    "smollm2_135m": Case(8, 8, 256, 512, heads=9, kv_heads=3, size=64, dtype="bfloat16"),
    "qwen2.5_1.5b": Case(8, 8, 512, 2048, heads=12, kv_heads=2, size=128, dtype="bfloat16"),
    "qwen2.5_1.5b_int8": Case(
        8, 8, 512, 2048, heads=12, kv_heads=2, size=128, dtype="bfloat16", int8=True
    ),
}

HELD = ("k_LBKSH", "v_LBKSH", "prefix_k_LQKPH", "prefix_v_LQKPH")  # in the order of `Scales`


def abstract(case: Case) -> dict[str, Any]:
    """Return shape and dtype of each array argument."""
    dtype = jnp.dtype(case.dtype)
    held = jnp.dtype("int8") if case.int8 else dtype
    own = (case.layers, case.rows, case.kv_heads, case.columns, case.size)
    prefix = (case.layers, case.prompts, case.kv_heads, case.prefix, case.size)
    given = {
        "q_BNH": jax.ShapeDtypeStruct((case.rows, case.heads, case.size), dtype),
        "k_LBKSH": jax.ShapeDtypeStruct(own, held),
        "v_LBKSH": jax.ShapeDtypeStruct(own, held),
        "see_BS": jax.ShapeDtypeStruct((case.rows, case.columns), jnp.bool_),
        "prefix_k_LQKPH": jax.ShapeDtypeStruct(prefix, held),
        "prefix_v_LQKPH": jax.ShapeDtypeStruct(prefix, held),
        "see_BP": jax.ShapeDtypeStruct((case.rows, case.prefix), jnp.bool_),
        "layer": jax.ShapeDtypeStruct((), jnp.int32),
    }
    if case.left:
        row = jax.ShapeDtypeStruct((1, case.prompts, case.group), jnp.int32)
        given["places"] = Places(row, jax.ShapeDtypeStruct((1, case.rows), jnp.int32))
    if case.int8:
        of_own, of_prefix = (
            jax.ShapeDtypeStruct((*shape[:3], 1, shape[3]), jnp.float32) for shape in (own, prefix)
        )
        given["scales"] = Scales(of_own, of_own, of_prefix, of_prefix)
    return given


def inputs(case: Case) -> dict[str, Any]:
    """Return random arrays for the op, with masks as in a rollout; every row sees some columns."""
    given = abstract(dataclasses.replace(case, int8=False))
    places = given.pop("places", None)
    out = noise(given)
    used_B = 1 + jnp.arange(case.rows) * (case.columns // 2) // case.rows
    pad_Q = jnp.arange(case.prompts) * (case.prefix // 2) // case.prompts
    place_B = jnp.arange(case.rows)
    if (
        places is not None
    ):  # of the places every other one is empty, up to the first that must not be
        order = jnp.arange(case.prompts * case.group)
        place_B = jnp.sort(jnp.concatenate([order[1::2], order[::2]])[: case.rows])
        row = jnp.full(order.shape, case.rows).at[place_B].set(jnp.arange(case.rows))
        places = Places(row.reshape(places.row_ZQG.shape).astype(jnp.int32), place_B[None])
    pad_B = pad_Q[place_B // case.group]
    out["see_BS"] = jnp.arange(case.columns) < used_B[:, None]
    out["see_BP"] = jnp.arange(case.prefix) >= pad_B[:, None]
    out["layer"] = jnp.int32(case.layers - 1)
    found = {name: out[name] for name in given}
    if case.int8:
        held = [quantise(out[name]) for name in HELD]
        found |= {name: x for name, (x, _) in zip(HELD, held, strict=True)}
        found["scales"] = Scales(*(scale for _, scale in held))
    return found if places is None else found | {"places": places}


def options(case: Case) -> dict[str, float]:
    """Return the other arguments of the op."""
    return {"scale": case.size**-0.5, "softcap": case.softcap}


def cost(case: Case) -> tuple[int, int]:
    """Return (bytes to move, floating point operations) when every column is read once."""
    item = jnp.dtype(case.dtype).itemsize
    entry = case.size + 4 if case.int8 else case.size * item  # with its scale
    own, prefix = case.rows * case.columns, case.prompts * case.prefix
    moved = 2 * (own + prefix) * case.kv_heads * entry
    seen = case.rows * (case.columns + case.prefix)
    return moved, 4 * seen * case.heads * case.size
