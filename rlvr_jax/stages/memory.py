"""Before the first step of a stage, what stays in the memory of a device is said by name."""

from typing import Any

from rlvr_jax.config import RlStage, Trained
from rlvr_jax.host.plans import roofline
from rlvr_jax.host.runs import log
from rlvr_jax.stages import abstract, sizing
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, TrainState

UNITS = (("GiB", 30), ("MiB", 20), ("KiB", 10))


def say(stage: Trained, ws: Workspace, state: TrainState, frozen: Frozen) -> None:
    """Print the bytes on a device by part, and what is free where the device tells it."""
    parts = abstract.resident(abstract.Made([], state, frozen, ws.cfg))
    if isinstance(stage, RlStage):
        work = sizing.work_of(stage, ws.cfg)
        split = sizing.decode_split_of(ws.cfg.mesh, ws.cfg.model)
        parts["KV cache"] = roofline.cache_bytes(work, split, work.columns)
    told = ws.mesh.local_devices[0].memory_stats() or {}
    log.say(f"{stage.name}: memory of a device: {describe(parts, told)}")


def describe(parts: dict[str, float], told: dict[str, Any]) -> str:
    """Return parts and their sum in words; `told` is what a device says about its memory, or {}.

    Weights that are copied for decoding, gradients and activations come on top of the parts.
    """
    named = ", ".join(f"{name} {size(bytes)}" for name, bytes in parts.items())
    text = f"{named}; {size(sum(parts.values()))} before gradients and activations"
    limit, used = told.get("bytes_limit"), told.get("bytes_in_use")
    if limit is not None and used is not None:
        text += f"; {size(limit - used)} of {size(limit)} are free now"
    return text


def size(count: float) -> str:
    """Write a number of bytes with the unit that suits it."""
    for unit, power in UNITS:
        if count >= 1 << power:
            return f"{count / (1 << power):.3g} {unit}"
    return f"{count:.0f} bytes"
