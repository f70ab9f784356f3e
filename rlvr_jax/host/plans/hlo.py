"""A parser of optimised HLO text, the form in which XLA prints a compiled program.

    module = parse_module(compiled.as_text())
    module.computations[module.entry].instructions

The text has computations, which have one instruction a line.  Only what `plan` needs is kept:
types, operands, called computations, and the lines of source that an instruction comes from.
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "bf16": 16, "c64": 64, "c128": 128}
SHAPE = re.compile(r"\b(pred|bf16|f8\w+|f4\w+|[sufc]\d+)\[([\d,]*)\](\{[^{}]*\})?")
SPACE = re.compile(r"S\([1-9]\d*\)")  # of a layout: on-chip memory, or that of the host
NAME = re.compile(r"%([\w.\-]+)")
BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
CALLED = re.compile(r"\b(?:true_computation|false_computation|to_apply|calls)=%?([\w.\-]+)")
TRIPS = re.compile(r'"?known_trip_count"?\s*:\s*\{\s*"?n"?\s*:\s*"?(\d+)')
PASSES = re.compile(r"(?:passes|rounds)_(\d+)/while$")
BATCH = re.compile(r"passes_\d+/while$")  # a loop over parts of a batch, or over columns
COUNTER = re.compile(r"[su]\d+\[\]")
ENTRY = re.compile(r"^(\d+) (.*)$")
FIELD = re.compile(r"(\w+)=(\d+)")


class Array(NamedTuple):
    """An Array is the type of one array: its element type, its sizes, and where it lies."""

    kind: str
    sizes: tuple[int, ...]
    in_hbm: bool  # not in on-chip memory, and not on the host

    @property
    def bytes(self) -> float:
        """Return the bytes that its elements take."""
        digits = re.sub(r"\D", "", self.kind.split("e")[0])
        bits = BITS.get(self.kind) or int(digits or 8)
        return math.prod(self.sizes) * bits / 8

    def __str__(self) -> str:
        return f"{self.kind}[{','.join(map(str, self.sizes))}]"


class Line(NamedTuple):
    """A Line is a place in source code."""

    file: str
    function: str
    line: int


@dataclass
class Instruction:
    """An Instruction is one operation: what it makes, from what, and how."""

    name: str
    type: str
    op: str
    operands: list[str]
    rest: str  # attributes and metadata, as printed
    literal: str = ""  # of a constant its value, of a parameter its number
    root: bool = False

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """Return the arrays that it makes; a tuple has several."""
        return parse_type(self.type)

    @property
    def results(self) -> tuple[Array, ...]:
        """Return the arrays that it makes, without operands that the type of a start repeats.

        That type is (operands, results, ...), but for a copy (where it goes, where it comes from,
        ...), and for an all-reduce the results alone.
        """
        arrays, count = self.arrays, len(self.operands)
        if self.op == "copy-start":
            return arrays[:1]
        if not self.op.endswith("-start") or len(arrays) == 1 or self.op == "all-reduce-start":
            return arrays
        return arrays[count : 2 * count]

    @property
    def bytes(self) -> float:
        """Return the bytes of all arrays that it makes."""
        return sum(array.bytes for array in self.arrays)

    @property
    def hbm_bytes(self) -> float:
        """Return the bytes of those arrays that lie in HBM."""
        return sum(array.bytes for array in self.arrays if array.in_hbm)

    def attribute(self, key: str) -> str:
        """Return the computation or word that an attribute names; "" without one."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.rest)
        return found.group(1) if found else ""

    @property
    def scope(self) -> str:
        """Return the path of named scopes and functions that it was traced in."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return found.group(1) if found else ""

    @property
    def called(self) -> list[str]:
        """Return the computations that it calls, without body and condition of a loop."""
        names = CALLED.findall(self.rest)
        for many in BRANCHES.findall(self.rest):
            names += [name.strip().lstrip("%") for name in many.split(",")]
        return names


@dataclass
class Computation:
    """A Computation is a list of instructions in the order in which they run."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction | None:
        """Return the instruction whose value is that of the computation."""
        return next((i for i in self.instructions.values() if i.root), None)

    def parameter(self, number: int) -> Instruction | None:
        """Return the parameter of a number."""
        for instruction in self.instructions.values():
            if instruction.op == "parameter" and instruction.literal == str(number):
                return instruction
        return None

    def users(self, name: str) -> Iterator[Instruction]:
        """Yield the instructions that read the value of an instruction."""
        return (i for i in self.instructions.values() if name in i.operands)


@dataclass
class Module:
    """A Module is a whole program."""

    computations: dict[str, Computation] = field(default_factory=dict)
    entry: str = ""
    tables: dict[str, dict[int, str]] = field(default_factory=dict)  # of source lines

    def passes(self, loop: Instruction) -> int | None:
        """Return how often a loop runs; None if the program decides that as it runs.

        XLA knows it for scans.  Other loops of this project say in the name of their scope how
        often they run for a full batch.
        """
        if found := TRIPS.search(loop.rest):
            return int(found.group(1))
        if found := PASSES.search(loop.scope):
            return int(found.group(1))
        condition = self.computations.get(loop.attribute("condition"))
        body = [] if condition is None else list(condition.instructions.values())
        limits = [i for i in body if i.op == "constant" and COUNTER.match(i.type)]
        others = [i for i in body if i.op not in ("parameter", "get-tuple-element", "constant")]
        # A counter that is compared with a constant, and nothing else.
        if len(limits) == len(others) == 1 and others[0].op in ("compare", "fusion"):
            return max(int(limits[0].literal), 0)
        return None

    def lines(self, instruction: Instruction) -> list[Line]:
        """Return the calls that an instruction comes from, the innermost first."""
        found = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        if not found:
            plain = re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.rest)
            return [Line(plain.group(1), "", int(plain.group(2)))] if plain else []
        return list(self._walk(int(found.group(1))))

    def _walk(self, frame: int) -> Iterator[Line]:
        """Yield the lines of a frame and of the frames around it."""
        frames, places = self.tables.get("StackFrames", {}), self.tables.get("FileLocations", {})
        files, functions = self.tables.get("FileNames", {}), self.tables.get("FunctionNames", {})
        # Some versions of XLA number the frame around another one from 1 higher.
        first = dict(FIELD.findall(frames.get(1, "")))
        shift = int(first.get("parent_frame_id", 0))
        while frame in frames:
            at = dict(FIELD.findall(frames[frame]))
            place = dict(FIELD.findall(places.get(int(at.get("file_location_id", 0)), "")))
            yield Line(
                files.get(int(place.get("file_name_id", 0)), "?").strip('"'),
                functions.get(int(place.get("function_name_id", 0)), "?").strip('"'),
                int(place.get("line", 0)),
            )
            around = int(at.get("parent_frame_id", 0)) - shift
            if around >= frame:  # never a circle, whatever the numbering
                return
            frame = around


def parse_type(text: str) -> tuple[Array, ...]:
    """Parse a type, such as `f32[8,128]{1,0:T(8,128)S(1)}`, or a tuple of types."""
    return tuple(
        Array(kind, tuple(int(n) for n in sizes.split(",") if n), not SPACE.search(layout or ""))
        for kind, sizes, layout in SHAPE.findall(text)
    )


def parse_module(text: str) -> Module:
    """Parse the text of a program.

    Raises:
      ValueError: the text holds no program.
    """
    module = Module()
    computation: Computation | None = None
    table: dict[int, str] | None = None
    for line in _whole_lines(text):
        if computation is not None:
            if line.startswith("}"):  # the thread that runs it may stand behind
                computation = None
            elif " = " in line:
                instruction = _parse_instruction(line)
                computation.instructions[instruction.name] = instruction
        elif line.endswith("{") and " -> " in line:
            name = line.removeprefix("ENTRY ").split("(")[0].strip().lstrip("%")
            computation = module.computations[name] = Computation(name)
            if line.startswith("ENTRY "):
                module.entry = name
        elif row := ENTRY.match(line):
            if table is not None:
                table[int(row.group(1))] = row.group(2)
        elif line and line.isalpha():
            table = module.tables[line] = {}
    if not module.entry:
        raise ValueError("the text holds no HLO program")
    return module


def _whole_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text; metadata of kernels that spans several lines is one line."""
    held = ""
    for line in text.splitlines():
        if held and not line.startswith(("  ", "}", "%", "ENTRY ")) or line.startswith("}}"):
            held += line
            continue
        if held:
            yield held
        held = line if line.startswith("  ") else ""
        if not held:
            yield line
    if held:
        yield held


def _parse_instruction(line: str) -> Instruction:
    left, _, right = line.partition(" = ")
    left = left.strip()
    root = left.startswith("ROOT ")
    right = right.strip()
    end = _close(right, 0) + 1 if right.startswith("(") else right.find(" ")
    kind, right = right[:end], right[end:].strip()
    op, _, _ = right.partition("(")
    close = _close(right, len(op))
    inside = right[len(op) + 1 : close]
    plain = op in ("constant", "parameter")
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        type=kind,
        op=op,
        operands=[] if plain else NAME.findall(inside),
        rest=right[close + 1 :],
        literal=inside if plain else "",
        root=root,
    )


def _close(text: str, start: int) -> int:
    """Return the index of the bracket that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text) - 1
