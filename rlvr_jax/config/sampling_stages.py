"""These types of stages sample and reward responses in every step."""

from dataclasses import dataclass, field, replace
from typing import Literal

from rlvr_jax.config.fields import STRICT, check_file_name, check_positive, option, section
from rlvr_jax.config.held_out import EvalConfig, StopConfig
from rlvr_jax.config.learning import (
    DifficultyConfig,
    FilterConfig,
    OptimConfig,
    OverlongConfig,
    PrmConfig,
    SampleConfig,
)
from rlvr_jax.config.needs import (
    Input,
    Needs,
    Part,
    Problems,
    Product,
    Role,
    Rows,
    grm_inputs,
    verifier_input,
)
from rlvr_jax.config.objective import AdvantageConfig, LossConfig, ReferenceConfig
from rlvr_jax.config.passes import check_steps, passes_option
from rlvr_jax.config.presets import PRESETS, check_preset
from rlvr_jax.config.reward import AlarmConfig, RewardConfig

# What is logged as reward/..., besides the rewards of `also` by their names.
REWARD_METRICS = frozenset(
    "mean min max std greedy frac_zero_std histogram overlong nonfinite".split()
)


@dataclass(frozen=True)
class RlStage(Needs):
    """Train the policy on rewards of its own responses (reinforcement learning)."""

    stage: Literal["rl"] = "rl"
    name: str = option("rl", "name of the stage, by which other stages refer to it")
    preset: str = option(
        "",
        f"published settings of an algorithm, to override key by key: {', '.join(PRESETS)} "
        "(docs/objectives.md); filled in when a config file is loaded; empty: none",
    )
    policy: str = option(
        "sft",
        "the stage whose policy this stage starts from and takes as reference policy; or "
        "`pretrained`",
    )
    verifier: str = option("verifier", "the stage whose verifier gives the reward; or `pretrained`")
    grm: str = option(
        "grm", "the stage whose generative reward model gives the reward; or `pretrained`"
    )
    items: str = option(
        "", "reward.source preference: a compare stage whose items it learns from, not the data"
    )
    split: Literal["train", "label"] = option(
        "train", "split of its problems; label: to collect answers for training a verifier"
    )
    collect: float = option(
        0.0, "share of the finished responses whose answers are kept for a label stage to judge"
    )
    steps: int = option(100, "number of steps; each samples responses and updates the policy")
    passes: int = passes_option()
    prompts: int = option(16, "prompts per step, Q")
    samples: int = option(8, "responses per prompt, G")
    epochs: int = option(1, "how often the policy learns from each rollout")
    minibatches: int = option(1, "updates per epoch, each from an equal share of the prompts")
    sample: SampleConfig = section(SampleConfig, "how responses are sampled")
    reward: RewardConfig = section(RewardConfig, "outcome reward")
    overlong: OverlongConfig = section(OverlongConfig, "responses near the end of their budget")
    filter: FilterConfig = section(FilterConfig, "which groups the policy learns from")
    difficulty: DifficultyConfig = section(
        DifficultyConfig, "problems that are drawn more often, by how often they are solved"
    )
    advantage: AdvantageConfig = section(AdvantageConfig, "normalisation and baseline")
    also: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "further rewards: name -> rule; advantage.weights needs a weight for each "
            "of these names and for `reward`"
        },
    )
    prm: PrmConfig = section(PrmConfig, "implicit process reward model")
    loss: LossConfig = section(LossConfig, "policy loss")
    reference: ReferenceConfig = section(ReferenceConfig, "reference policy of the KL term")
    alarms: AlarmConfig = section(AlarmConfig, "signs of a gamed reward")
    optim: OptimConfig = section(OptimConfig, "optimizer")
    eval: EvalConfig = section(EvalConfig, "measurements on held-out problems between steps")
    keep_best: str = option(
        "",
        "metric whose greatest value marks the best step, such as eval/accuracy; its checkpoint is "
        "kept, and other stages name it as NAME@best; empty: none",
    )
    stop: StopConfig = section(StopConfig, "when the stage ends before its last step")
    save_every: int = option(50, "steps between checkpoints")
    keep: int = option(2, "newest checkpoints that are kept, beside the best one")
    sample_every: int = option(25, "steps between tables of samples")

    @property
    def trains(self) -> Part:
        return "grm" if self.role == "grm" else "model"

    @property
    def role(self) -> Role:
        return "grm" if self.reward.source == "preference" else "policy"

    @property
    def uses_grm(self) -> bool:
        return self.reward.by_grm

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_preset(self.preset)
        check_steps(self)
        if self.passes and (self.filter.rounds > 1 or self.difficulty.on):
            raise ValueError(
                "passes needs steps that take one batch each of shuffled problems: give steps "
                "where filter.rounds or difficulty.weights is set"
            )
        check_positive(self, "prompts", "samples", "save_every", "sample_every", "keep")
        check_positive(self, "epochs", "minibatches")
        if not 0 <= self.collect <= 1:
            raise ValueError(f"needs 0 <= collect <= 1, not {self.collect}")
        if self.prompts % self.minibatches:
            raise ValueError(f"minibatches {self.minibatches} does not divide prompts")
        if self.updates > 1 and self.loss.objective == "plain":
            raise ValueError("objective plain has no ratio: it cannot learn twice from a rollout")
        if self.sample.temperature == 0:
            raise ValueError("sample.temperature is 0: greedy answers give nothing to learn")
        if self.updates == 1 and self.loss.objective == "kl-cov":
            raise ValueError("objective kl-cov holds back from a second update: raise minibatches")
        self._check_groups()
        self._check_rewards()
        self._check_reference()
        self._check_eval()

    def _check_groups(self) -> None:
        """Raise ValueError if the groups do not suit baseline, normalisation or filter."""
        if self.advantage.baseline in ("rloo", "mean", "opo") and self.samples < 2:
            raise ValueError(
                f"advantage.baseline {self.advantage.baseline} needs samples of at least 2 per "
                "prompt"
            )
        if self.advantage.normalise in ("group", "group-mean") and self.samples < 2:
            raise ValueError(
                f"advantage.normalise {self.advantage.normalise} needs samples of at least 2 per "
                "prompt"
            )
        if self.advantage.pass_k > 1 and self.samples <= self.advantage.pass_k:
            raise ValueError(
                f"advantage.pass_k {self.advantage.pass_k} needs more samples per prompt than that"
            )
        if self.filter.spread and self.samples < 2:
            raise ValueError("filter.spread leaves out every single sample: raise samples to 2")
        if self.filter.on and self.advantage.baseline == "domain":
            raise ValueError(
                "filter chooses groups by their rewards, and advantage.baseline domain is the mean "
                "of all rewards: take baseline rloo, or no filter"
            )
        if self.filter.on and self.advantage.baseline == "greedy":
            raise ValueError(
                "filter chooses groups after they are written, and advantage.baseline greedy has "
                "an answer of its own to each: take baseline rloo, or no filter"
            )

    def _check_rewards(self) -> None:
        """Raise ValueError if the rewards, the value head or the PRM do not fit together."""
        if taken := sorted(REWARD_METRICS.intersection(self.also)):
            raise ValueError(
                f"also names a reward {taken[0]}, and reward/{taken[0]} is another metric: choose "
                "another name"
            )
        names = {"reward", *self.also} if self.also else set()
        if set(self.advantage.weights) != names or "reward" in self.also:
            raise ValueError(
                f"advantage.weights names {sorted(self.advantage.weights)} and the rewards are "
                f"{sorted(names) or 'one without a name'}: `also` names those beside `reward`"
            )
        if self.advantage.baseline == "value" and not self.loss.value_coef:
            raise ValueError("loss.value_coef 0 leaves the value head at 0: use baseline none")
        if self.has_prm_beside_policy:
            self.prm.check_rollouts(self.samples, self.sample)
        if self.samples % self.reward.grm.together:
            raise ValueError(
                f"reward.grm.together {self.reward.grm.together} does not divide samples "
                f"{self.samples}"
            )
        if self.role == "grm" and (self.also or self.collect):
            raise ValueError(
                "reward.source preference trains a generative reward model: `also` and `collect` "
                "are for policies"
            )
        if self.items and self.role != "grm":
            raise ValueError("items needs reward.source preference: leave it out")

    def _check_reference(self) -> None:
        """Raise ValueError if a reference policy that follows the policy has no use, or two."""
        if self.reference.update_every and not self.loss.kl_coef:
            raise ValueError("reference.update_every needs a loss.kl_coef: nothing else reads it")
        frozen = self.has_prm_beside_policy and self.prm.reference == "frozen"
        if self.reference.update_every and frozen:
            raise ValueError(
                "reference.update_every would change what the PRM's rewards are relative to: take "
                "prm.reference: policy"
            )

    def _check_eval(self) -> None:
        """Raise ValueError if problems are not held out, or a metric of them is not made."""
        if self.eval.every and self.role == "grm":
            raise ValueError(
                "eval answers the problems of policies: a vote stage measures a generative reward "
                "model"
            )
        if self.eval.every and self.eval.split == self.split:
            raise ValueError(
                f"eval.split {self.split} overlaps with what the stage learns from: take `test`"
            )
        for key, metric in (("keep_best", self.keep_best), ("stop.metric", self.stop.metric)):
            if metric.startswith("eval/") and not self.eval.every:
                raise ValueError(f"{key} is {metric} and nothing is evaluated: set eval.every")

    @property
    def hosted(self) -> bool:
        """Return whether rewards need the host, so that the step is split."""
        return self.reward.hosted or bool(self.also)

    @property
    def asks_reference(self) -> bool:
        """Return whether a step reads a reference policy."""
        of_prm = self.has_prm_beside_policy and self.prm.reference == "frozen"
        return bool(self.loss.kl_coef or of_prm)

    @property
    def updates(self) -> int:
        return self.epochs * self.minibatches

    @property
    def rounds(self) -> int:
        return self.filter.rounds

    @property
    def problems(self) -> Problems | None:
        return None if self.items else Problems(self.split, self.prompts)

    @property
    def splits(self) -> tuple[Problems, ...]:
        return super().splits + ((Problems(self.eval.split),) if self.eval.every else ())

    @property
    def inputs(self) -> tuple[Input, ...]:
        judged = self.reward.judged
        return (
            Input("policy", self.policy, "model", pretrained=self.trains),
            *(verifier_input(self.verifier) if judged else ()),
            *(grm_inputs(self.grm, self.reward.grm.meta) if self.uses_grm else ()),
            Input("items", self.items, "items", optional=True),
            Input("prm.init", self.prm.init, "model", pretrained="model", optional=True),
        )

    @property
    def leaves(self) -> frozenset[Product]:
        leaves: set[Product] = {"model"}
        leaves |= {"prm"} if self.has_prm_beside_policy else set()
        leaves |= {"answers"} if self.collect else set()
        return frozenset(leaves)

    @property
    def rows(self) -> Rows:
        key = "prompts / minibatches" if self.minibatches > 1 else "prompts"
        return Rows(key, self.prompts // self.minibatches)

    @property
    def rules(self) -> tuple[str, ...]:
        if self.role == "grm":  # the truth of an item needs no rule
            return ()
        return (self.reward.rule, *self.reward.gates, *self.also.values())

    @property
    def uses_verifier(self) -> bool:
        return self.reward.judged

    @property
    def shares_ids(self) -> bool:
        return self.collect > 0

    @property
    def has_prm_beside_policy(self) -> bool:
        return self.advantage.process_weight > 0

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.name, self.steps, self.prompts, self.samples, self.reward, self.loss))

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class PrmStage(Needs):
    """Train an implicit process reward model alone, on labelled rollouts of a fixed policy."""

    stage: Literal["prm"] = "prm"
    name: str = option("prm", "name of the stage, by which other stages refer to it")
    policy: str = option(
        "sft",
        "the stage whose policy samples the responses, is the start of the PRM and the "
        "reference of its token rewards; or `pretrained`",
    )
    verifier: str = option("verifier", "the stage whose verifier gives the labels; or `pretrained`")
    split: Literal["train", "label"] = option("label", "split of its problems")
    steps: int = option(100, "number of updates of the PRM")
    prompts: int = option(16, "prompts per step, Q")
    samples: int = option(8, "responses per prompt, G")
    sample: SampleConfig = section(SampleConfig, "how responses are sampled")
    reward: RewardConfig = section(RewardConfig, "outcome reward, the label of a response")
    prm: PrmConfig = section(PrmConfig, "the model, its loss and its optimizer")
    save_every: int = option(50, "steps between checkpoints")
    keep: int = option(2, "newest checkpoints that are kept")

    @property
    def trains(self) -> Part:
        return "model"

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_positive(self, "steps", "prompts", "samples", "save_every", "keep")
        if self.sample.temperature == 0:
            raise ValueError("sample.temperature is 0: greedy answers give nothing to learn")
        if self.prm != replace(self.prm, order="score-first", granularity="token", init=""):
            raise ValueError(
                "prm.order, granularity and init are of a PRM beside a policy that learns: leave "
                "them out of a prm stage, which starts from its own policy and rewards nobody"
            )
        self.prm.check_rollouts(self.samples, self.sample)
        if self.reward.by_grm or self.reward.source == "preference":
            raise ValueError("a prm stage takes its labels from a verifier or a rule")

    @property
    def optim(self) -> OptimConfig:
        """Return the optimizer that the training loop reads, which is the PRM's."""
        return self.prm.optim

    @property
    def hosted(self) -> bool:
        """Return whether rewards need the host, so that the step is split."""
        return self.reward.hosted

    @property
    def problems(self) -> Problems:
        return Problems(self.split, self.prompts)

    @property
    def inputs(self) -> tuple[Input, ...]:
        judged = self.reward.judged
        return (
            Input("policy", self.policy, "model", pretrained="model"),
            *(verifier_input(self.verifier) if judged else ()),
        )

    @property
    def leaves(self) -> frozenset[Product]:
        return frozenset({"model", "prm"})

    @property
    def rows(self) -> Rows:
        return Rows("prompts", self.prompts)

    @property
    def rules(self) -> tuple[str, ...]:
        return (self.reward.rule, *self.reward.gates)

    @property
    def uses_verifier(self) -> bool:
        return self.reward.judged

    __pydantic_config__ = STRICT


Sampling = RlStage | PrmStage
