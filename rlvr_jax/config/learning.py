"""How responses are drawn and what is learned from them: one section of a stage each."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from rlvr_jax.config.fields import STRICT, option, positive


@dataclass(frozen=True)
class SampleConfig:
    """The distribution a response is drawn from."""

    temperature: float = option(1.0, "softmax temperature; 0 is greedy")
    top_k: int = option(0, "keep the k most probable tokens; 0 keeps all")
    top_p: float = option(1.0, "keep the smallest set of tokens with this much mass; 1 keeps all")

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError("needs a finite temperature >= 0, top_k >= 0 and 0 < top_p <= 1")

    @property
    def whole(self) -> "SampleConfig":
        """The same without top_k and top_p."""
        return replace(self, top_k=0, top_p=1.0)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up."""

    lr: float = option(1e-3, "peak learning rate")
    warmup: int = option(0, "steps of linear warm-up")
    decay: Literal["constant", "linear", "cosine"] = option("constant", "schedule after warm-up")
    final: float = option(0.1, "learning rate at the last step, as a share of lr, when it decays")
    beta1: float = option(0.9, "decay of the first moment")
    beta2: float = option(0.95, "decay of the second moment")
    eps: float = option(1e-8, "Adam epsilon")
    weight_decay: float = option(0.0, "decoupled weight decay of matrices; vectors have none")
    grad_clip: float = option(1.0, "clip the global gradient norm to this")
    max_skipped: int = option(5, "non-finite updates in a row after which the run stops")

    def __post_init__(self) -> None:
        positive(self, "max_skipped")
        # Written so that nan fails too.  An infinite grad_clip is fine: it never clips.
        if not (0 <= self.lr < math.inf and self.warmup >= 0 and self.grad_clip > 0):
            raise ValueError("needs a finite lr >= 0, warmup >= 0 and grad_clip > 0")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and 0 <= self.final < math.inf):
            raise ValueError("needs 0 <= beta1 < 1, 0 <= beta2 < 1 and a finite final >= 0")
        if not (0 <= self.eps < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError("needs a finite eps >= 0 and weight_decay >= 0")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class AdvantageConfig:
    """From rewards to advantages: z-score, then a baseline; rlvr_jax/advantage.py names them."""

    normalise: Literal["batch", "group", "none"] = option(
        "batch", "z-score rewards over the global batch, over each group, or not at all"
    )
    baseline: Literal["rloo", "mean", "opo", "greedy", "value", "none"] = option(
        "rloo",
        "subtract the mean of the group's other samples, of the whole group, of the whole group "
        "weighted by length, the reward of a greedy answer, a value head's (PPO), or nothing",
    )
    std_floor: float = option(1e-4, "least standard deviation a reward is divided by")
    ddof: int = option(0, "standard deviations over n - ddof: 0 or, as in TRL and verl, 1")
    credit: Literal["response", "token"] = option(
        "response", "one advantage for a response, or each token's own share of the KL penalty"
    )
    whiten: Literal["none", "tokens"] = option(
        "none", "z-score the advantages over all tokens of the global batch (REINFORCE++, PPO)"
    )
    discount: float = option(1.0, "of rewards that come a token later, where credit is of tokens")
    gae_lambda: float = option(1.0, "decay of generalised advantages, with baseline: value")
    process_weight: float = option(0.0, "weight of token rewards beside the outcome's; 0 has none")
    process_scale: Literal["none", "batch"] = option(
        "none", "divide token rewards by the batch's largest return, as PRIME's code does"
    )
    weights: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "weights of several rewards by name, e.g. {correct: 1, format: 0.1}"},
    )
    mix: Literal["before", "after"] = option(
        "before", "add several rewards before normalisation, or after each one's own (GDPO)"
    )

    def __post_init__(self) -> None:
        if not 0 < self.std_floor < math.inf:  # 0 would divide equal rewards by nothing
            raise ValueError(f"needs a finite std_floor > 0, not {self.std_floor}")
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof is 0 or 1, not {self.ddof}")
        if not (0 < self.discount <= 1 and 0 <= self.gae_lambda <= 1):
            raise ValueError("needs 0 < discount <= 1 and 0 <= gae_lambda <= 1")
        if not 0 <= self.process_weight < math.inf:
            raise ValueError(f"needs a finite process_weight >= 0, not {self.process_weight}")
        if not all(math.isfinite(weight) and weight for weight in self.weights.values()):
            raise ValueError("weights must be finite and not 0: leave a reward out instead")
        by_token = self.credit == "token" or self.baseline == "value"
        if self.discount != 1 and not (by_token or self.process_weight):
            raise ValueError("discount needs credit: token, baseline: value or a process_weight")
        if self.gae_lambda != 1 and self.baseline != "value":
            raise ValueError("gae_lambda needs baseline: value")
        if self.process_scale != "none" and not self.process_weight:
            raise ValueError("process_scale needs a process_weight")
        if self.baseline == "greedy" and (self.normalise != "none" or self.process_weight):
            raise ValueError("baseline greedy is of plain outcomes: normalise none, no process")
        if self.mix == "after" and (self.normalise == "none" or len(self.weights) < 2):
            raise ValueError("mix: after needs a normalisation and weights of two or more rewards")

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.normalise, self.baseline, self.credit, tuple(sorted(self.weights))))

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class LossConfig:
    """What is maximised and its denominators; rlvr_jax/loss.py names the usual ones."""

    clip_low: float = option(0.2, "lower clip range of the probability ratio; 1 has no floor")
    clip_high: float = option(0.2, "upper clip range of the probability ratio")
    aggregate: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant"] = (
        option("token-mean", "denominators, always over the global batch; constant is N * R")
    )
    kl_coef: float = option(0.0, "weight of the KL to the reference policy; 0 needs no reference")
    kl_in: Literal["reward", "loss"] = option(
        "reward", "k1 summed over the response, off the reward; or k3 per token, in the loss"
    )
    kl_form: Literal["auto", "k1", "k2", "k3", "abs", "k1+", "k3+"] = option(
        "auto", "estimate of the KL; auto: k1 in the reward, k3 in the loss; +: k2's gradient"
    )
    kl_target: float = option(0.0, "KL per token that kl_coef is adapted to; 0 leaves it alone")
    kl_horizon: float = option(10000.0, "responses over which kl_coef may change by a fifth")
    kl_corrected: bool = option(False, "the KL in the loss times the ratio, for off-policy rows")
    objective: Literal["clip", "cispo", "sapo", "gmpo", "plain"] = option(
        "clip", "PPO's minimum, bounded weights, a soft gate, a geometric mean, or no ratio at all"
    )
    ratio: Literal["token", "sequence", "sequence-token", "product"] = option(
        "token", "of a token; geometric mean of a response (GSPO), or that per token; their product"
    )
    dual_clip: float = option(0.0, "bound of the loss where A < 0, in units of A; 0 has none")
    gate_positive: float = option(1.0, "sapo: temperature of the gate where A > 0")
    gate_negative: float = option(1.05, "sapo: temperature of the gate where A <= 0")
    entropy_coef: float = option(0.0, "weight of the entropy bonus")
    value_coef: float = option(0.1, "baseline value: weight of the value head's squared error")
    value_clip: float = option(
        0.2, "baseline value: no gain from values further than this from the old ones; 0 is off"
    )
    correct: Literal[
        "none", "truncate", "mask", "sequence-truncate", "sequence-mask", "geometric-mask"
    ] = option("none", "weights for what the sampler's log-probs are off the trainer's")
    correct_low: float = option(0.0, "least such weight")
    correct_high: float = option(2.0, "largest such weight")
    stale_kl: float = option(
        0.0, "leave out rows with A < 0 that drifted further than this per token; 0 keeps all"
    )

    def __post_init__(self) -> None:
        if not (0 < self.clip_low <= 1 and self.clip_high > 0 and 0 <= self.kl_coef < math.inf):
            raise ValueError("needs 0 < clip_low <= 1, clip_high > 0 and a finite kl_coef >= 0")
        if not (0 <= self.entropy_coef < math.inf and 0 <= self.stale_kl < math.inf):
            raise ValueError("needs a finite entropy_coef >= 0 and stale_kl >= 0")
        if not (0 <= self.value_coef < math.inf and 0 <= self.value_clip < math.inf):
            raise ValueError("needs a finite value_coef >= 0 and value_clip >= 0")
        if not (0 < self.gate_positive < math.inf and 0 < self.gate_negative < math.inf):
            raise ValueError("needs finite gate_positive > 0 and gate_negative > 0")
        if not 0 <= self.correct_low <= 1 <= self.correct_high < math.inf:
            raise ValueError("needs 0 <= correct_low <= 1 <= correct_high")
        if not (0 <= self.kl_target < math.inf and 0 < self.kl_horizon < math.inf):
            raise ValueError("needs a finite kl_target >= 0 and kl_horizon > 0")
        if self.kl_target and not self.kl_coef:
            raise ValueError("kl_target needs a kl_coef to begin with")
        if self.objective != "clip" and self.ratio != "token":
            raise ValueError(f"objective {self.objective} has a ratio of its own: ratio token")
        clips = self.objective in ("clip", "cispo", "gmpo") and self.ratio == "token"
        if clips and min(self.clip_low, self.clip_high) < 0.01:
            raise ValueError("clip ranges below 0.01 are for ratio: sequence (GSPO), not of tokens")
        if self.dual_clip and not (self.objective == "clip" and self.dual_clip > 1):
            raise ValueError("dual_clip needs objective: clip and must be above 1")
        if self.kl_in == "reward" and (self.kl_corrected or self.kl_form.endswith("+")):
            raise ValueError("kl_corrected, k1+ and k3+ are about gradients: they need kl_in: loss")
        if self.kl_in == "loss" and self.kl_form == "k1" and not self.kl_corrected:
            raise ValueError("k1 in the loss pulls nowhere: use k1+, or kl_corrected with it")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class OverlongConfig:
    """What becomes of responses near and at the end of their budget (DAPO, arXiv 2503.14476)."""

    buffer: int = option(0, "last tokens of the budget that cost reward, up to `penalty`; 0: none")
    penalty: float = option(1.0, "what a response that fills its budget loses")
    leave_out: bool = option(False, "responses cut off by the budget teach the policy nothing")

    def __post_init__(self) -> None:
        if self.buffer < 0 or not 0 < self.penalty < math.inf:
            raise ValueError("needs buffer >= 0 and a finite penalty > 0")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class FilterConfig:
    """Which groups teach the policy; a step may sample again for the places of the others."""

    low: float = option(0.0, "least mean outcome of a group that is kept; PRIME: 0.2")
    high: float = option(1.0, "largest mean outcome of a group that is kept; PRIME: 0.8")
    spread: bool = option(False, "groups whose outcomes are all equal are left out (DAPO)")
    whole: bool = option(False, "groups with a response cut off by the budget are left out (PRIME)")
    rounds: int = option(1, "most rounds of generation in a step, while places are unfilled")

    def __post_init__(self) -> None:
        positive(self, "rounds")
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"needs 0 <= low <= high <= 1, not {self.low} and {self.high}")
        if self.rounds > 1 and not self.on:
            raise ValueError(
                f"rounds is {self.rounds} and every group would be kept in the first: set low, "
                "high, spread or whole too"
            )

    @property
    def on(self) -> bool:
        """Whether any group could be left out."""
        return self.low > 0 or self.high < 1 or self.spread or self.whole

    __pydantic_config__ = STRICT


def _prm_optim() -> OptimConfig:
    return OptimConfig(lr=1e-6, grad_clip=10.0)  # PRIME's


@dataclass(frozen=True)
class PrmConfig:
    """The implicit process reward model: of a prm stage, or where advantage.process_weight > 0."""

    loss: Literal["ce", "dpo", "kto", "nca"] = option(
        "ce", "of each outcome; of right against wrong for one prompt; of all against their mean"
    )
    init: str = option("", "rl: the stage whose model or PRM it starts from; empty: the policy")
    beta: float = option(0.05, "token rewards are beta * log-ratio to the reference")
    order: Literal["score-first", "update-first"] = option(
        "score-first", "rewards of the PRM as it was, from its update's own forward pass; or after"
    )
    reference: Literal["frozen", "policy"] = option(
        "frozen", "what it is compared with: the policy at the start, or as it sampled"
    )
    share: float = option(
        1.0, "of the responses it learns from, drawn by how wrong it is about them; all are scored"
    )
    granularity: Literal["token", "line", "whole"] = option(
        "token", "rewards stay on their tokens, or are added up on the last of a line, of a row"
    )
    optim: OptimConfig = field(default_factory=_prm_optim, metadata={"help": "its optimizer"})

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"needs a finite beta > 0, not {self.beta}")
        if not 0 < self.share <= 1:
            raise ValueError(f"needs 0 < share <= 1, not {self.share}")

    def check(self, samples: int, sample: SampleConfig) -> None:
        """Refuse what rollouts of this kind cannot teach a PRM."""
        if self.reference == "policy" and sample != sample.whole:
            raise ValueError("prm.reference policy needs sampling without top_k and top_p")
        if self.loss in ("dpo", "nca") and samples < 2:
            raise ValueError(f"prm.loss {self.loss} needs samples of at least 2 per prompt")

    __pydantic_config__ = STRICT
