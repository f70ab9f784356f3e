"""The answer as text: first the sentence that matters, then where memory and time go."""

import json
from collections.abc import Iterator, Sequence

from rlvr_jax.host.plans.answer import Answer, ProgramAnswer

LARGEST = 6  # arrays of a program that are shown
WIRES = 8  # kinds of collectives of a program that are shown


def gigabytes(size: float) -> str:
    """Return a size in GB, and in MB or kB where it is smaller."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if size >= one / 2:
            return f"{size / one:.3g} {unit}" if size < 1000 * one else f"{size / one:.0f} {unit}"
    return f"{size / 1e3:.3g} kB"


def dollars(price: float) -> str:
    """Return a price with cents, or with three digits where it is below one dollar."""
    return f"{price:.2f}" if price >= 1 or not price else f"{price:.3g}"


def duration(seconds: float) -> str:
    """Return a time in s, ms or us."""
    for unit, one in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= one:
            return f"{seconds / one:.3g} {unit}" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e6:.3g} us"


def render(answer: Answer) -> str:
    """Write an answer for a person."""
    return "\n".join(_lines(answer))


def render_json(answer: Answer) -> str:
    """Write an answer as one line of JSON."""
    return json.dumps(answer.tree())


def render_tried(override: str, answer: Answer | None, problem: str) -> str:
    """Write what a sweep says about a candidate as one line of JSON."""
    return json.dumps((answer.tree() if answer else {"problem": problem}) | {"override": override})


def _lines(answer: Answer) -> Iterator[str]:
    chip, mesh = answer.topology.chip, answer.mesh
    shape = " x ".join(f"{size} {name}" for name, size in mesh.items())
    yield f"{answer.config}, stage {answer.stage}, on {answer.topology.name} ({shape})"
    for name, source in answer.models.items():
        yield f"  {name}: sizes from {source}"
    yield f"  {answer.verdict}"
    if answer.fits:
        yield (
            f"  step: at least {duration(answer.step_seconds)} for {answer.tokens:,} response "
            f"tokens (all of full length), {answer.tokens_per_second:,.0f} tokens/s/chip, "
            f"${dollars(answer.dollars_per_million)} per million tokens at "
            f"${dollars(answer.price)} a chip hour"
        )
    for note in answer.notes:
        yield f"  note: {note}"
    for program in answer.programs:
        yield ""
        yield from _program_lines(program, chip.hbm, answer)


def _program_lines(program: ProgramAnswer, hbm: float, answer: Answer) -> Iterator[str]:
    free = hbm - program.peak
    state = f"{gigabytes(free)} free" if free >= 0 else f"{gigabytes(-free)} too much"
    yield (
        f"{program.name}: peak {gigabytes(program.peak)} of {gigabytes(hbm)}, {state} "
        f"(compiled in {program.compile_seconds:.0f} s)"
    )
    if program.refused:
        yield f"  the compiler refused it: {program.refused}"
    else:
        yield (
            f"  memory: arguments {gigabytes(program.arguments)}, temporaries "
            f"{gigabytes(program.temporaries)}, resident beside it {gigabytes(program.elsewhere)}"
        )
    if program.parts:
        parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in program.parts.items())
        yield f"  by part: {parts}"
    for big in program.largest[:LARGEST]:
        times = f" x {big.times}" if big.times > 1 else ""
        yield f"    {gigabytes(big.bytes):>9} {big.shape}{times}  {big.where}"
    if program.refused:
        return
    runs = f" ({program.runs} runs a step)" if program.runs > 1 else ""
    yield (
        f"  time: {duration(program.seconds)}{runs}, {program.flops / 1e12:.4g} TFLOP, "
        f"{gigabytes(program.bytes)} HBM, {gigabytes(program.sent)} sent"
    )
    for loop in program.loops:
        yield (
            f"    {loop.name}: {loop.passes:,} x {duration(loop.time.seconds)} "
            f"({loop.time.bound}): {loop.flops / 1e9:.4g} GFLOP, {gigabytes(loop.bytes)} HBM, "
            f"{gigabytes(loop.sent)} sent"
        )
        if loop.name.startswith("column") and answer.needed_column:
            ratio = loop.bytes / answer.needed_column
            yield (
                f"      a column has to read {gigabytes(answer.needed_column)}: weights, and the "
                f"cache in use; this is {ratio:.2f} times that"
            )
    for wire in program.wires[:WIRES]:
        inside = "in loops" if wire.in_loops else "once"
        yield (
            f"    {wire.kind} over {wire.axes} ({wire.devices} devices, {wire.hop}, {inside}): "
            f"{wire.times:,.0f} times, {gigabytes(wire.sent)} sent, largest "
            f"{gigabytes(wire.largest)} {wire.shape}"
        )
    if program.kernels:
        names = ", ".join(f"{name} ({count})" for name, count in program.kernels.items())
        yield f"  kernels: {names}"
    if program.unknown:
        lines = ", ".join(f"{line} ({loops})" for line, loops in program.unknown.items())
        yield f"  loops with an unknown number of passes, counted as one pass: {lines}"


HEAD = """\
| config | slice | mesh | peak, GB | of | fits | sent | step | tokens/s/chip | $/M tokens | built |
|---|---|---|---|---|---|---|---|---|---|---|"""


def render_ranking(ranked: Sequence[tuple[str, Answer | None, str]]) -> str:
    """Write the results of a sweep, each with the overrides that give it."""
    lines = []
    for number, (override, answer, problem) in enumerate(ranked, 1):
        if answer is None:
            lines.append(f"{number}. not compiled: {problem}\n   {override}")
            continue
        fit = f"{100 * answer.free:.0f} % free" if answer.fits else "does not fit"
        peak = f"peak {gigabytes(answer.peak)}"
        speed = f"step {duration(answer.step_seconds)}, " if answer.fits else ""
        cost = f"${dollars(answer.dollars_per_million)} per million tokens, "
        speed += cost if answer.fits else ""
        lines.append(f"{number}. {speed}{peak}, {fit}\n   {override}")
    return "\n".join(lines)


def markdown_row(answer: Answer) -> str:
    """Write an answer as a row of the table in docs/scale.md, below `HEAD`."""
    mesh = " x ".join(str(size) for size in answer.mesh.values())
    peaks = ", ".join(f"{p.name} {p.peak / 1e9:.1f}" for p in answer.programs)
    compiled = sum(program.compile_seconds for program in answer.programs)
    fits = f"yes, {100 * answer.free:.0f} % free" if answer.fits else "**no**"
    cells: Sequence[str] = (
        answer.config,
        answer.topology.name,
        mesh,
        peaks,
        f"{answer.topology.chip.hbm / 1e9:.1f}",
        fits,
        gigabytes(sum(program.sent for program in answer.programs)),
        duration(answer.step_seconds) if answer.fits else "-",
        f"{answer.tokens_per_second:,.0f}" if answer.fits else "-",
        dollars(answer.dollars_per_million) if answer.fits else "-",
        f"{compiled:.0f} s",
    )
    return "| " + " | ".join(cells) + " |"
