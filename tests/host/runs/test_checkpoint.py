"""Checkpoints: bit-exact, all or nothing under SIGKILL, and errors that say how to go on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rlvr_jax.host.runs import checkpoint
from rlvr_jax.host.runs.checkpoint import CheckpointError, Checkpoints, restore_params

ROOT = Path(__file__).parents[3]


@struct.dataclass
class State:
    step: jax.Array
    key: jax.Array
    policy: dict[str, jax.Array]
    opt_state: Any
    value: Any  # None here, as when a run has no value head
    running: dict[str, Any]


def make_mesh(*shape: int) -> Mesh:
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def shardings(mesh: Mesh, tree: Any) -> Any:
    """Matrices over fsdp and tensor, the rest replicated."""

    def place(leaf: Any) -> NamedSharding:
        spec = ("fsdp", "tensor") if getattr(leaf, "ndim", 0) == 2 else ()
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, tree)


def make_state(mesh: Mesh, *, rows: int = 64, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    policy = {
        "embed_VD": rng.normal(size=(rows, 16)).astype(np.float32),
        "head_DV": jnp.asarray(rng.normal(size=(16, rows)), jnp.bfloat16),
    }
    policy["embed_VD"][0, :3] = np.nan, np.inf, -0.0
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3), optax.identity())
    running = {
        "mean": np.float32(0.1),
        "mask": rng.random(8) < 0.5,
        "ids": rng.integers(0, 2**32, 8, np.uint32),
    }
    key = jax.random.key(seed)
    state = State(jnp.int32(7), key, policy, tx.init(policy), None, running)
    state = jax.tree.map(jax.device_put, state, shardings(mesh, state))
    return state.replace(running=state.running | {"best": 0.1, "nan": float("nan"), "seen": 2**40})


def like(state: Any, mesh: Mesh) -> Any:
    def abstract(leaf: Any, sharding: NamedSharding) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(abstract, state, shardings(mesh, state))


def bits(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return ("key", str(leaf.dtype), *bits(jax.random.key_data(leaf)))
    if isinstance(leaf, jax.Array):
        return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()
    return type(leaf), repr(leaf)


def assert_same(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert bits(a) == bits(b)


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 4, 2), (8, 1, 1)])
def test_round_trip_is_bit_exact_on_any_mesh(tmp_path: Path, shape: tuple[int, ...]) -> None:
    state, mesh = make_state(make_mesh(2, 2, 2)), make_mesh(*shape)
    host = {"data": {"epoch": 1, "order": [3, 1, 2]}, "bytes": 12345, "stage": "rl", "x": 0.1}
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(7, state, host)
    target = like(state, mesh)
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest() == 7
        restored, restored_host = checkpoints.restore(7, target)
    assert_same(restored, state)
    assert restored_host == host
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(target), strict=True):
        if isinstance(leaf, jax.Array):
            assert leaf.sharding == wanted.sharding
    drawn = jax.random.normal(restored.key, (4,)), jax.random.normal(state.key, (4,))
    assert bits(drawn[0]) == bits(drawn[1])


def test_state_and_host_may_change_as_soon_as_save_returns(tmp_path: Path) -> None:
    mesh = make_mesh(2, 2, 2)
    sharding = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    state = {"a_VD": jax.device_put(jnp.zeros((256, 1024)), sharding)}
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    host = {"step": 0}
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(1, 7):
            state, host["step"] = advance(state), step
            checkpoints.save(step, state, host)
            old, state, host["step"] = state, advance(advance(state)), -1
            assert old["a_VD"].is_deleted()
            state = jax.tree.map(lambda x: x - 2, state)
        for step in range(1, 7):
            restored, restored_host = checkpoints.restore(step, like(state, mesh))
            assert (np.asarray(restored["a_VD"]) == step).all()
            assert restored_host == {"step": step}


def test_keeps_the_newest_and_refuses_to_go_back(tmp_path: Path) -> None:
    state = {"a": jnp.arange(3)}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 5, 1_000_000):
            assert checkpoints.save(step, state, {})
        assert not checkpoints.save(1_000_000, state, {})  # SIGTERM right after a save
        with pytest.raises(CheckpointError, match="already holds step 1000000"):
            checkpoints.save(6, state, {})
        with pytest.raises(CheckpointError, match=r"holds no step 2, only \[5, 1000000\]"):
            checkpoints.restore(2, state)
        with pytest.raises(CheckpointError, match="host part of step 1000001 is not JSON"):
            checkpoints.save(1_000_001, state, {"tokenizer": object()})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000005", "step_1000000"]


DAMAGE = {
    "truncated": lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]),
    "zeroed": lambda f: f.write_bytes(bytes(f.stat().st_size)),
    "one bit": lambda f: f.write_bytes(
        (b := bytearray(f.read_bytes())).__setitem__(len(b) // 2, b[len(b) // 2] ^ 1) or b
    ),
    "deleted": lambda f: f.unlink(),
}
FILES = {
    "array data": "state/ocdbt.process_0/d/*",
    "array index": "state/manifest.ocdbt",
    "tree": "state/_METADATA",
    "host": "host/metadata",
    "sums": "crc32.json",
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("what", FILES)
def test_damage_is_refused_with_the_way_out(tmp_path: Path, what: str, how: str) -> None:
    state = {"a_VD": jax.random.normal(jax.random.key(0), (64, 64)), "b_D": jnp.ones(8)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {"n": 3})
        checkpoints.save(4, state, {"n": 4})
    newest = tmp_path / "step_000004"
    DAMAGE[how](max(newest.glob(FILES[what]), key=lambda f: f.stat().st_size))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 4  # never skipped in silence
        with pytest.raises(CheckpointError, match="is damaged") as error:
            checkpoints.restore(4, state)
        assert f"to go on from step 3, delete it: rm -r '{newest}'" in str(error.value)
        assert "\n" not in str(error.value)
        assert checkpoints.restore(3, state)[1] == {"n": 3}
    DAMAGE[how](max((tmp_path / "step_000003").glob(FILES[what]), key=lambda f: f.stat().st_size))
    with pytest.raises(CheckpointError, match="to start again from the beginning, delete it"):
        restore_params(tmp_path, state["b_D"], "b_D")


def test_an_emptied_folder_is_damage_and_leftovers_are_cleaned(tmp_path: Path) -> None:
    state = {"a": jnp.arange(3)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {})
    (tmp_path / "step_000004").mkdir()
    (tmp_path / "step_notes").mkdir()  # other people's files are neither steps nor in the way
    (tmp_path / "notes.txt").write_text("keep 3")
    (tmp_path / "step_000005.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        assert not list(tmp_path.glob("*tmp*"))
        assert checkpoints.latest() == 4
        (tmp_path / "step_000005.bak").mkdir()
        checkpoints.save(5, state, {})
        assert checkpoints.restore(5, state)[1] == {}
        with pytest.raises(CheckpointError, match=r"step_000004 is damaged .*go on from step 3"):
            checkpoints.restore(4, state)


def test_what_a_failed_write_still_fills_is_cleaned_too(tmp_path: Path) -> None:
    leftover = tmp_path / "step_000004.orbax-checkpoint-tmp"
    leftover.mkdir()
    for number in range(2000):  # to delete these takes a while
        (leftover / f"first{number}").touch()

    def straggle() -> None:
        number, end = 0, time.monotonic() + 0.3
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):  # it is gone
                (leftover / str(number)).touch()
            number += 1

    straggler = threading.Thread(target=straggle)
    straggler.start()
    checkpoint._remove(leftover)
    straggler.join()
    assert not leftover.exists()


def test_a_config_that_does_not_fit_names_the_first_entry(tmp_path: Path) -> None:
    mesh = make_mesh(2, 2, 2)
    state = make_state(mesh)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})

        def refused(other: Any) -> str:
            with pytest.raises(CheckpointError) as error:
                checkpoints.restore(1, other)
            return str(error.value)

        text = refused(like(make_state(mesh, rows=72), mesh))
        assert "policy.embed_VD is (64, 16) in the checkpoint and (72, 16) in this config" in text
        half = state.policy | {"embed_VD": state.policy["embed_VD"].astype(jnp.bfloat16)}
        text = refused(like(state.replace(policy=half), mesh))
        assert "embed_VD is float32 in the checkpoint and bfloat16 in this config" in text
        more = like(state.replace(value={"v_D": jnp.ones(16)}), mesh)
        assert "value.v_D is in this config and not in the checkpoint" in refused(more)
        less = like(state.replace(policy={"head_DV": state.policy["head_DV"]}), mesh)
        assert "policy.embed_VD is in the checkpoint and not in this config" in refused(less)
        raw = like(state.replace(key=jax.random.key_data(state.key)), mesh)
        assert "key is () in the checkpoint and (2,) in this config" in refused(raw)
        other = like(state.replace(key=jax.random.key(0, impl="rbg")), mesh)
        assert "key is key<fry> in the checkpoint and key<rbg> in this config" in refused(other)


def test_params_of_another_stage_without_its_optimizer(tmp_path: Path) -> None:
    state, mesh = make_state(make_mesh(2, 2, 2)), make_mesh(1, 4, 2)
    with pytest.raises(CheckpointError, match="holds no complete checkpoint to take params from"):
        restore_params(tmp_path / "sft", like(state.policy, mesh))
    assert not (tmp_path / "sft").exists()
    with Checkpoints(tmp_path / "sft") as checkpoints:
        checkpoints.save(1, make_state(make_mesh(2, 2, 2), seed=1), {})
        checkpoints.save(2, state, {})
    writing = tmp_path / "sft" / "step_000003.orbax-checkpoint-tmp"
    writing.mkdir()
    target = like(state.policy, mesh)
    params = restore_params(tmp_path / "sft", target)
    assert_same(params, state.policy)
    assert params["embed_VD"].sharding == target["embed_VD"].sharding
    assert writing.exists()  # a reader leaves the writer's files alone
    half = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding), target
    )
    for name, leaf in restore_params(tmp_path / "sft", half).items():
        cast = state.policy[name].astype(jnp.bfloat16)
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), np.asarray(cast, np.float32))
    with pytest.raises(CheckpointError, match="prm.embed_VD is in this config and not in"):
        restore_params(tmp_path / "sft", target, "prm")


@struct.dataclass
class Renamed:
    """`State` with its parameters under the name `params`, as newer states have them."""

    step: jax.Array
    key: jax.Array
    params: dict[str, jax.Array]
    opt_state: Any
    value: Any
    running: dict[str, Any]


def renamed(state: State) -> Renamed:
    return Renamed(state.step, state.key, state.policy, state.opt_state, state.value, state.running)


def test_parameters_that_an_older_checkpoint_calls_policy_become_params(tmp_path: Path) -> None:
    mesh, other = make_mesh(2, 2, 2), make_mesh(1, 4, 2)
    state = make_state(mesh)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {"bytes": 5})
        restored, host = checkpoints.restore(3, like(renamed(state), other))
        assert_same(restored, renamed(state))
        assert host == {"bytes": 5}
        assert restored.params["embed_VD"].sharding.mesh == other

        def refused(wrong: Any) -> str:
            with pytest.raises(CheckpointError) as error:
                checkpoints.restore(3, wrong)
            return str(error.value)

        text = refused(like(renamed(make_state(mesh, rows=72)), mesh))
        assert "policy.embed_VD is (64, 16) in the checkpoint and (72, 16) in this config" in text
        less = renamed(state).replace(params={"head_DV": state.policy["head_DV"]})
        text = refused(like(less, mesh))
        assert "policy.embed_VD is in the checkpoint and not in this config" in text
        more = renamed(state).replace(params=state.policy | {"value_D": jnp.ones(16)})
        text = refused(like(more, mesh))
        assert "params.value_D is in this config and not in the checkpoint" in text
    for names in ((), ("params",), ("policy",)):
        assert_same(restore_params(tmp_path, like(state.policy, other), *names), state.policy)


def test_newer_checkpoints_are_written_and_read_with_params(tmp_path: Path) -> None:
    mesh = make_mesh(2, 2, 2)
    state = renamed(make_state(mesh))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        assert_same(checkpoints.restore(1, like(state, mesh))[0], state)
    assert_same(restore_params(tmp_path, like(state.params, mesh)), state.params)
    with pytest.raises(CheckpointError, match=r"policy\.embed_VD is in this config and not in"):
        restore_params(tmp_path, like(state.params, mesh), "policy")


def test_the_old_name_is_looked_for_only_where_the_new_one_is_missing() -> None:
    saved = {"params.a": 0, "policy.a": 0, "policy.b": 0, "policy": 0, "prm.policy.c": 0}
    for name, on_disk in {
        "params.a": "params.a",
        "params.b": "policy.b",
        "params": "policy",
        "params.c": "params.c",
        "policy.a": "policy.a",
        "paramsy.b": "paramsy.b",
        "prm.params.c": "prm.params.c",
    }.items():
        assert checkpoint._saved_name(name, saved) == on_disk


def python(code: str, *args: object, **kwargs: Any) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "default", "-c", code, *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, **kwargs)


FULL_DISK = """
import resource, sys
import jax, jax.numpy as jnp
from rlvr_jax.host.runs import checkpoint
from rlvr_jax.host.runs.checkpoint import CheckpointError, Checkpoints

def noise(size):
    return {"a": jax.random.normal(jax.random.key(size), (size,))}

checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, noise(1000), {"n": 1})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
checkpoints.save(2, noise(100_000), {})
try:
    checkpoints.wait()
except CheckpointError as error:
    print(error)
checkpoints.save(3, noise(100_000), {})
try:
    checkpoints.save(4, noise(1000), {})
except CheckpointError as error:
    print(error)
restored, host = checkpoints.restore(checkpoints.latest(), noise(1000))
assert (restored["a"] == noise(1000)["a"]).all() and host == {"n": 1}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoints.save(5, noise(100_000), {})
checkpoints.close()
"""


def test_a_full_disk_is_reported_quietly_and_the_last_good_step_stays(tmp_path: Path) -> None:
    child = python(FULL_DISK, tmp_path)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")  # Orbax and its threads print nothing themselves
    first, second = out.splitlines()
    stays = f"could not be written to {tmp_path} (step 1, the last good one, stays)"
    assert first == f"checkpoint of step 2 {stays}: the disk is full; make room and go on"
    assert second == f"checkpoint of step 3 {stays}: the disk is full; make room and go on"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000001", "step_000005"]


SAVE_FOREVER = """
import sys, time
import numpy as np, jax, jax.numpy as jnp
from rlvr_jax.host.runs import checkpoint
from rlvr_jax.host.runs.checkpoint import Checkpoints

def state(step):
    return {f"w{i}_VD": jnp.full((64, 64), step, jnp.float32) for i in range(4)}

with Checkpoints(sys.argv[1]) as checkpoints:
    step = checkpoints.latest() or 0
    while True:
        step += 1
        checkpoints.save(step, state(step), {"step": step})  # waits for the one before
        print(step - 1, flush=True)
        time.sleep(0.02)
"""


def test_killed_at_any_moment_the_newest_complete_step_is_whole(tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    target = {f"w{i}_VD": jnp.zeros((64, 64)) for i in range(4)}
    children = [python(SAVE_FOREVER, tmp_path / name) for name in "ab"]  # two at a time
    try:
        for round_ in range(3):
            for i, name in enumerate("ab"):
                child, folder = children[i], tmp_path / name
                for _ in range(3):
                    assert child.stdout.readline(), child.stderr.read()
                time.sleep(rng.uniform(0, 0.2))
                child.send_signal(signal.SIGKILL)
                out, err = child.communicate(timeout=30)
                assert (child.returncode, err) == (-signal.SIGKILL, "")
                with Checkpoints(folder) as checkpoints:
                    step = checkpoints.latest()
                    assert step is not None
                    assert step >= max(map(int, out.split()), default=1)  # none is lost
                    restored, host = checkpoints.restore(step, target)
                assert host == {"step": step}
                assert all((leaf == step).all() for leaf in jax.tree.leaves(restored))
                assert not list(folder.glob("*tmp*"))
                if round_ < 2:
                    children[i] = python(SAVE_FOREVER, folder)
    finally:
        for child in children:
            child.kill()
            child.communicate()


@pytest.mark.parametrize(
    "name", ["a[b]", "a]b", "[", "{step}", "a*b?", "a\\b", "gs:", "x:y", "a\nb"]
)
def test_any_name_of_a_folder_works(tmp_path, name):
    folder = tmp_path / name / "rl"
    state = {"params": {"w": jnp.arange(6.0)}, "n": jnp.int32(3)}
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, {"at": step})
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest() == 3
        found, host = checkpoints.restore(3, target)
    assert host == {"at": 3} and np.array_equal(found["params"]["w"], state["params"]["w"])
    assert sorted(os.listdir(folder)) == ["step_000002", "step_000003"]
    links = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    assert str(folder) not in links, "the folder is not left open"
