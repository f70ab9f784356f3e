"""Hugging Face folders: config.json, and safetensors in one file or in shards with an index.

The files that this module writes hold the SHA-256 of their tensors in their metadata.  Where a file
holds one, reading compares it.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from rlvr_jax.config import ModelConfig
from rlvr_jax.host.weights import families, layout, multimodal
from rlvr_jax.host.weights.families import WeightsError
from rlvr_jax.host.weights.layout import Place, Slices

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = ("F32", "F16", "BF16")
WRITTEN = {"float32": ("F32", np.float32), "bfloat16": ("BF16", ml_dtypes.bfloat16)}
SUM = "tensors_sha256"  # key of the metadata
MAPPED = 1 << 28  # bytes read from a mapped file before closing it frees its pages
AGAIN = "download the model again"


class HfFolder:
    """An `HfFolder` reads the tensors of a folder, with one of its files open at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: Path | None = None
        self._handle: Any = None
        self._mapped = 0
        self.config = load_json(folder / "config.json")
        self._files: dict[str, Path] = {}
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
        alone = (folder / SINGLE).exists() or not (folder / INDEX).exists()  # as transformers does
        index = None if alone else _load_index(folder)
        for file in [_single_file(folder)] if index is None else sorted(set(index.values())):
            self._scan(file, index)
        whole = multimodal.is_multimodal(self.config)
        self._layout = multimodal.find_layout(self._kinds) if whole else ("", "")

    def __enter__(self) -> "HfFolder":
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.__exit__(None, None, None)
        self._file = self._handle = None
        self._mapped = 0

    def _open(self, file: Path) -> Any:
        """Open a file after closing the other one, whose pages would stay in memory."""
        if file != self._file:
            self._close()
            try:
                self._handle = safe_open(file, "np")
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{file} is damaged or cut short ({error}): {AGAIN}") from None
            self._file = file
        return self._handle

    def _scan(self, file: Path, index: dict[str, Path] | None) -> None:
        """Note types and shapes of a file's tensors; refuse a file that the index contradicts."""
        handle = self._open(file)
        check_sum(file, handle.metadata())
        inside = set(handle.keys())
        named = inside if index is None else {name for name, at in index.items() if at == file}
        for name in sorted(named ^ inside):
            state = "lacks" if name in named else "holds beyond the index"
            raise WeightsError(f"{file} {state} tensor {name}: the files are mixed up; {AGAIN}")
        for name in inside:
            part = handle.get_slice(name)
            self._kinds[name] = (part.get_dtype(), tuple(part.get_shape()))
            self._files[name] = file

    def architecture(self) -> dict[str, Any]:
        """Return the fields of ModelConfig that config.json gives."""
        return families.parse_config(self.config, str(self.folder / "config.json"))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        return {name: shape for name, (_, shape) in self._kinds.items()}

    def file_of(self, tensor: str) -> Path:
        """Return the file that contains a tensor."""
        return self._files[tensor]

    def check_type(self, tensor: str) -> None:
        """Refuse a tensor that is not stored as floats of 16 or 32 bits.

        Raises:
          WeightsError: the message names the file, the tensor and its dtype.
        """
        if self._kinds[tensor][0] not in DTYPES:
            raise WeightsError(
                f"{self.file_of(tensor)}: tensor {tensor} is of dtype {self._kinds[tensor][0]}; "
                f"take a model in {', '.join(DTYPES)}, not a quantised one"
            )

    def load_slice(self, name: str, part: Slices) -> np.ndarray:
        """Load a part of a tensor in float32."""
        if self._mapped > MAPPED:
            self._close()
        x = self._open(self._files[name]).get_slice(name)[part]
        self._mapped += x.nbytes
        return x.astype(np.float32, copy=False)

    def places(self, cfg: ModelConfig) -> dict[str, Place]:
        """Return where each parameter lies among the tensors."""
        places = layout.hf_places(cfg)
        return {name: multimodal.in_layout(x, self._layout) for name, x in places.items()}

    def to_parameter(self, name: str, x: np.ndarray) -> np.ndarray:
        """Return `x` as it is: this format stores the values of parameters unchanged."""
        return x

    def describe(self, cfg: ModelConfig, dtype: str) -> dict[str, Any]:
        """Return the config.json of a copy in another dtype, without a vision tower.

        Raises:
          WeightsError: `cfg` is not that of this model.
        """
        config = self.config
        if multimodal.is_multimodal(config):
            config = multimodal.text_config(config, str(self.folder / "config.json"))
        families.check_describes(cfg, config)
        keys = [key for key in ("torch_dtype", "dtype") if key in config] or ["torch_dtype"]
        return config | dict.fromkeys(keys, dtype)

    def generation(self) -> dict[str, Any] | None:
        """Load the folder's generation_config.json; None if there is none."""
        file = self.folder / "generation_config.json"
        return load_json(file) if file.exists() else None

    def is_ignored(self, name: str) -> bool:
        """Return whether a tensor is a buffer that some versions of transformers saved."""
        return bool(re.fullmatch(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", name))

    def is_tower(self, name: str) -> bool:
        """Return whether a tensor belongs to a vision tower, which is not read."""
        return multimodal.is_multimodal(self.config) and multimodal.is_tower(name)


def load_json(path: Path) -> dict[str, Any]:
    """Load a JSON object.

    Raises:
      WeightsError: the file is missing or holds no JSON object; the message names the file.
    """
    if path.exists() and not path.is_file():  # a pipe might never end
        raise WeightsError(f"{path} is not a file: {AGAIN}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"{path} is missing: name the folder of a Hugging Face model, or a .gguf file"
        ) from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not valid JSON ({error}): {AGAIN}") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path} must hold a JSON object: {AGAIN}")
    return value


def _single_file(folder: Path) -> Path:
    if (folder / SINGLE).exists():
        return folder / SINGLE
    others = sorted(x.name for x in folder.iterdir() if x.suffix in (".bin", ".pt", ".pth", ".pkl"))
    if others:
        raise WeightsError(
            f"{folder / others[0]} is a pickle, which can run code and is never opened: save the "
            "model as safetensors with save_pretrained"
        )
    raise WeightsError(f"{folder} holds neither {SINGLE} nor {INDEX}: {AGAIN}")


def _load_index(folder: Path) -> dict[str, Path]:
    """Load the index of a folder: tensor name -> file."""
    files = load_json(folder / INDEX).get("weight_map")
    if not (isinstance(files, dict) and files and all(isinstance(x, str) for x in files.values())):
        raise WeightsError(f"{folder / INDEX} has no weight_map of tensors to files: {AGAIN}")
    for name in sorted(set(files.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{folder / INDEX}: {name!r} is no safetensors file of this folder")
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name} is missing, which the index names: {AGAIN}")
    return {tensor: folder / name for tensor, name in files.items()}


# ---- writing -------------------------------------------------------------------------------

Named = tuple[str, tuple[int, ...]]


def write_tensors(
    folder: Path,
    named: list[Named],
    pieces: Iterator[np.ndarray],
    dtype: str,
    shard_bytes: int,
    say: Callable[[str], None],
) -> None:
    """Write tensors to safetensors files of at most `shard_bytes`, or of one larger tensor.

    `named` has the name and shape of each tensor, and `pieces` yields their arrays in that order,
    so that only one of them is in memory at a time.
    """
    width = np.dtype(WRITTEN[dtype][1]).itemsize
    shards = _divide(named, width, shard_bytes)
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        placed |= {tensor: name for tensor, _ in shard}
        write_file(folder / name, shard, pieces, dtype)
        say(f"{name} ({number} of {len(shards)})")
    if len(shards) > 1:
        total = sum(_bytes(shape, width) for _, shape in named)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})


def write_file(
    path: Path,
    named: list[Named],
    pieces: Iterator[np.ndarray],
    dtype: str,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write one safetensors file with the sum of its tensors; arguments as in `write_tensors`."""
    width = np.dtype(WRITTEN[dtype][1]).itemsize
    with open(path, "wb") as file:
        _write_header(file, named, dtype, width, {**metadata, SUM: "0" * 64})
        digest = hashlib.sha256()
        for tensor, shape in named:
            piece = next(pieces)
            assert piece.shape == shape, f"{tensor}: {piece.shape} is not {shape}"
            plain = np.ascontiguousarray(piece.astype(WRITTEN[dtype][1]))
            stored = plain.reshape(-1).view(np.uint8).data
            digest.update(stored)
            file.write(stored)
        file.seek(0)
        _write_header(file, named, dtype, width, {**metadata, SUM: digest.hexdigest()})
        file.flush()
        os.fsync(file.fileno())


def check_sum(file: Path, metadata: Mapping[str, str] | None) -> None:
    """Refuse a file whose tensors are not those whose sum its metadata hold, if they hold one.

    Raises:
      WeightsError: the message names the file.
    """
    expected = (metadata or {}).get(SUM)
    if expected is None:
        return
    with open(file, "rb") as data:
        data.seek(8 + int.from_bytes(data.read(8), "little"))
        if hashlib.file_digest(data, "sha256").hexdigest() != expected:
            raise WeightsError(f"{file} is damaged: its tensors are not those that were written")


def _divide(named: list[Named], width: int, most: int) -> list[list[Named]]:
    shards: list[list[Named]] = [[]]
    size = 0
    for name, shape in named:
        if shards[-1] and size + _bytes(shape, width) > most:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += _bytes(shape, width)
    return shards


def _bytes(shape: tuple[int, ...], width: int) -> int:
    return int(np.prod(shape, dtype=np.int64)) * width


def _write_header(
    file: BinaryIO, shard: list[Named], dtype: str, width: int, metadata: Mapping[str, str]
) -> None:
    """Write the length and the JSON header of a safetensors file, padded to eight bytes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    at = 0
    for name, shape in shard:
        end = at + _bytes(shape, width)
        entries[name] = dict(dtype=WRITTEN[dtype][0], shape=list(shape), data_offsets=[at, end])
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, indented as transformers does it."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
