"""FLOPs of products of matrices in HLO: a multiplication and an addition are two."""

import functools
import math
import re

from rlvr_jax.host.plans.hlo import Computation, Instruction

LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
WINDOW = re.compile(r"window=\{([^}]*)\}")
INNER = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


def flops(computation: Computation, instruction: Instruction) -> float:
    """Return the FLOPs of a dot or a convolution, the form that products have on a TPU."""
    left, right = (computation.instructions.get(name) for name in instruction.operands[:2])
    if left is None or right is None:
        return 0.0
    out, lhs, rhs = instruction.arrays[0].sizes, left.arrays[0].sizes, right.arrays[0].sizes
    if instruction.op == "dot":
        found = INNER.search(instruction.rest)
        inner = [int(d) for d in found.group(1).split(",") if d] if found else []
        return 2.0 * math.prod(out) * math.prod(lhs[d] for d in inner)
    return _convolution(instruction.rest, out, lhs, rhs)


def _convolution(
    rest: str, out: tuple[int, ...], lhs: tuple[int, ...], rhs: tuple[int, ...]
) -> float:
    """Return the FLOPs of a convolution.

    Batch dimensions of a product appear as spatial ones, with a window of which only one place
    falls on the input: places in the padding count nothing.
    """
    labels = LABELS.search(rest)
    if labels is None:
        return 0.0
    of_lhs, of_rhs, of_out = labels.groups()
    window = WINDOW.search(rest)
    given = dict(re.findall(r"(\w+)=([\dx_\-]+)", window.group(1) if window else ""))

    def option(key: str, number: int, default: int) -> int:
        if key not in given:
            return default
        return int(given[key].split("x")[number].split("_")[0])

    places = 1.0
    for letter in filter(str.isdigit, of_out):
        number = int(letter)
        places *= _places(
            lhs[of_lhs.index(letter)],
            rhs[of_rhs.index(letter)],
            out[of_out.index(letter)],
            option("pad", number, 0),
            option("stride", number, 1),
            option("lhs_dilate", number, 1),
            option("rhs_dilate", number, 1),
        )
    # With groups of features the kernel holds the inputs of one group only.
    rows = out[of_out.index("b")] * out[of_out.index("f")]
    return 2.0 * places * rows * rhs[of_rhs.index("i")]


@functools.lru_cache(4096)
def _places(
    size: int, kernel: int, out: int, low: int, stride: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """Return the pairs of an output place and a kernel place that fall on an input."""
    reach = (size - 1) * lhs_dilate
    found = 0
    for place in range(kernel):
        shift = place * rhs_dilate - low
        # Output places o with 0 <= o * stride + shift <= reach, on a multiple of the dilation.
        first = max(0, -(shift // stride))
        last = min(out - 1, (reach - shift) // stride)
        if lhs_dilate == 1:
            found += max(0, last - first + 1)
        else:
            found += sum((o * stride + shift) % lhs_dilate == 0 for o in range(first, last + 1))
    return found
