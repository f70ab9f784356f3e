"""Problems, and how they become fixed token columns."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rlvr_jax.config.fields import STRICT, option, positive


@dataclass(frozen=True)
class SourceConfig:
    """One source of problems: a reasoning-gym data set, a file, or a TFDS builder."""

    gym: str = option("", "name of a reasoning-gym data set")
    params: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "its parameters, e.g. {max_terms: 3}"}
    )
    file: str = option("", "problems in JSONL or parquet, in the layout of verl, TRL or work A")
    test_file: str = option("", "held-out problems; empty: split off `file` by hash")
    tfds: str = option("", "gsm8k, math, multi_subject_rlvr, math_rlvr or eurus_2_rl_data")
    folder: str = option("", "TFDS manual directory: where the files of `tfds` were downloaded to")
    weight: float = option(1.0, "share of this source in every split")
    domain: str = option("", "name in reports; empty: what the rows say")
    suffix: str = option("", "text added to each question")

    def __post_init__(self) -> None:
        if sum(map(bool, (self.gym, self.file, self.tfds))) != 1:
            raise ValueError("give exactly one of gym, file and tfds")
        for name, of in (("params", "gym"), ("test_file", "file"), ("folder", "tfds")):
            if getattr(self, name) and not getattr(self, of):
                raise ValueError(f"{name} belongs to a source of the kind {of}: leave it out")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"needs a finite weight > 0, not {self.weight}")

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.gym, self.file, self.tfds, self.domain))

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class DataConfig:
    """Problems and how they become fixed token columns."""

    tasks: tuple[str, ...] = option((), "tasks of rlvr_jax.host.problems.tasks, in equal parts")
    sources: tuple[SourceConfig, ...] = option((), "files and other sources, by weight")
    sft: int = option(4096, "problems with demonstrations, for the sft stage")
    label: int = option(2048, "problems whose sampled answers are judged; not those of the main rl")
    train: int = option(4096, "problems of the rl stage")
    test: int = option(400, "held-out problems of every evaluation")
    prompt_columns: int = option(48, "prompt columns, P")
    response_columns: int = option(16, "response columns, R: the token budget of an answer")
    check_columns: int = option(64, "verifier-context columns, C")
    too_long: Literal["refuse", "drop"] = option(
        "refuse", "what happens to problems that do not fit the columns; dropped ones are counted"
    )
    chat: bool = option(False, "ask through the chat template of the tokenizer")
    system: str = option("", "system message of chats that bring none")
    chat_variables: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "variables of the chat template, e.g. {enable_thinking: false}"},
    )
    check_question: bool = option(
        True, "show the verifier the question too; without it a judge cannot solve instead of read"
    )
    check_templates: tuple[Literal["plain", "strict", "compare", "doubt"], ...] = option(
        ("plain",), "how the verifier is asked; of several templates each gives a verdict"
    )
    verdict_words: tuple[str, str] = option(
        ("1", "0"), "the verifier's words for right and wrong; each must be one token"
    )
    answer: Literal["line", "final", "marked"] = option(
        "line",
        "what the verifier sees: the last line; the last box or marked answer, else that line; "
        "or, if marked, nothing else (docs/audit.md)",
    )
    demonstration_errors: float = option(0.0, "share of demonstrations with a wrong answer")

    def __post_init__(self) -> None:
        positive(self, "prompt_columns", "response_columns", "check_columns", "test")
        if self.tasks and self.sources:
            raise ValueError("give either tasks or sources: a task is not mixed with other sources")
        if len(set(self.check_templates)) != len(self.check_templates) or not self.check_templates:
            raise ValueError("check_templates needs one template or several different ones")
        if min(self.sft, self.label, self.train) < 0:
            raise ValueError("needs sft >= 0, label >= 0 and train >= 0")
        if not 0 <= self.demonstration_errors <= 1:
            raise ValueError("needs 0 <= demonstration_errors <= 1")
        if (self.system or self.chat_variables) and not self.chat:
            raise ValueError("a system message and chat_variables need chat: true")
        if self.demonstration_errors and self.sources:
            raise ValueError("demonstration_errors is for tasks: sources bring demonstrations")

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.tasks, self.sources, self.prompt_columns, self.response_columns))

    __pydantic_config__ = STRICT
