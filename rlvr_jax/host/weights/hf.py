"""Hugging Face folders: config.json and safetensors, in one file or in shards with an index."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from rlvr_jax.config import ModelConfig
from rlvr_jax.host.weights import families, layout
from rlvr_jax.host.weights.families import WeightsError
from rlvr_jax.host.weights.layout import Place, Slices

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = ("F32", "F16", "BF16")
WRITTEN = {"float32": ("F32", np.float32), "bfloat16": ("BF16", ml_dtypes.bfloat16)}
MAPPED = 1 << 28  # bytes read of a mapped file before its pages are given back
AGAIN = "download the model again"


class HfFolder:
    """The tensors of a folder; one of its files is open at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: Path | None = None
        self._handle: Any = None
        self._mapped = 0
        self.config = read_json(folder / "config.json")
        self._where: dict[str, Path] = {}
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
        alone = (folder / SINGLE).exists() or not (folder / INDEX).exists()  # as transformers does
        told = None if alone else _index(folder)
        for file in [_single(folder)] if told is None else sorted(set(told.values())):
            self._look(file, told)

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
        """The one open file: a second one would keep pages of the first in memory."""
        if file != self._file:
            self._close()
            try:
                self._handle = safe_open(file, "np")
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{file} is damaged or cut short ({error}): {AGAIN}") from None
            self._file = file
        return self._handle

    def _look(self, file: Path, told: dict[str, Path] | None) -> None:
        """Types and shapes of the tensors in a file, which are those that the index names."""
        handle = self._open(file)
        inside = set(handle.keys())
        named = inside if told is None else {name for name, at in told.items() if at == file}
        for name in sorted(named ^ inside):
            state = "lacks" if name in named else "holds beyond the index"
            raise WeightsError(f"{file} {state} tensor {name}: the files are mixed up; {AGAIN}")
        for name in inside:
            part = handle.get_slice(name)
            self._kinds[name] = (part.get_dtype(), tuple(part.get_shape()))
            self._where[name] = file

    def architecture(self) -> dict[str, Any]:
        """The fields of ModelConfig that config.json gives."""
        return families.read(self.config, str(self.folder / "config.json"))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, (_, shape) in self._kinds.items()}

    def where(self, tensor: str) -> Path:
        return self._where[tensor]

    def check(self, tensor: str) -> None:
        """Refuse a dtype that is not one of plain weights."""
        if self._kinds[tensor][0] not in DTYPES:
            raise WeightsError(
                f"{self.where(tensor)}: tensor {tensor} is of dtype {self._kinds[tensor][0]}; take "
                f"a model in {', '.join(DTYPES)}, not a quantised one"
            )

    def read(self, name: str, part: Slices) -> np.ndarray:
        """A part of a tensor in float32."""
        if self._mapped > MAPPED:
            self._close()
        x = self._open(self._where[name]).get_slice(name)[part]
        self._mapped += x.nbytes
        return x.astype(np.float32, copy=False)

    def places(self, cfg: ModelConfig) -> dict[str, Place]:
        return layout.hf_places(cfg)

    def ours(self, name: str, x: np.ndarray) -> np.ndarray:
        return x

    def describe(self, cfg: ModelConfig, dtype: str) -> dict[str, Any]:
        """The config.json of a copy in another dtype; refused when `cfg` is another model."""
        families.check_said(cfg, self.config)
        keys = [key for key in ("torch_dtype", "dtype") if key in self.config] or ["torch_dtype"]
        return self.config | dict.fromkeys(keys, dtype)

    def generation(self) -> dict[str, Any] | None:
        """The folder's generation_config.json, if it has one."""
        file = self.folder / "generation_config.json"
        return read_json(file) if file.exists() else None

    def ignored(self, name: str) -> bool:
        """Buffers that some versions of transformers saved."""
        return bool(re.fullmatch(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", name))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or a WeightsError that names the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"{path} is missing: name the folder of a Hugging Face model, or a .gguf file"
        ) from None
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON ({error}): {AGAIN}") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} must hold a JSON object: {AGAIN}")
    return found


def _single(folder: Path) -> Path:
    if (folder / SINGLE).exists():
        return folder / SINGLE
    others = sorted(x.name for x in folder.iterdir() if x.suffix in (".bin", ".pt", ".pth", ".pkl"))
    if others:
        raise WeightsError(
            f"{folder / others[0]} is a pickle, which can run code and is never opened: save the "
            "model as safetensors with save_pretrained"
        )
    raise WeightsError(f"{folder} holds neither {SINGLE} nor {INDEX}: {AGAIN}")


def _index(folder: Path) -> dict[str, Path]:
    """Tensor name -> file, as the index says."""
    told = read_json(folder / INDEX).get("weight_map")
    if not isinstance(told, dict) or not told or not all(isinstance(x, str) for x in told.values()):
        raise WeightsError(f"{folder / INDEX} has no weight_map of tensors to files: {AGAIN}")
    for name in sorted(set(told.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{folder / INDEX}: {name!r} is no safetensors file of this folder")
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name} is missing, which the index names: {AGAIN}")
    return {tensor: folder / name for tensor, name in told.items()}


# ---- writing -------------------------------------------------------------------------------

Named = tuple[str, tuple[int, ...]]


def write(
    folder: Path,
    named: list[Named],
    pieces: Iterator[np.ndarray],
    dtype: str,
    shard_bytes: int,
    say: Callable[[str], None],
) -> None:
    """Tensors, one in memory at a time, in files of at most `shard_bytes` (or of one tensor)."""
    width = np.dtype(WRITTEN[dtype][1]).itemsize
    shards = _shards(named, width, shard_bytes)
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        placed |= {tensor: name for tensor, _ in shard}
        with open(folder / name, "wb") as file:
            _header(file, shard, dtype, width)
            for tensor, shape in shard:
                piece = next(pieces)
                assert piece.shape == shape, f"{tensor}: {piece.shape} is not {shape}"
                plain = np.ascontiguousarray(piece.astype(WRITTEN[dtype][1]))
                file.write(plain.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        say(f"{name} ({number} of {len(shards)})")
    if len(shards) > 1:
        total = sum(_bytes(shape, width) for _, shape in named)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})


def _shards(named: list[Named], width: int, most: int) -> list[list[Named]]:
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


def _header(file: BinaryIO, shard: list[Named], dtype: str, width: int) -> None:
    """The length and the JSON that a safetensors file begins with; data starts at eight bytes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shard:
        end = at + _bytes(shape, width)
        entries[name] = dict(dtype=WRITTEN[dtype][0], shape=list(shape), data_offsets=[at, end])
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
