"""The answer of a plan: does a stage fit, what does it move, how long does a step take.

Sizes are bytes on one device, times are seconds.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from rlvr_jax.host.plans.chips import GIB, Topology
from rlvr_jax.host.plans.roofline import Time
from rlvr_jax.host.plans.traffic import Big

HINTS = 3  # ways to need less memory that are named


@dataclass(frozen=True)
class LoopAnswer:
    """A LoopAnswer is a loop of a program: how often it runs, and what one pass costs."""

    name: str
    passes: int
    flops: float
    bytes: float
    sent: float
    time: Time


@dataclass(frozen=True)
class WireAnswer:
    """A WireAnswer is all collectives of a program of one kind and over the same devices."""

    kind: str
    axes: str  # of the mesh
    devices: int
    hop: str  # the links that it takes
    times: float
    sent: float
    largest: float
    shape: str  # of the largest
    in_loops: bool


@dataclass(frozen=True)
class ProgramAnswer:
    """A ProgramAnswer is what the compiler says about one program."""

    name: str
    peak: float  # all that is in memory while it runs
    arguments: float
    temporaries: float
    elsewhere: float  # what is in memory all the time, and no argument of this program
    parts: dict[str, float] = field(default_factory=dict)  # of the peak, as far as it is known
    largest: tuple[Big, ...] = ()
    flops: float = 0.0
    bytes: float = 0.0
    sent: float = 0.0
    time: Time = Time(0.0, 0.0, 0.0)
    seconds: float = 0.0  # of a step: runs * the sum of its loops
    runs: int = 1  # in a step
    wires: tuple[WireAnswer, ...] = ()
    kernels: dict[str, int] = field(default_factory=dict)
    loops: tuple[LoopAnswer, ...] = ()
    # Loops that are counted once, because nothing says how often they run: line -> how many.
    unknown: dict[str, int] = field(default_factory=dict)
    compile_seconds: float = 0.0
    refused: str = ""  # why the compiler did not make it: its own words


@dataclass(frozen=True)
class Answer:
    """An Answer is what a plan says about a stage on a slice."""

    config: str
    stage: str
    topology: Topology
    mesh: dict[str, int]
    models: dict[str, str]  # weights -> where their sizes are from
    programs: tuple[ProgramAnswer, ...]
    tokens: int  # response tokens of a step, if all are full
    price: float  # dollars for an hour of a chip
    needed_column: float = 0.0  # bytes that a column of decoding has to read
    quick: bool = False
    estimate: bool = False
    hints: tuple[str, ...] = ()  # overrides that need less memory
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> float:
        """Return the most memory that any program needs."""
        return max((program.peak for program in self.programs), default=0.0)

    @property
    def fits(self) -> bool:
        """Return whether all programs fit."""
        refused = any(program.refused for program in self.programs)
        return not refused and self.peak <= self.topology.chip.hbm

    @property
    def free(self) -> float:
        """Return the share of the memory that stays free."""
        return 1 - self.peak / self.topology.chip.hbm

    @property
    def step_seconds(self) -> float:
        """Return the predicted time of a step on the devices, if all responses are full."""
        return sum(program.seconds for program in self.programs)

    @property
    def tokens_per_second(self) -> float:
        """Return response tokens for each second and chip."""
        if not self.step_seconds:
            return 0.0
        return self.tokens / self.step_seconds / self.topology.devices

    @property
    def dollars_per_million(self) -> float:
        """Return the dollars that a million response tokens cost."""
        speed = self.tokens_per_second
        return self.price / 3600 / speed * 1e6 if speed else 0.0

    @property
    def verdict(self) -> str:
        """Return the answer in a sentence."""
        if self.fits:
            estimate = " (an estimate)" if self.estimate else ""
            return f"fits with {100 * self.free:.0f} % free{estimate}"
        worst = max(self.programs, key=lambda program: program.peak)
        largest = [f"{big.bytes / 1e9:.2f} GB {big.shape} {big.where}" for big in worst.largest[:3]]
        text = f"does not fit: {worst.name} needs {worst.peak / 1e9:.1f} GB of "
        text += f"{self.topology.chip.hbm / 1e9:.1f}"
        if largest:
            text += f"; the largest are {', '.join(largest)}"
        if self.hints:
            text += f"; try {', or '.join(self.hints[:HINTS])}"
        return text

    def tree(self) -> dict[str, Any]:
        """Return the answer as plain values, for JSON; what does not fit has no time and cost."""
        tree = dataclasses.asdict(self)
        tree["topology"] = self.topology.name
        tree["chip"] = dataclasses.asdict(self.topology.chip)
        for kept, program in zip(tree["programs"], self.programs, strict=True):
            kept["largest"] = [big._asdict() for big in program.largest]
            kept["time"] = program.time._asdict() | {"bound": program.time.bound}
            for loop, of in zip(kept["loops"], program.loops, strict=True):
                loop["time"] = of.time._asdict() | {"bound": of.time.bound}
        tree |= {name: getattr(self, name) for name in ("peak", "fits", "free", "verdict")}
        for name in ("step_seconds", "tokens_per_second", "dollars_per_million"):
            tree[name] = getattr(self, name) if self.fits else None
        return tree


# ---- what libtpu says where a program does not fit ---------------------------------------------

UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
NEEDS = re.compile(
    r"Used ([\d.]+)([BKMGT]?) of [\d.]+[BKMGT]? hbm"
    r"|total memory required for HLO temporaries \(([\d.]+)([BKMGT]?)\)"
)


def parse_refusal(text: str) -> tuple[float, list[Big]] | None:
    """Return the bytes that a program needs and its largest arrays, from libtpu's error.

    What libtpu calls temporaries in the shorter of its two messages are arguments, results and
    temporaries together.  None if the text is another error.
    """
    needs = NEEDS.search(text)
    if needs is None:
        return None
    number, unit = needs.group(1, 2) if needs.group(1) else needs.group(3, 4)
    found: dict[str, Big] = {}
    for part in re.split(r"\n\s*={3,}\s*\n|\n\s*\d+\. (?=Size)", text):
        size = re.search(r"Size: ([\d.]+)([BKMGT]?)", part)
        shape = re.search(r"Shape: ([a-z]\w*\[[\d,]*\])", part)
        if size is None or shape is None:
            continue
        source = re.search(r'source_file="([^"]*)" source_line=(\d+)', part)
        scope = re.search(r'op_name="([^"]*)"', part)
        where = f"{source.group(1).rpartition('/')[2]}:{source.group(2)}" if source else ""
        where = where or (scope.group(1)[-80:] if scope else "")
        key = shape.group(1)
        count = found[key].times + 1 if key in found else 1
        where = found[key].where if key in found else where
        found[key] = Big(float(size.group(1)) * UNITS[size.group(2)], key, count, where)
    largest = sorted(found.values(), key=lambda big: -big.bytes)
    return float(number) * UNITS[unit], largest
