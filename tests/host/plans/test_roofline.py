"""Arithmetic of the roofline, by hand."""

import pytest

from rlvr_jax.host.plans import roofline
from rlvr_jax.host.plans.chips import Chip
from rlvr_jax.host.plans.roofline import Split, Work
from rlvr_jax.host.plans.traffic import Cost
from rlvr_jax.host.plans.wires import Wire

CHIP = Chip(
    "c", "tpu", 1e9, flops=100.0, bandwidth=10.0, link=2.0, network=0.5, together=0, price=1
)
NEAR = Wire("collective-permute", 6.0, "", 2, ("fsdp",), False)
FAR = Wire("collective-permute", 3.0, "", 2, ("data",), True)


def test_the_slowest_part_decides():
    time = roofline.time_of(Cost(flops=500, bytes=20, wires={NEAR: 1}), CHIP)
    assert time == (5, 2, 3) and time.seconds == 5 and time.bound == "compute"
    assert roofline.time_of(Cost(flops=100, bytes=20), CHIP).bound == "HBM"
    time = roofline.time_of(Cost(flops=100, bytes=20, wires={NEAR: 2, FAR: 1}), CHIP)
    assert time.links == 2 * 6 / 2 + 3 / 0.5 and time.bound == "links"
    assert roofline.sent({NEAR: 2, FAR: 1}) == 15


WORK = Work(
    layers=1000,
    read=1000,
    head=100,
    kv_token=8,
    kv_heads=4,
    item=2,
    prompts=4,
    rows=16,
    prompt_columns=10,
    columns=20,
    slots=16,
    reads=1,
    learns=1,
    remat=False,
)


@pytest.mark.parametrize("split, rows, tensor", [((1, 1, 1), 16, 1), ((2, 2, 2), 4, 2)])
def test_a_column_reads_weights_and_the_cache_in_use(split, rows, tensor):
    weights = 1100 * 2 / tensor
    own = rows * 10 * 8 / tensor  # half of 20 columns on average
    prompts = rows / 4 * 10 * 8 / tensor  # four responses share a prompt
    assert roofline.needed_column_bytes(WORK, Split(*split)) == weights + own + prompts


def test_more_devices_than_kv_heads_hold_copies_of_the_cache():
    four, eight = (roofline.cache_bytes(WORK, Split(1, 1, n), 20) for n in (4, 8))
    assert four == eight == (16 * 20 + 4 * 10) * 8 / 4


def test_fewer_slots_read_the_weights_more_often():
    few = WORK._replace(slots=4)
    one = Split(1, 1, 1)
    assert roofline.needed_column_bytes(few, one) < roofline.needed_column_bytes(WORK, one)
    assert roofline.ideal_step(few, one, one, CHIP) > roofline.ideal_step(WORK, one, one, CHIP)


def test_an_ideal_step():
    columns = 20 * roofline.needed_column_bytes(WORK, Split(1, 1, 1)) / 10
    tokens = 4 * 10 + 16 * 20
    compute = 2 * 1100 * tokens * (1 + 3) / 100  # a read, and forward and backward
    one, four = Split(1, 1, 1), Split(4, 1, 1)
    assert roofline.ideal_step(WORK, one, one, CHIP) == pytest.approx(columns + compute)
    recomputed = roofline.ideal_step(WORK._replace(remat=True), one, one, CHIP)
    assert recomputed == pytest.approx(columns + compute * 5 / 4)
    assert roofline.ideal_step(WORK, four, four, CHIP) < columns + compute
