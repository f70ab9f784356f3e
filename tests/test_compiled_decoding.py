"""The compiled decode loop: what it must not do in a column."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import make_compiled as compiled
import pytest

from rlvr_jax import engine, kv_cache, parameters
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.structs import Prompts

Q, G, P, R = 8, 8, 5, 256  # with 64 rows, four chunks are read
CFG = ModelConfig(layers=3, width=16, heads=4, kv_heads=2, head_size=8, feedforward=24, vocab=32)
CACHE = Q * G * CFG.kv_heads * R * CFG.head_size  # elements of one layer's keys, all slots
# What passes an array on without a copy, and what writes into it in place.
IN_PLACE = {"parameter", "get-tuple-element", "tuple", "while", "bitcast"}
UPDATE = {"dynamic-update-slice", "fusion dynamic-update-slice"}


WIDE = dataclasses.replace(CFG, head_size=64, compute="bfloat16")


def program(cfg: ModelConfig) -> str:
    """The compiled rollout."""

    def write(params, prompts):
        sampler = engine.Sampler(jax.random.key(0), (1,), G, R, SampleConfig())
        return engine.generate(params, prompts, sampler, cfg)

    ids = jax.ShapeDtypeStruct((Q, P), jnp.int32)
    mask = jax.ShapeDtypeStruct((Q, P), jnp.bool_)
    lowered = jax.jit(write).lower(parameters.abstract(cfg), Prompts(ids, mask, ids, mask))
    return lowered.compile().as_text()


@pytest.fixture(autouse=True)
def few_slot_counts(monkeypatch):
    monkeypatch.setattr(engine, "slot_counts", lambda count: [count])


def check_no_copy(text: str, elements: int) -> None:
    """Nothing in a loop is as large as a layer's keys, except what is written in place."""
    large = [x for x in compiled.in_loops(text) if x.elements >= elements]
    assert any(x.op in UPDATE for x in large)  # the cache is there
    assert [x.line for x in large if x.op not in IN_PLACE | UPDATE] == []


def carried(text: str, *last: int) -> dict[str, int]:
    """Bytes by dtype of the arrays [..., *last] that the loop over columns carries."""
    loops = [x for comp in compiled.computations(text).values() for x in comp if x.op == "while"]
    state = max((x.type for x in loops if f"passes_{R}/while" in x.line), key=len)
    found: dict[str, int] = {}
    for dtype, shape in re.findall(r"([a-z]\w*)\[([\d,]+)\]", state):
        sizes = [int(x) for x in shape.split(",")]
        if tuple(sizes[-len(last) :]) == last:
            item = {"s8": 1, "bf16": 2, "f32": 4}[dtype]
            found[dtype] = found.get(dtype, 0) + item * math.prod(sizes)
    return found


@pytest.mark.parametrize("unroll", [False, True])
def test_a_column_copies_no_cache(unroll) -> None:
    """Neither a layer of the stack nor all columns of it: only the chunk that is read."""
    check_no_copy(program(dataclasses.replace(CFG, unroll=unroll)), CACHE)


@pytest.mark.parametrize("unroll", [False, True])
def test_int8_is_never_cast_but_for_the_chunk_that_is_read(unroll) -> None:
    """Prefixes too: cast before the loop, they would be held in bfloat16."""
    text = program(dataclasses.replace(WIDE, cache_dtype="int8", unroll=unroll))
    check_no_copy(text, CACHE // CFG.head_size * WIDE.head_size)
    tokens = 2 * WIDE.layers * WIDE.kv_heads * Q * G * R  # keys and values, all heads
    assert carried(text, WIDE.kv_heads, R, WIDE.head_size) == {"s8": 64 * tokens}
    assert carried(text, WIDE.kv_heads, 1, R) == {"f32": 4 * tokens}
    tokens = tokens // (G * R) * P
    assert carried(text, WIDE.kv_heads, P, WIDE.head_size) == {"s8": 64 * tokens}
    assert carried(text, WIDE.kv_heads, 1, P) == {"f32": 4 * tokens}


def test_bfloat16_takes_nearly_twice_the_bytes_of_int8() -> None:
    plain = carried(program(WIDE), WIDE.kv_heads, R, WIDE.head_size)
    int8 = (
        WIDE.layers
        * Q
        * G
        * R
        * kv_cache.column_bytes(dataclasses.replace(WIDE, cache_dtype="int8"))
    )
    assert set(plain) == {"bf16"} and int8 / plain["bf16"] == 68 / 128
