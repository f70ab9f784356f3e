"""Measure what votes cost: the share of a step, and what the shared context saves.

    python docs/results/grm/cost.py

A policy of 2 layers answers 32 prompts 8 times each, and a generative reward model of the same size
gives k votes on each response.  Three programs are timed, interleaved: the whole fused step, the
votes alone, and the votes alone where the context is read again for each vote.  What sharing saves
stands beside the time that reading those contexts takes by itself.  The table has medians.
"""

import dataclasses
import functools
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax import grm, optim, parameters, ragged, step
from rlvr_jax.config import (
    CritiqueConfig,
    DataConfig,
    ModelConfig,
    RewardConfig,
    RlStage,
)
from rlvr_jax.structs import Critic, Frozen, Prompts, Setup, Spelling

Q, G, P, R, C, J, V = 32, 8, 32, 16, 192, 64, 768
ROUNDS = 3
SIZE = ModelConfig(
    layers=2, width=128, heads=4, kv_heads=2, head_size=32, feedforward=384, vocab=V, unroll=True
)


def critic() -> Critic:
    """Return tables of a vocabulary in which every token is a letter but the last, a box."""
    table = np.full((V, 10), ord("a"), np.uint8)
    table[V - 1] = np.frombuffer(rb"\boxed{7} ", np.uint8)
    length = np.full(V, 1, np.int32)
    length[V - 1] = 10
    frame, exists = np.full((1, 3), 5, np.int32), np.ones((1, 3), bool)
    tail = np.full(6, 9, np.int32)
    none = np.zeros(0, np.int32)
    spelling = Spelling(table, length, np.zeros(0, np.uint8), np.bool_(True))
    control = np.arange(V) < 2
    return Critic(spelling, control, np.int32(7), frame, exists, frame, exists, none, tail, ("[",))


def repeated(tree, times: int):
    """Return the tree with every row `times` times, adjacent."""
    return jax.tree.map(lambda x: jnp.repeat(x, times, 0), tree)


def read_contexts(params, prompts: Prompts):
    """Read the contexts of prompts, which is what sharing saves."""
    return ragged.read_prompts(params, prompts.check_QC, prompts.check_mask_QC, SIZE)[0]


def seconds(run) -> float:
    """Return the time of one call, until its result is there."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def measure(votes: int) -> dict[str, float]:
    """Return the medians for a number of votes."""
    rng = np.random.default_rng(0)
    ids = {
        name: rng.integers(2, V - 1, (Q, n)).astype(np.int32) for name, n in (("p", P), ("c", C))
    }
    prompts = Prompts(ids["p"], ids["p"] > 0, ids["c"], ids["c"] > 0)
    stage = RlStage(prompts=Q, samples=G, reward=RewardConfig(source="grm", votes=votes), steps=1)
    critique = CritiqueConfig(data=DataConfig(response_columns=J))
    tx = optim.make_optimizer(stage.optim, 1)
    setup = Setup(stage, SIZE, SIZE, R, (1,), tx, grm=SIZE, critique=critique)
    params = parameters.init(jax.random.key(0), SIZE)
    judge_params = parameters.init(jax.random.key(1), SIZE)
    frozen = Frozen({}, {}, grm=judge_params, critic=critic())
    state = step.init_state(jax.random.key(2), params, tx)
    form = grm.Form(SIZE, critique, stage.reward, (1,))
    judge = grm.Judge(judge_params, frozen.critic, {})
    whole_step = jax.jit(functools.partial(step.train_step, setup=setup))
    rollout, *_ = jax.jit(functools.partial(step.write_round, setup=setup))(
        state, prompts, jnp.int32(0)
    )
    shared = jax.jit(functools.partial(grm.score, form=form))
    # The same judgements, but each has a prompt of its own, which is read whole.
    once = form._replace(reward=dataclasses.replace(stage.reward, votes=1))
    apart = jax.jit(functools.partial(grm.score, form=once))
    asked, answers = repeated(prompts, G * votes), repeated(rollout, votes)
    read = jax.jit(read_contexts)
    key = jax.random.key(3)
    runs = {
        "step": lambda: whole_step(state, frozen, prompts).metrics,
        "votes": lambda: shared(judge, prompts, rollout, key).reward_B,
        "votes, unshared": lambda: apart(judge, asked, answers, key).reward_B,
        "contexts": lambda: read(judge_params, prompts),
        "contexts, unshared": lambda: read(judge_params, asked),
    }
    for run in runs.values():
        seconds(run)  # compile
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(seconds(run))
    useful = float(shared(judge, prompts, rollout, key).judgements.length_B.sum()) / float(
        shared(judge, prompts, rollout, key).decoded
    )
    return {name: statistics.median(t) for name, t in times.items()} | {"useful": useful}


if __name__ == "__main__":
    results = {}
    print("votes  step s  votes s  share  unshared s  saved s  their reading s  useful")
    for k in (1, 4, 8):
        m = results[k] = measure(k)
        saved = m["votes, unshared"] - m["votes"]
        reading = m["contexts, unshared"] - m["contexts"]
        print(
            f"{k:5}  {m['step']:6.2f}  {m['votes']:7.2f}  {m['votes'] / m['step']:5.0%}  "
            f"{m['votes, unshared']:10.2f}  {saved:7.2f}  {reading:15.2f}  {m['useful']:6.0%}",
            flush=True,
        )
    Path(__file__).with_name("cost.json").write_text(json.dumps(results, indent=1) + "\n")
