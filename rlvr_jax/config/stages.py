"""This module defines the types of stages; a run is a list of stages."""

import math
from dataclasses import dataclass
from typing import Literal

from rlvr_jax.config.fields import STRICT, check_file_name, check_positive, option, section
from rlvr_jax.config.grm_stages import (
    CompareStage,
    MetaStage,
    RftStage,
    ScalarStage,
    VoteStage,
)
from rlvr_jax.config.learning import OptimConfig, SampleConfig
from rlvr_jax.config.needs import Input, Needs, Part, Problems, Product, Role, Rows, verifier_input
from rlvr_jax.config.passes import check_steps, passes_option
from rlvr_jax.config.reward import JudgeConfig, NegativesConfig
from rlvr_jax.config.sampling_stages import PrmStage, RlStage


@dataclass(frozen=True)
class TokenizerStage(Needs):
    """Train a sentencepiece tokenizer on the text of the sft problems."""

    stage: Literal["tokenizer"] = "tokenizer"
    name: str = option("tokenizer", "name of the stage, by which other stages refer to it")

    def __post_init__(self) -> None:
        check_file_name(self.name)

    @property
    def problems(self) -> Problems:
        return Problems("sft")

    @property
    def leaves(self) -> frozenset[Product]:
        return frozenset({"tokenizer"})

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class SftStage(Needs):
    """Train the policy, or the generative reward model, on demonstrations."""

    stage: Literal["sft"] = "sft"
    name: str = option("sft", "name of the stage, by which other stages refer to it")
    role: Role = option(
        "policy",
        "policy: learn from the sft problems; grm: train the generative reward model, on the "
        "judgements of the sft preference items",
    )
    init: str = option("fresh", "the stage whose model it starts from, `fresh` or `pretrained`")
    judgements: str = option(
        "", "role grm: an rft stage whose judgements it learns too; empty: none"
    )
    share: float = option(
        0.5, "with judgements: their share of the rows; `others` says what the other rows are"
    )
    others: Literal["items", "problems"] = option(
        "items",
        "role grm: items: demonstrations of preference items; problems: the sft problems of "
        "`data`, such as general instructions",
    )
    steps: int = option(500, "number of optimizer updates")
    passes: int = passes_option()
    batch: int = option(64, "demonstrations per update")
    optim: OptimConfig = section(OptimConfig, "optimizer")
    save_every: int = option(100, "steps between checkpoints")
    keep: int = option(2, "newest checkpoints that are kept")

    @property
    def trains(self) -> Part:
        return "grm" if self.role == "grm" else "model"

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_steps(self)
        check_positive(self, "batch", "save_every", "keep")
        if (self.judgements or self.others != "items") and self.role != "grm":
            raise ValueError("judgements and others are for role: grm")
        if self.others == "problems" and not self.judgements:
            raise ValueError("others: problems needs judgements, of which a GRM can learn to judge")
        if not 0 < self.share <= 1:
            raise ValueError(f"needs 0 < share <= 1, not {self.share}")

    @property
    def problems(self) -> Problems | None:
        alone = bool(self.judgements) and self.share == 1
        return None if alone or self.others == "problems" else Problems("sft", self.batch)

    @property
    def inputs(self) -> tuple[Input, ...]:
        return (
            Input("init", self.init, "model", pretrained=self.trains, fresh=True),
            Input("judgements", self.judgements, "judgements", optional=True),
        )

    @property
    def leaves(self) -> frozenset[Product]:
        return frozenset({"model"})

    @property
    def rows(self) -> Rows:
        return Rows("batch", self.batch)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class LabelStage(Needs):
    """Sample answers to the label problems and let a judge give each of them a 0/1 verdict."""

    stage: Literal["label"] = "label"
    name: str = option("label", "name of the stage, by which other stages refer to it")
    judge: JudgeConfig = section(JudgeConfig, "who gives the verdicts")
    answers: str = option(
        "",
        "stage whose answers are judged instead of new ones: an rl stage with `collect`, or "
        "another label stage, whose answers are judged a second time",
    )
    policy: str = option("sft", "the stage whose policy samples the answers, or `pretrained`")
    limit: int = option(
        0,
        "judge at most so many different answers: those of which a verifier is least sure; 0: all",
    )
    verifier: str = option(
        "",
        "limit: the verifier stage that is asked, or `pretrained`; with `answers` of an rl stage "
        "its rewards say how sure the verifier was",
    )
    samples: int = option(4, "answers per problem")
    strangers: int = option(1, "answers to other problems that are judged too, per problem")
    cuts: int = option(2, "answers cut short that are judged too, per problem")
    batch: int = option(64, "problems per call")
    sample: SampleConfig = section(SampleConfig, "how answers are sampled")

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_positive(self, "samples", "batch")
        if min(self.strangers, self.cuts, self.limit) < 0:
            raise ValueError("needs strangers >= 0, cuts >= 0 and limit >= 0")
        if bool(self.verifier) != bool(self.limit and not self.answers):
            raise ValueError(
                "a limit for new answers needs a verifier that says how sure it is of them, and "
                "nothing else does: give both limit and verifier, or leave both out"
            )

    @property
    def problems(self) -> Problems | None:
        return None if self.answers else Problems("label")

    @property
    def inputs(self) -> tuple[Input, ...]:
        if self.answers:
            return (Input("answers", self.answers, "answers", optional=True),)
        policy = Input("policy", self.policy, "model", pretrained="model")
        return (policy, *verifier_input(self.verifier)) if self.verifier else (policy,)

    @property
    def uses_verifier(self) -> bool:
        return bool(self.verifier)

    @property
    def leaves(self) -> frozenset[Product]:
        return frozenset({"answers", "verdicts"})

    @property
    def rows(self) -> Rows:
        return Rows("batch", self.batch)

    @property
    def judges(self) -> tuple[JudgeConfig, ...]:
        return (self.judge,)

    @property
    def shares_ids(self) -> bool:
        return True

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class VerifierStage(Needs):
    """Train the compact verifier on verdicts."""

    stage: Literal["verifier"] = "verifier"
    name: str = option("verifier", "name of the stage, by which other stages refer to it")
    verdicts: str | tuple[str, ...] = option(
        "label", "the label stage whose verdicts it learns, or several: [label, label2]"
    )
    init: str = option("sft", "the stage whose model it starts from, `fresh` or `pretrained`")
    steps: int = option(500, "number of optimizer updates")
    passes: int = passes_option()
    batch: int = option(64, "verdicts per update")
    held_out: int = option(
        512, "verdicts held out to measure its accuracy, about problems that it does not learn"
    )
    negatives: NegativesConfig = section(NegativesConfig, "wrong answers that are mixed in")
    forms: float = option(
        0.0,
        "pairs of a right answer in another form (a box, a sentence, a marker) and a wrong answer "
        "in the same form; how many, as a share of the number of verdicts",
    )
    balance: Literal["none", "down", "up"] = option(
        "none",
        "make verdicts 0 and 1 equally frequent: down leaves out some of the more frequent one, up "
        "repeats the less frequent one",
    )
    optim: OptimConfig = section(OptimConfig, "optimizer")
    save_every: int = option(100, "steps between checkpoints")
    keep: int = option(2, "newest checkpoints that are kept")

    @property
    def trains(self) -> Part:
        return "verifier"

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_steps(self)
        check_positive(self, "batch", "held_out", "save_every", "keep")
        if not 0 <= self.forms <= 1:
            raise ValueError(f"needs 0 <= forms <= 1, not {self.forms}")
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("verdicts needs one label stage or several different ones")

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label stages whose verdicts it learns."""
        return (self.verdicts,) if isinstance(self.verdicts, str) else self.verdicts

    @property
    def inputs(self) -> tuple[Input, ...]:
        return (
            *(Input("verdicts", name, "verdicts") for name in self.labels),
            Input("init", self.init, "model", pretrained="verifier", fresh=True),
        )

    @property
    def leaves(self) -> frozenset[Product]:
        return frozenset({"model"})

    @property
    def rows(self) -> Rows:
        return Rows("batch", self.batch)

    @property
    def uses_verifier(self) -> bool:
        return True

    @property
    def shares_ids(self) -> bool:
        return True

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class EvaluateStage(Needs):
    """Measure the accuracy of a policy on held-out problems, by a rule and by exact match."""

    stage: Literal["evaluate"] = "evaluate"
    name: str = option("evaluate", "name of the stage and of the file that it writes")
    policy: str = option("rl", "the stage whose policy is evaluated, or `pretrained`")
    verifier: str = option(
        "verifier",
        "the stage whose verifier is compared with the oracle, or `pretrained`; empty: none",
    )
    samples: int = option(
        4, "answers per problem, k, for avg@k and pass@k; 0: the greedy answers alone"
    )
    batch: int = option(50, "problems per call; rounded up to a multiple of the data shards")
    sample: SampleConfig = section(SampleConfig, "how answers are sampled for avg@k")
    prm: str = option(
        "",
        "a prm stage, or an rl stage with a PRM, for best-of-k and weighted votes; empty: none",
    )
    prm_reference: str = option(
        "",
        "the stage whose policy is the reference of that PRM; empty: the key `policy` of the "
        "stage that trained the PRM",
    )
    rule: str = option(
        "",
        "rule that is the oracle: a kind or a file, as in reward.rule; empty: the rule of "
        "each task",
    )
    seconds: float = option(
        2.0, "limit of the processor time of the oracle for one answer; see reward.seconds"
    )
    on_error: Literal["stop", "zero"] = option(
        "stop",
        "your own rule raises an exception on one of the first answers: stop: end the run with the "
        "exception and the answer; zero: the answer scores 0 and counts as crashed, as later ones",
    )

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_positive(self, "batch")
        if self.samples < 0:
            raise ValueError(f"needs samples >= 0, not {self.samples}")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"needs a finite seconds > 0, not {self.seconds}")
        if self.prm_reference and not self.prm:
            raise ValueError("prm_reference needs a prm that is compared with it")

    @property
    def problems(self) -> Problems:
        return Problems("test")

    @property
    def inputs(self) -> tuple[Input, ...]:
        return (
            Input("policy", self.policy, "model", pretrained="model"),
            *verifier_input(self.verifier, optional=True),
            Input("prm_reference", self.prm_reference, "model", pretrained="model", optional=True),
            Input("prm", self.prm, "prm", optional=True),
        )

    @property
    def rules(self) -> tuple[str, ...]:
        return (self.rule,)

    @property
    def uses_verifier(self) -> bool:
        return bool(self.verifier)

    __pydantic_config__ = STRICT


# Stages with a training loop.
Trained = SftStage | VerifierStage | RlStage | PrmStage | MetaStage | ScalarStage
Stage = (
    TokenizerStage
    | SftStage
    | LabelStage
    | VerifierStage
    | RlStage
    | PrmStage
    | EvaluateStage
    | RftStage
    | MetaStage
    | ScalarStage
    | CompareStage
    | VoteStage
)
