"""These config types name the problems and the widths of their token columns."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from rlvr_jax.config.fields import STRICT, check_positive, option, section

COLUMNS = ("question", "answer", "solution", "domain")  # what a source may name
Count = int | Literal["all"]
ALL = "all: a share of what the files have, which is the default where all sources are files"


@dataclass(frozen=True)
class SourceConfig:
    """A source of problems is a reasoning-gym data set, a file, or a TFDS builder."""

    gym: str = option("", "name of a reasoning-gym data set")
    params: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "parameters of the reasoning-gym data set, e.g. {max_terms: 3}"},
    )
    file: str = option(
        "",
        "JSONL, JSON or parquet file of problems, in the layout of verl, open-instruct, TRL, "
        "arXiv 2503.23829, multiple choice, conversations or preferences",
    )
    test_file: str = option(
        "", "file of held-out problems; empty: a part of `file`, chosen by hash"
    )
    tfds: str = option(
        "", "TFDS builder: gsm8k, math, multi_subject_rlvr, math_rlvr or eurus_2_rl_data"
    )
    folder: str = option(
        "", "folder with the downloaded files of `tfds` (its TFDS manual directory)"
    )
    hub: str = option(
        "",
        "data set of the Hugging Face hub, such as openai/gsm8k, or NAME@REVISION; needs the "
        "package huggingface_hub and a network",
    )
    subset: str = option("", "folder of a part of the data set of `hub`, such as main")
    split: str = option("train", "split of the data set of `hub`")
    test_split: str = option(
        "", "split of `hub` with held-out problems; empty: a part of `split`, chosen by hash"
    )
    columns: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "columns of `file` or `hub` that are the question, answer, solution and "
            "domain, where they have other names, e.g. {question: prompt_text, answer: gold}"
        },
    )
    weight: float = option(
        1.0, "share of this source in every split, relative to the other sources"
    )
    splits: tuple[Literal["sft", "label", "train", "test"], ...] = option(
        (),
        "splits that it serves, such as [sft]; empty: all, but of conversations without a "
        "reference sft alone",
    )
    domain: str = option(
        "", "domain of its problems in reports; empty: the domain that each row names"
    )
    unranked: Literal["refuse", "drop"] = option(
        "refuse",
        "rows of preferences without a single best response, or with empty or equal responses: "
        "refuse the file, or leave such rows out",
    )
    suffix: str = option(
        "", "text that is added at the end of each question, or before the lines of its options"
    )

    def __post_init__(self) -> None:
        if sum(map(bool, (self.gym, self.file, self.tfds, self.hub))) != 1:
            raise ValueError("give exactly one of gym, file, tfds and hub")
        if not self.hub and (self.subset or self.test_split or self.split != "train"):
            raise ValueError("subset, split and test_split belong to a source of the kind hub")
        for name in ("subset", "split", "test_split"):
            if not re.fullmatch(r"(?:\w[\w.-]*)?", getattr(self, name), re.ASCII):
                raise ValueError(f"{name} must be a word, not {getattr(self, name)!r}")
        if not self.split:
            raise ValueError("split is empty: name a split of the data set, such as train")
        for name, of in (("params", "gym"), ("test_file", "file"), ("folder", "tfds")):
            if getattr(self, name) and not getattr(self, of):
                raise ValueError(f"{name} belongs to a source of the kind {of}: leave it out")
        if self.columns and not (self.file or self.hub):
            raise ValueError("columns belongs to a source of the kind file or hub: leave it out")
        for what, name in self.columns.items():
            if what not in COLUMNS or not name:
                raise ValueError(
                    f"columns has {what!r}: {name!r}; it names a column for one or more of "
                    f"{', '.join(COLUMNS)}"
                )
        if len(set(self.splits)) != len(self.splits):
            raise ValueError("splits names a split twice")
        if self.unranked == "drop" and not self.file:
            raise ValueError("unranked belongs to a source of the kind file: leave it out")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"needs a finite weight > 0, not {self.weight}")

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.gym, self.file, self.tfds, self.hub, self.domain))

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class PreferencesConfig:
    """A PreferencesConfig makes preference items of the toy tasks: answers of known quality."""

    least: int = option(0, "least number of responses of an item")
    most: int = option(0, "most responses of an item, up to 6; 0: problems, and no items")

    def __post_init__(self) -> None:
        if (self.least, self.most) != (0, 0) and not 1 <= self.least <= self.most <= 6:
            raise ValueError("needs 1 <= least <= most <= 6, or 0 for both")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class DataConfig:
    """A DataConfig names the problems and the widths of the token columns that hold them."""

    tasks: tuple[str, ...] = option(
        (), "built-in tasks, mixed in equal parts (rlvr_jax/host/problems/tasks.py)"
    )
    sources: tuple[SourceConfig, ...] = option((), "sources of problems, mixed by their weights")
    preferences: PreferencesConfig = section(
        PreferencesConfig, "preference items in place of the problems of `tasks`"
    )
    sft: Count = option(4096, f"number of problems with demonstrations, for sft stages; {ALL}")
    label: Count = option(
        2048,
        f"number of problems for label stages; rl stages with split: train never see them; {ALL}",
    )
    train: Count = option(4096, f"number of problems for rl stages; {ALL}")
    test: Count = option(400, f"number of held-out problems for evaluate stages; {ALL}")
    prompt_columns: int = option(48, "tokens of the longest prompt, P")
    response_columns: int = option(16, "token budget of a response, R")
    check_columns: int = option(
        64, "tokens of the longest text that the verifier reads before the answer, C"
    )
    too_long: Literal["refuse", "drop"] = option(
        "refuse",
        "refuse the run when a problem does not fit its columns, or drop and count such problems",
    )
    chat: bool = option(False, "write prompts with the chat template of the tokenizer")
    system: str = option("", "system message of chats that have none")
    chat_variables: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "variables of the chat template, e.g. {enable_thinking: false}"},
    )
    check_question: bool = option(
        True,
        "show the verifier the question too; without the question it can only compare, not solve",
    )
    tail_columns: int = option(
        0,
        "tokens of the longest text that the verifier reads after the answer; 0: the template's "
        "own, which is the same for all problems",
    )
    check_templates: tuple[str, ...] = option(
        ("plain",),
        "templates of the verifier's prompt: plain, strict, compare, doubt or files of your own "
        "(docs/audit.md); with several, each one gives a verdict",
    )
    verdict_words: tuple[str, str] = option(
        ("1", "0"),
        "words with which the verifier says right and wrong, where its template names none; each "
        "must be one token",
    )
    answer: Literal["line", "final", "marked"] = option(
        "line",
        "what the verifier sees of a response: line: the last line; final: the last boxed or "
        "marked answer, else the last line; marked: only a boxed or marked answer (docs/audit.md)",
    )
    demonstration_errors: float = option(
        0.0, "share of the demonstrations of tasks that are made wrong"
    )

    def __post_init__(self) -> None:
        check_positive(self, "prompt_columns", "response_columns", "check_columns")
        if self.tasks and self.sources:
            raise ValueError("give either tasks or sources: a task is not mixed with other sources")
        if len(set(self.check_templates)) != len(self.check_templates) or not self.check_templates:
            raise ValueError("check_templates needs one template or several different ones")
        counts = [n for n in (self.sft, self.label, self.train, self.test) if n != "all"]
        if min([*counts, self.tail_columns]) < 0:
            raise ValueError("needs sft, label, train, test and tail_columns of at least 0")
        if len(counts) < 4 and not self.sources:
            raise ValueError("a count `all` is for sources: tasks go on without an end")
        if not 0 <= self.demonstration_errors <= 1:
            raise ValueError("needs 0 <= demonstration_errors <= 1")
        if self.preferences.most and not self.tasks:
            raise ValueError("preferences are made of tasks: name some, or leave preferences out")
        if (self.system or self.chat_variables) and not self.chat:
            raise ValueError("a system message and chat_variables need chat: true")
        if self.demonstration_errors and self.sources:
            raise ValueError("demonstration_errors is for tasks: sources bring demonstrations")

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.tasks, self.sources, self.prompt_columns, self.response_columns))

    __pydantic_config__ = STRICT
