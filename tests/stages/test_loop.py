"""The guard around the steps of the loop: what it refuses, and that explicit transfers pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import optim, sharding
from rlvr_jax.config import Config, DataConfig, MeshConfig, ModelConfig, SftStage
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.stages import loop
from rlvr_jax.stages.workspace import Workspace

SMALL = ModelConfig(layers=1, width=8, heads=2, kv_heads=2, head_size=2, feedforward=8, vocab=264)
DATA = DataConfig(
    tasks=("sum",),
    sft=8,
    label=0,
    train=0,
    prompt_columns=96,
    check_columns=96,
    response_columns=32,
)


@pytest.fixture
def run_loop(tmp_path):
    """run_loop(work): a stage of two steps, each of which does `work(ws, x)` on an array x."""
    stage = SftStage(steps=2, batch=2)
    cfg = Config(
        name="guarded", runs=str(tmp_path), tokenizer="byte", data=DATA, model=SMALL,
        verifier=SMALL, stages=(stage,),
    )  # fmt: skip
    ws = Workspace(Run(cfg), sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
    ws.write_problems()
    following = jax.jit(lambda step: step + 1)

    def run_loop(work):
        def advance(state, _):
            state = dataclasses.replace(state, step=following(state.step))
            return state, {"loss": work(ws, state.step)}, []

        with jax.set_mesh(ws.mesh):
            state = ws.new_state(stage.name, SMALL, optim.make_optimizer(stage.optim, 2), "fresh")
            source = ws.problems("sft")
            loop.run(ws, stage, state, source, 2, loop.Work(advance, "step", {"loss": "loss"}))
        return [row["loss"] for row in ws.run.metrics.load_rows(stage.name)]

    yield run_loop
    ws.run.metrics.close()


DOUBLE = jax.jit(lambda x, y: (x * y).sum())
IMPLICIT = {
    "a host array as an argument": lambda ws, x: DOUBLE(x, np.ones(2, np.float32)),
    "a Python number as an argument": lambda ws, x: DOUBLE(x, 2),
    "arithmetic outside of jit": lambda ws, x: x + 1,
    "an array made outside of jit": lambda ws, x: jnp.zeros(3)[0],
    "a host array turned into one of the device": lambda ws, x: jnp.asarray(np.ones(3)),
}
EXPLICIT = {
    "device_put": lambda ws, x: DOUBLE(x, jax.device_put(np.float32(2))),
    "rows placed on the mesh": lambda ws, x: DOUBLE(x, ws.place(np.ones(2, np.float32))),
    "copies on each device": lambda ws, x: DOUBLE(x, ws.replicate(np.ones(2, np.float32))),
    "a number of the host": lambda ws, x: 2.0 * int(jax.device_get(x)),
}


@pytest.mark.parametrize("work", IMPLICIT.values(), ids=IMPLICIT.keys())
def test_an_implicit_transfer_to_the_device_is_refused(run_loop, work):
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        run_loop(work)


@pytest.mark.parametrize("work", EXPLICIT.values(), ids=EXPLICIT.keys())
def test_an_explicit_transfer_is_allowed(run_loop, work):
    assert run_loop(work) == [2, 4]


def test_outside_of_a_step_nothing_is_refused(run_loop):
    run_loop(lambda ws, x: x)
    assert jnp.zeros(3)[0] + 1 == 1


READS = [
    lambda x: np.asarray(x),
    float,
    int,
    bool,
    lambda x: np.stack([x, x]),
    lambda x: x.tolist(),
]


@pytest.mark.parametrize("read", READS)
def test_an_implicit_transfer_to_the_host_is_refused(read):
    """On CPU by the fixture of these tests only: there is nothing to transfer."""
    x = jax.jit(lambda: jnp.float32(2))()
    with loop.guard_transfers():
        read(jax.device_get(x))
        with pytest.raises((AssertionError, jax.errors.JaxRuntimeError), match="transfer"):
            read(x)
    read(x)
