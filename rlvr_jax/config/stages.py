"""The stages that a run is a list of."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rlvr_jax.config.fields import STRICT, file_name, option, own, positive
from rlvr_jax.config.learning import (
    AdvantageConfig,
    FilterConfig,
    LossConfig,
    OptimConfig,
    OverlongConfig,
    PrmConfig,
    SampleConfig,
)
from rlvr_jax.config.reward import AlarmConfig, JudgeConfig, NegativesConfig, RewardConfig


@dataclass(frozen=True)
class TokenizerStage:
    """Train the sentencepiece model on the text of the sft problems."""

    stage: Literal["tokenizer"] = "tokenizer"
    name: str = option("tokenizer", "name of the stage and of what it leaves behind")

    def __post_init__(self) -> None:
        file_name(self.name)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class SftStage:
    """Teach the policy the demonstrations."""

    stage: Literal["sft"] = "sft"
    name: str = option("sft", "name of the stage and of what it leaves behind")
    init: str = option("fresh", "the stage it starts from, `fresh` or `pretrained`")
    steps: int = option(500, "optimizer updates")
    batch: int = option(64, "demonstrations per update")
    optim: OptimConfig = own(OptimConfig, "optimizer")
    save_every: int = option(100, "steps between checkpoints")

    def __post_init__(self) -> None:
        file_name(self.name)
        positive(self, "steps", "batch", "save_every")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class LabelStage:
    """Sample answers to the label problems and have a judge give each a 0/1 verdict."""

    stage: Literal["label"] = "label"
    name: str = option("label", "name of the stage and of what it leaves behind")
    judge: JudgeConfig = own(JudgeConfig, "who gives the verdicts")
    answers: str = option(
        "",
        "judge what an rl stage collected, or again what another label stage judged, "
        "instead of new answers",
    )
    policy: str = option("sft", "the stage whose policy answers, or `pretrained`")
    samples: int = option(4, "answers per problem")
    strangers: int = option(1, "answers to other problems that are judged too, per problem")
    cuts: int = option(2, "answers cut short that are judged too, per problem")
    batch: int = option(64, "problems per call")
    sample: SampleConfig = own(SampleConfig, "how answers are drawn")

    def __post_init__(self) -> None:
        file_name(self.name)
        positive(self, "samples", "batch")
        if self.strangers < 0 or self.cuts < 0:
            raise ValueError("needs strangers >= 0 and cuts >= 0")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class VerifierStage:
    """Fine-tune the compact verifier on the verdicts."""

    stage: Literal["verifier"] = "verifier"
    name: str = option("verifier", "name of the stage and of what it leaves behind")
    verdicts: str = option("label", "the label stage whose verdicts it learns")
    init: str = option("sft", "the stage it starts from, `fresh` or `pretrained`")
    steps: int = option(500, "optimizer updates")
    batch: int = option(64, "verdicts per update")
    held_out: int = option(
        512, "verdicts kept back to measure its accuracy, on problems that it does not learn"
    )
    negatives: NegativesConfig = own(NegativesConfig, "wrong answers that are mixed in")
    balance: Literal["none", "down", "up"] = option(
        "none", "until 0 and 1 are equally many: leave out of the larger, or repeat the smaller"
    )
    optim: OptimConfig = own(OptimConfig, "optimizer")
    save_every: int = option(100, "steps between checkpoints")

    def __post_init__(self) -> None:
        file_name(self.name)
        positive(self, "steps", "batch", "held_out", "save_every")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class RlStage:
    """Reinforcement learning from the verifier's logit, one jitted step."""

    stage: Literal["rl"] = "rl"
    name: str = option("rl", "name of the stage and of what it leaves behind")
    policy: str = option(
        "sft", "the stage whose policy is trained, also the reference; or `pretrained`"
    )
    verifier: str = option("verifier", "the stage whose verifier gives the reward; or `pretrained`")
    split: Literal["train", "label"] = option(
        "train", "where its problems come from; label: exploring for a verifier"
    )
    collect: float = option(
        0.0, "share of finished responses whose answers are kept for a label stage to judge"
    )
    steps: int = option(100, "updates of the policy")
    prompts: int = option(16, "prompts per step, Q")
    samples: int = option(8, "samples per prompt, G")
    epochs: int = option(1, "times that the policy learns from each rollout")
    minibatches: int = option(1, "updates of an epoch, of equal shares of the prompts")
    sample: SampleConfig = own(SampleConfig, "how responses are drawn")
    reward: RewardConfig = own(RewardConfig, "outcome reward")
    overlong: OverlongConfig = own(OverlongConfig, "responses near the end of their budget")
    filter: FilterConfig = own(FilterConfig, "which groups teach, and sampling again")
    advantage: AdvantageConfig = own(AdvantageConfig, "normalisation and baseline")
    also: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "further rewards: a rule by the name it has in advantage.weights"},
    )
    prm: PrmConfig = own(PrmConfig, "implicit process reward model")
    loss: LossConfig = own(LossConfig, "policy loss")
    alarms: AlarmConfig = own(AlarmConfig, "signs of a gamed reward")
    optim: OptimConfig = own(OptimConfig, "optimizer")
    save_every: int = option(50, "steps between checkpoints")
    sample_every: int = option(25, "steps between sample tables")

    def __post_init__(self) -> None:
        file_name(self.name)
        positive(self, "steps", "prompts", "samples", "save_every", "sample_every")
        if not 0 <= self.collect <= 1:
            raise ValueError(f"needs 0 <= collect <= 1, not {self.collect}")
        positive(self, "epochs", "minibatches")
        if self.prompts % self.minibatches:
            raise ValueError(f"minibatches {self.minibatches} does not divide prompts")
        if self.updates > 1 and self.loss.objective == "plain":
            raise ValueError("objective plain has no ratio: it cannot learn twice from a rollout")
        if self.sample.temperature == 0:
            raise ValueError("sample.temperature is 0: greedy answers give nothing to learn")
        if self.advantage.baseline in ("rloo", "mean", "opo") and self.samples < 2:
            raise ValueError(
                f"advantage.baseline {self.advantage.baseline} needs samples of at least 2 per "
                "prompt"
            )
        if self.advantage.normalise == "group" and self.samples < 2:
            raise ValueError("advantage.normalise group needs samples of at least 2 per prompt")
        names = {"reward", *self.also} if self.also else set()
        if set(self.advantage.weights) != names or "reward" in self.also:
            raise ValueError(
                f"advantage.weights names {sorted(self.advantage.weights)} and the rewards are "
                f"{sorted(names) or 'one without a name'}: `also` names those beside `reward`"
            )
        if self.advantage.baseline == "value" and not self.loss.value_coef:
            raise ValueError("loss.value_coef 0 leaves the value head at 0: use baseline none")
        if self.advantage.process_weight:
            self.prm.check(self.samples, self.sample)
        if self.filter.spread and self.samples < 2:
            raise ValueError("filter.spread leaves out every single sample: raise samples to 2")
        if self.filter.on and self.advantage.baseline == "greedy":
            raise ValueError(
                "filter chooses groups after they are written, and advantage.baseline greedy has "
                "an answer of its own to each: take baseline rloo, or no filter"
            )

    @property
    def hosted(self) -> bool:
        """Whether rewards need the host, so that the step is split."""
        return self.reward.hosted or bool(self.also)

    @property
    def updates(self) -> int:
        """Updates of the policy in a step."""
        return self.epochs * self.minibatches

    @property
    def asks_reference(self) -> bool:
        """Whether a step reads the policy as it was at the start."""
        of_prm = self.advantage.process_weight and self.prm.reference == "frozen"
        return bool(self.loss.kl_coef or of_prm)

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.name, self.steps, self.prompts, self.samples, self.reward, self.loss))

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class PrmStage:
    """Train an implicit process reward model alone, on labelled rollouts of a fixed policy."""

    stage: Literal["prm"] = "prm"
    name: str = option("prm", "name of the stage and of what it leaves behind")
    policy: str = option(
        "sft", "the stage whose policy answers, also start and reference; or `pretrained`"
    )
    verifier: str = option("verifier", "the stage whose verifier gives the labels; or `pretrained`")
    split: Literal["train", "label"] = option("label", "where its problems come from")
    steps: int = option(100, "updates of the PRM")
    prompts: int = option(16, "prompts per step, Q")
    samples: int = option(8, "samples per prompt, G")
    sample: SampleConfig = own(SampleConfig, "how responses are drawn")
    reward: RewardConfig = own(RewardConfig, "outcome reward, the label")
    prm: PrmConfig = own(PrmConfig, "the model, its loss and its optimizer")
    save_every: int = option(50, "steps between checkpoints")

    def __post_init__(self) -> None:
        file_name(self.name)
        positive(self, "steps", "prompts", "samples", "save_every")
        if self.sample.temperature == 0:
            raise ValueError("sample.temperature is 0: greedy answers give nothing to learn")
        if self.prm != replace(self.prm, order="score-first", granularity="token", init=""):
            raise ValueError(
                "prm.order, granularity and init are of a PRM beside a policy that learns: leave "
                "them out of a prm stage, which starts from its own policy and rewards nobody"
            )
        self.prm.check(self.samples, self.sample)

    @property
    def hosted(self) -> bool:
        """Whether rewards need the host, so that the step is split."""
        return self.reward.hosted

    @property
    def optim(self) -> OptimConfig:
        """What the loop around its steps reads."""
        return self.prm.optim

    __pydantic_config__ = STRICT


Sampling = RlStage | PrmStage  # stages that draw responses in every step and reward them


@dataclass(frozen=True)
class EvaluateStage:
    """Held-out accuracy of a policy, by the oracle and by exact match; the verifier's agreement."""

    stage: Literal["evaluate"] = "evaluate"
    name: str = option("evaluate", "name of the stage and of the file it writes")
    policy: str = option("rl", "the stage whose policy is evaluated, or `pretrained`")
    verifier: str = option(
        "verifier", "the verifier compared with the oracle, or `pretrained`; empty for none"
    )
    samples: int = option(4, "answers per problem for avg@k and pass@k")
    batch: int = option(50, "problems per call; rounded up to the data axis")
    sample: SampleConfig = own(SampleConfig, "how answers are drawn for avg@k")
    prm: str = option(
        "", "a prm stage, or an rl stage with a PRM: best-of-k and weighted votes; empty for none"
    )
    prm_reference: str = option(
        "", "what that PRM is compared with; empty: the policy that its stage started from"
    )
    rule: str = option("", "the oracle: as in the reward of an rl stage")
    seconds: float = option(2.0, "time the oracle has for one answer")

    def __post_init__(self) -> None:
        file_name(self.name)
        positive(self, "samples", "batch")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"needs a finite seconds > 0, not {self.seconds}")
        if self.prm_reference and not self.prm:
            raise ValueError("prm_reference needs a prm that is compared with it")

    __pydantic_config__ = STRICT


def reads_verifier(stage: Any) -> bool:
    """Whether a stage trains a verifier, or asks one."""
    if isinstance(stage, Sampling):
        return stage.reward.judged
    return isinstance(stage, VerifierStage) or bool(getattr(stage, "verifier", ""))


Stage = TokenizerStage | SftStage | LabelStage | VerifierStage | RlStage | PrmStage | EvaluateStage
