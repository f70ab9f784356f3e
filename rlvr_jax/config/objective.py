"""These sections of an rl stage say what its policy maximises: advantages, loss, reference."""

import math
from dataclasses import dataclass, field
from typing import Literal

from rlvr_jax.config.fields import STRICT, check_choice_or_file, choice_or_file, option

BASELINES = ("rloo", "mean", "opo", "greedy", "value", "domain", "none")
OBJECTIVES = ("clip", "cispo", "sapo", "gmpo", "plain", "clip-cov", "kl-cov", "dppo-tv", "dppo-kl")


@dataclass(frozen=True)
class AdvantageConfig:
    """An AdvantageConfig says how rewards become advantages: normalisation, then a baseline.

    rlvr_jax/advantage.py lists the published estimators with the options that give each of them.
    """

    normalise: Literal["batch", "group", "group-mean", "none"] = option(
        "batch",
        "z-score rewards over the global batch, over each group, or not at all; group-mean: "
        "subtract the mean of the group and divide by it (MaxRL)",
    )
    baseline: str = choice_or_file(
        "rloo",
        BASELINES,
        "what is subtracted from a reward: rloo: mean of the group's other samples; mean: mean "
        "of the group; opo: that mean weighted by length; greedy: the reward of a greedy response "
        "(ReMax); value: the output of a value head (PPO); domain: a running mean of the rewards "
        "of earlier steps in the problem's domain (RAE); none: nothing; a file: its `advantages` "
        "(docs/extending.md)",
    )
    baseline_decay: float = option(
        0.95,
        "with baseline: domain: what remains of the weight of the older rewards after each reward",
    )
    std_floor: float = option(1e-4, "smallest standard deviation that rewards are divided by")
    ddof: int = option(
        1,
        "standard deviations divide by n - ddof: 1 as in TRL, verl and OpenRLHF's groups, or 0",
    )
    pass_k: int = option(
        1,
        "the reward of a response is that of the sets of pass_k responses that it belongs to, "
        "each rewarded as its best member (pass@k training); 1: its own",
    )
    credit: Literal["response", "token"] = option(
        "response",
        "response: one advantage for all tokens of a response; token: an advantage for each token, "
        "which counts the KL penalty from that token on",
    )
    whiten: Literal["none", "tokens", "tokens-keep-mean", "responses"] = option(
        "none",
        "tokens: z-score the advantages over all tokens of the global batch (REINFORCE++, PPO); "
        "tokens-keep-mean: the same, and add their mean again; responses: z-score over responses",
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
        check_choice_or_file(self, "baseline")
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
        outcomes = self.baseline in ("greedy", "domain") or self.baseline.endswith(".py")
        if outcomes and (self.normalise != "none" or self.process_weight):
            raise ValueError(
                f"baseline {self.baseline} is of plain outcomes: normalise none, no process_weight"
            )
        if not 0 <= self.baseline_decay < 1:
            raise ValueError(f"needs 0 <= baseline_decay < 1, not {self.baseline_decay}")
        if self.baseline_decay != 0.95 and self.baseline != "domain":
            raise ValueError("baseline_decay needs baseline: domain")
        self._check_groups()

    def _check_groups(self) -> None:
        """Raise ValueError if options about groups and whole responses contradict each other."""
        if self.pass_k < 1:
            raise ValueError(f"pass_k must be at least 1, not {self.pass_k}")
        own = {"group": "none", "none": "mean"}
        if self.pass_k > 1 and own.get(self.normalise) != self.baseline:
            raise ValueError(
                "pass_k compares with the group itself: it needs normalise: group with baseline: "
                "none, or normalise: none with baseline: mean"
            )
        if self.normalise == "group-mean" and self.baseline != "none":
            raise ValueError("normalise group-mean subtracts the group's mean: baseline none")
        if self.normalise == "group-mean" and self.process_weight:
            raise ValueError("normalise group-mean is of outcomes >= 0: it needs process_weight 0")
        per_token = self.credit == "token" or self.baseline == "value" or self.process_weight
        if self.whiten == "responses" and per_token:
            raise ValueError("whiten: responses needs one advantage for each whole response")
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
    aggregate: Literal[
        "token-mean", "token-sum", "seq-mean-token-mean", "seq-mean-token-sum", "constant"
    ] = option(
        "token-mean",
        "how token losses are averaged over the global batch: over all tokens; summed over all "
        "tokens; over each row's tokens, then over rows; summed over a row's tokens, then over "
        "rows; or divided by the constant rows * aggregate_length",
    )
    aggregate_length: int = option(
        0, "with aggregate: constant: tokens that stand for each row; 0: data.response_columns"
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
    objective: str = choice_or_file(
        "clip",
        OBJECTIVES,
        "clip: PPO's clipped ratio; cispo: a clipped constant weight; sapo: a soft gate; gmpo: the "
        "geometric mean of clipped ratios; plain: policy gradient without a ratio; clip-cov, "
        "kl-cov: tokens whose log-prob and advantage vary together are left out or held back; "
        "dppo-tv, dppo-kl: tokens whose probability has moved too far are left out (clip_low and "
        "clip_high bound the divergence); a file: its `objective` (docs/extending.md)",
    )
    ratio: Literal["token", "sequence", "sequence-token", "product"] = option(
        "token",
        "token: the probability ratio of each token; sequence: the geometric mean of the "
        "response's ratios (GSPO); sequence-token: the value of sequence with the gradient of "
        "the token's own log-prob; product: the product of the response's ratios (RLOO)",
    )
    dual_clip: float = option(
        0.0,
        "dual clip: where A < 0 the loss is at most this times -A; dppo: the largest ratio that "
        "weights a token; 0: no bound",
    )
    gate_positive: float = option(1.0, "sapo: temperature of the gate of tokens with A > 0")
    gate_negative: float = option(1.05, "sapo: temperature of the gate of tokens with A <= 0")
    cov_share: float = option(
        2e-4, "clip-cov, kl-cov: largest share of the update's tokens that is left out or held back"
    )
    cov_low: float = option(1.0, "clip-cov: tokens with a covariance above this may be left out")
    cov_high: float = option(5.0, "clip-cov: and below this")
    cov_kl: float = option(1.0, "kl-cov: weight of |log ratio| of the tokens that are held back")
    top_entropy: float = option(
        1.0,
        "share of the update's tokens, those of the largest entropy, that get a policy gradient; "
        "below 1 each update reads its tokens once more",
    )
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
    correct_normalise: bool = option(
        False, "divide the importance weights of `correct` by their mean over the update"
    )
    reject: Literal["none", "token", "sequence", "geometric"] = option(
        "none",
        "leave out what the sampler wrote with too different probabilities, whatever `correct` is: "
        "tokens whose p_trainer / p_sampler is outside reject_low..reject_high; sequence, "
        "geometric: responses whose product or geometric mean of these ratios is",
    )
    reject_low: float = option(0.5, "smallest ratio that `reject` keeps")
    reject_high: float = option(2.0, "largest ratio that `reject` keeps")
    stale_kl: float = option(
        0.0,
        "leave out tokens with A < 0 of responses whose mean of log(p_sampler / p_policy) per "
        "token is above this; 0: keep all",
    )

    def __post_init__(self) -> None:
        check_choice_or_file(self, "objective")
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
        self._check_terms()
        self._check_tokens()

    def _check_terms(self) -> None:
        """Raise ValueError if objective, ratio, bounds or KL do not go together."""
        if self.objective != "clip" and self.ratio != "token":
            raise ValueError(f"objective {self.objective} has a ratio of its own: ratio token")
        clips = self.objective in ("clip", "cispo", "gmpo", "clip-cov") and self.ratio == "token"
        if clips and min(self.clip_low, self.clip_high) < 0.01:
            raise ValueError("clip ranges below 0.01 are for ratio: sequence (GSPO), not of tokens")
        bounded = self.objective == "clip" or self.objective.startswith("dppo")
        if self.dual_clip and not (bounded and self.dual_clip > 1):
            raise ValueError("dual_clip needs objective: clip or dppo, and must be above 1")
        if self.kl_in == "reward" and (self.kl_corrected or self.kl_form.endswith("+")):
            raise ValueError("kl_corrected, k1+ and k3+ are about gradients: they need kl_in: loss")
        if self.kl_in == "loss" and self.kl_form == "k1" and not self.kl_corrected:
            raise ValueError("k1 in the loss pulls nowhere: use k1+, or kl_corrected with it")

    def _check_tokens(self) -> None:
        """Raise ValueError if options that weight or leave out tokens have no meaning."""
        if self.aggregate_length < 0 or (self.aggregate_length and self.aggregate != "constant"):
            raise ValueError("aggregate_length needs aggregate: constant and must be above 0")
        if not 0 < self.top_entropy <= 1:
            raise ValueError(f"needs 0 < top_entropy <= 1, not {self.top_entropy}")
        whole_rows = self.objective == "gmpo" or self.ratio in ("sequence", "product")
        if self.top_entropy < 1 and whole_rows:
            raise ValueError(
                "top_entropy chooses tokens, and objective gmpo or ratio sequence and product are "
                "of whole responses"
            )
        if not (0 < self.cov_share <= 1 and self.cov_low < self.cov_high):
            raise ValueError("needs 0 < cov_share <= 1 and cov_low < cov_high")
        if not 0 <= self.cov_kl < math.inf:
            raise ValueError(f"needs a finite cov_kl >= 0, not {self.cov_kl}")
        if self.correct_normalise and self.correct in ("none", "geometric-mask"):
            raise ValueError("correct_normalise needs importance weights: truncate or mask")
        if not 0 <= self.reject_low <= 1 <= self.reject_high < math.inf:
            raise ValueError("needs 0 <= reject_low <= 1 <= reject_high")

    @property
    def couples_tokens(self) -> bool:
        """Return whether the loss of a token depends on all tokens of its update.

        Each update then reads all its tokens once before it takes the gradient.
        """
        of_tokens = self.objective in ("clip-cov", "kl-cov") or self.top_entropy < 1
        return of_tokens or self.correct_normalise

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class ReferenceConfig:
    """A ReferenceConfig says whether the reference policy of the KL term follows the policy."""

    update_every: int = option(
        0,
        "steps after which the reference policy becomes mixup * policy + (1 - mixup) * reference; "
        "0: it stays the policy at the start of the stage",
    )
    mixup: float = option(1.0, "share of the policy in the new reference; 1: the policy itself")

    def __post_init__(self) -> None:
        if self.update_every < 0 or not 0 < self.mixup <= 1:
            raise ValueError("needs update_every >= 0 and 0 < mixup <= 1")
        if self.mixup != 1 and not self.update_every:
            raise ValueError("mixup needs update_every: without it the reference never changes")

    __pydantic_config__ = STRICT
