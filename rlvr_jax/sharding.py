"""The table from dimension letters to mesh axes, and every sharding that follows from it.

The mesh has the axes `data`, `fsdp`, `context` and `tensor`.  `RULES` says over which axes a
dimension is split, `mesh_axes` applies it to the letters of an array.  So `embed_VD` is split by
vocabulary over `tensor` and by width over `fsdp`.  What `fsdp` splits of a parameter, `context`
splits further; it also splits the columns of rows (`context.py`).  Parameter vectors are
replicated: they are small, and a split norm scale costs a collective for each use.  The rank of an
adapter, U, has no rule: its two matrices are split by their other dimensions, as their base is.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from rlvr_jax.config import MeshConfig

AXES = ("data", "fsdp", "context", "tensor")
TYPES = (AxisType.Auto,) * 4
ROWS = ("data", "fsdp")  # the data axes, over which rows are split
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


def make_mesh(cfg: MeshConfig, devices: Sequence[jax.Device] = ()) -> Mesh:
    """Return the mesh of `cfg` over the given devices, or over all devices of the job.

    On TPUs neighbours on the mesh are neighbours in the machine, those of the last axis first; of
    several slices, only `data` goes from one to another.  Elsewhere the devices keep their order.

    Raises:
      ValueError: the mesh needs another number of devices, or does not go with the number of
        slices; the message says what to change.
    """
    devices = devices or _all_devices()
    if cfg.devices != len(devices):
        raise ValueError(
            f"mesh {cfg} needs {cfg.devices} devices and this job has {len(devices)}; set "
            f"{cfg.keys} so that their product is {len(devices)}"
        )
    return Mesh(_arrange(tuple(cfg.axes.values()), devices), AXES, axis_types=TYPES)


def _all_devices() -> Sequence[jax.Device]:
    """Return all devices of the job.

    Raises:
      ValueError: JAX has none, as with an unknown name in JAX_PLATFORMS.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # of a plugin without its device
        named = jax.config.values["jax_platforms"]
        reason = f"{error}".partition("\n")[0].partition(" (set JAX_PLATFORMS")[0] or "no device"
        raise ValueError(
            f"JAX cannot start with JAX_PLATFORMS={named or ''} ({reason}): set "
            "it to cpu, unset it, or install the JAX of this machine, for cuda or tpu"
        ) from None


def _arrange(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """Return the devices in the places that they have on a mesh of that shape.

    Raises:
      ValueError: the axis `data` does not divide into the slices.
    """
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    data, *inner = shape
    if data % slices:
        raise ValueError(
            f"mesh.data = {data} is not a multiple of the {slices} slices of this job: only the "
            "axis data goes over the slow network between slices; set mesh.data to a multiple of "
            f"{slices}"
        )
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    shape, across = (data // slices, *inner), (slices, *[1] * len(inner))
    return mesh_utils.create_hybrid_device_mesh(
        shape, across, devices, allow_split_physical_axes=True
    )


def claim_mesh(cfg: MeshConfig, processes: int = 1) -> Mesh:
    """Return the mesh of `cfg`; on CPU, split the processor into as many devices as it needs.

    Several processes give equal numbers of devices.

    JAX fixes the number of CPU devices when it is first used.  Where that has happened, as in a
    notebook, the mesh has to do with the devices that there are.

    Raises:
      ValueError: as `make_mesh`.
    """
    with contextlib.suppress(RuntimeError):  # JAX is in use
        jax.config.update("jax_num_cpu_devices", max(1, cfg.devices // processes))
    return make_mesh(cfg)


def letters(name: str) -> str:
    """Return the dimension letters of a name: "LDNH" of "q_LDNH", "" of a name without any."""
    suffix = name.rpartition("_")[2]
    return suffix if suffix.isupper() else ""


def mesh_axes(dims: str, overrides: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the mesh axes of each letter of an array, by `RULES` and its overrides.

    A mesh axis can split only one dimension.  The first letter that has a rule for the axis gets
    it, later letters do without.
    """
    rules = RULES | dict(overrides)
    taken: set[str] = set()
    of_letters = []
    for letter in dims:
        of_letters.append(tuple(axis for axis in rules.get(letter, ()) if axis not in taken))
        taken.update(of_letters[-1])
    return of_letters


def param_axes(name: str, cfg: MeshConfig) -> list[tuple[str, ...]]:
    """Return the mesh axes of each dimension of a parameter; vectors are replicated.

    A stack of vectors, one for each layer, counts as vectors.
    """
    dims = letters(name)
    if len(dims.lstrip("L")) <= 1:
        return [()] * len(dims)
    axes = mesh_axes(dims, cfg.letters)
    return [(*x, "context") if cfg.context > 1 and "fsdp" in x else x for x in axes]


def param_spec(name: str, cfg: MeshConfig) -> PartitionSpec:
    """Return the partition spec of a parameter, in the form that jit gives to its results.

    This form has no None at the end.  With it, equal shardings also compare as equal.
    """
    entries = [axes or None for axes in param_axes(name, cfg)]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def shard_tree(tree, mesh: Mesh | AbstractMesh, cfg: MeshConfig):
    """Return the sharding of every leaf of a pytree that holds parameters under their names.

    Such a tree may be a train state or the moments of an optimizer.  A leaf follows the innermost
    dictionary key on its path that ends in dimension letters.  All other leaves, such as counters
    and random keys, are replicated.
    """

    def leaf(path, _):
        keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        names = [key for key in keys if letters(key)]
        return NamedSharding(mesh, param_spec(names[-1], cfg) if names else PartitionSpec())

    return jax.tree_util.tree_map_with_path(leaf, tree)


def check_divides(
    sizes: Mapping[str, int], names: Iterable[str], cfg: MeshConfig, what: str
) -> None:
    """Check that the mesh divides every dimension of the named parameters.

    `sizes` maps letters to sizes; `what` names the model in the message.

    Raises:
      ValueError: a dimension is not a multiple of its mesh axes.
    """
    for name in names:
        for letter, axes in zip(letters(name), param_axes(name, cfg), strict=True):
            if sizes[letter] % math.prod(cfg.axes[axis] for axis in axes):
                raise ValueError(
                    f"{what}: dimension {letter} = {sizes[letter]} of {name} is not a multiple "
                    f"of {cfg.product(*axes)}; change one of them, or replicate the "
                    f"letter with mesh.letters={{{letter}: []}}"
                )


def split_rows(tree):
    """Return arrays with their first (row) dimension split over the data axes.

    XLA decides about the other dimensions.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree

    def split(x: jax.Array) -> jax.Array:
        free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
        return jax.lax.with_sharding_constraint(x, PartitionSpec(ROWS, *free))

    return jax.tree.map(split, tree)


def replicate(tree):
    """Return arrays, such as random keys and counters, whole on every device."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


@contextlib.contextmanager
def decode_view(tensor: int) -> Iterator[None]:
    """Trace a block of code on another view of the mesh, in which `tensor` devices share weights.

    The devices and their order stay, only the shape changes: data x fsdp x context x tensor becomes
    data x (fsdp * context * mesh.tensor / tensor) x 1 x `tensor`.  So rows are split over other
    shards, and each device holds a smaller part of the weights that are gathered over `fsdp`.  Call
    `split_rows` or `replicate` on all arrays that enter or leave the block: the type of an array
    names the shape of its mesh.  0 is mesh.tensor; without a mesh, nothing changes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["context"] == 1 and tensor in (0, mesh.shape["tensor"]):
        yield
        return
    data, tensor = mesh.shape["data"], tensor or mesh.shape["tensor"]
    shape = (data, mesh.size // data // tensor, 1, tensor)
    # With its device: the choice of implementations depends on the platform.
    view = AbstractMesh(shape, AXES, TYPES, abstract_device=mesh.abstract_device)
    with jax.sharding.use_abstract_mesh(view):
        yield


def check_decode_view(sizes: Mapping[str, int], tensor: int, cfg: MeshConfig, what: str) -> None:
    """Check that `tensor` devices can share a model's weights; `what` names the model.

    Raises:
      ValueError: the mesh has no such view, or the devices cannot divide the model.
    """
    if tensor == 0:
        return
    shared = cfg.devices // cfg.data
    if tensor % cfg.tensor or shared % tensor:
        raise ValueError(
            f"{what}: decode_tensor = {tensor} must be a multiple of mesh.tensor = {cfg.tensor} "
            f"and divide {cfg.product('fsdp', 'context', 'tensor')}"
        )
    for letter, parts in {
        "N": tensor,
        "F": tensor,
        "V": tensor,
        "D": shared,
    }.items():
        if sizes[letter] % parts:
            raise ValueError(
                f"{what}: decode_tensor = {tensor} needs dimension {letter} = {sizes[letter]} to "
                f"be a multiple of {parts}; change decode_tensor or the mesh"
            )
    if sizes["K"] % tensor and tensor % sizes["K"]:
        raise ValueError(
            f"{what}: decode_tensor = {tensor} is neither a divisor nor a multiple of the number "
            f"of kv heads, {sizes['K']}; change decode_tensor"
        )


def tensor_shards() -> int:
    """Return the size of the axis `tensor` of the ambient mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["tensor"]


def gather_parameter(name: str, x: jax.Array) -> jax.Array:
    """Return a parameter, or one layer of it, gathered over `fsdp` but still split over `tensor`.

    Decoding uses gathered parameters.  It would otherwise gather them again for every column.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    dims = letters(name)[-x.ndim :]
    split = [None if "fsdp" in RULES.get(d, ()) else PartitionSpec.UNCONSTRAINED for d in dims]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*split))


def share_parameter(name: str, x: jax.Array) -> jax.Array:
    """Return a parameter, or one layer of it, gathered over `fsdp` and split over `tensor`.

    For a `decode_view`: devices that have been shards of `fsdp` first exchange their parts, so that
    each holds a part of a head or of the vocabulary, and only then gather.  In a single step, XLA
    would gather the whole parameter on every device.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    dims = letters(name)[-x.ndim :]
    axes = mesh_axes(dims, {}) if len(dims.lstrip("L")) > 1 else [()] * len(dims)
    before = [("fsdp", "tensor") if "fsdp" in names else () for names in axes]
    after = [names if "tensor" in names else () for names in axes]
    for step in (before, axes, after):
        x = jax.lax.with_sharding_constraint(x, PartitionSpec(*(names or None for names in step)))
    return x


def data_shards() -> int:
    """Return the number of shards that rows are split into on the ambient mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in ROWS)


def take(x: jax.Array, index_SM: jax.Array, axis: int = 0) -> jax.Array:
    """Return S * M rows of x, picked by their numbers within each of S data shards.

    No row crosses from one shard to another, so no communication is needed.  An index beyond the
    end of a shard gives the shard's last row.  `axis` is the row dimension of x.
    """
    shards, picked = index_SM.shape
    shape, axis = x.shape, axis % x.ndim
    x = x.reshape(*shape[:axis], shards, -1, *shape[axis + 1 :])
    get = jax.vmap(
        lambda x, i: x.at[(slice(None),) * axis + (i,)].get(mode="clip"), (axis, 0), axis
    )
    return get(x, index_SM).reshape(*shape[:axis], shards * picked, *shape[axis + 1 :])


def put(x: jax.Array, index_SM: jax.Array, value: jax.Array, axis: int = 0) -> jax.Array:
    """Return x with the rows that `take` would pick replaced by those of `value`.

    An index beyond the end of a shard writes nothing.
    """
    shards = index_SM.shape[0]
    shape, axis = x.shape, axis % x.ndim

    def split(x):
        return x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])

    def write(x, i, v):
        return x.at[(slice(None),) * axis + (i,)].set(v, mode="drop")

    return jax.vmap(write, (axis, 0, axis), axis)(split(x), index_SM, split(value)).reshape(shape)


def on_each_device(op, dims_in: str, dims_out: str):
    """Return `op` as a function that runs on each device, on the part of the arrays that is there.

    Kernels need this form: they see local arrays only.  `dims_in` and `dims_out` hold the
    dimension letters of each array, separated by spaces; "-" is a number.  Rows and heads
    (Q, B, N, K) are split by `RULES`, all other dimensions are whole on every device.  An argument
    may be a pytree of such arrays, all with the same letters.
    """

    def spec(dims: str) -> PartitionSpec:
        dims = dims.strip("-")
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


def own_rows(count: int, mesh: Mesh) -> np.ndarray:
    """Return the numbers of the rows, of `count` in a batch, that devices of this process hold."""
    split = NamedSharding(mesh, PartitionSpec(ROWS))
    held = np.zeros(count, bool)
    for index in split.addressable_devices_indices_map((count,)).values():
        held[index] = True
    return np.flatnonzero(held)


def place_rows(tree, mesh: Mesh):
    """Return a pytree of host arrays as arrays on the mesh, split by their first (row) dimension.

    Each process passes its `own_rows` only, in their order.
    """
    split = NamedSharding(mesh, PartitionSpec(ROWS))
    if split.is_fully_addressable:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, x), tree)
    shards = math.prod(mesh.shape[axis] for axis in ROWS)
    own = len(own_rows(shards, mesh))

    def place(x):
        count = len(x) * shards // own
        number = {row: i for i, row in enumerate(own_rows(count, mesh).tolist())}

        def part(index):
            rows = range(*index[0].indices(count))
            return x[number[rows[0]] : number[rows[-1]] + 1]

        return jax.make_array_from_callback((count, *x.shape[1:]), split, part)

    with jax.transfer_guard("allow"):  # this is an explicit transfer, whatever JAX takes it for
        return jax.tree.map(place, tree)
