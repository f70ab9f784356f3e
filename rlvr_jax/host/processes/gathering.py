"""Rows of arrays on several hosts: those of this process, and all of them in order."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlvr_jax import sharding
from rlvr_jax.host.processes.team import Team


def fetch(tree):
    """Return the arrays of a pytree as numpy arrays, whole, in every process.

    All processes have to call this function with the same tree.
    """

    def whole(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    with jax.transfer_guard("allow"):  # of the gather's own program
        return jax.device_get(jax.tree.map(whole, tree))


def fetch_own(tree, mesh: Mesh):
    """Return this process's rows of each array of a pytree, as numpy arrays.

    Rows that the devices of this process hold come from there; only arrays that are not split by
    row are fetched whole.
    """
    split = NamedSharding(mesh, PartitionSpec(sharding.ROWS))

    if split.is_fully_addressable:
        return jax.device_get(tree)

    def own(x):
        if not x.sharding.is_equivalent_to(split, x.ndim):
            return fetch(x)[sharding.own_rows(len(x), mesh)]
        parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([jax.device_get(parts[start]) for start in sorted(parts)])

    return jax.tree.map(own, tree)


def share_of(team: Team, count: int) -> list[int]:
    """Return this process's share of `count` pieces of work that any process can do."""
    return list(range(team.index * count // team.count, (team.index + 1) * count // team.count))


def gather_rows(team: Team, rows: Sequence[int], values: Sequence[Any]) -> list[Any]:
    """Return the values of all rows, in order, from those of the rows of each process.

    Values are plain JSON, and together the processes have every row from 0 on.  Where two have the
    same row, the first of them gives its value.
    """
    if team.count == 1:
        return list(values)
    found: dict[int, Any] = {}
    for theirs in reversed(team.gather("rows", list(zip(rows, values, strict=True)))):
        found |= dict(theirs)
    return [found[row] for row in range(len(found))]
