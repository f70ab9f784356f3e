"""These sections of an rl stage say how it measures itself, and when it ends."""

import math
from dataclasses import dataclass
from typing import Literal

from rlvr_jax.config.fields import STRICT, check_positive, option


@dataclass(frozen=True)
class EvalConfig:
    """An EvalConfig says how often a policy in training answers held-out problems, and which."""

    every: int = option(0, "steps between evaluations; the last step has one too; 0: none")
    problems: int = option(100, "problems of the split that are answered, the first ones")
    samples: int = option(
        4, "sampled answers per problem, beside a greedy one; 0: the greedy one alone"
    )
    batch: int = option(50, "problems per call; rounded up to a multiple of the data shards")
    split: Literal["test", "label", "sft", "train"] = option(
        "test", "split of the problems; not the one that the stage learns from"
    )

    def __post_init__(self) -> None:
        check_positive(self, "problems", "batch")
        if self.every < 0 or self.samples < 0:
            raise ValueError("needs every >= 0 and samples >= 0")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class StopConfig:
    """A StopConfig ends a stage before its last step; the stages after it run all the same."""

    metric: str = option("", "metric that decides, such as eval/accuracy; empty: none")
    patience: int = option(0, "end after this many values in a row without a new best one; 0: off")
    at: float | None = option(None, "end as soon as the metric reaches this value")

    def __post_init__(self) -> None:
        if self.patience < 0 or self.at is not None and not math.isfinite(self.at):
            raise ValueError("needs patience >= 0 and a finite `at`")
        if bool(self.metric) != (self.patience > 0 or self.at is not None):
            raise ValueError("stop needs a metric, and patience or `at`, or none of them")

    __pydantic_config__ = STRICT
