"""Collectives of a program: which devices take part, and what each of them sends."""

import math
import re
from typing import NamedTuple

import numpy as np

from rlvr_jax.host.plans.hlo import Instruction

KINDS = {
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
}
IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"replica_groups=\w*mesh\w*\[([^\]]*)\]\s*\{([^}]*)\}")
LISTED = re.compile(r"replica_groups=\{(\{[\d,]+\})")
PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


class Wire(NamedTuple):
    """A Wire is one collective as one device sees it."""

    kind: str
    bytes: float  # of the array that it gives
    shape: str
    devices: int  # that take part together
    axes: tuple[str, ...]  # of the mesh, along which these devices lie
    far: bool  # some of them are not connected by the fast links

    @property
    def sent(self) -> float:
        """Return the bytes that each device sends, if they pass the data around a ring.

        A device holds 1/n of what an all-gather gives, and sends all other parts on.  An all-reduce
        is a reduce-scatter and an all-gather.
        """
        share = (self.devices - 1) / self.devices if self.devices > 1 else 0.0
        if self.kind == "all-reduce":
            return 2 * self.bytes * share
        if self.kind == "reduce-scatter":
            return self.bytes * (self.devices - 1)
        if self.kind == "collective-permute":
            return self.bytes
        return self.bytes * share


def read_wire(instruction: Instruction, mesh: dict[str, int], host: int) -> Wire | None:
    """Return the collective that an instruction starts, or None.

    `mesh` gives the sizes of the mesh axes, the outermost first.  `host` is the number of devices
    that fast links connect; 0: all.
    """
    kind = instruction.op.removesuffix("-start")
    if kind not in KINDS:
        return None
    arrays = instruction.results
    group = read_group(instruction.rest, mesh)
    axes = _axes(group, mesh)
    far = bool(host) and len({device // host for device in group}) > 1
    shape = " ".join(str(array) for array in arrays[:2]) + (" ..." if len(arrays) > 2 else "")
    return Wire(kind, sum(array.bytes for array in arrays), shape, len(group), axes, far)


def read_group(rest: str, mesh: dict[str, int]) -> tuple[int, ...]:
    """Return the numbers of the devices of the first group of a collective."""
    everyone = tuple(range(math.prod(mesh.values())))
    if found := IOTA.search(rest):
        groups, size = int(found.group(1)), int(found.group(2))
        sizes = [int(n) for n in found.group(3).split(",")]
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        if found.group(4):
            numbers = numbers.transpose([int(n) for n in found.group(4).split(",")])
        return tuple(int(n) for n in numbers.reshape(groups, size)[0])
    if found := NAMED.search(rest):
        sizes = [int(n) for n in re.findall(r"=(\d+)", found.group(1))]
        names = re.findall(r"'([^']*)'=", found.group(1))
        used = re.findall(r"'([^']*)'", found.group(2))
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        index = tuple(slice(None) if name in used else 0 for name in names)
        return tuple(int(n) for n in numbers[index].reshape(-1))
    if found := LISTED.search(rest):
        return tuple(int(n) for n in found.group(1).strip("{}").split(","))
    if found := PAIRS.search(rest):
        return tuple(sorted({int(found.group(1)), int(found.group(2))}))
    return everyone


def _axes(group: tuple[int, ...], mesh: dict[str, int]) -> tuple[str, ...]:
    """Return the mesh axes along which the devices of a group differ."""
    sizes = tuple(mesh.values())
    if not group or max(group) >= math.prod(sizes):
        return ()
    places = np.array(np.unravel_index(np.array(group), sizes))
    differs = [len(set(row.tolist())) > 1 for row in places]
    return tuple(name for name, moves in zip(mesh, differs, strict=True) if moves)
