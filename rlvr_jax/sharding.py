"""The one table from dimension letters to mesh axes, and everything derived from it.

The mesh has the axes `data`, `fsdp` and `tensor`.  `axes` walks an array's letters from left to
right and gives each its axes unless an earlier letter has taken them, so `embed_VD` is split by
vocabulary over `tensor` and by width over `fsdp`.  Parameter vectors are replicated: they are
small, and splitting a norm scale costs a collective per use.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rlvr_jax.config import MeshConfig

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")
RULES: dict[str, tuple[str, ...]] = {
    "Q": ROWS,
    "B": ROWS,
    "D": ("fsdp",),
    "N": ("tensor",),
    "K": ("tensor",),
    "F": ("tensor",),
    "V": ("tensor",),
    "E": ("fsdp",),
}


def make_mesh(cfg: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh of `cfg` over all devices of the job, or an error that says how to change it."""
    devices = jax.devices() if devices is None else devices
    shape = (cfg.data, cfg.fsdp, cfg.tensor)
    wanted = cfg.data * cfg.fsdp * cfg.tensor
    if wanted != len(devices):
        raise ValueError(
            f"mesh {cfg.data} x {cfg.fsdp} x {cfg.tensor} (data x fsdp x tensor) needs {wanted} "
            f"devices and this job has {len(devices)}; set mesh.data, mesh.fsdp and mesh.tensor "
            f"so that their product is {len(devices)}"
        )
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def claim_mesh(cfg: MeshConfig) -> Mesh:
    """The mesh of `cfg`, on as many CPU devices as it needs where there is no accelerator.

    For a process that has not asked for a device before.
    """
    jax.config.update("jax_num_cpu_devices", cfg.data * cfg.fsdp * cfg.tensor)
    return make_mesh(cfg)


def letters(name: str) -> str:
    """`"q_LDNH"` -> `"LDNH"`; a name without a shape suffix has no letters."""
    suffix = name.rpartition("_")[2]
    return suffix if suffix.isupper() else ""


def axes(dims: str, overrides: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The mesh axes of each letter; an axis taken by an earlier letter is left out."""
    rules = RULES | dict(overrides)
    taken: set[str] = set()
    found = []
    for letter in dims:
        found.append(tuple(axis for axis in rules.get(letter, ()) if axis not in taken))
        taken.update(found[-1])
    return found


def param_axes(name: str, cfg: MeshConfig) -> list[tuple[str, ...]]:
    """The mesh axes of a parameter, read off its name; vectors (also stacked) are replicated."""
    dims = letters(name)
    return axes(dims, cfg.letters) if len(dims.lstrip("L")) > 1 else [()] * len(dims)


def param_spec(name: str, cfg: MeshConfig) -> PartitionSpec:
    entries = [found or None for found in param_axes(name, cfg)]
    while entries and entries[-1] is None:  # as jit writes its results' specs: equal means equal
        entries.pop()
    return PartitionSpec(*entries)


def shard_tree(tree, mesh: Mesh, cfg: MeshConfig):
    """Shardings for any pytree that holds parameters under their names (states, moments, ...).

    A leaf follows the innermost dictionary key on its path that ends in a shape; everything
    else (counters, keys) is replicated.
    """

    def leaf(path, _):
        keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        names = [key for key in keys if letters(key)]
        return NamedSharding(mesh, param_spec(names[-1], cfg) if names else PartitionSpec())

    return jax.tree_util.tree_map_with_path(leaf, tree)


def check_divides(sizes: Mapping[str, int], names, cfg: MeshConfig, what: str) -> None:
    """Refuse a model whose dimensions their mesh axes do not divide, in a sentence."""
    width = {"data": cfg.data, "fsdp": cfg.fsdp, "tensor": cfg.tensor}
    for name in names:
        for letter, found in zip(letters(name), param_axes(name, cfg), strict=True):
            parts = math.prod(width[axis] for axis in found)
            if sizes[letter] % parts:
                product = " x ".join(f"mesh.{axis}" for axis in found)
                raise ValueError(
                    f"{what}: dimension {letter} = {sizes[letter]} of {name} is not a multiple "
                    f"of {product} = {parts}; change one of them, or replicate the "
                    f"letter with mesh.letters={{{letter}: []}}"
                )


def rows(x: jax.Array) -> jax.Array:
    """Keep the leading (row) dimension split over the data axes; the rest is left to XLA."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(ROWS, *free))


def gathered(name: str, x: jax.Array) -> jax.Array:
    """A parameter, or one layer of it, whole on every data shard: still split over `tensor` only.

    For decoding, which would otherwise gather it from the other shards for every column.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    dims = letters(name)[-x.ndim :]
    split = [None if "fsdp" in RULES.get(d, ()) else PartitionSpec.UNCONSTRAINED for d in dims]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*split))


def data_shards() -> int:
    """Over how many shards rows are split."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in ROWS)


def take(x: jax.Array, index_SM: jax.Array, axis: int = 0) -> jax.Array:
    """Rows of x by their numbers within each of S data shards: S * M rows, none crosses over."""
    shards, picked = index_SM.shape
    shape, axis = x.shape, axis % x.ndim
    x = x.reshape(*shape[:axis], shards, -1, *shape[axis + 1 :])
    get = jax.vmap(
        lambda x, i: x.at[(slice(None),) * axis + (i,)].get(mode="clip"), (axis, 0), axis
    )
    return get(x, index_SM).reshape(*shape[:axis], shards * picked, *shape[axis + 1 :])


def put(x: jax.Array, index_SM: jax.Array, value: jax.Array, axis: int = 0) -> jax.Array:
    """x with those rows replaced; an index past a shard's end is left out."""
    shards = index_SM.shape[0]
    shape, axis = x.shape, axis % x.ndim

    def split(x):
        return x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])

    def write(x, i, v):
        return x.at[(slice(None),) * axis + (i,)].set(v, mode="drop")

    return jax.vmap(write, (axis, 0, axis), axis)(split(x), index_SM, split(value)).reshape(shape)


def local(op, dims_in: str, dims_out: str):
    """`op` on each device's own part: what a kernel needs, which sees local arrays only.

    Arrays are told by their letters, with a space between; a letter of no rule is not split.
    """

    def spec(dims: str) -> PartitionSpec:
        rules = {letter: RULES[letter] for letter in dims if letter in "QBNK"}
        return PartitionSpec(*(rules.get(letter) for letter in dims))

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return op
    outs = tuple(map(spec, dims_out.split()))
    return jax.shard_map(
        op,
        in_specs=tuple(map(spec, dims_in.split())),
        out_specs=outs if len(outs) > 1 else outs[0],
        check_vma=False,
    )


def whole_rows(table_VD: jax.Array) -> jax.Array:
    """An embedding with its width gathered, as a lookup of rows split over `fsdp` needs it."""
    if jax.sharding.get_abstract_mesh().empty:
        return table_VD
    spec = PartitionSpec(PartitionSpec.UNCONSTRAINED, None)
    return jax.lax.with_sharding_constraint(table_VD, spec)


def place_rows(tree, mesh: Mesh):
    """Host arrays with a leading row dimension onto the mesh, split by row.

    Each process brings its own rows.
    """
    split = NamedSharding(mesh, PartitionSpec(ROWS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, x), tree)
