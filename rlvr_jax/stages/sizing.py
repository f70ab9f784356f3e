"""What a stage has to do and to hold, from the sizes of its models alone."""

import dataclasses

from rlvr_jax import kv_cache, parameters, sharding
from rlvr_jax.config import Config, MeshConfig, ModelConfig, RlStage
from rlvr_jax.host.plans import roofline


def split_of(mesh: MeshConfig) -> roofline.Split:
    """Return a mesh as sizes; weights are split over `context` as over `fsdp`."""
    return roofline.Split(mesh.data, mesh.fsdp * mesh.context, mesh.tensor)


def decode_split_of(mesh: MeshConfig, model: ModelConfig) -> roofline.Split:
    """Return the mesh of decoding as sizes; see `sharding.decode_view`."""
    tensor = model.decode_tensor or mesh.tensor
    return roofline.Split(mesh.data, mesh.devices // mesh.data // tensor, tensor)


def divides(model: ModelConfig, mesh: MeshConfig) -> bool:
    """Return whether a mesh divides a model, while it reads and while it writes."""
    try:
        sharding.check_divides(model.sizes, parameters.names(model), mesh, "")
        sharding.check_decode_view(model.sizes, model.decode_tensor, mesh, "")
    except ValueError:
        return False
    return True


def decode_views(model: ModelConfig, mesh: MeshConfig) -> list[int]:
    """Return the values of `decode_tensor` above `mesh.tensor`, and within a host, that divide."""
    views = {n: dataclasses.replace(model, decode_tensor=n) for n in (2, 4, 8) if n > mesh.tensor}
    return [n for n, view in views.items() if divides(view, mesh)]


def whole_count(cfg: ModelConfig) -> float:
    """Return the number of parameters of a model."""
    return sum(float(x.size) for x in parameters.abstract(cfg).values())


def parameter_counts(cfg: ModelConfig, rows: int = 1) -> tuple[float, float]:
    """Return the parameters that so many tokens use in the layers, and those of the output head.

    In a mixture of experts each token uses some experts, here others than the tokens before it.
    """
    layers = 0.0
    for name, x in parameters.abstract(cfg).items():
        if parameters.is_stacked(name):
            expert = sharding.letters(name).startswith("LE")
            layers += float(x.size) * (
                min(1, rows * cfg.experts_used / cfg.experts) if expert else 1
            )
    return layers, float(cfg.vocab * cfg.width)


def work_of(stage: RlStage, cfg: Config) -> roofline.Work:
    """Return what a step has to do, from sizes alone; `cfg` is the config as the stage sees it."""
    model = cfg.model
    layers, head = parameter_counts(model)
    item = 2 if model.compute == "bfloat16" else 4
    rows = stage.prompts * stage.samples
    shards = decode_split_of(cfg.mesh, model).shards
    slots = min(rows, model.slots * shards) if model.slots else rows
    dense = stage.has_prm_beside_policy
    return roofline.Work(
        layers=layers,
        read=parameter_counts(model, slots // shards)[0],
        head=head,
        kv_token=float(model.layers * kv_cache.column_bytes(model)),
        kv_heads=model.kv_heads,
        item=item,
        prompts=stage.prompts,
        rows=rows,
        prompt_columns=cfg.data.prompt_columns,
        columns=cfg.data.response_columns,
        slots=slots,
        reads=int(stage.asks_reference) + int(stage.updates > 1) + int(stage.reward.judged),
        learns=stage.epochs + int(dense),
        remat=model.remat,
    )
