"""These sections of a stage say how responses are sampled and how the policy learns from them."""

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
class AdvantageConfig:
    """An AdvantageConfig says how rewards become advantages: normalisation, then a baseline.

    rlvr_jax/advantage.py lists the published estimators with the options that give each of them.
    """

    normalise: Literal["batch", "group", "none"] = option(
        "batch", "z-score rewards over the global batch, over each group, or not at all"
    )
    baseline: Literal["rloo", "mean", "opo", "greedy", "value", "none"] = option(
        "rloo",
        "what is subtracted from a reward: rloo: mean of the group's other samples; mean: mean "
        "of the group; opo: that mean weighted by length; greedy: the reward of a greedy response "
        "(ReMax); value: the output of a value head (PPO); none: nothing",
    )
    std_floor: float = option(1e-4, "smallest standard deviation that rewards are divided by")
    ddof: int = option(0, "standard deviations divide by n - ddof: 0, or 1 as in TRL and verl")
    credit: Literal["response", "token"] = option(
        "response",
        "response: one advantage for all tokens of a response; token: an advantage for each token, "
        "which counts the KL penalty from that token on",
    )
    whiten: Literal["none", "tokens"] = option(
        "none",
        "tokens: z-score the advantages over all tokens of the global batch (REINFORCE++, PPO)",
    )
    discount: float = option(
        1.0,
        "a token is credited with a reward n tokens later times discount ** n; needs credit: "
        "token, baseline: value or a process_weight",
    )
    gae_lambda: float = option(
        1.0, "lambda of generalised advantage estimation, with baseline: value"
    )
    process_weight: float = option(
        0.0, "weight of the token rewards of an implicit PRM (PRIME); 0: no PRM"
    )
    process_scale: Literal["none", "batch"] = option(
        "none",
        "batch: divide token rewards by the largest absolute return of the batch, as PRIME's "
        "code does",
    )
    weights: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "weight of each reward by name, with `also`, e.g. {reward: 1, format: 0.1}"
        },
    )
    mix: Literal["before", "after"] = option(
        "before",
        "before: several rewards are weighted and added, then normalised; after: each reward "
        "is normalised by itself, then their weighted sum again over the batch (GDPO)",
    )

    def __post_init__(self) -> None:
        if not 0 < self.std_floor < math.inf:  # with 0, equal rewards would be divided by 0
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
    """A LossConfig says which objective the policy maximises and how its terms are averaged.

    rlvr_jax/loss.py lists the published objectives with the options that give each of them.
    """

    clip_low: float = option(
        0.2, "the probability ratio is clipped below at 1 - clip_low; 1: no lower bound"
    )
    clip_high: float = option(0.2, "the probability ratio is clipped above at 1 + clip_high")
    aggregate: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant"] = (
        option(
            "token-mean",
            "how token losses are averaged over the global batch: over all tokens; over each row's "
            "tokens, then over rows; summed over a row's tokens, then over rows; or divided by the "
            "constant rows * data.response_columns",
        )
    )
    kl_coef: float = option(
        0.0,
        "weight of the KL divergence to the reference policy; 0: no KL, and only a PRM loads a "
        "reference",
    )
    kl_in: Literal["reward", "loss"] = option(
        "reward",
        "reward: the KL is subtracted from the reward; loss: it is a term of the loss, per token",
    )
    kl_form: Literal["auto", "k1", "k2", "k3", "abs", "k1+", "k3+"] = option(
        "auto",
        "estimator of the KL; auto: k1 in the reward, k3 in the loss; k1+ and k3+ have k2's "
        "gradient",
    )
    kl_target: float = option(
        0.0, "KL per token that kl_coef is adapted to reach; 0: kl_coef stays as it is"
    )
    kl_horizon: float = option(
        10000.0, "number of responses in which the adapted kl_coef changes by a fifth at most"
    )
    kl_corrected: bool = option(
        False, "multiply the KL in the loss by the probability ratio, for off-policy tokens"
    )
    objective: Literal["clip", "cispo", "sapo", "gmpo", "plain"] = option(
        "clip",
        "clip: PPO's clipped ratio; cispo: a clipped constant weight; sapo: a soft gate; gmpo: the "
        "geometric mean of clipped ratios; plain: policy gradient without a ratio",
    )
    ratio: Literal["token", "sequence", "sequence-token", "product"] = option(
        "token",
        "token: the probability ratio of each token; sequence: the geometric mean of the "
        "response's ratios (GSPO); sequence-token: the value of sequence with the gradient of "
        "the token's own log-prob; product: the product of the response's ratios (RLOO)",
    )
    dual_clip: float = option(
        0.0, "dual clip: where A < 0 the loss is at most this times -A; 0: no bound"
    )
    gate_positive: float = option(1.0, "sapo: temperature of the gate of tokens with A > 0")
    gate_negative: float = option(1.05, "sapo: temperature of the gate of tokens with A <= 0")
    entropy_coef: float = option(0.0, "weight of the entropy bonus")
    value_coef: float = option(
        0.1, "with baseline: value: weight of the value head's squared error"
    )
    value_clip: float = option(
        0.2,
        "with baseline: value: an update cannot lower the value loss by moving a value further "
        "than this from its old value, in units of the reward; 0: no bound",
    )
    correct: Literal[
        "none", "truncate", "mask", "sequence-truncate", "sequence-mask", "geometric-mask"
    ] = option(
        "none",
        "importance weights p_trainer / p_sampler of tokens; sequence-: of whole responses. "
        "truncate clips them to correct_low..correct_high, mask makes them 0 outside; "
        "geometric-mask leaves out responses whose geometric mean of them is outside",
    )
    correct_low: float = option(0.0, "smallest importance weight of `correct`")
    correct_high: float = option(2.0, "largest importance weight of `correct`")
    stale_kl: float = option(
        0.0,
        "leave out tokens with A < 0 of responses whose mean of log(p_sampler / p_policy) per "
        "token is above this; 0: keep all",
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
