"""The rewards of earlier steps decide which problems an rl stage draws, and its baselines."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlvr_jax import prompt_filter
from rlvr_jax.config import RlStage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.decayed import DecayedMeans
from rlvr_jax.host.problems.difficulty import DifficultyStream
from rlvr_jax.host.runs.stream import Feed, Stream
from rlvr_jax.structs import Prompts, StepResult

Encode = Callable[[list[dataset.Record], int], Prompts]


class Experience:
    """An Experience hands out a stage's problems, and learns from the rewards of its steps.

    It is the `Feed` of the stage.  Its state, in every checkpoint, holds the stream of problems,
    with their pass rates where `difficulty` is on, and the running mean of the rewards of each
    domain with `baseline: domain`.  All processes have the same one.
    """

    def __init__(self, stage: RlStage, problems: dataset.RandomAccessSource, seed: int):
        """Begin without any rewards; `seed` is that of the order of the problems."""
        self._samples = stage.samples
        self._baselines: DecayedMeans | None = None
        self._rated: DifficultyStream | None = None
        if stage.advantage.baseline == "domain":
            self._baselines = DecayedMeans(stage.advantage.baseline_decay, 0.0)
        if stage.difficulty.on:
            self._rated = DifficultyStream(problems, stage.prompts, seed, stage.difficulty)
            self._stream: Feed = self._rated
        else:
            self._stream = Stream(dataset.batches(problems, stage.prompts, seed))

    def __len__(self) -> int:
        """Return the number of problems that wait."""
        return len(self._stream)

    def take(self, count: int) -> list[dataset.Record]:
        """Return the problems of the next step."""
        return self._stream.take(count)

    def give_back(self, records: list[dataset.Record]) -> None:
        """Accept problems that a step has not used."""
        self._stream.give_back(records)

    def get_state(self) -> dict[str, Any]:
        """Return the state of the stream, and all baselines, as JSON values."""
        state = self._stream.get_state()
        if self._baselines is not None:
            state |= {"baselines": self._baselines.get_state()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of `get_state`."""
        self._stream.set_state(state)
        if self._baselines is not None:
            self._baselines.set_state(state["baselines"])

    def encoder(self, encode: Encode) -> Encode:
        """Return `encode` with the baseline of each prompt beside the prompts, where there is one.

        The baseline is that before the step, which does not depend on the answers that it judges.
        """
        baselines = self._baselines
        if baselines is None:
            return encode

        def with_baseline(records: list[dataset.Record], step: int) -> Prompts:
            mean_Q: Any = [baselines.get(record["domain"]) for record in records]
            mean_Q = np.array(mean_Q, np.float32)
            return dataclasses.replace(encode(records, step), baseline_Q=mean_Q)

        return with_baseline

    def learn(
        self,
        records: Sequence[dataset.Record],
        result: StepResult,
        fetch: Callable[[Any], np.ndarray],
    ) -> dict[str, float]:
        """Remember the rewards of a step; return its metrics.

        `fetch` brings an array of `result`, that of the step on `records`, to every process.
        """
        metrics: dict[str, float] = {}
        if self._rated is not None:
            fates, mean_X = fetch(result.fate_X), fetch(result.mean_X)
            tried = [i for i, fate in enumerate(fates) if fate != prompt_filter.UNTRIED]
            metrics |= self._rated.learn([records[i] for i in tried], [mean_X[i] for i in tried])
        if self._baselines is not None:
            totals = defaultdict(list)
            for record, total in zip(records, fetch(result.total_Q), strict=True):
                totals[record["domain"]].append(float(total))
            for domain, values in sorted(totals.items()):
                count = len(values) * self._samples
                mean = self._baselines.add(domain, sum(values) / len(values), count)
                metrics[f"baseline/{domain}"] = mean
        return metrics
