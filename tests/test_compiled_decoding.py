"""The compiled decode loop: what it must not do in a column."""

import dataclasses

import jax
import jax.numpy as jnp
import make_compiled as compiled
import pytest

from rlvr_jax import engine, parameters
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.structs import Prompts

Q, G, P, R = 8, 8, 5, 256  # with 64 rows, four chunks are read
CFG = ModelConfig(layers=3, width=16, heads=4, kv_heads=2, head_size=8, feedforward=24, vocab=32)
CACHE = Q * G * CFG.kv_heads * R * CFG.head_size  # elements of one layer's keys, all slots
# What passes an array on without a copy, and what writes into it in place.
IN_PLACE = {"parameter", "get-tuple-element", "tuple", "while", "bitcast"}
UPDATE = {"dynamic-update-slice", "fusion dynamic-update-slice"}


def decode_loops(cfg: ModelConfig) -> list[compiled.Instruction]:
    """All instructions inside the loops of a rollout."""

    def write(params, prompts):
        sampler = engine.Sampler(jax.random.key(0), (1,), G, R, SampleConfig())
        return engine.generate(params, prompts, sampler, cfg)

    ids = jax.ShapeDtypeStruct((Q, P), jnp.int32)
    mask = jax.ShapeDtypeStruct((Q, P), jnp.bool_)
    lowered = jax.jit(write).lower(parameters.abstract(cfg), Prompts(ids, mask, ids, mask))
    return compiled.in_loops(lowered.compile().as_text())


@pytest.mark.parametrize("unroll", [False, True])
def test_a_column_copies_no_cache(unroll, monkeypatch) -> None:
    """Neither a layer of the stack nor all columns of it: only the chunk that is read."""
    monkeypatch.setattr(engine, "slot_counts", lambda count: [count])
    found = decode_loops(dataclasses.replace(CFG, unroll=unroll))
    large = [x for x in found if x.elements >= CACHE]
    assert any(x.op in UPDATE for x in large)  # the cache is there
    assert [x.line for x in large if x.op not in IN_PLACE | UPDATE] == []
