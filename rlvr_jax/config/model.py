"""Models and the mesh that they are spread over."""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rlvr_jax.config.fields import STRICT, option, positive


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
        positive(self, "layers", "width", "heads", "kv_heads", "feedforward", "vocab")
        positive(self, "rope_original", "part_tokens")
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
        positive(self, "data", "fsdp", "tensor")
        for letter, axes in self.letters.items():
            if letter not in "DNKFVE" or len(letter) != 1:
                raise ValueError(f"letters: {letter!r} is not one of D, N, K, F, V, E")
            for axis in axes:
                if axis not in ("data", "fsdp", "tensor"):
                    raise ValueError(f"letters: {axis!r} is not an axis (data, fsdp, tensor)")

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((self.data, self.fsdp, self.tensor, tuple(sorted(self.letters.items()))))

    __pydantic_config__ = STRICT
