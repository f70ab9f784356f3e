"""The table from dimension letters to mesh axes, and the shardings that follow from it."""

import importlib.util
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as Spec

from rlvr_jax import parameters, sharding
from rlvr_jax.config import MeshConfig, ModelConfig
from rlvr_jax.structs import Prompts

PLAIN = MeshConfig()


def mesh_of(*shape, **letters):
    cfg = MeshConfig(*shape, letters=letters)
    return cfg, sharding.make_mesh(cfg, jax.devices()[: np.prod(shape)])


# ---- names and letters ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, letters",
    [
        ("q_LDNH", "LDNH"),
        ("embed_VD", "VD"),
        ("norm_D", "D"),
        ("two_words_DF", "DF"),
        ("step", ""),
        ("skipped_in_row", ""),
        ("q_LdNH", ""),
        ("DF", "DF"),
        ("", ""),
    ],
)
def test_letters_are_the_suffix_of_a_name(name, letters):
    assert sharding.letters(name) == letters


@pytest.mark.parametrize(
    "dims, found",
    [
        ("B", [("data", "fsdp")]),
        ("Q", [("data", "fsdp")]),
        ("BR", [("data", "fsdp"), ()]),
        ("VD", [("tensor",), ("fsdp",)]),
        ("DV", [("fsdp",), ("tensor",)]),
        ("LDNH", [(), ("fsdp",), ("tensor",), ()]),
        ("NK", [("tensor",), ()]),  # taken by the earlier letter
        ("KN", [("tensor",), ()]),
        ("BDV", [("data", "fsdp"), (), ("tensor",)]),  # rows took fsdp
        ("DB", [("fsdp",), ("data",)]),  # what is left of the rows' axes
        ("BB", [("data", "fsdp"), ()]),
        ("XYZ", [(), (), ()]),  # letters without a rule
        ("", []),
    ],
)
def test_axes_go_to_the_first_letter_that_wants_them(dims, found):
    assert sharding.mesh_axes(dims, {}) == found


def test_a_letter_can_be_overridden():
    assert sharding.mesh_axes("DKH", {"K": ()}) == [("fsdp",), (), ()]
    assert sharding.mesh_axes("DF", {"D": ("tensor",)}) == [("tensor",), ()]
    assert sharding.mesh_axes("DF", {"F": ("tensor", "fsdp"), "D": ()}) == [(), ("tensor", "fsdp")]
    assert sharding.RULES["K"] == ("tensor",)  # the table itself is as before


@pytest.mark.parametrize(
    "name, spec",
    [
        ("embed_VD", Spec("tensor", "fsdp")),
        ("head_VD", Spec("tensor", "fsdp")),
        ("q_LDNH", Spec(None, "fsdp", "tensor")),
        ("k_LDKH", Spec(None, "fsdp", "tensor")),
        ("out_LNHD", Spec(None, "tensor", None, "fsdp")),
        ("gate_LDF", Spec(None, "fsdp", "tensor")),
        ("down_LFD", Spec(None, "tensor", "fsdp")),
        ("norm_D", Spec()),  # vectors are replicated,
        ("norm1_LD", Spec()),  # stacked ones too
        ("bias_LF", Spec()),
        ("count", Spec()),
        ("odd_XY", Spec()),
    ],
)
def test_specs_of_parameters(name, spec):
    """Specs have no None at the end, as those of jit: equal shardings compare as equal."""
    found = sharding.param_spec(name, PLAIN)
    assert tuple(x[0] if isinstance(x, tuple) else x for x in found) == tuple(spec)
    assert not found or found[-1] is not None


def test_an_override_reaches_the_spec():
    cfg = MeshConfig(letters={"K": (), "F": ("tensor", "fsdp"), "D": ()})
    assert sharding.param_spec("k_LDKH", cfg) == Spec()
    assert sharding.param_spec("up_LDF", cfg) == Spec(None, None, ("tensor", "fsdp"))


def test_every_parameter_letter_of_the_model_has_a_decision(tiny):
    """Each letter is in the table or is one of those that are never split."""
    for name in parameters.names(tiny):
        assert set(sharding.letters(name)) <= set(sharding.RULES) | set("LH"), name


# ---- meshes --------------------------------------------------------------------------------


def test_a_mesh_has_the_four_axes_written_out():
    _, mesh = mesh_of(2, 2, 2)
    assert mesh.axis_names == ("data", "fsdp", "context", "tensor")
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    assert mesh.axis_types == (AxisType.Auto,) * 4
    assert mesh.devices.ravel().tolist() == jax.devices()  # tensor neighbours are adjacent


def test_a_mesh_takes_all_devices_by_default():
    assert sharding.make_mesh(MeshConfig(1, 4, 2)).size == jax.device_count() == 8


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (4, 4, 1)])
def test_a_mesh_that_does_not_fit_is_refused_in_a_sentence(shape):
    wanted = np.prod(shape)
    with pytest.raises(ValueError) as error:
        sharding.make_mesh(MeshConfig(*shape))
    assert str(error.value) == (
        f"mesh {shape[0]} x {shape[1]} x {shape[2]} (data x fsdp x tensor) needs {wanted} devices "
        "and this job has 8; set mesh.data, mesh.fsdp and mesh.tensor so that their product is 8"
    )


class Chip(NamedTuple):
    """What a TPU device tells of itself."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v4"
    core_on_chip: int = 0
    process_index: int = 0


def chips(x, y, z, slices=1):
    """The chips of slices of that shape, by their coordinates, x running slowest: not as wired."""
    places = [(a, b, c) for a in range(x) for b in range(y) for c in range(z)]
    every = [(number, place) for number in range(slices) for place in places]
    return [Chip(i, place, number) for i, (number, place) in enumerate(every)]


def hops(a, b, shape):
    """Links between two chips of a torus: an axis of four or more closes to a ring."""
    ways = [abs(i - j) for i, j in zip(a.coords, b.coords, strict=True)]
    return sum(min(w, n - w) if n > 3 else w for w, n in zip(ways, shape, strict=True))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no backend 'foo'. (set JAX_PLATFORMS='' to"), "(no backend 'foo'.)"),
        (AssertionError(), "(no device)"),  # of a plugin without its device
        (RuntimeError("busy\nmore"), "(busy)"),
    ],
)
def test_a_platform_without_devices_is_refused_in_a_sentence(error, reason, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(ValueError) as refused:
        sharding.make_mesh(MeshConfig())
    assert str(refused.value) == (
        f"JAX cannot start with JAX_PLATFORMS=cpu {reason}: set it to cpu, unset it, or install "
        "the JAX of this machine, for cuda or tpu"
    )


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 1, 4), (4, 2, 2), (2, 4, 2)])
def test_on_tpus_neighbours_of_the_last_axis_are_neighbours_in_the_machine(shape):
    """Whatever the order in which JAX lists the devices."""
    devices = chips(4, 2, 2)
    mixed = [devices[i] for i in np.random.default_rng(0).permutation(16)]
    found = sharding._arrange(shape, mixed)
    assert found.shape == shape and sorted(d.id for d in found.ravel()) == list(range(16))
    for group in found.reshape(-1, shape[2]):
        most = max(hops(a, b, (4, 2, 2)) for a in group for b in group)
        assert most == (1 if shape[2] == 2 else 2)


def test_only_the_data_axis_goes_from_slice_to_slice():
    found = sharding._arrange((4, 2, 2), chips(2, 2, 2, slices=2))
    numbers = np.vectorize(lambda d: d.slice_index)(found)
    for inner in numbers.reshape(4, 4):
        assert len(set(inner)) == 1
    assert sorted(numbers[:, 0, 0]) == [0, 0, 1, 1]


def test_a_mesh_that_would_cross_slices_by_another_axis_is_refused():
    with pytest.raises(ValueError, match=r"mesh.data = 1 is not a multiple of the 2 slices.*of 2"):
        sharding._arrange((1, 16, 1), chips(2, 2, 2, slices=2))


@pytest.mark.tpu_aot
@pytest.mark.parametrize("topology, shape", [("v5e:4x4", (1, 8, 2)), ("v5p:2x2x4", (2, 2, 4))])
def test_meshes_of_real_topologies_hold_each_chip_once(topology, shape):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs a package: pip install libtpu")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = sharding.make_mesh(MeshConfig(*shape), devices)
    assert {d.id for d in mesh.devices.ravel()} == {d.id for d in devices}
    pairs = mesh.devices.reshape(-1, shape[2])[:, :2]
    assert all(sum(np.abs(np.subtract(a.coords, b.coords))) == 1 for a, b in pairs)


# ---- trees ---------------------------------------------------------------------------------


def test_a_tree_follows_the_names_of_parameters(tiny):
    cfg, mesh = mesh_of(2, 2, 2)
    params = parameters.abstract(tiny)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, mask=lambda p: dict.fromkeys(p, True))
    )
    tree = {"policy": params, "opt": jax.eval_shape(tx.init, params), "step": jnp.int32(0)}
    found = sharding.shard_tree(tree, mesh, cfg)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    adam = found["opt"][1][0]
    for part in (found["policy"], adam.mu, adam.nu):
        for name, leaf in part.items():
            assert leaf == NamedSharding(mesh, sharding.param_spec(name, cfg)), name
    assert found["policy"]["q_LDNH"].spec == Spec(None, ("fsdp",), ("tensor",))
    for leaf in (found["step"], adam.count):
        assert leaf == NamedSharding(mesh, Spec())


def test_a_tree_follows_the_innermost_name():
    cfg, mesh = mesh_of(2, 2, 2)
    tree = {"norm_D": {"gate_LDF": 0}, "gate_LDF": {"norm_D": 0, "count": 0}}
    found = sharding.shard_tree(tree, mesh, cfg)
    assert found["norm_D"]["gate_LDF"].spec == Spec(None, ("fsdp",), ("tensor",))
    assert found["gate_LDF"]["norm_D"].spec == Spec()


def test_a_leaf_below_a_parameter_name_follows_that_name():
    """A leaf follows the innermost dictionary key that ends in dimension letters."""
    cfg, mesh = mesh_of(2, 2, 2)
    found = sharding.shard_tree({"gate_LDF": {"value": 0}}, mesh, cfg)
    assert found["gate_LDF"]["value"].spec == Spec(None, ("fsdp",), ("tensor",))


def test_none_and_empty_trees_stay():
    cfg, mesh = mesh_of(1, 1, 1)
    assert sharding.shard_tree({"prm": None, "opt": ()}, mesh, cfg) == {"prm": None, "opt": ()}


# ---- divisibility --------------------------------------------------------------------------


def check(cfg, what="model", **changes):
    part = ModelConfig(**{"width": 32, "heads": 8, "kv_heads": 4, "head_size": 6} | changes)
    sharding.check_divides(part.sizes, parameters.names(part), cfg, what)


def test_sizes_that_divide_pass():
    check(MeshConfig(8, 1, 1))
    check(MeshConfig(2, 2, 2))
    check(MeshConfig(1, 32, 4))
    check(MeshConfig(7, 1, 1))  # rows are not the model's business


@pytest.mark.parametrize(
    "mesh, changes, letter, size, name, axis",
    [
        ((1, 1, 8), {}, "K", 4, "k_LDKH", "tensor"),
        ((1, 1, 3), {"vocab": 512}, "V", 512, "embed_VD", "tensor"),
        ((1, 3, 1), {}, "D", 32, "embed_VD", "fsdp"),
        ((1, 1, 4), {"feedforward": 42}, "F", 42, "gate_LDF", "tensor"),
    ],
)
def test_a_size_that_does_not_divide_is_refused_in_a_sentence(
    mesh, changes, letter, size, name, axis
):
    with pytest.raises(ValueError) as error:
        check(MeshConfig(*mesh), "verifier", **changes)
    width = MeshConfig(*mesh).axes[axis]
    assert str(error.value) == (
        f"verifier: dimension {letter} = {size} of {name} is not a multiple of mesh.{axis} = "
        f"{width}; change one of them, or replicate the letter with "
        f"mesh.letters={{{letter}: []}}"
    )


def test_the_way_out_that_the_sentence_offers_works():
    check(MeshConfig(1, 1, 8, letters={"K": ()}))
    with pytest.raises(ValueError, match="K = 4 of k_LDKH"):
        check(MeshConfig(1, 1, 8, letters={"F": ()}))


def test_a_letter_over_two_axes_needs_a_multiple_of_both():
    with pytest.raises(ValueError, match="F = 40"):
        check(MeshConfig(1, 4, 4, letters={"F": ("tensor", "fsdp"), "D": ()}), feedforward=40)


@pytest.mark.parametrize(
    "mesh, tensor, changes, why",
    [
        ((1, 8, 1), 3, {}, "must be a multiple of mesh.tensor = 1 and divide mesh.fsdp x"),
        ((1, 4, 2), 1, {}, "must be a multiple of mesh.tensor = 2"),
        ((1, 8, 1), 8, {"heads": 12}, "needs dimension N = 12 to be a multiple of 8"),
        ((1, 4, 2), 4, {"width": 36}, "needs dimension D = 36 to be a multiple of 8"),
        ((1, 8, 1), 2, {"heads": 12, "kv_heads": 3}, "neither a divisor nor a multiple"),
    ],
)
def test_a_decode_view_that_cannot_be_is_refused_in_a_sentence(mesh, tensor, changes, why):
    sizes = {"width": 32, "heads": 8, "kv_heads": 4, "head_size": 6}
    model = ModelConfig(**sizes | changes)
    with pytest.raises(ValueError, match=f"grm: decode_tensor = {tensor} .*{why}"):
        sharding.check_decode_view(model.sizes, tensor, MeshConfig(*mesh), "grm")


def test_a_decode_view_has_the_same_devices_in_the_same_order():
    mesh = mesh_of(2, 2, 2)[1]

    @jax.jit
    def split(x):
        with sharding.decode_view(4):
            assert sharding.data_shards() == 2 and sharding.tensor_shards() == 4
            return sharding.split_rows(x)

    with jax.set_mesh(mesh):
        halves = {shard.device: shard.data for shard in split(np.arange(8.0)).addressable_shards}
    for half, devices in enumerate(mesh.devices.reshape(2, 4)):
        for device in devices:
            np.testing.assert_array_equal(halves[device], np.arange(4.0) + 4 * half)


def test_an_override_is_as_good_as_the_table_on_real_devices(tiny):
    cfg, mesh = mesh_of(2, 2, 2, K=())
    layout = sharding.shard_tree(parameters.abstract(tiny), mesh, cfg)
    x = jax.device_put(np.zeros((3, 32, 4, 6), np.float32), layout["k_LDKH"])
    assert x.addressable_shards[0].data.shape == (3, 16, 4, 6)
    y = jax.device_put(np.zeros((3, 32, 8, 6), np.float32), layout["q_LDNH"])
    assert y.addressable_shards[0].data.shape == (3, 16, 4, 6)


# ---- rows ----------------------------------------------------------------------------------


def test_rows_are_placed_over_data_and_fsdp():
    _, mesh = mesh_of(2, 2, 2)
    ids, mask = np.arange(32, dtype=np.int32).reshape(8, 4), np.ones((8, 4), bool)
    placed = sharding.place_rows(Prompts(ids, mask, ids, mask), mesh)
    np.testing.assert_array_equal(placed.prompt_QP, ids)
    for x in jax.tree.leaves(placed):
        assert {s.data.shape for s in x.addressable_shards} == {(2, 4)}
    first = {tuple(np.asarray(s.data)[0]) for s in placed.prompt_QP.addressable_shards}
    assert len(first) == 4  # four different quarters, each on two devices


def test_constraints_do_nothing_without_a_mesh():
    x = jnp.arange(6.0).reshape(3, 2)
    assert sharding.split_rows(x) is x


def test_constraints_keep_the_values_and_set_the_layout():
    _, mesh = mesh_of(2, 2, 2)
    x = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    with jax.set_mesh(mesh):
        split = jax.jit(lambda x: sharding.split_rows(x * 1))(x)
    np.testing.assert_array_equal(split, x)
    assert {s.data.shape[0] for s in split.addressable_shards} == {2}


@pytest.mark.parametrize("axis", [0, 1, -1, -2, -4])
@pytest.mark.parametrize("shards", [1, 4])
def test_take_and_put_are_those_of_numpy_shard_by_shard(shards, axis):
    """Indices count within a shard; beyond its end take gives the last row, put does nothing."""
    rng = np.random.default_rng(shards)
    shape = (8, 12, 16, 4)
    x = rng.normal(size=shape).astype(np.float32)
    of_shard = shape[axis] // shards
    index = np.stack([rng.permutation(of_shard + 2) for _ in range(shards)]).astype(np.int32)
    picked = index.shape[1]
    blocks = np.split(x, shards, axis)
    want = [
        np.take(b, np.minimum(i, of_shard - 1), axis) for b, i in zip(blocks, index, strict=True)
    ]
    got = sharding.take(jnp.asarray(x), jnp.asarray(index), axis)
    np.testing.assert_array_equal(got, np.concatenate(want, axis))
    assert got.shape[axis] == shards * picked

    value = rng.normal(size=got.shape).astype(np.float32)
    result = x.copy()
    into = np.split(result, shards, axis)  # views
    for block, i, v in zip(into, index, np.split(value, shards, axis), strict=True):
        for at, row in enumerate(i):
            if row < of_shard:
                np.moveaxis(block, axis, 0)[row] = np.moveaxis(v, axis, 0)[at]
    got = sharding.put(jnp.asarray(x), jnp.asarray(index), jnp.asarray(value), axis)
    np.testing.assert_array_equal(got, result)


@pytest.mark.parametrize("shards", [1, 4])
def test_what_is_put_is_taken_and_the_rest_stays(shards):
    x = jnp.arange(12, dtype=jnp.int32)
    of_shard = 12 // shards
    index = jnp.broadcast_to(jnp.array([2, of_shard, of_shard + 7, 0], jnp.int32), (shards, 4))
    got = sharding.put(x, index, jnp.arange(100, 100 + 4 * shards, dtype=jnp.int32))
    want = np.arange(12)
    for shard in range(shards):
        want[shard * of_shard + 2] = 100 + 4 * shard
        want[shard * of_shard] = 103 + 4 * shard
    assert got.tolist() == want.tolist() and got.dtype == jnp.int32
    back = sharding.take(got, index).reshape(shards, 4)
    assert back[:, [0, 3]].tolist() == [[100 + 4 * s, 103 + 4 * s] for s in range(shards)]
    assert np.all(back[:, 1] == got.reshape(shards, -1)[:, -1])


def test_taking_and_putting_cross_no_shard_of_a_mesh():
    """On eight devices the program has no collective and gives the values of one device."""
    _, mesh = mesh_of(2, 2, 2)
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    index = np.array([[3, 1], [0, 4], [2, 2], [1, 0]], np.int32)
    want = sharding.take(x := jnp.asarray(x), jnp.asarray(index))
    rows = NamedSharding(mesh, Spec(sharding.ROWS))

    def both(x, index):
        taken = sharding.take(x, index)
        return taken, sharding.put(x, index, taken)

    with jax.set_mesh(mesh):
        assert sharding.data_shards() == 4
        placed = jax.device_put(x, rows), jax.device_put(index, rows)
        jitted = jax.jit(both, out_shardings=(rows, rows))
        text = jitted.lower(*placed).compile().as_text()
        taken, put = jitted(*placed)
    np.testing.assert_array_equal(taken, want)
    np.testing.assert_array_equal(put, x)
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in text
    assert sharding.data_shards() == 1
