"""The time that a program needs at least: the largest of its times to compute, read and send.

    seconds = max(FLOPs / peak, HBM bytes / bandwidth, bytes sent / links)

This is the roofline of Williams, Waterman and Patterson (Communications of the ACM 52, 2009), with
the links as a third roof.  It assumes that the three overlap perfectly and that a single collective
can use all links of a chip, so that real programs take longer.
"""

from typing import NamedTuple

from rlvr_jax.host.plans.chips import Chip
from rlvr_jax.host.plans.traffic import Cost
from rlvr_jax.host.plans.wires import Wire

BOUNDS = ("compute", "HBM", "links")


class Time(NamedTuple):
    """A Time is how long the work of one device takes on each of its three parts, in seconds."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """Return the time of the slowest part."""
        return max(self)

    @property
    def bound(self) -> str:
        """Return the name of the slowest part."""
        return BOUNDS[self.index(max(self))]


def time_of(cost: Cost, chip: Chip) -> Time:
    """Return the times of a cost on a chip."""
    return Time(cost.flops / chip.flops, cost.bytes / chip.bandwidth, _send(cost.wires, chip))


def sent(wires: dict[Wire, float]) -> float:
    """Return the bytes that a device sends."""
    return sum(wire.sent * times for wire, times in wires.items())


def _send(wires: dict[Wire, float], chip: Chip) -> float:
    return sum(
        wire.sent * times / (chip.network if wire.far else chip.link)
        for wire, times in wires.items()
    )


class Work(NamedTuple):
    """A Work is what a step has to do, from sizes alone; parameters and tokens of all devices."""

    layers: float  # parameters in the layers that each token uses
    read: float  # parameters in the layers that the rows of a device use together
    head: float  # parameters of the output head
    kv_token: float  # bytes of keys and values of one token
    kv_heads: int
    item: int  # bytes of a number in compute dtype
    prompts: int  # Q
    rows: int  # B
    prompt_columns: int  # P
    columns: int  # R
    slots: int  # responses that are written at the same time, on all devices
    reads: int  # passes that read responses, forward only
    learns: int  # passes forward and backward
    remat: bool


class Split(NamedTuple):
    """A Split is a mesh: over how many devices rows are split, and over how many a weight."""

    data: int
    fsdp: int
    tensor: int

    @property
    def devices(self) -> int:
        """Return the number of devices."""
        return self.data * self.fsdp * self.tensor

    @property
    def shards(self) -> int:
        """Return the number of shards of rows."""
        return self.data * self.fsdp


def cache_bytes(work: Work, split: Split, columns: float) -> float:
    """Return the bytes of keys and values of so many columns of each slot, and of the prompts.

    `split` is that of decoding.  Devices that are more than the kv heads hold copies of them.
    """
    rows = work.slots / split.shards
    prompts = rows * work.prompts / work.rows
    tokens = rows * columns + prompts * work.prompt_columns
    return tokens * work.kv_token / min(split.tensor, work.kv_heads)


def needed_column_bytes(work: Work, split: Split) -> float:
    """Return the HBM bytes that a column of decoding has to read on a device.

    These are the weights once, and the keys and values that exist, which is half of the budget on
    average.  A prompt is read once for all its responses.  `split` is that of decoding.
    """
    weights = (work.read + work.head) * work.item / split.tensor
    return weights + cache_bytes(work, split, work.columns / 2)


def ideal_step(work: Work, split: Split, decode: Split, chip: Chip) -> float:
    """Return the seconds of a step from sizes alone, to choose what is worth compiling.

    `split` is that of reading and learning, `decode` that of decoding.
    """
    waves = -(-work.rows // work.slots)
    column = needed_column_bytes(work, decode) / chip.bandwidth
    columns = waves * work.columns
    tokens = work.prompts * work.prompt_columns + work.rows * work.columns
    forward = 2 * (work.layers + work.head) * tokens
    passes = work.reads + work.learns * (4 if work.remat else 3)
    compute = forward * passes / (chip.flops * split.devices)
    gathered = (work.read + work.head) * work.item / split.tensor
    share = (split.fsdp - 1) / split.fsdp
    links = gathered * share * (work.reads + 4 * work.learns) / chip.link
    width = (work.layers + work.head) ** 0.5  # a size of the order of an activation's row
    spread = 2 * width * work.item * tokens / split.shards * (split.tensor - 1) / split.tensor
    links += spread * passes / chip.link
    return columns * column + max(compute, links)
