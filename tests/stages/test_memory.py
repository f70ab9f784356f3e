"""The memory of a device by name: sizes of real arrays, and what the device tells."""

import jax
import numpy as np
import optax
import pytest

from rlvr_jax import parameters, step
from rlvr_jax.config import Config, SftStage
from rlvr_jax.stages import abstract, memory
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
