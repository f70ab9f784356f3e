"""Collectives: who takes part, and what each device sends."""

import pytest

from rlvr_jax.host.plans import hlo
from rlvr_jax.host.plans.wires import Wire, read_group, read_wire

MESH = {"data": 2, "fsdp": 4, "tensor": 2}


def instruction(op, kind, rest, operands=("x",)):
    return hlo.Instruction("c", kind, op, list(operands), rest)


@pytest.mark.parametrize(
    "rest, group, axes",
    [
        ("replica_groups=[8,2]<=[16], dims", (0, 1), ("tensor",)),
        ("replica_groups=[4,4]<=[2,4,2]T(0,2,1)", (0, 2, 4, 6), ("fsdp",)),
        ("replica_groups=[8,2]<=[2,8]T(1,0), x", (0, 8), ("data",)),
        ("replica_groups=[2,8]<=[16]", tuple(range(8)), ("fsdp", "tensor")),
        ("replica_groups={{0,8},{1,9}}, x", (0, 8), ("data",)),
        ("replica_groups={}, x", tuple(range(16)), ("data", "fsdp", "tensor")),
        ("replica_groups=mesh['a'=2,'b'=8] {'a'}, x", (0, 8), ("data",)),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=2] {'a','c'}, x", (0, 1, 8, 9), ("data", "tensor")),
        ("source_target_pairs={{0,2},{2,4}}", (0, 2), ("fsdp",)),
    ],
)
def test_groups_and_their_axes(rest, group, axes):
    assert read_group(rest, MESH) == group
    assert read_wire(instruction("all-gather", "f32[8]", rest), MESH, 0).axes == axes


@pytest.mark.parametrize(
    "kind, sent",
    [
        ("all-gather", 3 / 4 * 4096),  # three of four parts arrive and are passed on
        ("all-reduce", 2 * 3 / 4 * 4096),  # a reduce-scatter and an all-gather
        ("reduce-scatter", 3 * 4096),  # of an array of four times what it gives
        ("all-to-all", 3 / 4 * 4096),
        ("collective-permute", 4096),
    ],
)
def test_bytes_that_a_device_sends(kind, sent):
    wire = read_wire(
        instruction(kind, "f32[1024]{0}", "replica_groups=[4,4]<=[2,4,2]T(0,2,1)"), MESH, 0
    )
    assert wire.sent == sent and wire.bytes == 4096 and wire.devices == 4


def test_one_device_sends_nothing():
    assert Wire("all-reduce", 100.0, "", 1, (), False).sent == 0


def test_started_collectives_are_counted_once_by_their_results():
    rest = "replica_groups=[8,2]<=[16]"
    begun = instruction("all-gather-start", "(f32[8]{0}, f32[16]{0})", rest)
    assert read_wire(begun, MESH, 0).bytes == 64
    reduced = instruction("all-reduce-start", "f32[16]{0}", rest)
    assert read_wire(reduced, MESH, 0).bytes == 64
    assert read_wire(instruction("all-gather-done", "f32[16]{0}", ""), MESH, 0) is None
    assert read_wire(instruction("add", "f32[16]{0}", ""), MESH, 0) is None


def test_a_group_that_leaves_a_host_is_far():
    rest = "replica_groups=[8,2]<=[2,8]T(1,0)"  # 0 and 8
    assert read_wire(instruction("all-reduce", "f32[4]", rest), MESH, 8).far
    assert not read_wire(instruction("all-reduce", "f32[4]", rest), MESH, 16).far
    assert not read_wire(instruction("all-reduce", "f32[4]", rest), MESH, 0).far
