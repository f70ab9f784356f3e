"""The memory of a device by name: sizes of real arrays, and what the device tells."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlvr_jax import engine, model, parameters, ragged, step
from rlvr_jax.config import Config, DataConfig, RewardConfig, RlStage, SftStage
from rlvr_jax.host.plans import roofline
from rlvr_jax.stages import abstract, memory, sizing
from rlvr_jax.structs import Frozen


def test_the_parts_are_the_bytes_of_the_arrays(tiny):
    params = parameters.init(jax.random.key(0), tiny)
    count = sum(x.size for x in params.values())
    state = step.init_state(jax.random.key(1), params, optax.adam(1.0))
    frozen = Frozen(params, {}, base={"host": np.zeros(7, np.float32)})
    cfg = Config(model=tiny, stages=(SftStage(),))
    parts = abstract.resident(abstract.Made([], state, frozen, cfg))
    assert parts["policy"] == parts["reference"] == 4 * count
    assert parts["moments"] == pytest.approx(8 * count, abs=8)
    assert parts["base"] == 28


def test_sizes_and_free_memory_are_said():
    parts = {"policy": 3 * 2.0**30, "KV cache": 5 * 2.0**20}
    told = {"bytes_limit": 80 << 30, "bytes_in_use": 16 << 30}
    assert memory.describe(parts, told) == (
        "policy 3 GiB, KV cache 5 MiB; 3 GiB before gradients and activations; 64 GiB of 80 GiB "
        "are free now"
    )
    assert memory.describe({"policy": 12.0}, {}).endswith("before gradients and activations")


@pytest.mark.parametrize("cache_dtype, entry", [("compute", 2 * 6), ("int8", 6 + 4)])
def test_the_kv_cache_is_counted_with_its_scales(tiny, cache_dtype, entry):
    """The bytes of the arrays that decoding holds: of four prompts, and of three rows of each."""
    cfg = dataclasses.replace(tiny, compute="bfloat16", cache_dtype=cache_dtype)
    stage = RlStage(prompts=4, samples=3, reward=RewardConfig(source="rule"))
    data = DataConfig(prompt_columns=9, response_columns=64)

    def held(params, ids, mask):
        prefix = engine.hold(ragged.read_prompts(params, ids, mask, cfg)[0], cfg)
        return prefix.kv, model.empty_cache(prefix, 12, 64)

    ids, mask = (jax.ShapeDtypeStruct((4, 9), dtype) for dtype in (jnp.int32, jnp.bool_))
    arrays = jax.tree.leaves(jax.eval_shape(held, parameters.abstract(cfg), ids, mask))
    count = sum(x.size * x.dtype.itemsize for x in arrays)
    work = sizing.work_of(stage, Config(model=cfg, data=data, stages=(stage,)))
    split = roofline.Split(1, 1, 1)
    assert roofline.cache_bytes(work, split, work.columns) == count
    assert count == 2 * cfg.layers * cfg.kv_heads * entry * (12 * 64 + 4 * 9)
