"""The place of a process: which processes belong together, and which of them this one is."""

import dataclasses
import os

from jax._src import clusters
from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

from rlvr_jax.config import ProcessesConfig


class PlaceError(ValueError):
    """A PlaceError means that the processes of a run cannot be found; the message says why."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A Place is what `jax.distributed.initialize` has to know about a process."""

    coordinator: str  # host:port of the first process
    count: int
    index: int
    devices: list[int] | None = None  # numbers of the local devices to use; None for all


ALONE = Place("", 1, 0)


def find_place(cfg: ProcessesConfig) -> Place:
    """Return the place that the config names, or else the one that JAX recognises.

    Raises:
      PlaceError: the config asks for several processes and nothing says where the others are, or
        the job has another number of processes than the config asks for.
    """
    if cfg.coordinator:
        return Place(cfg.coordinator, cfg.count, cfg.index)
    found = recognise(cfg.timeout)
    if cfg.count > 1 and found is None:
        raise PlaceError(
            f"processes.count is {cfg.count} and nothing here tells which processes belong "
            "together: name processes.coordinator and processes.index, or start the command on "
            "every host of a TPU slice, with srun, with mpirun, or as an indexed Kubernetes job"
        )
    place = found or ALONE
    if cfg.count and cfg.count != place.count:
        raise PlaceError(
            f"processes.count is {cfg.count} and this job has {place.count} processes: start the "
            "command on every host, or correct processes.count"
        )
    return place


def recognise(timeout: int) -> Place | None:
    """Return the place that JAX recognises by environment variables or metadata, or None.

    JAX knows Open MPI, Slurm, TPU slices (Google Kubernetes Engine and Compute Engine, one or
    several slices) and Kubernetes jobs.  `timeout` is in seconds.

    Raises:
      PlaceError: the job cannot be read, or its coordinator's name is not known in time.
    """
    try:
        kind = _kind()
        if kind is None:
            return None
        count = kind.get_process_count()
        if count == 1:  # its coordinator may have no name
            return ALONE
        coordinator = kind.get_coordinator_address(
            timeout_secs=timeout, override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT")
        )
        return Place(coordinator, count, kind.get_process_id(), _devices(kind))
    except Exception as error:  # of sockets, of the Kubernetes client, of missing variables
        raise _unreadable(error) from error


def refuse_several(command: str) -> None:
    """Refuse a command for one process where a job has started several.

    They would do the same work and write the same files; on a slice of several hosts each would
    wait for the devices of the others.

    Raises:
      PlaceError: there are several processes, or the job cannot be read.
    """
    try:
        kind = _kind()
        count = kind.get_process_count() if kind else 1
    except Exception as error:  # as in `recognise`
        raise _unreadable(error) from error
    if count > 1:
        raise PlaceError(
            f"{command} is for one process, and this job has {count}: start it once, on a machine "
            "of its own or by a job of one process (srun -n 1)"
        )


def _unreadable(error: Exception) -> PlaceError:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return PlaceError(f"the processes of this job cannot be found: {reason}")


def _kind() -> type[clusters.ClusterEnv] | None:
    """Return the kind of job that JAX recognises here, or None."""
    return next(filter(_is_here, clusters.ClusterEnv._cluster_types), None)


def _is_here(kind: type[clusters.ClusterEnv]) -> bool:
    if (
        kind.opt_in_only_method
        or kind.__name__ == "K8sCluster"
        and "JOB_COMPLETION_INDEX" not in os.environ
    ):
        return False  # a pod that is in no indexed job is alone, and may not ask the cluster
    return kind.is_env_present()


def _devices(kind: type[clusters.ClusterEnv]) -> list[int] | None:
    """Return the local devices of this process, as `jax.distributed.initialize` chooses them."""
    local = kind.get_local_process_id()
    if local is None or running_in_cloud_tpu_vm or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    return [local]
