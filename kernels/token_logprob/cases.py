"""Named cases: shapes and options, small ones for the tests and large ones for the benchmark."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Case:
    """A Case holds the sizes and options of one call of the op."""

    rows: int
    columns: int
    width: int
    vocab: int
    temperature: float = 1.0
    softcap: float = 0.0
    dtype: str = "float32"


SMALL = {
    "whole_blocks": Case(2, 64, 64, 256),
    "ragged": Case(3, 45, 72, 300, temperature=0.7),  # two token blocks, no block whole
    "many_blocks": Case(2, 270, 8, 1100),  # more than 512 of both
    "softcap": Case(2, 9, 16, 130, temperature=1.3, softcap=3.0),
    "bfloat16": Case(2, 20, 24, 200, dtype="bfloat16"),
}
LARGE = {
    "smollm2_135m": Case(64, 256, 576, 49152, dtype="bfloat16"),
    "qwen2.5_1.5b": Case(16, 512, 1536, 151936, dtype="bfloat16"),
}


def abstract(case: Case) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and dtype of each array argument."""
    b, t, dtype = case.rows, case.columns, jnp.dtype(case.dtype)
    return {
        "hidden_BTD": jax.ShapeDtypeStruct((b, t, case.width), dtype),
        "head_VD": jax.ShapeDtypeStruct((case.vocab, case.width), dtype),
        "token_BT": jax.ShapeDtypeStruct((b, t), jnp.int32),
    }


def inputs(case: Case) -> dict[str, jax.Array]:
    """Return random arrays for the op; the logits have a few units of spread at every width."""
    shapes = abstract(case)
    keys = dict(zip(shapes, jax.random.split(jax.random.key(0), 3), strict=True))

    def normal(name, scale):
        x = jax.random.normal(keys[name], shapes[name].shape) * scale
        return x.astype(shapes[name].dtype)

    return {
        "hidden_BTD": normal("hidden_BTD", 2.0),
        "head_VD": normal("head_VD", case.width**-0.5),
        "token_BT": jax.random.randint(keys["token_BT"], shapes["token_BT"].shape, 0, case.vocab),
    }


def options(case: Case) -> dict[str, float]:
    """Return the other arguments of the op."""
    return {"temperature": case.temperature, "softcap": case.softcap}


def cost(case: Case) -> tuple[int, int]:
    """Return (bytes to move, floating point operations) of a forward pass."""
    tokens, item = case.rows * case.columns, jnp.dtype(case.dtype).itemsize
    moved = (tokens + case.vocab) * case.width * item + 12 * tokens
    return moved, 2 * tokens * case.vocab * case.width
