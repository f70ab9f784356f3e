"""This config section describes a low-rank adapter, which learns in place of a model's matrices."""

import math
from dataclasses import dataclass
from typing import Literal

from rlvr_jax.config.fields import STRICT, option

Target = Literal["q", "k", "v", "o", "gate", "up", "down"]
TARGETS: tuple[Target, ...] = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class AdapterConfig:
    """An AdapterConfig describes the adapter (LoRA) that learns while the model below is frozen."""

    rank: int = option(0, "rank of the adapter's matrices; 0: no adapter, all parameters learn")
    alpha: float = option(32.0, "the product of the two matrices is scaled by alpha / rank")
    targets: tuple[Target, ...] = option(
        TARGETS, "the matrices of a layer that have an adapter: q, k, v, o, gate, up, down"
    )
    rslora: bool = option(False, "scale by alpha / sqrt(rank) instead (rank-stabilised LoRA)")
    weights: str = option(
        "",
        "folder of an adapter in PEFT's format that `pretrained` starts from; rank, alpha, targets "
        "and rslora come from its files; empty: a new adapter, which changes nothing at first",
    )

    def __post_init__(self) -> None:
        if self.rank < 0 or not 0 < self.alpha < math.inf:
            raise ValueError("needs rank >= 0 and a finite alpha > 0")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets must name matrices, each once, not {list(self.targets)}")

    @property
    def scale(self) -> float:
        """Return the factor of the product of the two matrices; the rank must be above 0."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    __pydantic_config__ = STRICT
