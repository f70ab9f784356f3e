"""What a program computes and moves on one device: FLOPs, HBM bytes and collectives.

Loops count as often as they run.  A fusion reads of an operand only the slices that it takes, and
an update in place writes only what it changes, as in XLA's own cost analysis.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from rlvr_jax.host.plans import products
from rlvr_jax.host.plans.hlo import BATCH, Array, Computation, Instruction, Line, Module
from rlvr_jax.host.plans.wires import Wire, read_wire

# Instructions that move nothing by themselves.
FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "after-all"),
    *("partition-id", "replica-id", "iota", "conditional", "call", "opt-barrier", "async-update"),
    *("add-dependency", "custom-call-done", "async-done", "domain"),
}
VIEWS = {"bitcast", "reshape", "copy", "transpose", "convert"}
# Custom calls that are kernels; others mark something for the compiler.
KERNEL = re.compile(r"tpu_custom_call|triton|mosaic|cudnn|cublas|onednn")
ESTIMATE = re.compile(r'"?bytes_accessed"?\s*:\s*"?(\d+)')  # of a kernel, by its author
SLICES = {"dynamic-slice", "slice", "gather"}


@dataclass
class Cost:
    """A Cost is what some instructions compute and move on one device."""

    flops: float = 0.0
    bytes: float = 0.0  # to and from HBM
    wires: dict[Wire, float] = field(default_factory=dict)  # collective -> how often it runs
    kernels: dict[str, float] = field(default_factory=dict)  # kernel -> how often it runs
    # Loops that count as one pass, because nothing says how often they run: line -> how many.
    unknown: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Cost", times: float = 1) -> None:
        """Add another cost so many times."""
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        for line, loops in other.unknown.items() if times else ():
            self.unknown[line] = self.unknown.get(line, 0) + loops
        for wire, count in other.wires.items():
            self.wires[wire] = self.wires.get(wire, 0) + times * count
        for kernel, count in other.kernels.items():
            self.kernels[kernel] = self.kernels.get(kernel, 0) + times * count


class Loop(NamedTuple):
    """A Loop is a loop over a batch, or another one that no such loop is around.

    Its passes are multiplied by those of loops around it: rounds of a filter, or mini-batches.
    """

    scope: str
    lines: list[Line]
    passes: int
    once: Cost  # of one pass


class Big(NamedTuple):
    """A Big is an array that takes much memory."""

    bytes: float
    shape: str
    times: int  # arrays of that shape
    where: str  # the line of source that makes the first of them; "" if none has one


class Traffic:
    """A Traffic reads the costs of a module; `mesh` gives the sizes of the mesh axes by name."""

    def __init__(self, module: Module, mesh: dict[str, int], host: int = 0):
        """`host` is the number of devices that fast links connect; 0: all of them."""
        self.module, self.mesh, self.host = module, mesh, host
        self._known: dict[str, Cost] = {}

    def total(self) -> Cost:
        """Return the cost of the whole program."""
        return self.of(self.module.entry)

    def of(self, name: str) -> Cost:
        """Return the cost of one run of a computation, loops inside included."""
        if name not in self._known:
            cost = Cost()
            computation = self.module.computations[name]
            for instruction in computation.instructions.values():
                cost.add(self._of_instruction(computation, instruction))
            self._known[name] = cost
        return self._known[name]

    def loops(self, name: str = "") -> list[Loop]:
        """Return the loops that a computation runs, those that run at least once."""
        found: list[Loop] = []
        computation = self.module.computations[name or self.module.entry]
        for instruction in computation.instructions.values():
            if instruction.op in ("call", "conditional"):
                for called in instruction.called:
                    found += self.loops(called)
            if instruction.op != "while":
                continue
            passes = self.module.passes(instruction)
            body = instruction.attribute("body")
            if passes is not None and passes <= 0:
                continue
            inner = [] if BATCH.search(instruction.scope) else self.loops(body)
            if any(BATCH.search(loop.scope) for loop in inner):
                found += [loop._replace(passes=loop.passes * (passes or 1)) for loop in inner]
                continue
            once = self.of(body)
            found.append(Loop(instruction.scope, self.module.lines(instruction), passes or 1, once))
        return found

    def _of_instruction(self, computation: Computation, instruction: Instruction) -> Cost:
        cost = Cost()
        if instruction.op == "while":
            passes = self.module.passes(instruction)
            if passes is None:
                where = describe(self.module.lines(instruction)) or instruction.scope[-60:]
                cost.unknown[where or "no line"] = 1
            cost.add(self.of(instruction.attribute("body")), 1 if passes is None else passes)
            return cost
        if instruction.op == "conditional":  # whichever branch costs most
            branches = [self.of(name) for name in instruction.called]
            cost.add(max(branches, key=lambda branch: (branch.bytes, branch.flops)))
            return cost
        if instruction.op == "call":
            cost.add(self.of(instruction.attribute("to_apply")))
            return cost
        cost.bytes = sum(self.moved(computation, instruction))
        self._add_work(computation, instruction, cost)
        return cost

    def _add_work(self, computation: Computation, instruction: Instruction, cost: Cost) -> None:
        """Add the products, kernels and collectives of an instruction, fused ones included."""
        if instruction.op in ("dot", "convolution"):
            cost.flops += products.flops(computation, instruction)
        elif instruction.op == "custom-call":
            name = _quoted(instruction)
            if name == "tpu_custom_call":
                name += ": " + re.sub(r"[.]\d+$", "", instruction.name)
            if KERNEL.search(name):
                cost.kernels[name] = cost.kernels.get(name, 0) + 1
            estimate = re.search(r'"?flops"?\s*:\s*"?(\d+)', instruction.rest)
            cost.flops += float(estimate.group(1)) if estimate else 0.0
        elif instruction.op in ("fusion", "async-start"):
            inner = self.module.computations.get(instruction.attribute("calls"))
            for one in inner.instructions.values() if inner else ():
                assert inner is not None
                self._add_work(inner, one, cost)
        if wire := read_wire(instruction, self.mesh, self.host):
            cost.wires[wire] = cost.wires.get(wire, 0) + 1

    # ---- bytes

    def moved(self, computation: Computation, instruction: Instruction) -> tuple[float, float]:
        """Return the bytes that an instruction reads from HBM, and those that it writes."""
        op = instruction.op
        if op in FREE or op.endswith("-done"):
            return 0.0, 0.0
        if op == "custom-call" and (told := ESTIMATE.search(instruction.rest)):
            return float(told.group(1)), 0.0  # a kernel may read a part of what it is given
        values = [computation.instructions.get(name) for name in instruction.operands]
        read = 0.0
        for number, value in enumerate(values):
            whole = value.hbm_bytes if value is not None else 0.0
            if whole:
                read += self._read(instruction, number, whole)
        if op == "dynamic-update-slice":
            update = values[1]
            return read, update.hbm_bytes if update is not None else 0.0
        if op == "scatter":
            update = values[-1]
            return read, update.hbm_bytes if update is not None else 0.0
        if op.endswith("-start"):
            wrote = sum(array.bytes for array in instruction.results if array.in_hbm)
            return (min(read, wrote) if op in ("async-start", "slice-start") else read), wrote
        wrote = instruction.hbm_bytes
        if op == "fusion":
            called = self.module.computations[instruction.attribute("calls")]
            wrote = self._written(called, called.root, wrote)
        return read, wrote

    def _read(self, instruction: Instruction, number: int, whole: float) -> float:
        """Return the bytes that an instruction reads of its operand of a number."""
        if instruction.op == "fusion":
            called = self.module.computations[instruction.attribute("calls")]
            parameter = called.parameter(number)
            return whole if parameter is None else self._used(called, parameter.name, whole, 0)
        if number == 0 and instruction.op in SLICES:
            return min(whole, instruction.bytes)
        if number == 0 and instruction.op in ("dynamic-update-slice", "scatter"):
            return 0.0
        return whole

    def _used(self, computation: Computation, name: str, whole: float, depth: int) -> float:
        """Return the bytes that the users of a value in a fusion read of it."""
        total = 0.0
        for user in computation.users(name):
            if user.op in VIEWS and depth < 8:
                total += self._used(computation, user.name, whole, depth + 1)
            elif user.op == "tuple":
                continue
            else:
                total += self._read(user, user.operands.index(name), whole)
        return min(total, whole)

    def _written(self, computation: Computation, root: Instruction | None, whole: float) -> float:
        """Return the bytes that a fusion writes: an update in place writes the update only."""
        for _ in range(8):
            if root is None or root.op not in VIEWS:
                break
            root = computation.instructions.get(root.operands[0])
        if root is None:
            return whole
        if root.op == "dynamic-update-slice":
            update = computation.instructions.get(root.operands[1])
            return min(whole, update.bytes if update else whole)
        if root.op == "fusion":
            called = self.module.computations[root.attribute("calls")]
            return self._written(called, called.root, whole)
        if root.op == "tuple":
            parts = [computation.instructions.get(name) for name in root.operands]
            return min(whole, sum(self._written(computation, x, x.bytes) for x in parts if x))
        return whole

    # ---- memory

    def largest(self, count: int, least: float = 1e6) -> list[Big]:
        """Return the largest arrays that the program makes in HBM, one for each shape."""
        reached = self._reached(self.module.entry, set())
        found: dict[str, Big] = {}
        skipped = FREE - {"iota", "constant"}
        for name in reached:
            for instruction in self.module.computations[name].instructions.values():
                if instruction.op in skipped or instruction.op.endswith("-done"):
                    continue
                for array in instruction.arrays:
                    if array.in_hbm and array.bytes >= least:
                        self._note(found, array, instruction)
        return sorted(found.values(), key=lambda big: -big.bytes)[:count]

    def _note(self, found: dict[str, Big], array: Array, instruction: Instruction) -> None:
        shape = str(array)
        before = found.get(shape, Big(array.bytes, shape, 0, ""))
        where = before.where or describe(self.module.lines(instruction))
        found[shape] = before._replace(times=before.times + 1, where=where)

    def _reached(self, name: str, seen: set[str]) -> list[str]:
        """Return the computations whose arrays are in memory: all but the insides of fusions."""
        if name in seen or name not in self.module.computations:
            return []
        seen.add(name)
        names = [name]
        for instruction in self.module.computations[name].instructions.values():
            if instruction.op == "while":
                names += self._reached(instruction.attribute("body"), seen)
            elif instruction.op in ("call", "conditional"):
                for called in instruction.called:
                    names += self._reached(called, seen)
        return names


def describe(lines: list[Line]) -> str:
    """Return the innermost line of this project, as `file.py:12 (function)`."""
    ours = [line for line in lines if "rlvr_" in line.file or "/kernels/" in line.file]
    for line in ours or lines[:1]:
        folder, _, file = line.file.rpartition("/")
        name = f"{folder.rpartition('/')[2]}/{file}" if folder else file
        return f"{name}:{line.line} ({line.function.rpartition('.')[2]})"
    return ""


def _quoted(instruction: Instruction) -> str:
    found = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
    return found.group(1) if found else "?"
