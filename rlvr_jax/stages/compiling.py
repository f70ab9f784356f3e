"""One program of a plan: it is compiled, and what it needs is read from the compiled program."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from rlvr_jax.config import MeshConfig, RlStage
from rlvr_jax.host.plans import answer, hlo, roofline, traffic, wires
from rlvr_jax.host.plans.answer import LoopAnswer, ProgramAnswer, WireAnswer
from rlvr_jax.host.plans.chips import Topology
from rlvr_jax.stages import abstract, sizing
from rlvr_jax.stages.abstract import Made, Planned, Program

LARGEST = 12  # arrays of a program that are kept


def compile_program(
    program: Program, made: Made, stage: Planned, topology: Topology
) -> ProgramAnswer:
    """Compile a program of a stage, and return what it needs beside all that stays in memory."""
    resident = abstract.resident(made)
    began = time.monotonic()
    traced = program.function.trace(*program.arguments)  # type: ignore[attr-defined]
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = answer.parse_refusal(str(error))
        if refusal is None:
            raise
        needed, largest = refusal
        if not largest:
            largest = traced_arrays(traced.jaxpr.jaxpr, topology.devices)
        return ProgramAnswer(
            name=program.name,
            peak=needed + _elsewhere(program, resident),
            arguments=0.0,
            temporaries=0.0,
            elsewhere=_elsewhere(program, resident),
            parts=resident,
            largest=tuple(largest[:LARGEST]),
            runs=program.runs,
            compile_seconds=time.monotonic() - began,
            refused=" ".join(str(error).partition("\n")[0].split())[:300],
        )
    seconds = time.monotonic() - began
    read = read_program(program.name, compiled, made.cfg.mesh, topology)
    elsewhere = max(0.0, sum(resident.values()) - read.arguments)
    parts = resident | _temporary_parts(program.name, made, stage, read.temporaries)
    return dataclasses.replace(
        read,
        peak=read.peak + elsewhere,
        elsewhere=elsewhere,
        parts=parts,
        runs=program.runs,
        seconds=read.seconds * program.runs,
        compile_seconds=seconds,
    )


def traced_arrays(jaxpr: Any, devices: int) -> list[traffic.Big]:
    """Return the arrays of a traced program, the largest first, one for each shape.

    Shapes are those of all devices together, and bytes an even share of them.  Not every array is
    in memory; where the compiler refuses a program without naming any, these are worth a look.
    """
    found: dict[str, traffic.Big] = {}

    def walk(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            inner = [x for value in equation.params.values() for x in _inner(value)]
            for one in inner:
                walk(one)
            for value in equation.outvars if not inner else ():
                shape = getattr(value.aval, "shape", ())
                width = getattr(value.aval.dtype, "itemsize", 0) if shape else 0
                size = math.prod(shape) * width / devices
                if size < 1e6:
                    continue
                name = f"{value.aval.dtype}[{','.join(map(str, shape))}]"
                count = found[name].times + 1 if name in found else 1
                where = found[name].where if name in found else _where(equation)
                found[name] = traffic.Big(size, name, count, where)

    walk(jaxpr)
    return sorted(found.values(), key=lambda big: -big.bytes)


def _inner(value: Any) -> Iterator[Any]:
    """Yield the programs inside a parameter of an equation."""
    if hasattr(value, "jaxpr"):
        value = value.jaxpr
    if hasattr(value, "eqns"):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _inner(one)


def _where(equation: Any) -> str:
    """Return the line of this project that made an equation."""
    traceback = equation.source_info.traceback
    frames = [] if traceback is None else traceback.frames
    lines = [hlo.Line(f.file_name, f.function_name, f.line_num) for f in frames]
    return traffic.describe([line for line in lines if "/rlvr_" in line.file])


def _elsewhere(program: Program, resident: Mapping[str, float]) -> float:
    """Return what stays in memory beside a program that was not compiled: what it does not read."""
    judges = {"verifier", "GRM", "meta RM", "tables"}
    unread = {
        "rollout": set(resident) - {"policy", "base"},
        "reward": set(resident) - judges,
        "update": judges - {"tables"},
        "step": set(),
    }[program.name]
    return sum(size for name, size in resident.items() if name in unread)


def read_program(name: str, compiled: Any, mesh: MeshConfig, topology: Topology) -> ProgramAnswer:
    """Return what a compiled program says about itself."""
    memory = compiled.memory_analysis()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    whole = arguments + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = getattr(memory, "peak_memory_in_bytes", 0)
    if topology.chip.platform != "tpu" or not peak:  # XLA for CPU counts no temporaries in its peak
        peak = whole + temporaries
    read = traffic.Traffic(hlo.parse_module(compiled.as_text()), mesh.axes, topology.together)
    total, found = read.total(), read.loops()
    loops, seconds = [], 0.0
    rest = traffic.Cost()
    rest.add(total)
    for loop in found:
        one = roofline.time_of(loop.once, topology.chip)
        rest.add(loop.once, -loop.passes)
        seconds += loop.passes * one.seconds
        sent = roofline.sent(loop.once.wires)
        loops.append(
            LoopAnswer(loop_name(loop), loop.passes, loop.once.flops, loop.once.bytes, sent, one)
        )
    seconds += roofline.time_of(rest, topology.chip).seconds
    return ProgramAnswer(
        name=name,
        peak=peak,
        arguments=arguments,
        temporaries=temporaries,
        elsewhere=0.0,
        largest=tuple(read.largest(LARGEST)),
        flops=total.flops,
        bytes=total.bytes,
        sent=roofline.sent(total.wires),
        time=roofline.time_of(total, topology.chip),
        seconds=seconds,
        wires=_wires(total, found, topology),
        kernels={name: round(times) for name, times in total.kernels.items() if times >= 1},
        loops=tuple(loop for loop in loops if loop.flops or loop.bytes > 1e6),
        unknown=total.unknown,
    )


def loop_name(loop: traffic.Loop) -> str:
    """Return what a loop does, by the functions of this project that it was traced in."""
    ours = [(line.file.rpartition("/")[2], line.function) for line in loop.lines]
    files = [file for file, _ in ours]
    named = [function.partition(".")[0] for file, function in ours if file == "ragged.py"]
    if "read_prompts" in named:
        return "part of prompts"
    if "gradient" in named:
        return "part, forward and backward"
    if named:
        return "part of responses"
    if "engine.py" in files:
        return "column of decoding"
    return traffic.describe(loop.lines) or "loop"


def _wires(
    total: traffic.Cost, loops: Sequence[traffic.Loop], topology: Topology
) -> tuple[WireAnswer, ...]:
    """Return the collectives of a program, added up by kind and devices, most bytes first."""
    inside = {wire for loop in loops for wire in loop.once.wires}
    groups: dict[tuple, list[tuple[wires.Wire, float]]] = {}
    for wire, times in total.wires.items():
        groups.setdefault((wire.kind, wire.axes, wire.devices, wire.far), []).append((wire, times))
    near = "ICI" if topology.chip.platform == "tpu" else "NVLink"
    found = []
    for (kind, axes, count, far), members in groups.items():
        largest = max((wire for wire, _ in members), key=lambda wire: wire.bytes)
        found.append(
            WireAnswer(
                kind=kind,
                axes=" x ".join(axes) or "all",
                devices=count,
                hop="network" if far else near,
                times=sum(times for _, times in members),
                sent=sum(wire.sent * times for wire, times in members),
                largest=largest.bytes,
                shape=largest.shape,
                in_loops=any(wire in inside for wire, _ in members),
            )
        )
    return tuple(sorted(found, key=lambda wire: -wire.sent))


def _temporary_parts(name: str, made: Made, stage: Planned, temporaries: float) -> dict[str, float]:
    """Return the parts of the temporaries whose sizes are known, and what is left."""
    cfg, parts = made.cfg, {}
    if isinstance(stage, RlStage) and name in ("rollout", "step"):
        work, split = (
            sizing.work_of(stage, cfg),
            sizing.decode_split_of(cfg.mesh, cfg.model),
        )
        parts["KV cache"] = roofline.cache_bytes(work, split, work.columns)
        if cfg.model.compute != "float32" or split.tensor < cfg.mesh.devices // cfg.mesh.data:
            copied = sizing.whole_count(cfg.model) * work.item / split.tensor
            parts["weights for decoding"] = copied
    if name in ("update", "step"):
        parts["gradient"] = abstract.bytes_on_device(made.state.params)
    known = sum(parts.values())
    return parts | {"activations and others": max(0.0, temporaries - known)}
