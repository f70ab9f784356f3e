"""These types of stages make and measure generative reward models (GRM).

A GRM is trained by sft stages with `role: grm` and rl stages with `reward.source: preference`; the
stages here give them what they learn from, train the meta RM, and measure both.
"""

from dataclasses import dataclass
from typing import Literal

from rlvr_jax.config.fields import STRICT, check_file_name, check_positive, option, section
from rlvr_jax.config.learning import OptimConfig, SampleConfig
from rlvr_jax.config.needs import Input, Needs, Part, Problems, Product, Role, Rows
from rlvr_jax.config.reward import JudgeConfig


@dataclass(frozen=True)
class RftStage(Needs):
    """Sample judgements and keep those that agree with the truth (rejective fine-tuning)."""

    stage: Literal["rft"] = "rft"
    name: str = option("rft", "name of the stage, by which other stages refer to it")
    policy: str = option("sft", "the stage whose GRM writes the judgements, or `pretrained`")
    endpoint: JudgeConfig = section(
        JudgeConfig, "with kind: endpoint, a chat endpoint writes the judgements instead of a GRM"
    )
    split: Literal["train", "label"] = option("train", "split of the preference items")
    limit: int = option(0, "number of items that are judged; 0: all of the split")
    samples: int = option(3, "judgements of each item")
    hinted: bool = option(
        True, "an item without a right judgement is asked once more, with its best response named"
    )
    easy: Literal["drop", "keep"] = option(
        "drop", "judgements of items whose samples are all right: leave them out, or keep them"
    )
    batch: int = option(64, "items per call")
    sample: SampleConfig = section(SampleConfig, "how judgements are sampled")

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_positive(self, "samples", "batch")
        if self.limit < 0:
            raise ValueError(f"needs limit >= 0, not {self.limit}")
        if self.endpoint.kind == "model" or self.endpoint.rule:
            raise ValueError("endpoint is a chat endpoint: name a model here by `policy`")
        if self.by_endpoint and self.samples > 1 and not self.endpoint.temperature:
            raise ValueError("endpoint.temperature is 0 and all samples would be equal: raise it")

    @property
    def by_endpoint(self) -> bool:
        """Return whether a chat endpoint writes the judgements."""
        return self.endpoint.kind == "endpoint"

    @property
    def role(self) -> Role:
        return "grm"

    @property
    def problems(self) -> Problems:
        return Problems(self.split)

    @property
    def inputs(self) -> tuple[Input, ...]:
        if self.by_endpoint:
            return ()
        return (Input("policy", self.policy, "model", pretrained="grm"),)

    @property
    def judges(self) -> tuple[JudgeConfig, ...]:
        return (self.endpoint,) if self.by_endpoint else ()

    @property
    def leaves(self) -> frozenset[Product]:
        return frozenset({"judgements"})

    @property
    def rows(self) -> Rows:
        return Rows("batch", self.batch)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class MetaStage(Needs):
    """Train the meta RM, which tells sound judgements from others, on judgements of rft stages."""

    stage: Literal["meta"] = "meta"
    name: str = option("meta", "name of the stage, by which other stages refer to it")
    judgements: tuple[str, ...] = option(
        ("rft",), "rft stages whose judgements it learns, hinted ones left out"
    )
    init: str = option("sft", "the stage whose GRM it starts from, `fresh` or `pretrained`")
    steps: int = option(300, "number of optimizer updates")
    batch: int = option(64, "judgements per update")
    held_out: int = option(256, "judgements held out to measure its accuracy")
    balance: Literal["none", "down", "up"] = option(
        "up", "make right and wrong judgements equally frequent, as in a verifier stage"
    )
    optim: OptimConfig = section(OptimConfig, "optimizer")
    save_every: int = option(100, "steps between checkpoints")
    keep: int = option(2, "newest checkpoints that are kept")

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_positive(self, "steps", "batch", "held_out", "save_every", "keep")
        if not self.judgements:
            raise ValueError("judgements is empty: name at least one rft stage")

    @property
    def trains(self) -> Part:
        return "grm"

    @property
    def role(self) -> Role:
        return "grm"

    @property
    def inputs(self) -> tuple[Input, ...]:
        return (
            Input("init", self.init, "model", pretrained="grm", fresh=True),
            *(Input("judgements", name, "judgements") for name in self.judgements),
        )

    @property
    def leaves(self) -> frozenset[Product]:
        return frozenset({"meta"})

    @property
    def rows(self) -> Rows:
        return Rows("batch", self.batch)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class ScalarStage(Needs):
    """Train a scalar reward model by the Bradley-Terry loss, to compare a GRM with."""

    stage: Literal["scalar"] = "scalar"
    name: str = option("scalar", "name of the stage, by which other stages refer to it")
    init: str = option("sft", "the stage whose GRM it starts from, `fresh` or `pretrained`")
    critiques: str = option(
        "",
        "semi-scalar: the stage whose GRM writes a critique of each response, which the model then "
        "reads too, or `pretrained`; empty: none",
    )
    steps: int = option(300, "number of optimizer updates")
    batch: int = option(64, "items per update")
    optim: OptimConfig = section(OptimConfig, "optimizer")
    sample: SampleConfig = section(SampleConfig, "how critiques are sampled")
    save_every: int = option(100, "steps between checkpoints")
    keep: int = option(2, "newest checkpoints that are kept")

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_positive(self, "steps", "batch", "save_every", "keep")
        if self.sample != SampleConfig() and not self.critiques:
            raise ValueError("sample is for critiques, and critiques is empty: leave it out")

    @property
    def trains(self) -> Part:
        return "grm"

    @property
    def role(self) -> Role:
        return "grm"

    @property
    def problems(self) -> Problems:
        return Problems("train", self.batch)

    @property
    def inputs(self) -> tuple[Input, ...]:
        return (
            Input("init", self.init, "model", pretrained="grm", fresh=True),
            Input("critiques", self.critiques, "model", pretrained="grm", optional=True),
        )

    @property
    def leaves(self) -> frozenset[Product]:
        return frozenset({"scalar"})

    @property
    def rows(self) -> Rows:
        return Rows("batch", self.batch)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class CompareStage(Needs):
    """Make preference items of the answers that an rl stage collected, labelled by a rule.

    An item shows a right response to a problem and wrong ones to the same problem.
    """

    stage: Literal["compare"] = "compare"
    name: str = option("compare", "name of the stage, by which other stages refer to it")
    answers: str = option("rl", "the rl stage that collected the answers, with `collect`")
    rule: str = option("", "rule that says which are right; empty: the rule of each task")
    most: int = option(2, "largest number of responses in an item")
    items: int = option(0, "largest number of items; 0: no limit")

    def __post_init__(self) -> None:
        check_file_name(self.name)
        if self.most < 2 or self.items < 0:
            raise ValueError("needs most >= 2 and items >= 0")

    @property
    def inputs(self) -> tuple[Input, ...]:
        return (Input("answers", self.answers, "answers"),)

    @property
    def leaves(self) -> frozenset[Product]:
        return frozenset({"items"})

    @property
    def rules(self) -> tuple[str, ...]:
        return (self.rule,)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class VoteStage(Needs):
    """Measure a reward model on held-out preference items: greedy, and by the number of votes."""

    stage: Literal["vote"] = "vote"
    name: str = option("vote", "name of the stage and of the file that it writes")
    policy: str = option("rl", "the stage whose GRM is measured, or `pretrained`")
    meta: str = option("", "the stage whose meta RM chooses votes; empty: none")
    scalar: str = option(
        "", "the scalar stage whose reward model is measured in place of a GRM; empty: none"
    )
    items: str = option("", "a compare stage whose items are judged; empty: the test items")
    votes: tuple[int, ...] = option((1, 2, 4, 8), "numbers of votes, in rising order")
    keep: tuple[float, ...] = option((0.5,), "shares of the votes that the meta RM keeps")
    weighted: bool = option(
        False, "critique.form pick: also add up the verdicts' probabilities instead of their number"
    )
    batch: int = option(50, "items per call; rounded up to a multiple of the data shards")
    sample: SampleConfig = section(SampleConfig, "how votes, or critiques, are sampled")

    def __post_init__(self) -> None:
        check_file_name(self.name)
        check_positive(self, "batch")
        if not self.votes or min(self.votes) < 1 or list(self.votes) != sorted(set(self.votes)):
            raise ValueError("votes needs numbers of at least 1 in rising order, such as [1, 4, 8]")
        if not all(0 < share <= 1 for share in self.keep):
            raise ValueError("needs 0 < keep <= 1")
        if self.sample.temperature == 0 and max(self.votes) > 1:
            raise ValueError("sample.temperature is 0 and all votes would be equal: raise it")
        if self.scalar and (self.meta or self.weighted or self.policy != "rl"):
            raise ValueError(
                "scalar is measured in place of a GRM and its votes: leave policy, meta and "
                "weighted out"
            )

    @property
    def role(self) -> Role:
        return "grm"

    @property
    def problems(self) -> Problems | None:
        return None if self.items else Problems("test")

    @property
    def inputs(self) -> tuple[Input, ...]:
        items = Input("items", self.items, "items", optional=True)
        if self.scalar:
            return Input("scalar", self.scalar, "scalar"), items
        return (
            Input("policy", self.policy, "model", pretrained="grm"),
            Input("meta", self.meta, "meta", optional=True),
            items,
        )

    __pydantic_config__ = STRICT
