"""Adapters in the format of the library PEFT: adapter_config.json and adapter_model.safetensors.

Names and layouts of the tensors follow from the table of the base (`layout.hf_places`): A of
`model.layers.0.self_attn.q_proj.weight`, [outputs, inputs], is [rank, inputs] and named
`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`; B is [outputs, rank].

An adapter fits one base only.  Those that are written here carry the digest of their base in the
metadata of the safetensors file, which PEFT passes over.  Of others the name of the base is known.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding
from safetensors import SafetensorError, safe_open

from rlvr_jax import sharding
from rlvr_jax.config import ModelConfig
from rlvr_jax.host.files.looked_up import looked_up
from rlvr_jax.host.weights import hf, layout, new_folder
from rlvr_jax.host.weights.layout import Place
from rlvr_jax.host.weights.values import WeightsError
from rlvr_jax.structs import Params

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
DIGEST = "base_digest"  # key of the safetensors metadata
# target of the config -> the module in PEFT's names and the first part of the parameter's name
LARGEST = 1 << 20  # of rank and alpha; more is a mistake
MODULES = {target: f"{target}_proj" for target in ("q", "k", "v", "o", "gate", "up", "down")}
KINDS = {"o": "out"}
# Fields that change no logit of a finished adapter, whatever their value.
IDLE = """
    base_model_name_or_path revision task_type peft_type peft_version inference_mode lora_dropout
    r lora_alpha target_modules use_rslora megatron_core qalora_group_size auto_mapping
    eva_config corda_config loftq_config lora_ga_config ensure_weight_tying
"""
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")  # others change the base


class Base(NamedTuple):
    """A Base identifies the weights that an adapter lies on."""

    name: str  # as the config names them
    digest: str  # of their values


def load_fields(folder: Path) -> dict[str, Any]:
    """Load the fields of AdapterConfig that an adapter's description gives.

    Raises:
      WeightsError: the description cannot be read, or means more than a plain adapter.
    """
    path = folder / CONFIG
    if not path.exists():
        raise WeightsError(
            f"there is no {path}{looked_up(path)}: name the folder of an adapter in PEFT's format"
        )
    config = hf.load_json(path)
    if config.get("peft_type") != "LORA":
        raise WeightsError(f"{path}: peft_type is {config.get('peft_type')!r} and not 'LORA'")
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise WeightsError(
            f"{path}: init_lora_weights {config['init_lora_weights']!r} changes the base: convert "
            "the adapter to a plain one, as PEFT describes"
        )
    idle = {*IDLE.split(), "init_lora_weights"}
    for field, value in config.items():
        if value and field not in idle and (field, value) != ("bias", "none"):
            raise WeightsError(f"{path}: field {field} is {value!r}, which is not read here")
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    modules: Any = config.get("target_modules")
    numbers = type(rank) is int and type(alpha) in (int, float)
    if not numbers or not 0 < rank <= LARGEST or not 0 < alpha <= LARGEST:
        raise WeightsError(f"{path}: r and lora_alpha must be numbers above 0, up to {LARGEST}")
    known = MODULES.values()
    if not isinstance(modules, list) or not modules or any(x not in known for x in modules):
        raise WeightsError(
            f"{path}: target_modules is {modules!r} and not a list of {', '.join(known)}"
        )
    targets = [target for target, module in MODULES.items() if module in modules]
    rslora = bool(config.get("use_rslora"))
    return dict(rank=rank, alpha=float(alpha), targets=targets, rslora=rslora)


def places(cfg: ModelConfig) -> dict[str, Place]:
    """Return the place of each of an adapter's matrices among the tensors.

    Raises:
      WeightsError: PEFT has no adapters of this form for this family.
    """
    found = {}
    kinds = {KINDS.get(target, target) for target in cfg.adapter.targets}
    for name, place in layout.hf_places(cfg).items():
        kind, _, dims = name.partition("_")
        if kind not in kinds or ("E" in dims) != cfg.has.experts and kind in ("gate", "up", "down"):
            continue
        if place.stack or "E" in dims:
            raise WeightsError(
                f"PEFT has no adapter of {name.partition('_')[0]} alone in a {cfg.family}, whose "
                "tensors hold several matrices: write merged weights instead"
            )
        out, into = place.dims
        stem = "base_model.model." + place.tensor.removesuffix(".weight")
        found[f"{kind}a_L{into}U"] = Place(f"{stem}.lora_A.weight", ("U", into))
        found[f"{kind}b_LU{out}"] = Place(f"{stem}.lora_B.weight", (out, "U"))
    return found


def load(
    folder: str | Path, cfg: ModelConfig, shardings: Mapping[str, Sharding], base: Base
) -> Params:
    """Load the adapter that `shardings` names, in float32; `base` is what it will lie on.

    Raises:
      WeightsError: it belongs to another base, or a tensor is missing, unknown, damaged, not finite
        or of a wrong shape.
    """
    path = Path(folder).expanduser() / TENSORS
    of_base = hf.load_json(path.parent / CONFIG).get("base_model_name_or_path")
    if not path.is_file():
        raise WeightsError(f"there is no {path}: only safetensors are read")
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, TypeError) as error:
        raise WeightsError(f"{path} is damaged ({error}): get the adapter again") from None
    hf.check_sum(path, metadata)
    _check_base(path.parent, of_base, metadata.get(DIGEST), base)
    size, found = cfg.sizes, places(cfg)
    known = {}
    for name in shardings:
        for _, tensor in layout.tensors(name, found[name], size):
            known[tensor] = layout.shape(found[name], size)
    for tensor in sorted(set(known) ^ set(tensors)):
        state = "lacks" if tensor in known else "has a tensor that its config does not name:"
        raise WeightsError(f"{path} {state} {tensor}: it does not fit {base.name}")
    for tensor, shape in known.items():
        if tensors[tensor].shape != shape:
            raise WeightsError(
                f"{path}: {tensor} is {tensors[tensor].shape} and {base.name} needs {shape}: it is "
                "an adapter of another base"
            )
        if not np.isfinite(tensors[tensor].astype(np.float32)).all():
            raise WeightsError(f"{path}: {tensor} holds NaN or infinity: get the adapter again")

    def read(tensor: str, part: layout.Slices) -> np.ndarray:
        return tensors[tensor][part].astype(np.float32)

    return {
        name: jax.make_array_from_callback(
            tuple(size[x] for x in sharding.letters(name)),
            to,
            functools.partial(_shard, name, found[name], size, read),
        )
        for name, to in shardings.items()
    }


def _shard(name: str, place: Place, size: Mapping[str, int], read: layout.Read, index):
    return layout.load_shard(name, place, size, index, read)


def _check_base(folder: Path, named: Any, digest: str | None, base: Base) -> None:
    """Refuse an adapter of another base, by the digest of the base or else by its name."""
    if digest is not None:
        if digest != base.digest:
            raise WeightsError(
                f"the adapter {folder} lies on other weights than those of {base.name}"
                + (f": it was made for {named}" if named else "")
            )
        return
    if named and _last(str(named)) != _last(base.name):
        raise WeightsError(
            f"the adapter {folder} is of {named} and the weights are {base.name}: name its base, "
            f"or, if these are the same weights, write that name into its {CONFIG}"
        )


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()


def save(folder: Path, params: Params, cfg: ModelConfig, base: Base, dtype: str) -> None:
    """Save an adapter as a new folder, which appears under its name when it is complete.

    Raises:
      WeightsError: the family has no such adapters, or the folder cannot be written.
    """
    tensors = {}
    for name, place in places(cfg).items():
        whole = np.asarray(params[name])
        for at, tensor in layout.tensors(name, place, cfg.sizes):
            tensors[tensor] = layout.to_tensor(name, place, whole[at])
    form = cfg.adapter
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": form.rank,
        "lora_alpha": form.alpha,
        "use_rslora": form.rslora,
        "target_modules": [MODULES[target] for target in form.targets],
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    with new_folder.make(folder) as part:
        named = [(tensor, x.shape) for tensor, x in tensors.items()]
        hf.write_file(part / TENSORS, named, iter(tensors.values()), dtype, {DIGEST: base.digest})
        hf.write_json(part / CONFIG, config)
