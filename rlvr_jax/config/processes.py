"""The config of a run of several processes: where they meet."""

from dataclasses import dataclass

from rlvr_jax.config.fields import STRICT, check_positive, option


@dataclass(frozen=True)
class ProcessesConfig:
    """A ProcessesConfig says how the processes of a run on several hosts find each other.

    Nothing has to be set on TPU slices, under Slurm, Open MPI, or in an indexed Kubernetes job.
    """

    coordinator: str = option(
        "",
        "host:port of process 0; the port before it must be free too; empty: the job's own "
        "(TPU, Slurm, Open MPI, Kubernetes), or one process",
    )
    count: int = option(
        0, "number of processes; 0: as many as the job has, which needs no coordinator"
    )
    index: int = option(0, "number of this process, from 0, where a coordinator is named")
    timeout: int = option(300, "seconds that the processes wait for each other at the start")

    def __post_init__(self) -> None:
        check_positive(self, "timeout")
        if self.count < 0:
            raise ValueError(f"count must be at least 0, not {self.count}")
        if self.coordinator:
            host, colon, port = self.coordinator.rpartition(":")
            if not (host and colon and port.isdecimal() and 1 < int(port) < 2**16):
                raise ValueError(f"coordinator {self.coordinator!r} is not of the form host:port")
            if self.count < 1:
                raise ValueError("a coordinator needs count, the number of processes")
            if not 0 <= self.index < self.count:
                raise ValueError(
                    f"index {self.index} is not from 0 to count - 1 = {self.count - 1}"
                )
        elif self.index:
            raise ValueError("index is for a coordinator that is named: set coordinator too")

    __pydantic_config__ = STRICT
