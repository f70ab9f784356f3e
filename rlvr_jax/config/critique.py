"""These config types describe generative reward models: their judgements and their use."""

from dataclasses import dataclass
from typing import Literal

from rlvr_jax.config.data import DataConfig
from rlvr_jax.config.fields import STRICT, check_positive, option, section


@dataclass(frozen=True)
class CritiqueConfig:
    """A CritiqueConfig is the form of the judgements of a generative reward model (GRM).

    The prompt shows a query and its responses; the GRM writes criteria, an analysis and scores in a
    box (arXiv 2504.02495).
    """

    form: Literal["scores", "pick"] = option(
        "scores", "scores: one score for each response; pick: the number of the best response"
    )
    template: str = option(
        "scores",
        "wording of the prompt: scores, pick, short, short_pick, or a YAML file of your own "
        "(docs/grm.md)",
    )
    principles: Literal["with_responses", "from_query", "none", "given"] = option(
        "with_responses",
        "where criteria come from: with_responses: the judgement begins with them; from_query: the "
        "GRM writes them once, from the query alone; none: no criteria; given: from the data",
    )
    reference: bool = option(False, "show the reference answer of an item that has one")
    most: int = option(4, "largest number of responses in a prompt; larger items are refused")
    clamp: bool = option(False, "a score out of range counts as the nearest one in range")
    criteria_columns: int = option(48, "from_query: token budget of the criteria")
    data: DataConfig = section(
        DataConfig, "preference items, and the widths of prompts and judgements"
    )

    def __post_init__(self) -> None:
        check_positive(self, "most", "criteria_columns")
        if self.most > 16:
            raise ValueError(f"most is {self.most} and a box holds at most 16 scores: lower it")
        if self.form == "pick" and self.most < 2:
            raise ValueError("form pick chooses among responses: set most to at least 2")
        if self.form == "pick" and self.clamp:
            raise ValueError("clamp is for scores, not for form pick: leave it out")

    def __hash__(self) -> int:  # DataConfig holds dicts, which have no hash
        return hash((self.form, self.template, self.principles, self.most, self.clamp))

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class VoteConfig:
    """A VoteConfig says how judgements of a generative reward model become a reward."""

    together: int = option(
        1, "responses to one prompt that a judgement compares; must divide `samples` of the stage"
    )
    meta: str = option(
        "", "stage whose meta RM chooses among the votes, or empty: all valid votes count"
    )
    keep: float = option(
        0.5, "with a meta RM: share of the votes on a response that are kept, the best ones first"
    )
    temperature: float = option(1.0, "sampling temperature of the judgements")

    def __post_init__(self) -> None:
        check_positive(self, "together")
        if not 0 < self.keep <= 1 or not 0 < self.temperature < float("inf"):
            raise ValueError("needs 0 < keep <= 1 and a finite temperature > 0")

    __pydantic_config__ = STRICT
