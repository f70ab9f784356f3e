"""These sections of a stage say how responses are sampled, filtered, and learned from."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from rlvr_jax.config.fields import STRICT, check_positive, option, section


@dataclass(frozen=True)
class SampleConfig:
    """A SampleConfig is the distribution that each token of a response is sampled from."""

    temperature: float = option(1.0, "softmax temperature; 0 is greedy")
    top_k: int = option(0, "sample among the k most probable tokens; 0: among all")
    top_p: float = option(
        1.0, "sample among the fewest tokens with this much probability; 1: among all"
    )

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError("needs a finite temperature >= 0, top_k >= 0 and 0 < top_p <= 1")

    @property
    def whole(self) -> "SampleConfig":
        """Return the same distribution without the cuts of top_k and top_p."""
        return replace(self, top_k=0, top_p=1.0)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class OptimConfig:
    """An OptimConfig describes AdamW, its learning-rate schedule and gradient clipping."""

    lr: float = option(1e-3, "peak learning rate")
    warmup: int = option(0, "updates of linear warm-up")
    decay: Literal["constant", "linear", "cosine"] = option(
        "constant", "learning-rate schedule after warm-up"
    )
    final: float = option(
        0.1, "learning rate of the last update as a fraction of lr, with decay linear or cosine"
    )
    beta1: float = option(0.9, "decay rate of the first moment")
    beta2: float = option(0.95, "decay rate of the second moment")
    eps: float = option(1e-8, "epsilon of Adam")
    weight_decay: float = option(0.0, "decoupled weight decay of matrices; vectors are not decayed")
    grad_clip: float = option(
        1.0, "largest global norm of the gradient; a larger gradient is scaled down to it"
    )
    moments: Literal["float32", "bfloat16", "float8"] = option(
        "float32",
        "dtype in which the two moments of matrices are held, rounded at random: 8, 4 or 2 bytes "
        "a parameter",
    )
    max_skipped: int = option(5, "number of non-finite updates in a row after which the run stops")

    def __post_init__(self) -> None:
        check_positive(self, "max_skipped")
        # Written so that nan fails too.  An infinite grad_clip is allowed: it never clips.
        if not (0 <= self.lr < math.inf and self.warmup >= 0 and self.grad_clip > 0):
            raise ValueError("needs a finite lr >= 0, warmup >= 0 and grad_clip > 0")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and 0 <= self.final < math.inf):
            raise ValueError("needs 0 <= beta1 < 1, 0 <= beta2 < 1 and a finite final >= 0")
        if not (0 <= self.eps < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError("needs a finite eps >= 0 and weight_decay >= 0")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class OverlongConfig:
    """An OverlongConfig says what happens to responses near the end of their token budget.

    Both ways are from DAPO (arXiv 2503.14476, section 3.4).
    """

    buffer: int = option(
        0, "number of last tokens of the budget over which the penalty grows from 0; 0: no penalty"
    )
    penalty: float = option(1.0, "reward that a response which fills its budget loses")
    leave_out: bool = option(
        False, "leave responses that the budget cut off out of the policy's loss"
    )

    def __post_init__(self) -> None:
        if self.buffer < 0 or not 0 < self.penalty < math.inf:
            raise ValueError("needs buffer >= 0 and a finite penalty > 0")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class FilterConfig:
    """A FilterConfig says which groups of responses the policy learns from.

    A step may sample further prompts for the places of the groups that it leaves out.
    """

    low: float = option(0.0, "smallest mean reward of a group that is kept; PRIME: 0.2")
    high: float = option(1.0, "largest mean reward of a group that is kept; PRIME: 0.8")
    spread: bool = option(False, "leave out groups whose rewards are all equal (DAPO)")
    whole: bool = option(False, "leave out groups with a response that the budget cut off (PRIME)")
    rounds: int = option(
        1, "largest number of rounds of generation in a step, while places are unfilled"
    )

    def __post_init__(self) -> None:
        check_positive(self, "rounds")
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"needs 0 <= low <= high <= 1, not {self.low} and {self.high}")
        if self.rounds > 1 and not self.on:
            raise ValueError(
                f"rounds is {self.rounds} and every group would be kept in the first: set low, "
                "high, spread or whole too"
            )

    @property
    def on(self) -> bool:
        """Return whether the filter can leave out any group."""
        return self.low > 0 or self.high < 1 or self.spread or self.whole

    __pydantic_config__ = STRICT


# Bands of the pass rate of a problem, the running mean of its rewards in [0, 1].
BANDS = ("unseen", "unsolved", "hard", "middle", "easy", "solved")


@dataclass(frozen=True)
class DifficultyConfig:
    """A DifficultyConfig says how the pass rate of a problem decides how often it is drawn.

    `host.problems.difficulty.EDGES` says where each band begins.
    """

    weights: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "how often a problem is drawn, relative to others, by the band of its pass "
            f"rate: {', '.join(BANDS)}; e.g. {{hard: 2, middle: 4, solved: 0}}; a band without a "
            "weight has 1, one with 0 is left out; empty: shuffled epochs"
        },
    )
    decay: float = option(
        0.5,
        "a pass rate becomes decay * pass rate + (1 - decay) * mean reward of the newest answers",
    )

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(BANDS)):
            raise ValueError(
                f"weights has no band {unknown[0]!r}: the bands are {', '.join(BANDS)}"
            )
        for band, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"weights.{band} must be finite and at least 0, not {weight}")
        if self.weights.get("unseen") == 0:
            raise ValueError("weights.unseen is 0: no problem would ever be tried a first time")
        if not 0 <= self.decay < 1:
            raise ValueError(f"needs 0 <= decay < 1, not {self.decay}")
        if self.decay != 0.5 and not self.weights:
            raise ValueError("decay needs weights: without them no pass rates are kept")

    @property
    def on(self) -> bool:
        """Return whether problems are drawn by their pass rates."""
        return bool(self.weights)

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.decay, tuple(sorted(self.weights.items()))))

    __pydantic_config__ = STRICT


def _prm_optim() -> OptimConfig:
    return OptimConfig(lr=1e-6, grad_clip=10.0)  # as published with PRIME (arXiv 2502.01456)


@dataclass(frozen=True)
class PrmConfig:
    """A PrmConfig describes an implicit process reward model (PRM).

    It is used by prm stages, and by rl stages with advantage.process_weight above 0.
    """

    loss: Literal["ce", "dpo", "kto", "nca"] = option(
        "ce",
        "ce: cross-entropy of each outcome; dpo, nca: pairs of a right and a wrong response to one "
        "prompt; kto: each response against the mean of the batch",
    )
    init: str = option(
        "", "rl stages: the stage whose model or PRM it starts from; empty: the policy"
    )
    beta: float = option(0.05, "token rewards are beta * log(p_prm / p_reference)")
    order: Literal["score-first", "update-first"] = option(
        "score-first",
        "score-first: token rewards come from the PRM before its update of the step; "
        "update-first: after it",
    )
    reference: Literal["frozen", "policy"] = option(
        "frozen",
        "reference of the log-ratio: frozen: the policy at the start of the stage; policy: the "
        "policy that sampled the responses",
    )
    share: float = option(
        1.0,
        "expected share of the responses that the PRM learns from; each is drawn with a chance "
        "proportional to the PRM's error on it; all responses get token rewards",
    )
    granularity: Literal["token", "line", "whole"] = option(
        "token",
        "rewards stay on their tokens, or are added up on the last token of each line, or of the "
        "whole response",
    )
    optim: OptimConfig = section(_prm_optim, "optimizer of the PRM")

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"needs a finite beta > 0, not {self.beta}")
        if not 0 < self.share <= 1:
            raise ValueError(f"needs 0 < share <= 1, not {self.share}")

    def check_rollouts(self, samples: int, sample: SampleConfig) -> None:
        """Raise ValueError if rollouts that are sampled in this way cannot teach the PRM.

        `samples` is the number of responses to each prompt, `sample` how they are sampled.
        """
        if self.reference == "policy" and sample != sample.whole:
            raise ValueError("prm.reference policy needs sampling without top_k and top_p")
        if self.loss in ("dpo", "nca") and samples < 2:
            raise ValueError(f"prm.loss {self.loss} needs samples of at least 2 per prompt")

    __pydantic_config__ = STRICT
