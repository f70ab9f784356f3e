"""GGUF files: the architecture from their metadata, and tensors that are dequantised on loading."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from rlvr_jax.config import FAMILIES, ModelConfig
from rlvr_jax.host.files.gguf_header import GgufError, Tensor, load_header
from rlvr_jax.host.weights import families, layout
from rlvr_jax.host.weights.families import WeightsError
from rlvr_jax.host.weights.layout import Place, Slices

FAMILY = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")
# Metadata key without the architecture in front -> field of ModelConfig.
FIELDS = {
    "block_count": "layers",
    "embedding_length": "width",
    "feed_forward_length": "feedforward",
    "attention.head_count": "heads",
    "attention.head_count_kv": "kv_heads",
    "attention.key_length": "head_size",
    "attention.layer_norm_rms_epsilon": "norm_eps",
    "attention.sliding_window": "window",
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_theta_window",
    "rope.scaling.type": "rope_scaling",
    "rope.scaling.factor": "rope_factor",
    "rope.scaling.original_context_length": "rope_original",
    "context_length": "context",
    "expert_count": "experts",
    "expert_used_count": "experts_used",
    "attn_logit_softcapping": "attention_softcap",
    "final_logit_softcapping": "logit_softcap",
}
# Other known keys: read below, or without effect on the model.
OTHER = {
    "vocab_size",
    "attention.value_length",
    "rope.dimension_count",
    "expert_feed_forward_length",
    "attention.sliding_window_pattern",
    "rope.scaling.finetuned",
    "mm.tokens_per_image",
}
# Values that the files omit because they are constants of llama.cpp.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma2": dict(window=4096, global_every=2, attention_softcap=50.0, logit_softcap=30.0),
    "gemma3": dict(global_every=6, rope_theta=1e6, rope_theta_window=1e4),
}
# Depths of the 27B models, which scale attention scores by width / heads, not by the head size.
# llama.cpp recognises these models by their depth, too.
DEEP = {"gemma2": 46, "gemma3": 62}
REQUIRED = ("layers", "width", "heads", "feedforward", "norm_eps")
BLOCK = 1 << 22  # elements that are dequantised at a time


class GgufFile:
    """A `GgufFile` reads the tensors of a GGUF model, in one file or split over several."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors: dict[str, tuple[Path, Tensor]] = {}
        self.meta: dict[str, Any] = {}
        for part in _parts(path):
            try:
                header = load_header(part)
            except (GgufError, OSError) as error:
                raise WeightsError(
                    f"{part} is damaged or no GGUF file ({error}): download it again"
                ) from None
            if not self.meta:
                self.meta = {
                    key: value
                    for key, value in header.metadata.items()
                    if not key.startswith("tokenizer.") or key.endswith("_token_id")
                }
            self._tensors |= {tensor.name: (part, tensor) for tensor in header.tensors}

    def __enter__(self) -> "GgufFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self._tensors.clear()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor, slowest dimension first."""
        return {
            name: tuple(int(x) for x in reversed(tensor.shape))
            for name, (_, tensor) in self._tensors.items()
        }

    def file_of(self, tensor: str) -> Path:
        """Return the file that contains a tensor."""
        return self._tensors[tensor][0]

    def check_type(self, tensor: str) -> None:
        """Refuse a tensor whose quantisation is not supported.

        Raises:
          WeightsError: the message names the file, the tensor and the supported types.
        """
        kind = self._tensors[tensor][1].tensor_type.name
        if kind not in TYPES:
            raise WeightsError(
                f"{self.file_of(tensor)}: tensor {tensor} is of type {kind}; take a file made of "
                f"{', '.join(TYPES)}"
            )

    def load_slice(self, name: str, part: Slices) -> np.ndarray:
        """Load a part of a tensor in float32, dequantising a block of whole rows at a time."""
        tensor = self._tensors[name][1]
        rows, columns = part[:-1], part[-1]
        if not rows:
            return gguf.quants.dequantize(tensor.data, tensor.tensor_type)[columns]
        data = tensor.data[rows]
        lead, width = data.shape[:-1], int(tensor.shape[0])
        data = data.reshape(-1, data.shape[-1])
        out = np.empty((len(data), len(range(*columns.indices(width)))), np.float32)
        step = max(1, BLOCK // width)
        for at in range(0, len(data), step):
            block = np.ascontiguousarray(data[at : at + step])
            out[at : at + step] = gguf.quants.dequantize(block, tensor.tensor_type)[:, columns]
        return out.reshape(*lead, -1)

    def places(self, cfg: ModelConfig) -> dict[str, Place]:
        """Return where each parameter lies among the tensors."""
        return layout.GGUF

    def to_parameter(self, name: str, x: np.ndarray) -> np.ndarray:
        """Undo what llama.cpp's converter does to the values of a parameter."""
        architecture = self.meta["general.architecture"]
        if architecture == "llama" and name in ("q_LDNH", "k_LDKH"):
            # In the file, components that rotate together are neighbours; here they are half a
            # head apart.
            pairs = x.reshape(*x.shape[:-1], -1, 2)
            return pairs.swapaxes(-1, -2).reshape(x.shape)
        if name.startswith("norm") and FAMILIES[FAMILY[architecture]].from_one:
            return x - np.float32(1)
        return x

    def describe(self, cfg: ModelConfig, dtype: str) -> dict[str, Any]:
        """Return a config.json for the model, with the token ids that the file gives."""
        return families.build_config(cfg, dtype, self._ids())

    def generation(self) -> dict[str, Any] | None:
        """Return a generation_config.json of the token ids that the file gives; {} without any."""
        return self._ids()

    def _ids(self) -> dict[str, int]:
        keys = dict(bos="bos", eos="eos", padding="pad")
        keys = {f"tokenizer.ggml.{key}_token_id": f"{ours}_token_id" for key, ours in keys.items()}
        return {ours: self.meta[key] for key, ours in keys.items() if key in self.meta}

    def is_ignored(self, name: str) -> bool:
        """Return whether a tensor is no parameter, which is true of rope_freqs.weight only.

        `architecture` reads that tensor instead.
        """
        return name == "rope_freqs.weight"

    def architecture(self) -> dict[str, Any]:
        """Return the fields of ModelConfig that the metadata give."""
        kind = self.meta.get("general.architecture")
        if kind not in FAMILY:
            raise WeightsError(
                f"{self.path} holds a model of architecture {kind!r}; supported are "
                f"{', '.join(FAMILY)}"
            )
        prefix = f"{kind}."
        meta = {
            key.removeprefix(prefix): value
            for key, value in self.meta.items()
            if key.startswith(prefix)
        }
        for key in meta:
            if key not in FIELDS and key not in OTHER:
                raise WeightsError(
                    f"{self.path}: metadata {prefix}{key} is not known to this reader, and the "
                    "model may need it; take the Hugging Face folder of the model instead"
                )
        return self._fields(kind, meta)

    def _fields(self, kind: str, meta: Mapping[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {"family": FAMILY[kind]} | DEFAULTS.get(kind, {})
        for key, value in meta.items():
            if key in FIELDS:
                what = f"{self.path}: metadata {kind}.{key}"
                fields[FIELDS[key]] = families.typed(_plain(value), FIELDS[key], what)
        for field in REQUIRED:
            if field not in fields:
                key = next(key for key, ours in FIELDS.items() if ours == field)
                raise WeightsError(f"{self.path}: metadata {kind}.{key} is missing")
        if kind == "llama" and fields.get("experts"):
            fields["family"] = "mixtral"
        if fields.get("experts") and not FAMILIES[fields["family"]].experts:
            raise WeightsError(f"{self.path}: a {kind} with experts is not supported")
        if fields.get("experts") and "experts_used" not in fields:
            raise WeightsError(f"{self.path}: metadata {kind}.expert_used_count is missing")
        return fields | self._derived(kind, meta, fields)

    def _derived(self, kind: str, meta: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Add the fields that follow from the tensors or from several keys together."""
        shapes, fields = self.shapes(), dict(given)
        if "token_embd.weight" not in shapes:
            raise WeightsError(f"{self.path}: tensor token_embd.weight is missing")
        fields.setdefault("kv_heads", fields["heads"])
        fields.setdefault("head_size", fields["width"] // max(1, fields["heads"]))
        fields["vocab"] = shapes["token_embd.weight"][0]
        fields["tied"] = "output.weight" not in shapes
        if fields["layers"] == DEEP.get(kind):
            fields["query_scale"] = fields["width"] / fields["heads"]
        if fields["family"] == "llama" and fields.get("window"):
            fields["family"] = "mistral"
        if "expert_feed_forward_length" in meta:
            fields["feedforward"] = meta["expert_feed_forward_length"]
        for key in ("attention.value_length", "rope.dimension_count"):
            self._same(kind, meta, key, fields["head_size"])
        if pattern := meta.get("attention.sliding_window_pattern"):
            fields["global_every"] = _every(self.path, pattern)
        return fields | self._scaling(kind, fields)

    def _same(self, kind: str, meta: Mapping[str, Any], key: str, wanted: int) -> None:
        if meta.get(key, wanted) != wanted:
            raise WeightsError(
                f"{self.path}: metadata {kind}.{key} is {meta[key]} and not the head size "
                f"{wanted}; such models are not supported"
            )

    def _scaling(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the rotary scaling: linear by its name, Llama 3's by its table of divisors."""
        named = fields.get("rope_scaling", "none")
        if named not in ("none", "linear"):
            raise WeightsError(
                f"{self.path}: metadata {kind}.rope.scaling.type is {named!r}; supported are "
                "none, linear and the rope_freqs.weight of Llama 3"
            )
        if "rope_freqs.weight" not in self._tensors:
            return {}
        divisors = self.load_slice("rope_freqs.weight", (slice(None),))
        scaling = dict(rope_scaling="llama3", rope_factor=_plain(divisors.max()))
        scaling |= dict(rope_low=1.0, rope_high=4.0)
        for original in (fields.get("rope_original"), 8192):
            if original and np.allclose(_divisors(fields, scaling, original), divisors, rtol=1e-4):
                return scaling | {"rope_original": original}
        raise WeightsError(
            f"{self.path}: tensor rope_freqs.weight is not the rotary scaling of Llama 3; take the "
            "Hugging Face folder of the model instead"
        )


def _divisors(fields: Mapping[str, Any], scaling: Mapping[str, Any], original: int) -> np.ndarray:
    """Compute the divisors of the H / 2 rotary frequencies in Llama 3's scaling."""
    half = fields["head_size"] // 2
    turns = original / (2 * math.pi * fields["rope_theta"] ** (np.arange(half) / half))
    low, high = scaling["rope_low"], scaling["rope_high"]
    share = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - share) / scaling["rope_factor"] + share)


def _plain(value: Any) -> Any:
    """Return a float32 number as its shortest decimal: 9.99999974e-06 becomes 1e-05."""
    if isinstance(value, float | np.floating):
        return float(str(np.float32(value)))
    return value


def _every(path: Path, pattern: Any) -> int:
    """Return n of a window pattern in which every n-th layer has no window; 0 if all have one.

    `pattern` is n itself, or a list that says for each layer whether it has a window.
    """
    if isinstance(pattern, int):
        return pattern
    every = pattern.index(False) + 1 if False in pattern else 0
    if any(bool(local) != (i % every > 0 if every else True) for i, local in enumerate(pattern, 1)):
        raise WeightsError(f"{path}: attention.sliding_window_pattern is not every n-th layer")
    return every


def _parts(path: Path) -> list[Path]:
    """List all files of a split model, given the first one."""
    split = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if split is None:
        return [path]
    stem, first, count = split.groups()
    if int(first) != 1:
        raise WeightsError(f"{path} is a later part of a model; name {stem}-00001-of-{count}.gguf")
    parts = [path.with_name(f"{stem}-{i:05}-of-{count}.gguf") for i in range(1, int(count) + 1)]
    for part in parts:
        if not part.is_file():
            raise WeightsError(f"{part} is missing; {path.name} is one of {count} parts")
    return parts
