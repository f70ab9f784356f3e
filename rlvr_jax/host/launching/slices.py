"""Accelerators that jobs ask for: hosts and chips of each TPU topology, and nodes of GPUs.

Sources, read in November 2026: the tables of machine types and topologies in
https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, names of accelerator types in
https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e, runtimes in
https://cloud.google.com/tpu/docs/runtimes, and the limits of v5p in xpk's
src/xpk/core/system_characteristics.py (Apache-2.0).
"""

import math
import re
from dataclasses import dataclass

# v5e and v6e: topology -> hosts.  Up to eight chips are one host; larger slices have hosts of four.
FLAT = {
    **{"1x1": 1, "2x2": 1, "2x4": 1},
    **{"4x4": 4, "4x8": 8, "8x8": 16, "8x16": 32, "16x16": 64},
}
# v5p below one cube of 4x4x4 chips; larger slices are made of whole cubes.
PARTS_OF_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
MOST_CUBES = 140
V5P_HOST = 4  # chips
GPUS = ("a100", "h100", "h200", "b200")
MOST_GPUS = 8  # of one node


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
    chip, _, topology = text.partition(":")
    if chip in GPUS:
        return _find_nodes(chip, topology)
    if chip not in TPUS:
        known = ", ".join((*TPUS, *GPUS))
        raise ValueError(f"--topology {text}: no chip {chip!r}; there are {known}, as in v5e:4x4")
    if chip == "v5p":
        return _find_cubes(topology)
    if topology not in FLAT:
        raise ValueError(f"--topology {text}: {chip} has the topologies {', '.join(FLAT)}")
    hosts, chips = FLAT[topology], math.prod(map(int, topology.split("x")))
    return Slice(chip, topology, hosts, chips // hosts, TPUS[chip])


def _find_cubes(topology: str) -> Slice:
    sides = [int(x) for x in topology.split("x")] if re.fullmatch(r"\d+x\d+x\d+", topology) else []
    cubes = math.prod(side // 4 for side in sides)
    whole = bool(sides) and all(side % 4 == 0 < side for side in sides) and sides == sorted(sides)
    if topology not in PARTS_OF_A_CUBE and not (whole and cubes <= MOST_CUBES):
        raise ValueError(
            f"--topology v5p:{topology}: v5p has {', '.join(PARTS_OF_A_CUBE)}, and AxBxC in "
            f"multiples of 4 with A <= B <= C and at most {MOST_CUBES * 64} chips"
        )
    return Slice("v5p", topology, math.prod(sides) // V5P_HOST, V5P_HOST, TPUS["v5p"])


def _find_nodes(chip: str, topology: str) -> Slice:
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9])", topology)
    nodes, gpus = map(int, found.groups()) if found else (0, 0)
    if not 1 <= gpus <= MOST_GPUS:
        raise ValueError(
            f"--topology {chip}:{topology}: for GPUs write nodes x GPUs of a node, as in {chip}:2x8"
        )
    return Slice(chip, topology, nodes, gpus, None)
