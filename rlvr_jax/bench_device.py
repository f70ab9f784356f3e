"""`python -m rlvr_jax.bench_device --platform gpu`: ten minutes that fill the tables of a device.

It runs the benchmarks of the kernels and of whole RL steps, each in a process of its own with a
limit of time, and prints rows for kernels/README.md and docs/performance.md, with device and date.
A part that fails, for lack of memory say, loses no other part.  What there is no time for is
named.  Exit codes: 0 done; 1 a part failed; 2 no such device.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

KERNELS: dict[str, dict[str, tuple[str, ...]]] = {  # platform -> op -> implementations
    "cpu": {"token_logprob": ("xla",)},
    "gpu": {
        "token_logprob": ("xla", "pallas_gpu"),
        "decode_attention": ("xla", "pallas_gpu"),
        "attention": ("xla", "cudnn"),
    },
    "tpu": {
        "token_logprob": ("xla", "pallas_tpu"),
        "decode_attention": ("xla", "pallas_tpu"),
        "attention": ("xla", "splash"),
    },
}
JAX_NAME = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}  # platform -> value of JAX_PLATFORMS
SEARCH_SECONDS = 120.0  # for JAX to find the device; a driver that hangs never does
FEWEST_SECONDS = 15.0  # a part is not started with less
LARGE = "--scan --prompts 16 --samples 8 --prompt 256 --new 512 --steps 3 --warmup 1 --shares"
TINY = "--layers 1 --prompts 2 --samples 2 --prompt 8 --new 8 --steps 1 --warmup 1 --shares"


class Part(NamedTuple):
    """A Part is one measurement: arguments after `python -m`, and the most seconds it may take."""

    name: str
    words: tuple[str, ...]
    seconds: float


class Outcome(NamedTuple):
    """An Outcome is what a part printed as JSON, and in a few words why it did not end well."""

    records: list[dict]
    problem: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, print rows as tables, and return the exit code."""
    args = _arguments(argv)
    os.environ["JAX_PLATFORMS"] = JAX_NAME[args.platform]
    if problem := find_device():
        print(f"error: JAX finds no {args.platform} here; it says: {problem}", file=sys.stderr)
        return 2
    records, problems, failed = run_parts(list_parts(args.platform), 60 * args.minutes)
    print("\n".join(["", *write_tables(records), *(f"not measured: {x}" for x in problems)]))
    return int(failed)


def list_parts(platform: str) -> list[Part]:
    """List the parts for a platform, those that matter most first."""
    kernels = [
        Part(
            f"kernels of {op}",
            (
                *("rlvr_kernels.bench", op, "--impl", impl),
                *(("--case", "bfloat16") if platform == "cpu" else ()),
            ),
            60,
        )
        for op, impls in KERNELS[platform].items()
        for impl in impls
    ]
    if platform == "cpu":
        return [Part("rl step, tiny", ("rlvr_jax.bench", "tiny", "S", *TINY.split()), 90), *kernels]
    first, second = (
        Part(f"rl step, {size}", ("rlvr_jax.bench", size, "S", *LARGE.split()), seconds)
        for size, seconds in (("0.5b", 240), ("1.5b", 600))
    )
    return [first, *kernels, second]


def run_parts(parts: Sequence[Part], budget: float) -> tuple[list[dict], list[str], bool]:
    """Run parts one after the other for at most `budget` seconds.

    Returns:
      All records; a sentence for each part that is missing or not whole; whether one failed, other
      than for lack of time.
    """
    end = time.monotonic() + budget
    records, problems, failed = [], [], False
    for part in parts:
        left = end - time.monotonic()
        if left < FEWEST_SECONDS:
            problems.append(f"{part.name}: no time left")
            continue
        limit = min(part.seconds, left)
        outcome = run_part(part, limit)
        records += outcome.records
        for record in outcome.records:
            print(json.dumps(record), flush=True)
        if outcome.problem:
            problems.append(f"{part.name}: {outcome.problem}")
            failed |= not outcome.problem.startswith("not done")
    return records, problems, failed


def run_part(part: Part, seconds: float) -> Outcome:
    """Run one part in a process group of its own, and end all of it after `seconds`."""
    process = subprocess.Popen(
        [sys.executable, "-m", *part.words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    problem = ""
    try:
        out, err = process.communicate(timeout=seconds)
        if process.returncode:
            problem = _reason(err) or f"exit code {process.returncode}"
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        problem = f"not done after {seconds:.0f} s"
    return Outcome([x for x in map(_read, out.splitlines()) if x], problem)


def _reason(err: str) -> str:
    """Return the line of a traceback that says what was wrong, or else the last line."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    telling = [x for x in lines if "RESOURCE_EXHAUSTED" in x or "out of memory" in x.lower()]
    said = [x for x in lines if "Error: " in x or x.startswith("error: ")]
    return (telling or said or lines or [""])[-1][:200]


def _read(line: str) -> dict | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def find_device() -> str:
    """Return why JAX finds no device of JAX_PLATFORMS, or nothing; the device stays free."""
    code = "import jax; print(jax.devices()[0].device_kind)"
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SEARCH_SECONDS)
    except subprocess.TimeoutExpired:
        return f"nothing within {SEARCH_SECONDS:.0f} s"
    return _reason(done.stderr) if done.returncode else ""


def write_tables(records: Sequence[dict]) -> list[str]:
    """Write the rows of both pages as lines of Markdown."""
    steps = [x for x in records if "step_s" in x]
    kernels = [x for x in records if "op" in x]
    plain = {(x["op"], x["case"]): x["ms"] for x in kernels if x["impl"] == "xla"}
    lines = []
    if steps:
        lines += [
            "| shape | device | date | tokens/s/chip | step: gen + update, s "
            "| decode, of a copy | update, of a product |",
            "|---|---|---|---|---|---|---|",
        ]
    lines += [
        f"| {x['size']}, {x['prompts']} x {x['samples']}, {x['prompt_columns']} + {x['columns']} "
        f"| {x['device']} | {x['date']} | {x['tok_s_chip']:.0f} "
        f"| {x['step_s']:.2f}: {x['gen_s']:.2f} + {x['update_s']:.2f} "
        f"| {x['decode_of_copy']:.1%} of {x['copy_gb_s']:.0f} GB/s "
        f"| {x['update_of_product']:.1%} of {x['product_tflop_s']:.1f} TFLOP/s |"
        for x in steps
    ]
    if kernels:
        lines += [
            *([""] if steps else []),
            "| op | implementation | case | device | date | ms | `xla` ms |",
            "|---|---|---|---|---|---|---|",
        ]
    for x in kernels:
        base = plain.get((x["op"], x["case"]))
        lines.append(
            f"| {x['op']} | {x['impl']} | {x['case']} | {x['device']} | {x['date']} "
            f"| {x['ms']:.3f} | {'-' if base is None else f'{base:.3f}'} |"
        )
    return [*lines, ""]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rlvr_jax.bench_device", description=__doc__)
    parser.add_argument("--platform", choices=sorted(KERNELS), required=True, help="device")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together [10]")
    args = parser.parse_args(argv)
    if not 0 < args.minutes <= 600:
        parser.error("--minutes must be above 0, and at most 600")
    return args


if __name__ == "__main__":
    sys.exit(main())
