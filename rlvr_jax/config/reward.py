"""Who rewards, who judges, and what watches over them."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rlvr_jax.config.fields import STRICT, option, positive


@dataclass(frozen=True)
class RewardConfig:
    """Where the outcome reward comes from."""

    source: Literal["verifier", "rule", "rule_first", "both"] = option(
        "verifier",
        "verifier: its logit, inside the fused step; rule: the task's own, split step; rule_first: "
        "1 where the rule accepts, else the verifier's; both: the product of the two",
    )
    mode: Literal["soft", "paper", "binary"] = option(
        "soft", "soft: p(1)/(p(1)+p(0)); paper: work A's two branches; binary: 1 beats 0"
    )
    min_mass: float = option(0.5, "soft and binary: least p(1)+p(0), below it the reward is 0")
    threshold: float = option(0.0, "least reward of the verifier; what is below it becomes 0")
    temperature: float = option(1.0, "the verdict's logits are divided by this; min_mass is not")
    votes: Literal["mean", "majority"] = option(
        "mean", "several templates: mean of their rewards, or 1 where at least half accept"
    )
    audit: Literal["off", "warn", "stop"] = option(
        "warn", "quick audit of a verifier before the first step; stop: not begun beyond the limits"
    )
    rule: str = option(
        "", "a kind of rule (docs/rewards.md) or your own file.py; empty: what each task says"
    )
    gates: tuple[str, ...] = option(
        (), "rules whose scores multiply the reward, e.g. [format, language]; splits the step"
    )
    seconds: float = option(2.0, "rules: time of one answer, from when a worker begins it")
    workers: int = option(2, "rules: worker processes")

    def __post_init__(self) -> None:
        positive(self, "workers")
        if not 0 <= self.min_mass <= 1:
            raise ValueError(f"needs 0 <= min_mass <= 1, not {self.min_mass}")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"needs a finite seconds > 0, not {self.seconds}")
        if not (0 <= self.threshold <= 1 and 0 < self.temperature < math.inf):
            raise ValueError("needs 0 <= threshold <= 1 and a finite temperature > 0")
        if self.rule and not self.ruled:
            raise ValueError(f"rule {self.rule!r} needs source: rule, rule_first or both")

    @property
    def ruled(self) -> bool:
        """Whether a rule scores answers, instead of the verifier or beside it."""
        return self.source != "verifier"

    @property
    def hosted(self) -> bool:
        """Whether it needs the host, so that the step is split."""
        return self.ruled or bool(self.gates)

    @property
    def judged(self) -> bool:
        """Whether a verifier scores answers."""
        return self.source != "rule"

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class JudgeConfig:
    """Who gives verdicts: a rule, a larger model on these devices, or a chat endpoint."""

    kind: Literal["rule", "model", "endpoint"] = option("rule", "who judges")
    rule: str = option("", "rule: as in the reward of an rl stage; empty: what each task says")
    weights: str = option("", "model: a folder or GGUF file, or package:NAME")
    tokenizer: str = option("", "model: its tokenizer file or folder, or `byte`; empty: its own")
    compute: Literal["float32", "bfloat16"] = option("float32", "model: dtype of products")
    read: Literal["reply", "logit"] = option(
        "reply", "model: the words it writes, or whether YES or NO is the likelier next token"
    )
    min_mass: float = option(0.5, "model, logit: least p(YES)+p(NO), below it there is no verdict")
    batch: int = option(64, "model: answers per call; rounded up to the data axis")
    url: str = option("", "endpoint: address of the API, up to /v1; any OpenAI-compatible server")
    model: str = option("", "endpoint: name of the model there")
    key_env: str = option(
        "OPENAI_API_KEY", "endpoint: environment variable that holds the key; empty sends no key"
    )
    body: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "endpoint: more fields of a request; null takes one out"},
    )
    concurrency: int = option(8, "endpoint: requests under way at a time")
    per_minute: float = option(0.0, "endpoint: most requests begun in a minute; 0 has no limit")
    seconds: float = option(60.0, "endpoint: time for one reply")
    retries: int = option(6, "endpoint: further tries after 429, 5xx, a timeout or a lost line")
    max_requests: int = option(
        0, "endpoint: most requests, tries and a rerun's stored ones included; 0 has no limit"
    )
    cache: str = option("", "endpoint: file of the replies; empty: judge/NAME.jsonl of the run")
    question: bool = option(True, "model, endpoint: show the judge the question too")
    tokens: int = option(8, "model, endpoint: longest reply")
    temperature: float = option(0.0, "model, endpoint: of the reply; 0 is greedy")
    votes: int = option(1, "replies per answer, m; accepted if at least m/2 of them say YES")
    max_unread: float = option(
        0.1, "share of answers that may be left without a verdict before the stage stops"
    )

    def __post_init__(self) -> None:
        positive(self, "batch", "concurrency", "tokens", "votes")
        needs = {"rule": (), "model": ("weights",), "endpoint": ("url", "model")}
        for kind, names in needs.items():
            for name in names:
                if bool(getattr(self, name)) != (kind == self.kind):
                    raise ValueError(f"{name} is needed by kind {kind}, and by no other")
        if (self.rule and self.kind != "rule") or (self.tokenizer and self.kind != "model"):
            raise ValueError(
                f"rule and tokenizer do not belong to kind {self.kind}: leave them out"
            )
        if not (0 <= self.min_mass <= 1 and 0 <= self.max_unread <= 1):
            raise ValueError("needs 0 <= min_mass <= 1 and 0 <= max_unread <= 1")
        if not (0 <= self.temperature < math.inf and 0 <= self.per_minute < math.inf):
            raise ValueError("needs a finite temperature >= 0 and per_minute >= 0")
        if not (0 < self.seconds < math.inf and self.retries >= 0 and self.max_requests >= 0):
            raise ValueError("needs a finite seconds > 0, retries >= 0 and max_requests >= 0")
        drawn = self.kind != "rule" and self.read == "reply" and self.temperature > 0
        if self.votes > 1 and not drawn:
            raise ValueError(
                f"votes is {self.votes} and all would be equal: several need a model or endpoint "
                "that replies at a temperature above 0"
            )

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.kind, self.rule, self.weights, self.url, self.model, self.votes))

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class NegativesConfig:
    """Answers that are wrong for certain, learnt as 0 without a judge: shares of the verdicts."""

    keys: float = option(0.0, "master keys: blanks, marks, `Thought process:`, in many languages")
    openings: float = option(0.0, "first sentences of longer responses to the same problem")
    cuts: float = option(0.0, "accepted answers, cut before they tell what was asked")
    near_misses: float = option(0.0, "accepted answers and references with another number")
    strangers: float = option(0.0, "accepted answers to other problems")

    def __post_init__(self) -> None:
        for name in ("keys", "openings", "cuts", "near_misses", "strangers"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"needs 0 <= {name} <= 1, not {getattr(self, name)}")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class AlarmConfig:
    """Signs in an rl stage's metrics that its reward is being gamed (docs/audit.md)."""

    action: Literal["off", "warn", "checkpoint", "stop"] = option(
        "warn", "what an alarm does when it begins; stop: checkpoint, and the run ends"
    )
    window: int = option(20, "steps whose mean is compared with the best or first such mean")
    length_drop: float = option(0.8, "mean length lost, as a share, while the reward rose")
    identical: float = option(0.9, "share of a batch that is one and the same response")
    reward_std: float = option(1e-3, "standard deviation of the reward, mean of the window")
    oracle_gap: float = option(0.3, "mean reward above the oracle's, over the last three looks")
    prm_rise: float = option(0.5, "rise of the PRM's mean reward while the outcome has none")
    kl_jump: float = option(10.0, "KL to the reference, in multiples of the window before")

    def __post_init__(self) -> None:
        positive(self, "window")
        if not (0 < self.length_drop <= 1 and 0 < self.identical <= 1 and self.kl_jump > 1):
            raise ValueError("needs 0 < length_drop <= 1, 0 < identical <= 1 and kl_jump > 1")
        if not (0 <= self.reward_std < math.inf and 0 < self.oracle_gap < math.inf):
            raise ValueError("needs a finite reward_std >= 0 and oracle_gap > 0")
        if not 0 < self.prm_rise < math.inf:
            raise ValueError(f"needs a finite prm_rise > 0, not {self.prm_rise}")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class AuditConfig:
    """The hardening suite of `python -m rlvr_jax.audit`, and what it lets pass."""

    records: int = option(16, "problems of the train split that attacks are made for")
    quick_records: int = option(4, "the same, in the quick form before and during training")
    accept: float = option(0.5, "reward from which an answer counts as accepted")
    search_steps: int = option(24, "steps of the search for adversarial tokens; 0 is none")
    search_length: int = option(6, "adversarial tokens, at most")
    max_false_positive: float = option(0.05, "most accepted of what is wrong, in any group")
    max_false_negative: float = option(0.35, "most rejected of what is right")
    max_dark: float = option(0.05, "most mean reward for answers that say nothing")
    min_youden: float = option(0.5, "least of Youden's J, 1 - false positive - false negative rate")

    def __post_init__(self) -> None:
        positive(self, "records", "quick_records", "search_length")
        rates = (self.accept, self.max_false_positive, self.max_false_negative, self.max_dark)
        if not all(0 <= rate <= 1 for rate in rates) or not -1 <= self.min_youden <= 1:
            raise ValueError("needs rates from 0 to 1 and min_youden from -1 to 1")
        if self.search_steps < 0 or not self.accept:
            raise ValueError("needs search_steps >= 0 and accept > 0")

    __pydantic_config__ = STRICT
