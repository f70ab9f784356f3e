"""What the text of an optimised HLO module says about its loops: for tests of compiled programs."""

import math
import re
from typing import NamedTuple

# name = type opcode(operands), attributes; a tuple's type stands in parentheses
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")


class Instruction(NamedTuple):
    """An Instruction is one line of a computation."""

    op: str
    type: str
    calls: tuple[str, ...]  # names of computations
    root: bool
    line: str

    @property
    def elements(self) -> int:
        """Return the elements of the largest array of its result."""
        shapes = re.findall(r"[a-z]\w*\[([\d,]*)\]", self.type)
        return max((math.prod(map(int, re.findall(r"\d+", x))) for x in shapes), default=0)


def float_sizes(kind: str) -> set[int]:
    """Return the numbers of elements of the arrays of floats in a type, which may be a tuple."""
    shapes = re.findall(r"\b(?:f32|bf16)\[([\d,]+)\]", kind)
    return {math.prod(map(int, shape.split(","))) for shape in shapes}


def computations(text: str) -> dict[str, list[Instruction]]:
    """Return the instructions of each computation, by its name."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if line.endswith("{") and " -> " in line and not line.startswith(" "):
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0].split("(")[0]
            current = found.setdefault(name, [])
        elif match := _LINE.match(line):
            root, _, kind, op, rest = match.groups()
            current.append(Instruction(op, kind, tuple(_CALLED.findall(rest)), bool(root), line))
    return found


def in_loops(text: str) -> list[Instruction]:
    """Return the instructions of all loop bodies and of what they call, without those of fusions.

    A fusion is one instruction.  Its `op` ends with that of its root: "fusion dynamic-update-slice"
    writes into an array in place.
    """
    comps = computations(text)
    bodies = [x.calls for comp in comps.values() for x in comp if x.op == "while"]
    todo, seen = [name for calls in bodies for name in calls], set()
    while todo:
        name = todo.pop()
        if name in seen or name not in comps:
            continue
        seen.add(name)
        todo += [call for x in comps[name] if x.op in ("while", "call") for call in x.calls]
    found = []
    for name in seen:
        for x in comps[name]:
            if x.op == "fusion":
                root = next(y for y in comps[x.calls[0]] if y.root)
                x = x._replace(op=f"fusion {root.op}")
            found.append(x)
    return found
