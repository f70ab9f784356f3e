"""Hosts and chips of topologies, against the vendor's tables and against counting."""

import itertools
import math

import pytest

from rlvr_jax.host.launching.slices import FLAT, PARTS_OF_A_CUBE, find_slice

# Topology, accelerator type, hosts, chips of a host: rows of the pages that slices.py names.
ROWS = """
v5e:1x1 v5litepod-1 1 1
v5e:2x2 v5litepod-4 1 4
v5e:2x4 v5litepod-8 1 8
v5e:4x4 v5litepod-16 4 4
v5e:16x16 v5litepod-256 64 4
v6e:1x1 v6e-1 1 1
v6e:2x4 v6e-8 1 8
v6e:4x4 v6e-16 4 4
v6e:8x8 v6e-64 16 4
v5p:2x2x1 v5p-8 1 4
v5p:2x2x2 v5p-16 2 4
v5p:2x2x4 v5p-32 4 4
v5p:4x4x4 v5p-128 16 4
v5p:16x16x24 v5p-12288 1536 4
"""


@pytest.mark.parametrize("row", ROWS.split("\n")[1:-1])
def test_the_rows_of_the_tables(row):
    text, kind, hosts, chips = row.split()
    found = find_slice(text)
    assert (found.accelerator_type, found.hosts, found.chips_per_host) == (
        *(kind, int(hosts)),
        int(chips),
    )


def test_hosts_hold_all_chips_and_no_more():
    cubes = [f"{a}x{b}x{c}" for a, b, c in itertools.product(range(4, 33, 4), repeat=3)]
    known = [f"{chip}:{shape}" for chip in ("v5e", "v6e") for shape in FLAT]
    good = [
        f"v5p:{x}" for x in cubes if sorted(map(int, x.split("x"))) == [*map(int, x.split("x"))]
    ]
    small = [x for x in good if math.prod(map(int, x[4:].split("x"))) <= 140 * 64]
    for text in [*known, *(f"v5p:{x}" for x in PARTS_OF_A_CUBE), *small]:
        found = find_slice(text)
        chips = math.prod(map(int, found.topology.split("x")))
        assert found.hosts * found.chips_per_host == chips
        assert found.chips_per_host in (1, 4, 8)
        assert found.hosts == 1 or found.chips_per_host == 4
    for text in set(good) - set(small):
        with pytest.raises(ValueError, match="at most 8960 chips|nobody rents so many"):
            find_slice(text)


def test_nodes_of_gpus():
    assert find_slice("H100:16x8") == (found := find_slice("h100:16x8"))
    assert (found.hosts, found.chips_per_host, found.tpu) == (16, 8, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v4:2x2x1", "'v4' is no chip with known data .v5e, v5p, v6e"),
        ("", "'' is no chip"),
        ("v5e", "gives no shape of a slice"),
        ("v5e:3x3", "v5e has the topologies 1x1, 2x2, 2x4"),
        ("v5p:04x04x04", "gives no shape"),
        ("v5p:4x4x\u0664", "gives no shape"),
        ("v5e:4x2", "v5e has the topologies"),
        ("v6e:4x4x4", "v6e has the topologies"),
        ("v5p:4x4", "v5p has 2x2x1"),
        ("v5p:8x4x4", "A <= B <= C"),
        ("v5p:0x4x4", "gives no shape"),
        ("v5p:4x4x6", "multiples of 4"),
        ("h100:2x9", "a node has at most 8 GPUs"),
        ("h100:0x8", "nodes x GPUs of a node"),
        ("h100:8", "nodes x GPUs of a node"),
    ],
)
def test_what_there_is_not_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        find_slice(text)
