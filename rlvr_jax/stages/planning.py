"""A plan compiles the programs of a stage for devices that are not here, and says what they need.

topology -> devices -> mesh -> programs (`stages.abstract`) -> compile -> Answer
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import jax

from rlvr_jax import engine, parameters, ragged, sharding
from rlvr_jax.config import Config, ModelConfig, RlStage, SftStage, VerifierStage
from rlvr_jax.host.plans import roofline
from rlvr_jax.host.plans.answer import Answer
from rlvr_jax.host.plans.chips import GPU_SHARE, Topology
from rlvr_jax.stages import abstract, check, compiling, own_formulas, programs, sizing
from rlvr_jax.stages.abstract import Planned

# libtpu asks a server of Google Cloud where it runs, and lets one process use a machine's TPUs.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "4",
    "TPU_MIN_LOG_LEVEL": "4",
    "TF_CPP_MIN_LOG_LEVEL": "4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # of this machine, which has none; any name will do
}


class PlanError(ValueError):
    """A PlanError says in a sentence why nothing can be planned."""


def devices(topology: Topology) -> list[Any]:
    """Return devices to compile for: those of a TPU slice that is not here, or CPUs for GPUs.

    Raises:
      PlanError: libtpu is not installed, or does not know the topology.
    """
    if topology.chip.platform != "tpu":
        return _processors(topology.devices)
    os.environ.update({key: value for key, value in LIBTPU.items() if key not in os.environ})
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.devices < 4:  # a part of a host has to be named
        options = dict(chips_per_host_bounds=(*topology.sizes, 1)[:3], num_slices=1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
        return list(found.devices)
    except Exception as error:
        reason = " ".join(str(error).split())
        if "not installed" in reason or "libtpu" in reason and "not found" in reason:
            raise PlanError(
                "a TPU is planned with its own compiler, libtpu, and it is not installed: "
                f"pip install -e '.[plan]' in the clone ({reason[:200]})"
            ) from None
        raise PlanError(f"libtpu does not know {topology.name}: {reason[:200]}") from None


def _processors(count: int) -> list[Any]:
    """Return so many CPU devices.

    Raises:
      PlanError: JAX has been started with fewer.
    """
    with contextlib.suppress(RuntimeError):  # JAX has been started, maybe with enough
        jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices("cpu")
    if len(found) < count:
        raise PlanError(f"this process has {len(found)} CPU devices and {count} are needed")
    return found[:count]


def choose_stage(cfg: Config, name: str = "") -> Planned:
    """Return the stage of a name, or the first rl stage.

    Raises:
      PlanError: there is none that can be planned.
    """
    kinds = (RlStage, SftStage, VerifierStage)
    if name:
        for stage in cfg.stages:
            if stage.name == name:
                if isinstance(stage, kinds):
                    return stage
                raise PlanError(f"stage {name} is no rl, sft or verifier stage: name one of these")
        known = ", ".join(stage.name for stage in cfg.stages)
        raise PlanError(f"the config has no stage {name!r}; its stages are {known}")
    for stage in cfg.rl_stages:
        return stage
    others = [stage.name for stage in cfg.stages if isinstance(stage, kinds)]
    hint = f"; name another with --stage: {', '.join(others)}" if others else ""
    raise PlanError(f"the config has no rl stage to plan{hint}")


def check_sizes(cfg: Config, stage: Planned, topology: Topology) -> None:
    """Refuse a config whose mesh has not the devices of a topology, or divides not what it must.

    Raises:
      ValueError: the message says what to change.
    """
    mesh, count = cfg.mesh, topology.devices
    if mesh.devices != count:
        raise PlanError(
            f"mesh {mesh} is not one of "
            f"the {count} devices of {topology.name}: set {mesh.keys} so "
            f"that their product is {count}, or try all with --sweep"
        )
    models = {"grm" if stage.role == "grm" else "model": abstract.stage_config(cfg, stage).model}
    if stage.uses_verifier:
        models["verifier"] = cfg.verifier
    if stage.uses_grm:
        models["grm"] = cfg.grm
    for name, model in models.items():
        sharding.check_divides(model.sizes, parameters.names(model), cfg.mesh, name)
        sharding.check_decode_view(model.sizes, model.decode_tensor, cfg.mesh, name)
    check.check_columns(cfg, stage)
    rows = stage.rows
    if rows is not None and rows.number % cfg.mesh.row_shards:
        raise PlanError(
            f"{stage.name}.{rows.key} is {rows.number}, not a multiple of "
            f"{mesh.product('data', 'fsdp', 'context')}"
        )


@contextlib.contextmanager
def only_widest(quick: bool) -> Iterator[None]:
    """With `quick`, leave out the narrower parts and smaller batches of slots while tracing.

    They are several times the work to compile, and need less memory than the widest.
    """
    if not quick:
        yield
        return
    with (
        mock.patch.object(engine, "FEWEST", 2**30),
        mock.patch.object(ragged, "widths", lambda columns: [columns]),
    ):
        yield


def plan(
    cfg: Config,
    stage: Planned,
    topology: Topology,
    *,
    models: Mapping[str, str],
    price: float,
    quick: bool = False,
) -> Answer:
    """Compile the programs of a stage for a topology, and answer what they need.

    `models` says where the sizes of models come from, `price` what a chip costs for an hour.

    Raises:
      ValueError: the stage cannot be planned; the message is a sentence.
    """
    check_sizes(cfg, stage, topology)
    planned = cfg if topology.chip.platform == "tpu" else _without_kernels(cfg)
    own_formulas.try_formulas(stage)
    mesh = sharding.make_mesh(cfg.mesh, devices(topology))
    with jax.set_mesh(mesh), only_widest(quick):
        made = abstract.make(stage, planned, mesh, in_parts=quick)
        answers = tuple(compiling.compile_program(p, made, stage, topology) for p in made.programs)
    found = Answer(
        config=cfg.name,
        stage=stage.name,
        topology=topology,
        mesh=cfg.mesh.shown,
        models=dict(models),
        programs=answers,
        tokens=_tokens(stage, made.cfg),
        price=price,
        quick=quick,
        estimate=topology.chip.platform != "tpu",
        notes=_notes(stage, made.cfg, topology, quick),
    )
    if isinstance(stage, RlStage):
        decode = sizing.decode_split_of(cfg.mesh, made.cfg.model)
        needed = roofline.needed_column_bytes(sizing.work_of(stage, made.cfg), decode)
        found = dataclasses.replace(found, needed_column=needed)
    return found if found.fits else dataclasses.replace(found, hints=_hints(stage, cfg, topology))


def _without_kernels(cfg: Config) -> Config:
    """Return the config with plain operations in place of kernels, which CPUs do not have."""
    models = {part: getattr(cfg, part) for part in ("model", "verifier", "grm")}
    plain: dict[str, Any] = {
        part: dataclasses.replace(model, kernels="xla") for part, model in models.items()
    }
    return dataclasses.replace(cfg, **plain)


def _tokens(stage: Planned, cfg: Config) -> int:
    if isinstance(stage, RlStage):
        return stage.prompts * stage.samples * cfg.data.response_columns
    return stage.batch * (1 if isinstance(stage, VerifierStage) else cfg.data.response_columns)


def _notes(stage: Planned, cfg: Config, topology: Topology, quick: bool) -> tuple[str, ...]:
    notes = []
    if topology.chip.platform != "tpu":
        notes.append(
            "an estimate: there is no compiler for this GPU here, so that memory and traffic are "
            "those of the same program compiled for as many CPUs, with plain operations in place "
            "of kernels"
        )
        notes.append(
            f"of a GPU's memory JAX takes {100 * GPU_SHARE:.0f} % at its start, and that is what "
            "has to hold the programs; XLA_PYTHON_CLIENT_MEM_FRACTION changes it"
        )
    if quick:
        notes.append(
            "quick: only the widest parts and full batches of slots are compiled"
            + (
                ""
                if not isinstance(stage, RlStage) or programs.is_split(stage, cfg)
                else ", and the fused step as the programs that it consists of"
            )
        )
    if isinstance(stage, RlStage) and programs.is_split(stage, cfg):
        notes.append("the time of rules on the host is not counted")
    if stage.uses_verifier and cfg.verifier_tokenizer:
        notes.append("the verifier is planned as if it read the policy's tokens")
    if isinstance(stage, RlStage) and stage.filter.rounds > 1:
        notes.append(f"all {stage.filter.rounds} rounds of the prompt filter are counted")
    return tuple(notes)


def _hints(stage: Planned, cfg: Config, topology: Topology) -> tuple[str, ...]:
    """Return overrides with which a stage needs less memory, the cheapest first."""
    part = {"grm": "grm"}.get(stage.role, "model")
    part = "verifier" if isinstance(stage, VerifierStage) else part
    model: ModelConfig = getattr(cfg, part)
    hints = []
    if not model.remat:
        hints.append(f"{part}.remat=true")
    if model.compute == "float32":
        hints.append(f"{part}.compute=bfloat16")
    if model.kernels == "xla" and topology.chip.platform == "tpu":
        hints.append(f"{part}.kernels=pallas")
    if not model.decode_tensor and (views := sizing.decode_views(model, cfg.mesh)):
        hints.append(f"{part}.decode_tensor={max(views)}")
    whole = dataclasses.replace(cfg.mesh, data=1, fsdp=cfg.mesh.data)
    if cfg.mesh.fsdp == 1 < cfg.mesh.data and sizing.divides(model, whole):
        hints.append(f"mesh.fsdp={cfg.mesh.data} mesh.data=1")
    if model.part_tokens > cfg.data.response_columns:
        hints.append(f"{part}.part_tokens={model.part_tokens // 2}")
    if isinstance(stage, RlStage):
        rows = stage.prompts * stage.samples // cfg.mesh.row_shards
        if model.cache_dtype == "compute":
            hints.append(f"{part}.cache_dtype=int8")
        slots = min(model.slots or rows, rows)
        if slots > 1:
            hints.append(f"{part}.slots={slots // 2}")
    hints.append("a larger slice (--topology, mesh.fsdp)")
    return tuple(hints)
