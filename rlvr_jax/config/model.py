"""These config types describe the models, how a machine runs them, and the device mesh."""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rlvr_jax.config.adapter import AdapterConfig
from rlvr_jax.config.fields import STRICT, check_positive, option, section


class Family(NamedTuple):
    """A Family holds the differences between a family of decoder-only transformers and Llama."""

    bias: bool = False  # the projections of queries, keys and values have a bias
    qk_norm: bool = False  # RMSNorm over each head's queries and keys, before rotation
    qk_norm_wide: bool = False  # the same over all heads at once, with a scale for each entry
    norm_before: bool = True  # a norm in front of attention and in front of feed-forward
    norm_after: bool = False  # a norm behind attention and behind feed-forward, before the sum
    from_one: bool = False  # the file stores norm scales minus 1
    gelu: bool = False  # the gate is tanh GELU instead of SiLU
    embed_scale: bool = False  # embeddings are multiplied by sqrt(D)
    experts: bool = False  # the feed-forward is a mixture of experts
    fused: bool = False  # the file has one matrix for q, k and v, and one for gate and up


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(bias=True),
    "qwen3": Family(qk_norm=True),
    "qwen3_moe": Family(qk_norm=True, experts=True),
    "mixtral": Family(experts=True),
    "gemma2": Family(norm_after=True, from_one=True, gelu=True, embed_scale=True),
    "gemma3_text": Family(
        qk_norm=True, norm_after=True, from_one=True, gelu=True, embed_scale=True
    ),
    "smollm3": Family(),
    "phi3": Family(fused=True),
    "olmo2": Family(qk_norm_wide=True, norm_before=False, norm_after=True),
}


@dataclass(frozen=True)
class Pretrained:
    """Pretrained names the file or folder with the weights that a model starts from."""

    weights: str = option(
        "",
        "pretrained model: a Hugging Face folder, a GGUF file, package:NAME, or hub:NAME of the "
        "Hugging Face hub (hub:NAME@REVISION); all sizes come from its files",
    )


@dataclass(frozen=True)
class Architecture:
    """An Architecture is everything about a model that its weights file fixes.

    The model is a decoder-only transformer with RMSNorm, rotary positions, grouped-query attention
    and a gated feed-forward.
    """

    family: Literal[
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "mixtral",
        "gemma2",
        "gemma3_text",
        "smollm3",
        "phi3",
        "olmo2",
    ] = option("llama", "family of the architecture; SmolLM2 is a llama")
    layers: int = option(4, "number of transformer blocks, L")
    width: int = option(128, "model width, D")
    heads: int = option(4, "number of query heads, N")
    kv_heads: int = option(2, "number of key/value heads, K; must divide heads")
    head_size: int = option(32, "size of one head, H; even, because rotary positions pair values")
    feedforward: int = option(
        384, "feed-forward width, F; in a mixture of experts, the width of one expert"
    )
    vocab: int = option(512, "vocabulary size, V; a tokenizer stage trains exactly this size")
    context: int = option(0, "longest row, in tokens, that the model was made for; 0: not known")
    experts: int = option(0, "number of experts, E, in a mixture-of-experts family")
    experts_used: int = option(0, "number of experts that each token is sent to")
    experts_sum_to_one: bool = option(True, "divide the weights of a token's experts by their sum")
    rope_theta: float = option(10000.0, "base of the rotary frequencies")
    rope_size: int = option(
        0, "entries of a head that are rotated, the first ones; even; 0: all of head_size"
    )
    rope_scaling: Literal["none", "linear", "llama3", "yarn", "longrope"] = option(
        "none",
        "which rotary frequencies are lowered for contexts longer than those of pretraining: "
        "linear: all; llama3: the low ones, with a ramp over frequencies between low and high; "
        "yarn: the low ones, with a ramp over their numbers; longrope: each by its own divisor",
    )
    rope_factor: float = option(
        1.0,
        "the rotary frequencies are divided by this; with llama3 and yarn only the low frequencies",
    )
    rope_low: float = option(
        1.0,
        "llama3, yarn: frequencies with fewer turns than this in rope_original tokens are divided "
        "by rope_factor",
    )
    rope_high: float = option(
        4.0,
        "llama3, yarn: frequencies with more turns than this in rope_original tokens stay as they "
        "are",
    )
    rope_original: int = option(
        8192, "llama3, yarn, longrope: context length of pretraining, in tokens"
    )
    rope_truncate: bool = option(
        True, "yarn: the ramp begins and ends at whole numbers of frequencies"
    )
    rope_amplitude: float = option(
        1.0, "yarn, longrope: rotated entries are multiplied by this, in queries and in keys"
    )
    rope_short: tuple[float, ...] = option(
        (), "longrope: the divisor of each frequency in rows of at most rope_original tokens"
    )
    rope_long: tuple[float, ...] = option(
        (), "longrope: the divisor of each frequency in longer rows"
    )
    unrotated_every: int = option(
        0,
        "layers whose number, counted from 1, is a multiple of this do not rotate queries and "
        "keys; 0: all layers rotate",
    )
    rope_theta_window: float = option(
        0.0,
        "base of the frequencies in layers with a sliding window, where rope_scaling has no "
        "effect; 0: the frequencies of the other layers, with rope_scaling",
    )
    window: int = option(0, "tokens that a layer with a sliding window sees; 0: no windows")
    global_every: int = option(
        0,
        "layers whose number, counted from 1, is a multiple of this see all tokens despite "
        "window; 0: no layer does",
    )
    query_scale: float = option(
        0.0, "attention scores are divided by the square root of this; 0: of head_size"
    )
    attention_softcap: float = option(0.0, "tanh bound of the attention scores; 0: no bound")
    logit_softcap: float = option(0.0, "tanh bound of the logits; 0: no bound")
    norm_eps: float = option(1e-5, "epsilon inside RMSNorm")
    tied: bool = option(True, "use the embedding as the output head too")

    def __post_init__(self) -> None:
        check_positive(self, "layers", "width", "heads", "kv_heads", "feedforward", "vocab")
        check_positive(self, "rope_original")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.head_size < 2 or self.head_size % 2:
            raise ValueError(f"head_size must be even and at least 2, not {self.head_size}")
        if not (0 < self.rope_theta < math.inf and 0 <= self.norm_eps < math.inf):
            raise ValueError("needs a finite rope_theta > 0 and norm_eps >= 0")
        self._check_rotation()
        for name in ("rope_theta_window", "query_scale", "attention_softcap", "logit_softcap"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and at least 0")
        if self.window < 0 or self.global_every < 0 or (self.global_every and not self.window):
            raise ValueError("needs window >= 0, and global_every > 0 only with a window")
        if self.has.experts != (self.experts > 0) or not (
            bool(self.experts) <= self.experts_used <= self.experts
        ):
            raise ValueError(
                f"family {self.family} with {self.experts} experts, {self.experts_used} used: a "
                "mixture of experts needs both, another family none"
            )

    def _check_rotation(self) -> None:
        """Refuse rotary fields that contradict each other."""
        if not (1 <= self.rope_factor < math.inf and 0 < self.rope_low < self.rope_high):
            raise ValueError("needs rope_factor >= 1 and 0 < rope_low < rope_high")
        if not 0 <= self.rope_size <= self.head_size or self.rope_size % 2:
            raise ValueError(f"rope_size must be even, from 0 to head_size, not {self.rope_size}")
        if not 0 < self.rope_amplitude < math.inf:
            raise ValueError(
                f"rope_amplitude must be finite and above 0, not {self.rope_amplitude}"
            )
        if self.rope_amplitude != 1 and self.rope_scaling not in ("yarn", "longrope"):
            raise ValueError("rope_amplitude belongs to rope_scaling yarn and longrope")
        if self.rope_scaling == "yarn" and self.rope_theta <= 1:
            raise ValueError("rope_scaling yarn needs rope_theta > 1")
        if self.unrotated_every < 0 or (self.unrotated_every and self.window):
            raise ValueError("needs unrotated_every >= 0, and > 0 only without a window")
        long = self.rope_scaling == "longrope"
        wanted = (self.rope_size or self.head_size) // 2 if long else 0
        for divisors in (self.rope_short, self.rope_long):
            if len(divisors) != wanted or not all(0 < x < math.inf for x in divisors):
                raise ValueError(
                    f"rope_scaling {self.rope_scaling} needs {wanted} numbers above 0 in "
                    f"rope_short and in rope_long, not {list(divisors)}"
                )

    @property
    def has(self) -> Family:
        """Return the differences between the model's family and Llama."""
        return FAMILIES[self.family]

    @property
    def sizes(self) -> dict[str, int]:
        """Return the size of each parameter dimension by its letter."""
        one = dict(L=self.layers, D=self.width, N=self.heads, K=self.kv_heads, H=self.head_size)
        return one | dict(F=self.feedforward, V=self.vocab, E=self.experts)


@dataclass(frozen=True)
class Execution:
    """An Execution says how a model is computed on a machine; no weights file fixes it."""

    compute: Literal["float32", "bfloat16"] = option(
        "float32", "dtype of matrix products and of the key/value cache"
    )
    cache_dtype: Literal["compute", "int8"] = option(
        "compute",
        "how keys and values are held while responses are written: in the dtype of `compute`, or "
        "as int8 with a float32 scale for each head and column, about half the bytes of bfloat16",
    )
    unroll: bool = option(False, "unroll the layers: faster on CPU, slower to compile")
    remat: bool = option(False, "recompute each block in the backward pass to save memory")
    part_tokens: int = option(
        256,
        "tokens of a micro-batch, forward or backward, per data shard: fewer need less memory, "
        "more are faster",
    )
    kernels: Literal["auto", "xla", "pallas"] = option(
        "auto",
        "auto: kernels where they have earned it: on TPU, in bfloat16; xla: none; pallas: on TPU "
        "and GPU those of this project and of JAX, or an error (kernels/README.md)",
    )
    slots: int = option(
        0, "responses that are generated at the same time, per data shard; 0: all of a batch"
    )
    decode_tensor: int = option(
        0,
        "devices that hold the weights together while responses are written, tensor-parallel; a "
        "multiple of mesh.tensor that divides mesh.fsdp x mesh.context x mesh.tensor; 0: "
        "mesh.tensor",
    )
    frozen_dtype: Literal["float32", "bfloat16", "int8"] = option(
        "float32",
        "dtype in which matrices that do not learn are held: those below an adapter, of a "
        "reference policy, verifier or GRM; int8: those of the layers with a float32 scale for "
        "each output, others in bfloat16",
    )
    long_rows: bool = option(
        False,
        "longrope: rows may be longer than rope_original; all rows then have the frequencies of "
        "long ones, the short rows too",
    )

    def __post_init__(self) -> None:
        check_positive(self, "part_tokens")
        if self.slots < 0 or self.decode_tensor < 0:
            raise ValueError("needs slots >= 0 and decode_tensor >= 0")


@dataclass(frozen=True)
class Training:
    """A Training says how a model learns, beside what its stage says."""

    router_aux_loss_coef: float = option(
        0.0,
        "mixture of experts: weight in every loss of the load-balancing loss of its router "
        "(docs/objectives.md); 0: only reported; config.json's value is not taken",
    )
    learned_dtype: Literal["float32", "bfloat16"] = option(
        "float32",
        "dtype in which matrices that learn are held; in bfloat16 each update is rounded up or "
        "down at random, so that small ones are not lost",
    )
    adapter: AdapterConfig = section(AdapterConfig, "what learns in place of the model's matrices")


# The order of the bases is the order of the keys in a resolved config, last base first.
@dataclass(frozen=True)
class ModelConfig(Training, Execution, Architecture, Pretrained):
    """A ModelConfig describes one model: weights, architecture, execution and training."""

    def __post_init__(self) -> None:
        Architecture.__post_init__(self)
        Execution.__post_init__(self)
        if self.long_rows and self.rope_scaling != "longrope":
            raise ValueError(f"long_rows belongs to longrope, not to {self.rope_scaling}")
        if not 0 <= self.router_aux_loss_coef < math.inf:
            raise ValueError("router_aux_loss_coef must be finite and at least 0")
        if self.router_aux_loss_coef and not self.has.experts:
            raise ValueError(
                f"router_aux_loss_coef needs a mixture of experts, and {self.family} is none"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """Return the size of each parameter dimension by its letter, the adapter's rank too."""
        return super().sizes | dict(U=self.adapter.rank)

    @property
    def longest(self) -> int:
        """Return the longest row, in tokens, that the model is right for; 0: not known."""
        short = self.rope_scaling == "longrope" and not self.long_rows
        return (
            min(self.context or self.rope_original, self.rope_original) if short else self.context
        )

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class MeshConfig:
    """A MeshConfig arranges devices as data x fsdp x context x tensor, which is their number."""

    data: int = option(
        1,
        "size of the mesh axis `data`: pure data parallelism; across hosts and slices",
    )
    fsdp: int = option(
        1,
        "size of the axis `fsdp`: data parallelism with parameters and moments split by width",
    )
    tensor: int = option(
        1,
        "size of the axis `tensor`: tensor parallelism over heads, feed-forward and "
        "vocabulary, within a host",
    )
    context: int = option(
        1,
        "size of the axis `context`: devices that share the columns of a row while it is read and "
        "learned from; parameters are split as over `fsdp`, and rows are while they are written",
    )
    letters: dict[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata={
            "help": "mesh axes that split a dimension, by its letter, in place of the default "
            "(rlvr_jax/sharding.py); {K: []} does not split the kv heads"
        },
    )

    def __post_init__(self) -> None:
        check_positive(self, "data", "fsdp", "tensor", "context")
        for letter, axes in self.letters.items():
            if letter not in "DNKFVE" or len(letter) != 1:
                raise ValueError(f"letters: {letter!r} is not one of D, N, K, F, V, E")
            for axis in axes:
                if axis not in ("data", "fsdp", "tensor"):
                    raise ValueError(f"letters: {axis!r} is not an axis (data, fsdp, tensor)")

    @property
    def axes(self) -> dict[str, int]:
        """Return the size of each axis, in the order in which devices are arranged."""
        return dict(data=self.data, fsdp=self.fsdp, context=self.context, tensor=self.tensor)

    @property
    def devices(self) -> int:
        """Return the number of devices."""
        return math.prod(self.axes.values())

    @property
    def row_shards(self) -> int:
        """Return the number that the rows of a batch must be a multiple of.

        While rows are written, the axis `context` splits them too.
        """
        return self.data * self.fsdp * self.context

    def even(self, columns: int) -> int:
        """Return the least number of columns, not below the given one, that `context` divides."""
        return -(-columns // self.context) * self.context

    def product(self, *axes: str) -> str:
        """Say how many devices some of the axes have together."""
        named = [f"mesh.{axis}" for axis in axes if axis in self.shown]
        return f"{' x '.join(named)} = {math.prod(self.axes[axis] for axis in axes)}"

    @property
    def shown(self) -> dict[str, int]:
        """Return `axes` as people read them: `context` only where it splits something."""
        return {name: n for name, n in self.axes.items() if name != "context" or n > 1}

    @property
    def keys(self) -> str:
        """Name the keys that `shown` comes from."""
        *names, last = (f"mesh.{axis}" for axis in self.shown)
        return f"{', '.join(names)} and {last}"

    def __str__(self) -> str:
        """Return the sizes and then the names of the axes."""
        return f"{' x '.join(map(str, self.shown.values()))} ({' x '.join(self.shown)})"

    def __hash__(self) -> int:  # a dict field has no hash of its own
        return hash((*self.axes.values(), tuple(sorted(self.letters.items()))))

    __pydantic_config__ = STRICT
