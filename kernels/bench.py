"""Times the implementations of an op on the device at hand.

    python -m rlvr_kernels.bench OP [--impl NAME ...] [--case NAME ...]

The benchmark prints a table and one JSON line per row.  A row has the median time in milliseconds,
without compilation and warm-up, and the speed reached in GB/s and GFLOP/s.  Each speed also stands
as a share of what a copy, or a matrix product, reaches on this device in the same run.  Bytes and
operations are counted from the definition of the op, so an implementation that moves or computes
more than it has to gets a lower share.  Only forward passes are timed.
"""

import argparse
import datetime
import importlib
import json
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp

OPS = ("attention", "decode_attention", "token_logprob")
SECONDS = 2.0  # about how long one row is measured
FEWEST, MOST = 5, 200  # calls that are measured, at least and at most


def main() -> None:
    """Run the benchmark with the arguments of the command line; `--help` lists them."""
    parser = argparse.ArgumentParser(prog="python -m rlvr_kernels.bench", description=__doc__)
    parser.add_argument("op", choices=OPS)
    parser.add_argument("--impl", nargs="+", default=["xla"], help="default: xla")
    parser.add_argument("--case", nargs="+", help="default: the large ones")
    args = parser.parse_args()
    op = importlib.import_module(f"rlvr_kernels.{args.op}")
    cases = importlib.import_module(f"rlvr_kernels.{args.op}.cases")
    known = cases.SMALL | cases.LARGE
    for name in args.case or []:
        if name not in known:
            parser.error(f"no case {name!r}; there are {', '.join(known)}")
    for name in args.impl:
        if name not in op.IMPLEMENTATIONS:
            parser.error(f"no implementation {name!r}; there are {', '.join(op.IMPLEMENTATIONS)}")
    print(f"{'case':<16}{'impl':<22}{'ms':>10}{'GB/s':>9}{'share':>7}{'GFLOP/s':>10}{'share':>7}")
    peaks: dict[str, tuple[float, float]] = {}
    for case_name in args.case or cases.LARGE:
        case = known[case_name]
        if case.dtype not in peaks:
            peaks[case.dtype] = copy_bandwidth(case.dtype), matmul_speed(case.dtype)
        for impl in args.impl:
            row = {"op": args.op, "case": case_name, "impl": impl}
            row |= measure(getattr(op, args.op), cases, case, impl, *peaks[case.dtype])
            print(
                f"{case_name:<16}{impl:<22}{row['ms']:>10.3f}{row['gb_per_s']:>9.1f}"
                f"{row['of_copy']:>7.1%}{row['gflop_per_s']:>10.1f}{row['of_matmul']:>7.1%}"
            )
            print(json.dumps(row), flush=True)


def measure(op, cases, case, impl: str, copy: float, matmul: float) -> dict:
    """Return one row: time and speed of `impl` for `case`, and their shares of the device's speeds.

    `op` and `cases` are the function and the module of cases of an op.  `copy` is in bytes per
    second and `matmul` in operations per second.
    """
    run = jax.jit(partial(op, **cases.options(case), impl=impl))
    seconds = median_seconds(run, **cases.inputs(case))
    moved, operations = cases.cost(case)
    return {
        "ms": 1e3 * seconds,
        "gb_per_s": moved / seconds / 1e9,
        "gflop_per_s": operations / seconds / 1e9,
        "of_copy": moved / seconds / copy,
        "of_matmul": operations / seconds / matmul,
        "copy_gb_per_s": copy / 1e9,
        "matmul_gflop_per_s": matmul / 1e9,
        "dtype": case.dtype,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }


def median_seconds(run, *args, **kwargs) -> float:
    """Return the median wall time of a finished call; the first two calls are not counted."""
    jax.block_until_ready(run(*args, **kwargs))
    first = seconds_of(run, args, kwargs)
    times = max(FEWEST, min(MOST, int(SECONDS / first)))
    return statistics.median(seconds_of(run, args, kwargs) for _ in range(times))


def seconds_of(run, args, kwargs) -> float:
    """Return the wall time of one call, until its result is ready."""
    start = time.perf_counter()
    jax.block_until_ready(run(*args, **kwargs))
    return time.perf_counter() - start


def copy_bandwidth(dtype: str) -> float:
    """Return the bytes per second that an addition moves in an array larger than any cache."""
    size = (2**26 if jax.default_backend() == "cpu" else 2**30) // jnp.dtype(dtype).itemsize
    x = jnp.ones(size, dtype)
    return 2 * x.nbytes / median_seconds(jax.jit(lambda x: x + 1), x)


def matmul_speed(dtype: str) -> float:
    """Return the operations per second of a square matrix product with float32 sums."""
    side = 1024 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((side, side), dtype)
    product = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
    return 2 * side**3 / median_seconds(product, x, x)


if __name__ == "__main__":
    main()
