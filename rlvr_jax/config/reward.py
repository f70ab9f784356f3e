"""These config types describe rewards and judges, and the alarms and audits that watch them."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rlvr_jax.config.critique import VoteConfig
from rlvr_jax.config.fields import STRICT, check_positive, option, section


@dataclass(frozen=True)
class RewardConfig:
    """A RewardConfig says where the outcome reward of a response comes from."""

    source: Literal[
        "verifier", "rule", "rule_first", "both", "grm", "rule_then_grm", "preference"
    ] = option(
        "verifier",
        "verifier: the verifier's reward (see `mode`), inside the fused step; rule: a rule on "
        "the host, with the split step; rule_first: 1 where the rule accepts, else the "
        "verifier's reward; both: the rule's score times the verifier's reward; grm: mean score "
        "of a generative reward model's votes, inside the fused step; rule_then_grm: 1 where the "
        "rule accepts, else that mean; preference: the stage trains a generative reward model, "
        "and its judgement of a preference item is right or wrong",
    )
    mode: Literal["soft", "paper", "binary"] = option(
        "soft",
        "soft: p(1)/(p(1)+p(0)); paper (arXiv 2503.23829): p(1) where 1 is the most probable "
        "token, 1-p(0) where 0 is, else 0; binary: 1 where p(1) > p(0), else 0",
    )
    min_mass: float = option(0.5, "soft and binary: smallest p(1)+p(0); with less, the reward is 0")
    threshold: float = option(0.0, "smallest reward of the verifier; smaller ones become 0")
    temperature: float = option(
        1.0, "the logits of the two verdict words are divided by this; min_mass is not affected"
    )
    votes: Literal["mean", "majority"] | int = option(
        "mean",
        "verifier with several templates: mean of their rewards, or majority: 1 where at least "
        "half of them accept; grm: the number of judgements of each response, k",
    )
    grm: VoteConfig = section(VoteConfig, "how judgements of a grm become a reward")
    audit: Literal["off", "warn", "stop"] = option(
        "warn",
        "quick audit of the verifier or grm before the first step; stop: end the run if a rate is "
        "beyond the limits of `audit`",
    )
    rule: str = option(
        "", "kind of rule (docs/rewards.md), or your own file.py; empty: the rule of each task"
    )
    gates: tuple[str, ...] = option(
        (), "rules whose scores multiply the reward, e.g. [format, language]; needs the split step"
    )
    seconds: float = option(
        2.0,
        "rules: limit of the processor time to grade one answer, in the worker and the programs "
        "that it runs; 10 times as much may pass on the clock",
    )
    workers: int = option(2, "rules: number of worker processes")
    require_walls: bool = option(
        False, "rule code: refuse to run where a wall of the sandbox is missing (docs/rewards.md)"
    )
    on_error: Literal["stop", "zero"] = option(
        "stop",
        "your own rule raises an exception or returns no number in the first step: stop: end the "
        "run with the exception and the answer; zero: the answer scores 0, as in later steps",
    )

    def __post_init__(self) -> None:
        check_positive(self, "workers")
        if not 0 <= self.min_mass <= 1:
            raise ValueError(f"needs 0 <= min_mass <= 1, not {self.min_mass}")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"needs a finite seconds > 0, not {self.seconds}")
        if not (0 <= self.threshold <= 1 and 0 < self.temperature < math.inf):
            raise ValueError("needs 0 <= threshold <= 1 and a finite temperature > 0")
        if self.rule and not self.ruled:
            raise ValueError(f"rule {self.rule!r} needs a source that asks a rule, such as `rule`")
        if self.by_grm != isinstance(self.votes, int) or self.by_grm and self.judgements < 1:
            raise ValueError(
                f"votes is {self.votes!r}: source {self.source} needs "
                + ("a number of judgements, such as 4" if self.by_grm else "mean or majority")
            )
        if self.source == "preference" and self.gates:
            raise ValueError("gates are for the responses of a policy: leave them out")

    @property
    def ruled(self) -> bool:
        """Return whether a rule scores answers, instead of the verifier or beside it."""
        return self.source not in ("verifier", "grm", "preference")

    @property
    def by_grm(self) -> bool:
        """Return whether a generative reward model scores answers."""
        return self.source in ("grm", "rule_then_grm")

    @property
    def judgements(self) -> int:
        """Return the number of judgements of each response."""
        return self.votes if isinstance(self.votes, int) else 0

    @property
    def hosted(self) -> bool:
        """Return whether the reward needs the host, so that the step is split."""
        return self.ruled or bool(self.gates)

    @property
    def judged(self) -> bool:
        """Return whether a verifier scores answers."""
        return self.source in ("verifier", "rule_first", "both")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class JudgeConfig:
    """A JudgeConfig names who gives verdicts: a rule, a larger model here, or a chat endpoint."""

    kind: Literal["rule", "model", "endpoint"] = option("rule", "kind of judge")
    rule: str = option("", "rule: as in the reward of an rl stage; empty: the rule of each task")
    weights: str = option("", "model: a Hugging Face folder, a GGUF file, package:NAME or hub:NAME")
    tokenizer: str = option(
        "", "model: tokenizer file or folder, or `byte`; empty: the tokenizer beside the weights"
    )
    compute: Literal["float32", "bfloat16"] = option("float32", "model: dtype of matrix products")
    read: Literal["reply", "logit"] = option(
        "reply", "model: read the reply that it writes, or compare the logits of its two words"
    )
    min_mass: float = option(
        0.5, "model, logit: smallest p(YES)+p(NO); with less, there is no verdict"
    )
    batch: int = option(64, "model: answers per call; rounded up to a multiple of the data shards")
    url: str = option("", "endpoint: address of an OpenAI-compatible API, up to and including /v1")
    model: str = option("", "endpoint: name of the model on the server")
    key_env: str = option(
        "OPENAI_API_KEY",
        "endpoint: environment variable that holds the API key; empty: no key is sent",
    )
    body: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "endpoint: further fields of a request; null removes a field"},
    )
    concurrency: int = option(8, "endpoint: number of requests at the same time")
    per_minute: float = option(
        0.0, "endpoint: largest number of requests begun in a minute; 0: no limit"
    )
    seconds: float = option(60.0, "endpoint: time limit of one reply")
    retries: int = option(
        6, "endpoint: further tries after status 429 or 5xx, a timeout or a lost connection"
    )
    max_requests: int = option(
        0,
        "endpoint: largest number of requests; retries and the stored replies of earlier runs "
        "count too; 0: no limit",
    )
    cache: str = option(
        "", "endpoint: file that stores the replies; empty: judge/NAME.jsonl in the run folder"
    )
    question: bool = option(True, "model, endpoint: show the judge the question too")
    template: str = option(
        "judge",
        "model, endpoint: how the judge is asked: a template as in data.check_templates; its words "
        "are what the judge replies",
    )
    tokens: int = option(8, "model, endpoint: tokens of the longest reply")
    temperature: float = option(
        0.0, "model, endpoint: sampling temperature of the reply; 0 is greedy"
    )
    votes: int = option(
        1, "replies per answer, m; an answer is accepted if at least m/2 of them say YES"
    )
    max_unread: float = option(
        0.1, "largest share of answers without a verdict; with more, the stage stops"
    )

    def __post_init__(self) -> None:
        check_positive(self, "batch", "concurrency", "tokens", "votes")
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
    """A NegativesConfig says how many certainly wrong answers a verifier learns to reject.

    No judge is asked about these answers.  Each number is a share of the verdicts.
    """

    keys: float = option(
        0.0,
        "master keys: blanks, punctuation, phrases such as `Thought process:` in many "
        "languages; how many, as a share of the number of verdicts",
    )
    openings: float = option(
        0.0,
        "first sentences of longer responses to the same problem; how many, as a share "
        "of the number of verdicts",
    )
    cuts: float = option(
        0.0,
        "accepted answers that are cut off at a random place; how many, as a share of "
        "the number of verdicts",
    )
    near_misses: float = option(
        0.0,
        "accepted answers and references with one number changed; how many, as a share "
        "of the number of verdicts",
    )
    strangers: float = option(
        0.0,
        "accepted answers to other problems; how many, as a share of the number of verdicts",
    )
    hedges: float = option(
        0.0,
        "texts that give a right and a wrong answer, or take the right one back; how many, as a "
        "share of the number of verdicts",
    )

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"needs 0 <= {name} <= 1, not {share}")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class AlarmConfig:
    """An AlarmConfig sets the limits of metrics beyond which a reward is probably gamed.

    docs/audit.md explains each alarm.
    """

    action: Literal["off", "warn", "checkpoint", "stop"] = option(
        "warn",
        "what happens when an alarm begins: off: nothing; warn: a message; checkpoint: a "
        "message and a checkpoint; stop: both, and the run ends",
    )
    window: int = option(
        20,
        "number of steps that an alarm averages over; length_drop compares with the longest "
        "earlier mean, kl_jump and prm_rise with the mean of the window before",
    )
    length_drop: float = option(
        0.8,
        "alarm when the mean length has fallen by more than this share while the reward rose",
    )
    identical: float = option(
        0.9,
        "alarm when at least this share of the responses are one and the same",
    )
    reward_std: float = option(
        1e-3,
        "alarm when the standard deviation of the reward, as the mean of the window, is below this",
    )
    oracle_gap: float = option(
        0.3,
        "alarm when the mean reward is above the oracle's by more than this, as the "
        "mean of the last three comparisons",
    )
    prm_rise: float = option(
        0.5,
        "alarm when the mean token reward has risen by at least this and the outcome "
        "reward has not",
    )
    kl_jump: float = option(
        10.0,
        "alarm when the mean KL to the reference policy is more than this times the "
        "mean of the window before",
    )
    valid_frac: float = option(
        0.5,
        "where a generative reward model judges: alarm when less than this share of its judgements "
        "are votes",
    )
    tie_frac: float = option(
        0.5,
        "where a generative reward model judges: alarm when more than this share of its judgements "
        "give their top score to several responses",
    )

    def __post_init__(self) -> None:
        check_positive(self, "window")
        if not (0 < self.length_drop <= 1 and 0 < self.identical <= 1 and self.kl_jump > 1):
            raise ValueError("needs 0 < length_drop <= 1, 0 < identical <= 1 and kl_jump > 1")
        if not (0 <= self.reward_std < math.inf and 0 < self.oracle_gap < math.inf):
            raise ValueError("needs a finite reward_std >= 0 and oracle_gap > 0")
        if not 0 < self.prm_rise < math.inf:
            raise ValueError(f"needs a finite prm_rise > 0, not {self.prm_rise}")
        if not (0 <= self.valid_frac <= 1 and 0 <= self.tie_frac <= 1):
            raise ValueError("needs 0 <= valid_frac <= 1 and 0 <= tie_frac <= 1")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class AuditConfig:
    """An AuditConfig sets the size and the limits of audits, of `python -m rlvr_jax.audit` too."""

    records: int = option(
        16,
        "number of problems that are attacked, of the train split or, without one, of test; of a "
        "generative reward model (GRM): preference items of the test split",
    )
    quick_records: int = option(
        4, "the same for the quick audit before training and in evaluations"
    )
    accept: float = option(0.5, "smallest reward with which an answer counts as accepted")
    votes: int = option(
        4, "judgements of each pair where the audited stage trains a GRM; others have their own"
    )
    search_steps: int = option(24, "steps of the search for adversarial tokens; 0: no search")
    search_length: int = option(6, "largest number of adversarial tokens")
    max_false_positive: float = option(
        0.05,
        "largest share of wrong answers that are accepted, in any group of attacks; GRM: largest "
        "rise, by the attacks of a group, of the share of pairs whose worse response is preferred",
    )
    max_false_negative: float = option(
        0.35,
        "largest share of right answers that are rejected; GRM: of pairs without an attack whose "
        "best response is not alone on top",
    )
    max_dark: float = option(0.05, "largest mean reward of answers without content")
    min_youden: float = option(
        0.5, "smallest Youden's J: 1 - false-positive rate - false-negative rate"
    )

    def __post_init__(self) -> None:
        check_positive(self, "records", "quick_records", "votes", "search_length")
        rates = (self.accept, self.max_false_positive, self.max_false_negative, self.max_dark)
        if not all(0 <= rate <= 1 for rate in rates) or not -1 <= self.min_youden <= 1:
            raise ValueError("needs rates from 0 to 1 and min_youden from -1 to 1")
        if self.search_steps < 0 or not self.accept:
            raise ValueError("needs search_steps >= 0 and accept > 0")

    __pydantic_config__ = STRICT
