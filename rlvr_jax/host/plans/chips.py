"""What vendors publish about their chips, what a chip costs for an hour, and how slices are named.

Rates are of one chip and per second.  A GB is 1e9 bytes where a vendor says GB.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlvr_jax.host.runs.config_text import ConfigError, parse_yaml, read_config

GIB = 2**30
# Of a GPU's memory, what JAX takes at its start: https://docs.jax.dev/en/latest/gpu_memory_allocation.html
GPU_SHARE = 0.75


@dataclass(frozen=True)
class Chip:
    """A Chip is what one device can hold, compute and move."""

    name: str
    platform: str  # tpu or gpu
    hbm: float  # bytes that a program may use
    flops: float  # of products in bfloat16, dense
    bandwidth: float  # bytes of HBM
    link: float  # bytes that the fast links carry away from a chip, all of them together
    price: float  # dollars for an hour, on demand, without a contract
    together: int = 0  # chips that fast links connect; 0: all of a slice
    network: float = 0.0  # bytes between groups of chips that fast links connect


# TPU: https://docs.cloud.google.com/tpu/docs/v5e, .../v5p and .../v6e: peak compute (bf16), HBM
# bandwidth, half of the bidirectional inter-chip (ICI) bandwidth.  `hbm` is what libtpu
# lets a program use of 16, 95 and 32 GB, as its errors say: the rest is its own.
# GPU: https://www.nvidia.com/en-us/data-center/h100/, .../h200/, .../a100/ (SXM) and .../dgx-b200/:
# memory, dense bfloat16 (half of the rate with sparsity), memory bandwidth, half of the NVLink
# bandwidth.  The network is one adapter of 400 Gbps a GPU, or 200 Gbps (DGX A100).
# Prices are on demand, in a region of the United States; they differ by region and change, and a
# file replaces them: https://cloud.google.com/tpu/pricing, https://cloud.google.com/compute/all-pricing
# and, for b200, https://aws.amazon.com/ec2/pricing/on-demand (machines of 8 GPUs divided by 8).
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", "tpu", 15.75 * GIB, 197e12, 819e9, 200e9, 1.20),
        Chip("v5p", "tpu", 95.74 * GIB, 459e12, 2765e9, 600e9, 4.20),
        Chip("v6e", "tpu", 31.25 * GIB, 918e12, 1638e9, 400e9, 2.70),
        Chip("a100", "gpu", GPU_SHARE * 80e9, 312e12, 2039e9, 300e9, 5.07, 8, 25e9),
        Chip("h100", "gpu", GPU_SHARE * 80e9, 989e12, 3350e9, 450e9, 11.06, 8, 50e9),
        Chip("h200", "gpu", GPU_SHARE * 141e9, 989e12, 4800e9, 450e9, 10.60, 8, 50e9),
        Chip("b200", "gpu", GPU_SHARE * 180e9, 2250e12, 8000e9, 900e9, 14.24, 8, 50e9),
    )
}
FORM = "write v5e:4x4, v5p:2x2x4, v6e:2x4, h100:8, or h100:2x8 for nodes x GPUs of a node"
MOST = 16384  # chips of a slice: more is a mistake


@dataclass(frozen=True)
class Topology:
    """A Topology is a number of chips of one kind.

    `sizes` is the shape of a TPU slice, the number of GPUs, or nodes and GPUs of a node.
    """

    name: str  # in lower case
    chip: Chip
    sizes: tuple[int, ...]

    @property
    def devices(self) -> int:
        """Return the number of devices; each chip of `CHIPS` is one."""
        return math.prod(self.sizes)

    @property
    def together(self) -> int:
        """Return the number of chips that fast links connect; 0: all."""
        nodes = self.chip.platform == "gpu" and len(self.sizes) == 2
        return self.sizes[1] if nodes else self.chip.together


def parse_topology(text: str) -> Topology:
    """Parse a topology such as `v5e:4x4`, `h100:8` or `h100:2x8`, in letters of any case.

    Raises:
      ValueError: there is no such chip, or the shape cannot be read; the message is a sentence.
    """
    kind, colon, shape = text.strip().lower().partition(":")
    if kind not in CHIPS:
        known = ", ".join(CHIPS)
        raise ValueError(
            f"topology {text!r}: {kind!r} is no chip with known data ({known}); {FORM}"
        )
    if not colon or not re.fullmatch(r"[1-9][0-9]{0,5}(x[1-9][0-9]{0,5}){0,2}", shape):
        raise ValueError(f"topology {text!r} gives no shape of a slice: {FORM}")
    sizes = tuple(int(n) for n in shape.split("x"))
    chip = CHIPS[kind]
    if chip.platform == "tpu" and len(sizes) == 1:
        raise ValueError(f"topology {text!r}: the shape of a slice has two or three sizes: {FORM}")
    if chip.platform == "gpu" and (len(sizes) > 2 or sizes[1:] > (chip.together,)):
        raise ValueError(f"topology {text!r}: a node has at most {chip.together} GPUs: {FORM}")
    if math.prod(sizes) > MOST:
        raise ValueError(f"topology {text!r} has {math.prod(sizes)} chips: nobody rents so many")
    return Topology(f"{kind}:{shape}", chip, sizes)


def load_prices(path: Path) -> dict[str, float]:
    """Load dollars per chip hour from a YAML file, `{v5e: 1.2, h100: 3}`.

    Raises:
      ValueError: the file cannot be read, names no chip of `CHIPS`, or a price is no number.
    """
    try:
        tree = parse_yaml(read_config(path))
    except ConfigError as error:
        raise ValueError(f"cannot read the prices in {path}: {error}") from None
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path} must hold dollars per chip hour, such as `v5e: 1.2`")
    for name, price in tree.items():
        if name not in CHIPS:
            raise ValueError(f"{path}: {name!r} is no chip with known data ({', '.join(CHIPS)})")
        fit = isinstance(price, int | float) and not isinstance(price, bool)
        if not fit or not 0 <= price < math.inf:
            raise ValueError(f"{path}: the price of {name} is {price!r}, not dollars per hour")
    return {name: float(price) for name, price in tree.items()}
