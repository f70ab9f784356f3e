"""Accelerators that jobs ask for: hosts and chips of each TPU topology, and nodes of GPUs.

Sources, read in November 2026: the tables of machine types and topologies in
https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, names of accelerator types in
https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e, runtimes in
https://cloud.google.com/tpu/docs/runtimes, and the limits of v5p in xpk's
src/xpk/core/system_characteristics.py (Apache-2.0).
"""

from dataclasses import dataclass

from rlvr_jax.host.plans.chips import Topology, parse_topology

# v5e and v6e: topology -> hosts.  Up to eight chips are one host; larger slices have hosts of four.
FLAT = {
    **{"1x1": 1, "2x2": 1, "2x4": 1},
    **{"4x4": 4, "4x8": 8, "8x8": 16, "8x16": 32, "16x16": 64},
}
# v5p below one cube of 4x4x4 chips; larger slices are made of whole cubes.
PARTS_OF_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
MOST_CUBES = 140
V5P_HOST = 4  # chips


@dataclass(frozen=True)
class Tpu:
    """A Tpu holds the names that Google Cloud has for one kind of chip.

    `label` is the value of the node label `cloud.google.com/gke-tpu-accelerator`.  An accelerator
    type is `prefix`, a hyphen and a number: that of chips times `counted` (TensorCores of v5p).
    """

    label: str
    prefix: str
    counted: int
    runtime: str


TPUS = {
    "v5e": Tpu("tpu-v5-lite-podslice", "v5litepod", 1, "v2-alpha-tpuv5-lite"),
    "v5p": Tpu("tpu-v5p-slice", "v5p", 2, "v2-alpha-tpuv5"),
    "v6e": Tpu("tpu-v6e-slice", "v6e", 1, "v2-alpha-tpuv6e"),
}


@dataclass(frozen=True)
class Slice:
    """A Slice is what one job runs on: `hosts` machines with `chips_per_host` chips each.

    `tpu` is None for GPUs, whose hosts are nodes of a cluster.
    """

    chip: str
    topology: str
    hosts: int
    chips_per_host: int
    tpu: Tpu | None

    @property
    def accelerator_type(self) -> str:
        """Return the accelerator type of a TPU, such as `v5litepod-16`."""
        assert self.tpu is not None
        chips = self.hosts * self.chips_per_host
        return f"{self.tpu.prefix}-{chips * self.tpu.counted}"


def find_slice(text: str) -> Slice:
    """Find the slice that a text such as `v5e:4x4`, or `h100:2x8` (nodes x GPUs), asks for.

    Raises:
      ValueError: there is no such chip or topology; the message says what there is.
    """
    asked = parse_topology(text)
    chip, _, topology = asked.name.partition(":")
    if asked.chip.platform == "gpu":
        if len(asked.sizes) == 1:
            raise ValueError(f"--topology {text}: write nodes x GPUs of a node, as in {chip}:2x8")
        nodes, gpus = asked.sizes
        return Slice(chip, topology, nodes, gpus, None)
    if chip == "v5p":
        _check_cubes(asked)
        return Slice(chip, topology, asked.devices // V5P_HOST, V5P_HOST, TPUS[chip])
    if topology not in FLAT:
        raise ValueError(f"--topology {text}: {chip} has the topologies {', '.join(FLAT)}")
    hosts = FLAT[topology]
    return Slice(chip, topology, hosts, asked.devices // hosts, TPUS[chip])


def _check_cubes(asked: Topology) -> None:
    sides = list(asked.sizes)
    whole = len(sides) == 3 and not any(side % 4 for side in sides) and sides == sorted(sides)
    part = asked.name.removeprefix("v5p:") in PARTS_OF_A_CUBE
    if not part and not (whole and asked.devices <= MOST_CUBES * 64):
        raise ValueError(
            f"--topology {asked.name}: v5p has {', '.join(PARTS_OF_A_CUBE)}, and AxBxC in "
            f"multiples of 4 with A <= B <= C and at most {MOST_CUBES * 64} chips"
        )
