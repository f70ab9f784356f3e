"""The start of a process: it meets the others, agrees with them, and starts `jax.distributed`.

The processes meet over a connection of our own first (`team`).  `jax.distributed` would end a
process that waits in vain by an abort, without a sentence.
"""

import ctypes
import json
import platform
import signal
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlvr_jax import sharding
from rlvr_jax.config import MeshConfig, ProcessesConfig
from rlvr_jax.host.processes import agreement, team
from rlvr_jax.host.processes.place import Place, find_place
from rlvr_jax.host.processes.team import Team, TeamError

HEARTBEAT = 30  # seconds without a sign of life after which JAX counts a process as dead
SHUTDOWN = 60  # seconds that ended processes wait for each other


def start(cfg: ProcessesConfig, facts: Mapping[str, str]) -> Team:
    """Join the processes of this run; call it before anything uses a device.

    `facts` are those of the config, in which all must agree.  A process alone starts nothing.

    Raises:
      PlaceError: see `place.find_place`.
      TeamError: the others did not come in time, or differ from this process.
    """
    place = find_place(cfg)
    if place.count == 1:
        return Team()
    all_facts = {**facts, **agreement.read_versions()}
    members = team.meet(place, cfg.timeout)
    try:
        agreement.check_facts(members, "the config", all_facts)
        _start_jax(place, cfg.timeout)
    except (TeamError, RuntimeError) as error:
        members.end(2, f"{error}", team.say_aside)
    return members


def _start_jax(place: Place, timeout: int) -> None:
    # Its own handler would swallow SIGTERM; `runs.ending` asks all processes to stop together.
    jax.config.update("jax_enable_preemption_service", False)
    # Where the first process dies, JAX aborts the others at once, and their sentence has to come
    # first: an abort calls C's sleep with its own number, 6 seconds. A function of Python could
    # wait for ever there, for a thread that holds the interpreter.
    libc = ctypes.CDLL(None)
    libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=place.devices,
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=SHUTDOWN,
        cluster_detection_method="deactivate",
    )


def check_devices(members: Team, mesh: Mesh, facts: Mapping[str, str]) -> None:
    """Print one JSON line about this process, and refuse processes with other devices.

    The line holds hosts, devices, mesh and the hashes of config and code.  A process alone prints
    nothing.

    Raises:
      TeamError: a process has other devices than the first one.
    """
    if members.count == 1:
        return
    local = jax.local_devices()
    shape = "x".join(map(str, MeshConfig(**mesh.shape).shown.values()))
    here = {"devices": f"{len(local)} {local[0].device_kind}", "mesh": shape}
    line = {"process": members.index, "processes": members.count, "host": platform.node()}
    line |= here | {"all_devices": str(mesh.size), "config": agreement.hash_facts(facts)}
    print(json.dumps(line | agreement.read_versions()), flush=True)
    agreement.check_facts(members, "the devices", here)
    if local[0].platform == "cpu":
        _connect_cpus(members, mesh)


def _connect_cpus(members: Team, mesh: Mesh) -> None:
    """Let the CPU devices of all processes meet once along every choice of axes.

    A first meeting has to be over in 30 seconds, and compile times differ by more; later ones wait.
    """
    axes = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    choices = [
        tuple(axis for bit, axis in enumerate(axes) if number >> bit & 1)
        for number in range(1, 2 ** len(axes))
    ]

    def sums(x):
        return [jax.lax.psum(x, choice) for choice in choices]

    spec = PartitionSpec(sharding.AXES)
    count = mesh.size
    program = jax.jit(
        jax.shard_map(sums, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )
    x = jax.make_array_from_callback(
        (count,), NamedSharding(mesh, spec), lambda index: np.ones(count, np.float32)[index]
    )
    compiled = program.lower(x).compile()
    members.gather("the first meeting of the devices", None)
    jax.block_until_ready(compiled(x))
    multihost_utils.sync_global_devices("all devices have met")
