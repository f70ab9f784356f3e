"""What vendors publish about their chips, and what a chip costs for an hour.

Rates are of one chip and per second.  A GB is 1e9 bytes where a vendor says GB.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A Chip is what one device can hold, compute and move."""

    name: str
    platform: str  # tpu or gpu
    hbm: float  # bytes that a program may use
    flops: float  # of products in bfloat16, dense
    bandwidth: float  # bytes of HBM
    link: float  # bytes that the fast links carry away from a chip, all of them together
    network: float  # bytes between groups of chips that fast links connect
    together: int  # chips that fast links connect; 0: all of a slice
    price: float  # dollars for an hour, on demand, without a contract


# TPU: https://docs.cloud.google.com/tpu/docs/v5e, .../v5p and .../v6e: peak compute (bf16), HBM
# bandwidth, half of the bidirectional inter-chip (ICI) bandwidth.  `hbm` is what libtpu
# lets a program use of 16, 95 and 32 GB, as its errors say: the rest is its own.  The network is
# that of a host divided by its chips: 2 x 100 Gbps for 8 (v5e), 200 Gbps for 4 (v5p) and 8 (v6e).
# GPU: https://www.nvidia.com/en-us/data-center/h100/, .../h200/ and .../a100/ (SXM): memory, dense
# bfloat16 (half of the rate with sparsity), memory bandwidth, half of the NVLink bandwidth.  The
# network is one adapter of 400 Gbps a GPU (DGX H100, H200) or 200 Gbps (DGX A100).
# Prices are on demand, in a region of the United States; they differ by region and change, and a
# file replaces them: https://cloud.google.com/tpu/pricing, https://cloud.google.com/compute/all-pricing
# (machines of 8 GPUs divided by 8).
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", "tpu", 15.75 * GIB, 197e12, 819e9, 200e9, 3.1e9, 0, 1.20),
        Chip("v5p", "tpu", 95.74 * GIB, 459e12, 2765e9, 600e9, 6.3e9, 0, 4.20),
        Chip("v6e", "tpu", 31.25 * GIB, 918e12, 1638e9, 400e9, 3.1e9, 0, 2.70),
        Chip("a100", "gpu", 80e9, 312e12, 2039e9, 300e9, 25e9, 8, 5.07),
        Chip("h100", "gpu", 80e9, 989e12, 3350e9, 450e9, 50e9, 8, 11.06),
        Chip("h200", "gpu", 141e9, 989e12, 4800e9, 450e9, 50e9, 8, 10.60),
    )
}
FORM = "write v5e:4x4, v5p:2x2x4, v6e:2x4 or h100:8"


@dataclass(frozen=True)
class Topology:
    """A Topology is a number of chips of one kind, and for a TPU the shape of its slice."""

    name: str  # as the user wrote it
    chip: Chip
    sizes: tuple[int, ...]

    @property
    def devices(self) -> int:
        """Return the number of devices; each chip of `CHIPS` is one."""
        return math.prod(self.sizes)


def parse_topology(text: str) -> Topology:
    """Parse a topology such as `v5e:4x4` or `h100:8`.

    Raises:
      ValueError: there is no such chip, or the shape cannot be read; the message is a sentence.
    """
    kind, colon, shape = text.strip().lower().partition(":")
    if kind not in CHIPS:
        known = ", ".join(CHIPS)
        raise ValueError(
            f"topology {text!r}: {kind!r} is no chip with known data ({known}); {FORM}"
        )
    if not colon or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){0,2}", shape):
        raise ValueError(f"topology {text!r} gives no shape of a slice: {FORM}")
    sizes = tuple(int(n) for n in shape.split("x"))
    chip = CHIPS[kind]
    if chip.platform == "tpu" and len(sizes) == 1:
        raise ValueError(f"topology {text!r}: the shape of a slice has two or three sizes: {FORM}")
    if chip.platform == "gpu" and len(sizes) > 1:
        raise ValueError(f"topology {text!r}: GPUs have a number and no shape: {FORM}")
    if math.prod(sizes) > 16384:
        raise ValueError(f"topology {text!r} has {math.prod(sizes)} chips: nobody rents so many")
    return Topology(f"{kind}:{shape}", chip, sizes)


def load_prices(path: Path) -> dict[str, float]:
    """Load dollars per chip hour from a YAML file, `{v5e: 1.2, h100: 3}`.

    Raises:
      ValueError: the file cannot be read, names no chip of `CHIPS`, or a price is no number.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot read the prices in {path}: {reason}") from None
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path} must hold dollars per chip hour, such as `v5e: 1.2`")
    for name, price in tree.items():
        if name not in CHIPS:
            raise ValueError(f"{path}: {name!r} is no chip with known data ({', '.join(CHIPS)})")
        fit = isinstance(price, int | float) and not isinstance(price, bool)
        if not fit or not 0 <= price < math.inf:
            raise ValueError(f"{path}: the price of {name} is {price!r}, not dollars per hour")
    return {name: float(price) for name, price in tree.items()}
