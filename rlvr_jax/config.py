"""What a config can say: frozen dataclasses, values only, each field with its meaning.

`rlvr_jax.host.settings` reads them from YAML and the command line.  Configs are hashable, so
that a jitted function can take one as a static argument.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

STRICT = {"extra": "forbid"}  # read by the loader: a key that is not a field is refused


def option(default: Any, meaning: str) -> Any:
    """A field with its meaning; `--help` and the documentation are made from these."""
    return field(default=default, metadata={"help": meaning})


def _positive(cfg: Any, *names: str) -> None:
    for name in names:
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(cfg, name)}")


def _file_name(name: str) -> None:
    """Names of runs and stages become files and folders inside the run's own place."""
    if name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\"):
        raise ValueError(f"name {name!r} must be a plain file name, without folders")
    if name in ("fresh", "pretrained"):
        raise ValueError(
            f"name {name!r} has a meaning of its own where stages are named: choose another"
        )


class Family(NamedTuple):
    """What sets one family of decoder-only transformers apart from Llama."""

    bias: bool = False  # on q, k and v
    qk_norm: bool = False  # RMSNorm over each head's q and k, before rotation
    sandwich: bool = False  # a norm after attention and feed-forward too, before the residual
    from_one: bool = False  # norm scales are stored as their distance from 1
    gelu: bool = False  # tanh GELU in the gate instead of SiLU
    embed_scale: bool = False  # embeddings times sqrt(D)
    experts: bool = False  # feed-forward is a mixture of experts


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(bias=True),
    "qwen3": Family(qk_norm=True),
    "qwen3_moe": Family(qk_norm=True, experts=True),
    "gemma2": Family(sandwich=True, from_one=True, gelu=True, embed_scale=True),
    "gemma3_text": Family(qk_norm=True, sandwich=True, from_one=True, gelu=True, embed_scale=True),
}


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer: RMSNorm, rotary positions, grouped queries, gated products."""

    weights: str = option(
        "", "pretrained model: a folder or GGUF file, or package:NAME; all sizes come from it"
    )
    family: Literal["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text"] = (
        option("llama", "architecture; SmolLM2 is a llama")
    )
    layers: int = option(4, "transformer blocks, L")
    width: int = option(128, "model width, D")
    heads: int = option(4, "query heads, N")
    kv_heads: int = option(2, "key/value heads, K; must divide heads")
    head_size: int = option(32, "size of one head, H (even, for rotary positions)")
    feedforward: int = option(384, "feed-forward width, F; of one expert where there are experts")
    vocab: int = option(512, "vocabulary, V; the tokenizer stage trains to exactly this size")
    context: int = option(0, "longest row the model was made for; 0 is not known")
    experts: int = option(0, "experts, E, of a mixture-of-experts family")
    experts_used: int = option(0, "experts per token")
    experts_sum_to_one: bool = option(
        True, "weights of the experts in use are divided by their sum"
    )
    rope_theta: float = option(10000.0, "base of the rotary frequencies")
    rope_scaling: Literal["none", "linear", "llama3"] = option(
        "none", "how the frequencies are stretched for contexts longer than those of training"
    )
    rope_factor: float = option(1.0, "by how much they are stretched")
    rope_low: float = option(1.0, "llama3: fully stretched below this many turns in rope_original")
    rope_high: float = option(4.0, "llama3: left alone above this many turns in rope_original")
    rope_original: int = option(8192, "llama3: context length before stretching")
    rope_theta_window: float = option(
        0.0, "base, without stretching, for layers with a window; 0: as the other layers"
    )
    window: int = option(0, "columns that a layer with a sliding window sees; 0 has no windows")
    global_every: int = option(0, "each such layer sees everything despite window; 0 is none")
    query_scale: float = option(0.0, "attention scores are divided by its root; 0 is head_size")
    attention_softcap: float = option(0.0, "tanh bound of attention scores; 0 has none")
    logit_softcap: float = option(0.0, "tanh bound of the logits; 0 has none")
    norm_eps: float = option(1e-5, "epsilon inside RMSNorm")
    tied: bool = option(True, "use the embedding as the output head")
    compute: Literal["float32", "bfloat16"] = option("float32", "dtype of products and cache")
    unroll: bool = option(False, "unroll the layers: quicker on CPU, slower to compile")
    remat: bool = option(False, "recompute each block in the backward pass to save memory")
    part_tokens: int = option(
        256, "tokens read at a time, forward or backward, per data shard: memory against speed"
    )
    kernels: Literal["xla", "pallas"] = option(
        "xla", "xla, or on TPU and GPU this project's and upstream's kernels (kernels/README.md)"
    )
    slots: int = option(0, "responses written at a time, per data shard; 0 is all of a call")

    def __post_init__(self) -> None:
        _positive(self, "layers", "width", "heads", "kv_heads", "feedforward", "vocab")
        _positive(self, "rope_original", "part_tokens")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.head_size < 2 or self.head_size % 2:
            raise ValueError(f"head_size must be even and at least 2, not {self.head_size}")
        if not (0 < self.rope_theta < math.inf and 0 <= self.norm_eps < math.inf):
            raise ValueError("needs a finite rope_theta > 0 and norm_eps >= 0")
        if not (1 <= self.rope_factor < math.inf and 0 < self.rope_low < self.rope_high):
            raise ValueError("needs rope_factor >= 1 and 0 < rope_low < rope_high")
        for name in ("rope_theta_window", "query_scale", "attention_softcap", "logit_softcap"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and at least 0")
        if self.slots < 0:
            raise ValueError(f"needs slots >= 0, not {self.slots}")
        if self.window < 0 or self.global_every < 0 or (self.global_every and not self.window):
            raise ValueError("needs window >= 0, and global_every > 0 only with a window")
        if self.has.experts != (self.experts > 0) or not (
            bool(self.experts) <= self.experts_used <= self.experts
        ):
            raise ValueError(
                f"family {self.family} with {self.experts} experts, {self.experts_used} used: a "
                "mixture of experts needs both, another family none"
            )

    @property
    def has(self) -> Family:
        return FAMILIES[self.family]

    @property
    def sizes(self) -> dict[str, int]:
        """Letter -> size."""
        one = dict(L=self.layers, D=self.width, N=self.heads, K=self.kv_heads, H=self.head_size)
        return one | dict(F=self.feedforward, V=self.vocab, E=self.experts)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class MeshConfig:
    """Devices as data x fsdp x tensor; the product is the number of devices of the job."""

    data: int = option(1, "pure data parallelism; across hosts and slices")
    fsdp: int = option(1, "data parallelism with parameters and moments split by width")
    tensor: int = option(1, "heads, feed-forward and vocabulary split; inside a host")
    letters: dict[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata={"help": "axes of single parameter letters, e.g. {K: []} replicates kv heads"},
    )

    def __post_init__(self) -> None:
        _positive(self, "data", "fsdp", "tensor")
        for letter, axes in self.letters.items():
            if letter not in "DNKFVE" or len(letter) != 1:
                raise ValueError(f"letters: {letter!r} is not one of D, N, K, F, V, E")
            for axis in axes:
                if axis not in ("data", "fsdp", "tensor"):
                    raise ValueError(f"letters: {axis!r} is not an axis (data, fsdp, tensor)")

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.data, self.fsdp, self.tensor, tuple(sorted(self.letters.items()))))

    __pydantic_config__ = STRICT


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

    tasks: tuple[str, ...] = option((), "tasks of rlvr_jax.host.tasks, in equal parts")
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
        _positive(self, "prompt_columns", "response_columns", "check_columns", "test")
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


@dataclass(frozen=True)
class SampleConfig:
    """The distribution a response is drawn from."""

    temperature: float = option(1.0, "softmax temperature; 0 is greedy")
    top_k: int = option(0, "keep the k most probable tokens; 0 keeps all")
    top_p: float = option(1.0, "keep the smallest set of tokens with this much mass; 1 keeps all")

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError("needs a finite temperature >= 0, top_k >= 0 and 0 < top_p <= 1")

    @property
    def whole(self) -> "SampleConfig":
        """The same without top_k and top_p."""
        return replace(self, top_k=0, top_p=1.0)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up."""

    lr: float = option(1e-3, "peak learning rate")
    warmup: int = option(0, "steps of linear warm-up")
    decay: Literal["constant", "linear", "cosine"] = option("constant", "schedule after warm-up")
    final: float = option(0.1, "learning rate at the last step, as a share of lr, when it decays")
    beta1: float = option(0.9, "decay of the first moment")
    beta2: float = option(0.95, "decay of the second moment")
    eps: float = option(1e-8, "Adam epsilon")
    weight_decay: float = option(0.0, "decoupled weight decay of matrices; vectors have none")
    grad_clip: float = option(1.0, "clip the global gradient norm to this")
    max_skipped: int = option(5, "non-finite updates in a row after which the run stops")

    def __post_init__(self) -> None:
        _positive(self, "max_skipped")
        # Written so that nan fails too.  An infinite grad_clip is fine: it never clips.
        if not (0 <= self.lr < math.inf and self.warmup >= 0 and self.grad_clip > 0):
            raise ValueError("needs a finite lr >= 0, warmup >= 0 and grad_clip > 0")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and 0 <= self.final < math.inf):
            raise ValueError("needs 0 <= beta1 < 1, 0 <= beta2 < 1 and a finite final >= 0")
        if not (0 <= self.eps < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError("needs a finite eps >= 0 and weight_decay >= 0")

    __pydantic_config__ = STRICT


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
        _positive(self, "workers")
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
class AdvantageConfig:
    """From rewards to advantages: z-score, then a baseline; rlvr_jax/advantage.py names them."""

    normalise: Literal["batch", "group", "none"] = option(
        "batch", "z-score rewards over the global batch, over each group, or not at all"
    )
    baseline: Literal["rloo", "mean", "opo", "greedy", "value", "none"] = option(
        "rloo",
        "subtract the mean of the group's other samples, of the whole group, of the whole group "
        "weighted by length, the reward of a greedy answer, a value head's (PPO), or nothing",
    )
    std_floor: float = option(1e-4, "least standard deviation a reward is divided by")
    ddof: int = option(0, "standard deviations over n - ddof: 0 or, as in TRL and verl, 1")
    credit: Literal["response", "token"] = option(
        "response", "one advantage for a response, or each token's own share of the KL penalty"
    )
    whiten: Literal["none", "tokens"] = option(
        "none", "z-score the advantages over all tokens of the global batch (REINFORCE++, PPO)"
    )
    discount: float = option(1.0, "of rewards that come a token later, where credit is of tokens")
    gae_lambda: float = option(1.0, "decay of generalised advantages, with baseline: value")
    process_weight: float = option(0.0, "weight of token rewards beside the outcome's; 0 has none")
    process_scale: Literal["none", "batch"] = option(
        "none", "divide token rewards by the batch's largest return, as PRIME's code does"
    )
    weights: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "weights of several rewards by name, e.g. {correct: 1, format: 0.1}"},
    )
    mix: Literal["before", "after"] = option(
        "before", "add several rewards before normalisation, or after each one's own (GDPO)"
    )

    def __post_init__(self) -> None:
        if not 0 < self.std_floor < math.inf:  # 0 would divide equal rewards by nothing
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
        if self.baseline == "greedy" and (self.normalise != "none" or self.process_weight):
            raise ValueError("baseline greedy is of plain outcomes: normalise none, no process")
        if self.mix == "after" and (self.normalise == "none" or len(self.weights) < 2):
            raise ValueError("mix: after needs a normalisation and weights of two or more rewards")

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.normalise, self.baseline, self.credit, tuple(sorted(self.weights))))

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class LossConfig:
    """What is maximised and its denominators; rlvr_jax/loss.py names the usual ones."""

    clip_low: float = option(0.2, "lower clip range of the probability ratio; 1 has no floor")
    clip_high: float = option(0.2, "upper clip range of the probability ratio")
    aggregate: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant"] = (
        option("token-mean", "denominators, always over the global batch; constant is N * R")
    )
    kl_coef: float = option(0.0, "weight of the KL to the reference policy; 0 needs no reference")
    kl_in: Literal["reward", "loss"] = option(
        "reward", "k1 summed over the response, off the reward; or k3 per token, in the loss"
    )
    kl_form: Literal["auto", "k1", "k2", "k3", "abs", "k1+", "k3+"] = option(
        "auto", "estimate of the KL; auto: k1 in the reward, k3 in the loss; +: k2's gradient"
    )
    kl_target: float = option(0.0, "KL per token that kl_coef is adapted to; 0 leaves it alone")
    kl_horizon: float = option(10000.0, "responses over which kl_coef may change by a fifth")
    kl_corrected: bool = option(False, "the KL in the loss times the ratio, for off-policy rows")
    objective: Literal["clip", "cispo", "sapo", "gmpo", "plain"] = option(
        "clip", "PPO's minimum, bounded weights, a soft gate, a geometric mean, or no ratio at all"
    )
    ratio: Literal["token", "sequence", "sequence-token", "product"] = option(
        "token", "of a token; geometric mean of a response (GSPO), or that per token; their product"
    )
    dual_clip: float = option(0.0, "bound of the loss where A < 0, in units of A; 0 has none")
    gate_positive: float = option(1.0, "sapo: temperature of the gate where A > 0")
    gate_negative: float = option(1.05, "sapo: temperature of the gate where A <= 0")
    entropy_coef: float = option(0.0, "weight of the entropy bonus")
    value_coef: float = option(0.1, "baseline value: weight of the value head's squared error")
    value_clip: float = option(
        0.2, "baseline value: no gain from values further than this from the old ones; 0 is off"
    )
    correct: Literal[
        "none", "truncate", "mask", "sequence-truncate", "sequence-mask", "geometric-mask"
    ] = option("none", "weights for what the sampler's log-probs are off the trainer's")
    correct_low: float = option(0.0, "least such weight")
    correct_high: float = option(2.0, "largest such weight")
    stale_kl: float = option(
        0.0, "leave out rows with A < 0 that drifted further than this per token; 0 keeps all"
    )

    def __post_init__(self) -> None:
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
        if self.objective != "clip" and self.ratio != "token":
            raise ValueError(f"objective {self.objective} has a ratio of its own: ratio token")
        clips = self.objective in ("clip", "cispo", "gmpo") and self.ratio == "token"
        if clips and min(self.clip_low, self.clip_high) < 0.01:
            raise ValueError("clip ranges below 0.01 are for ratio: sequence (GSPO), not of tokens")
        if self.dual_clip and not (self.objective == "clip" and self.dual_clip > 1):
            raise ValueError("dual_clip needs objective: clip and must be above 1")
        if self.kl_in == "reward" and (self.kl_corrected or self.kl_form.endswith("+")):
            raise ValueError("kl_corrected, k1+ and k3+ are about gradients: they need kl_in: loss")
        if self.kl_in == "loss" and self.kl_form == "k1" and not self.kl_corrected:
            raise ValueError("k1 in the loss pulls nowhere: use k1+, or kl_corrected with it")

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
        _positive(self, "window")
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
        _positive(self, "records", "quick_records", "search_length")
        rates = (self.accept, self.max_false_positive, self.max_false_negative, self.max_dark)
        if not all(0 <= rate <= 1 for rate in rates) or not -1 <= self.min_youden <= 1:
            raise ValueError("needs rates from 0 to 1 and min_youden from -1 to 1")
        if self.search_steps < 0 or not self.accept:
            raise ValueError("needs search_steps >= 0 and accept > 0")

    __pydantic_config__ = STRICT


def _own(factory: type, meaning: str) -> Any:
    return field(default_factory=factory, metadata={"help": meaning})


@dataclass(frozen=True)
class TokenizerStage:
    """Train the sentencepiece model on the text of the sft problems."""

    stage: Literal["tokenizer"] = "tokenizer"
    name: str = option("tokenizer", "name of the stage and of what it leaves behind")

    def __post_init__(self) -> None:
        _file_name(self.name)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class SftStage:
    """Teach the policy the demonstrations."""

    stage: Literal["sft"] = "sft"
    name: str = option("sft", "name of the stage and of what it leaves behind")
    init: str = option("fresh", "the stage it starts from, `fresh` or `pretrained`")
    steps: int = option(500, "optimizer updates")
    batch: int = option(64, "demonstrations per update")
    optim: OptimConfig = _own(OptimConfig, "optimizer")
    save_every: int = option(100, "steps between checkpoints")

    def __post_init__(self) -> None:
        _file_name(self.name)
        _positive(self, "steps", "batch", "save_every")

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
        _positive(self, "batch", "concurrency", "tokens", "votes")
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
class LabelStage:
    """Sample answers to the label problems and have a judge give each a 0/1 verdict."""

    stage: Literal["label"] = "label"
    name: str = option("label", "name of the stage and of what it leaves behind")
    judge: JudgeConfig = _own(JudgeConfig, "who gives the verdicts")
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
    sample: SampleConfig = _own(SampleConfig, "how answers are drawn")

    def __post_init__(self) -> None:
        _file_name(self.name)
        _positive(self, "samples", "batch")
        if self.strangers < 0 or self.cuts < 0:
            raise ValueError("needs strangers >= 0 and cuts >= 0")

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
    negatives: NegativesConfig = _own(NegativesConfig, "wrong answers that are mixed in")
    balance: Literal["none", "down", "up"] = option(
        "none", "until 0 and 1 are equally many: leave out of the larger, or repeat the smaller"
    )
    optim: OptimConfig = _own(OptimConfig, "optimizer")
    save_every: int = option(100, "steps between checkpoints")

    def __post_init__(self) -> None:
        _file_name(self.name)
        _positive(self, "steps", "batch", "held_out", "save_every")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class OverlongConfig:
    """What becomes of responses near and at the end of their budget (DAPO, arXiv 2503.14476)."""

    buffer: int = option(0, "last tokens of the budget that cost reward, up to `penalty`; 0: none")
    penalty: float = option(1.0, "what a response that fills its budget loses")
    leave_out: bool = option(False, "responses cut off by the budget teach the policy nothing")

    def __post_init__(self) -> None:
        if self.buffer < 0 or not 0 < self.penalty < math.inf:
            raise ValueError("needs buffer >= 0 and a finite penalty > 0")

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class FilterConfig:
    """Which groups teach the policy; a step may sample again for the places of the others."""

    low: float = option(0.0, "least mean outcome of a group that is kept; PRIME: 0.2")
    high: float = option(1.0, "largest mean outcome of a group that is kept; PRIME: 0.8")
    spread: bool = option(False, "groups whose outcomes are all equal are left out (DAPO)")
    whole: bool = option(False, "groups with a response cut off by the budget are left out (PRIME)")
    rounds: int = option(1, "most rounds of generation in a step, while places are unfilled")

    def __post_init__(self) -> None:
        _positive(self, "rounds")
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"needs 0 <= low <= high <= 1, not {self.low} and {self.high}")
        if self.rounds > 1 and not self.on:
            raise ValueError(
                f"rounds is {self.rounds} and every group would be kept in the first: set low, "
                "high, spread or whole too"
            )

    @property
    def on(self) -> bool:
        """Whether any group could be left out."""
        return self.low > 0 or self.high < 1 or self.spread or self.whole

    __pydantic_config__ = STRICT


def _prm_optim() -> OptimConfig:
    return OptimConfig(lr=1e-6, grad_clip=10.0)  # PRIME's


@dataclass(frozen=True)
class PrmConfig:
    """The implicit process reward model: of a prm stage, or where advantage.process_weight > 0."""

    loss: Literal["ce", "dpo", "kto", "nca"] = option(
        "ce", "of each outcome; of right against wrong for one prompt; of all against their mean"
    )
    init: str = option("", "rl: the stage whose model or PRM it starts from; empty: the policy")
    beta: float = option(0.05, "token rewards are beta * log-ratio to the reference")
    order: Literal["score-first", "update-first"] = option(
        "score-first", "rewards of the PRM as it was, from its update's own forward pass; or after"
    )
    reference: Literal["frozen", "policy"] = option(
        "frozen", "what it is compared with: the policy at the start, or as it sampled"
    )
    share: float = option(
        1.0, "of the responses it learns from, drawn by how wrong it is about them; all are scored"
    )
    granularity: Literal["token", "line", "whole"] = option(
        "token", "rewards stay on their tokens, or are added up on the last of a line, of a row"
    )
    optim: OptimConfig = field(default_factory=_prm_optim, metadata={"help": "its optimizer"})

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"needs a finite beta > 0, not {self.beta}")
        if not 0 < self.share <= 1:
            raise ValueError(f"needs 0 < share <= 1, not {self.share}")

    def check(self, samples: int, sample: SampleConfig) -> None:
        """Refuse what rollouts of this kind cannot teach a PRM."""
        if self.reference == "policy" and sample != sample.whole:
            raise ValueError("prm.reference policy needs sampling without top_k and top_p")
        if self.loss in ("dpo", "nca") and samples < 2:
            raise ValueError(f"prm.loss {self.loss} needs samples of at least 2 per prompt")

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
    sample: SampleConfig = _own(SampleConfig, "how responses are drawn")
    reward: RewardConfig = _own(RewardConfig, "outcome reward")
    overlong: OverlongConfig = _own(OverlongConfig, "responses near the end of their budget")
    filter: FilterConfig = _own(FilterConfig, "which groups teach, and sampling again")
    advantage: AdvantageConfig = _own(AdvantageConfig, "normalisation and baseline")
    also: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "further rewards: a rule by the name it has in advantage.weights"},
    )
    prm: PrmConfig = _own(PrmConfig, "implicit process reward model")
    loss: LossConfig = _own(LossConfig, "policy loss")
    alarms: AlarmConfig = _own(AlarmConfig, "signs of a gamed reward")
    optim: OptimConfig = _own(OptimConfig, "optimizer")
    save_every: int = option(50, "steps between checkpoints")
    sample_every: int = option(25, "steps between sample tables")

    def __post_init__(self) -> None:
        _file_name(self.name)
        _positive(self, "steps", "prompts", "samples", "save_every", "sample_every")
        if not 0 <= self.collect <= 1:
            raise ValueError(f"needs 0 <= collect <= 1, not {self.collect}")
        _positive(self, "epochs", "minibatches")
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
    sample: SampleConfig = _own(SampleConfig, "how responses are drawn")
    reward: RewardConfig = _own(RewardConfig, "outcome reward, the label")
    prm: PrmConfig = _own(PrmConfig, "the model, its loss and its optimizer")
    save_every: int = option(50, "steps between checkpoints")

    def __post_init__(self) -> None:
        _file_name(self.name)
        _positive(self, "steps", "prompts", "samples", "save_every")
        if self.sample.temperature == 0:
            raise ValueError("sample.temperature is 0: greedy answers give nothing to learn")
        if self.prm != replace(self.prm, order="score-first", granularity="token", init=""):
            raise ValueError(
                "prm.order, granularity and init are of a PRM beside a policy that learns: leave "
                "them out of a prm stage, which starts from its own policy and rewards nobody"
            )
        self.prm.check(self.samples, self.sample)

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
    sample: SampleConfig = _own(SampleConfig, "how answers are drawn for avg@k")
    prm: str = option(
        "", "a prm stage, or an rl stage with a PRM: best-of-k and weighted votes; empty for none"
    )
    prm_reference: str = option(
        "", "what that PRM is compared with; empty: the policy that its stage started from"
    )
    rule: str = option("", "the oracle: as in the reward of an rl stage")
    seconds: float = option(2.0, "time the oracle has for one answer")

    def __post_init__(self) -> None:
        _file_name(self.name)
        _positive(self, "samples", "batch")
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


@dataclass(frozen=True)
class Config:
    """One run: data, models, mesh and the stages that are run in order."""

    name: str = option("run", "name of the run; its folder is runs/NAME")
    seed: int = option(0, "the one seed of the run")
    runs: str = option("runs", "folder that holds the run folders")
    data: DataConfig = _own(DataConfig, "problems")
    tokenizer: str = option(
        "", "tokenizer file or folder, or `byte`; empty: the model's own, else a tokenizer stage's"
    )
    model: ModelConfig = _own(ModelConfig, "the policy")
    verifier: ModelConfig = _own(ModelConfig, "the verifier; of any size")
    verifier_tokenizer: str = option(
        "", "the verifier's own, as in tokenizer; empty: the policy's. Needs the split step"
    )
    audit: AuditConfig = _own(AuditConfig, "the hardening suite and its limits")
    mesh: MeshConfig = _own(MeshConfig, "device mesh")
    stages: tuple[Stage, ...] = field(
        default=(), metadata={"help": "stages in order; finished ones are skipped on a rerun"}
    )

    def __post_init__(self) -> None:
        _file_name(self.name)
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to 2**31 - 1, not {self.seed}")
        if not self.stages:
            raise ValueError("stages is empty: name at least one stage")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are named {name!r}; give each a name of its own")
        judged = any(reads_verifier(stage) for stage in self.stages)
        if self.verifier_tokenizer:
            self._check_split()
        elif judged and self.verifier.vocab != self.model.vocab:
            raise ValueError(
                f"model.vocab is {self.model.vocab} and verifier.vocab {self.verifier.vocab}: "
                "inside the fused step both read the same token ids and need one vocabulary"
            )

    def _check_split(self) -> None:
        """Refuse stages in which a verifier with a tokenizer of its own would read policy ids."""
        for stage in self.stages:
            trained = isinstance(stage, VerifierStage | LabelStage)
            collects = isinstance(stage, RlStage) and stage.collect
            if trained or collects or (isinstance(stage, EvaluateStage) and stage.verifier):
                raise ValueError(
                    f"verifier_tokenizer needs the host between answer and verdict, and stage "
                    f"{stage.name} reads the policy's ids as the verifier's: only a prm stage "
                    "and an rl stage without collect may ask such a verifier; evaluate with "
                    "verifier: ''"
                )

    __pydantic_config__ = STRICT
