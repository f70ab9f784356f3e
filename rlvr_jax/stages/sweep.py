"""A sweep plans a stage on many meshes and sizes, and ranks those that fit by predicted time."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlvr_jax.config import Config, ModelConfig, RlStage
from rlvr_jax.host.plans import roofline
from rlvr_jax.host.plans.answer import Answer
from rlvr_jax.host.plans.chips import Topology
from rlvr_jax.stages import abstract, planning, sizing
from rlvr_jax.stages.abstract import Planned
from rlvr_jax.stages.planning import PlanError


@dataclass(frozen=True)
class Asked:
    """An Asked is what a sweep starts from."""

    cfg: Config
    stage: Planned
    topology: Topology
    models: Mapping[str, str]
    price: float
    quick: bool


class Candidate(NamedTuple):
    """A Candidate is one config of a sweep, and what its sizes alone say about it."""

    cfg: Config
    override: str  # what to write behind the command to get it
    seconds: float
    memory: float


class Tried(NamedTuple):
    """A Tried is a candidate that was compiled, or why it could not be."""

    override: str
    answer: Answer | None
    problem: str = ""

    @property
    def fits(self) -> bool:
        """Return whether it was compiled and fits."""
        return self.answer is not None and self.answer.fits


def run(asked: Asked, count: int, say: Callable[[str], object]) -> list[Tried]:
    """Compile the best `count` candidates by their sizes; return them, the best first.

    One that cannot be compiled comes last, with the reason.

    Raises:
      PlanError: the stage is no rl stage, or no mesh divides it, or no candidate can be compiled.
    """
    devices, context = asked.topology.devices, asked.cfg.mesh.context
    if devices % context:
        raise PlanError(f"mesh.context {context} does not divide the {devices} devices: change it")
    found = candidates(asked)
    if not found:
        raise PlanError(
            f"no mesh of {asked.topology.devices} devices divides stage {asked.stage.name}: change "
            "its prompts"
        )
    chosen = prune(found, count, asked.topology.chip.hbm)
    tried = []
    for candidate in chosen:
        say(f"compiling {candidate.override}")
        try:
            answer = planning.plan(
                candidate.cfg,
                asked.stage,
                asked.topology,
                models=asked.models,
                price=asked.price,
                quick=asked.quick,
            )
        except Exception as error:  # of the compiler too: the others may do
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            tried.append(Tried(candidate.override, None, reason))
        else:
            tried.append(Tried(candidate.override, answer))
    if not any(one.answer for one in tried):
        raise PlanError(f"no candidate can be compiled: {tried[0].problem}")
    return sorted(tried, key=_order)


def _order(tried: Tried) -> tuple:
    seconds = tried.answer.step_seconds if tried.answer else math.inf
    return not tried.fits, seconds


def prune(found: list[Candidate], count: int, hbm: float) -> list[Candidate]:
    """Return the candidates that are worth compiling.

    Those that cannot fit by their sizes come last, and of each mesh only the best one is taken
    before any mesh gets a second.
    """
    ranked = sorted(found, key=lambda one: (one.memory > hbm, one.seconds, one.memory))
    first: list[Candidate] = []
    later: list[Candidate] = []
    meshes = set()
    for one in ranked:
        (later if one.cfg.mesh in meshes else first).append(one)
        meshes.add(one.cfg.mesh)
    return (first + later)[:count]


def candidates(asked: Asked) -> list[Candidate]:
    """Return all configs of a sweep that the stage and its models divide over.

    Raises:
      PlanError: the stage is no rl stage.
    """
    if not isinstance(asked.stage, RlStage):
        raise PlanError(f"--sweep is for rl stages, and {asked.stage.name} is none")
    found, held = [], {}
    for cfg, override in _variants(asked):
        try:
            planning.check_sizes(cfg, asked.stage, asked.topology)
        except ValueError:
            continue
        seen = abstract.stage_config(cfg, asked.stage)
        work, split = sizing.work_of(asked.stage, seen), sizing.split_of(cfg.mesh)
        decode = sizing.decode_split_of(cfg.mesh, seen.model)
        seconds = roofline.ideal_step(work, split, decode, asked.topology.chip)
        if cfg.mesh not in held:  # nothing else that varies changes it
            held[cfg.mesh] = abstract.held(asked.stage, cfg)
        found.append(Candidate(cfg, override, seconds, memory(seen, held[cfg.mesh], work)))
    return found


def memory(cfg: Config, held: Mapping[str, float], work: roofline.Work) -> float:
    """Return the bytes that a step needs at least on a device, from sizes alone.

    The larger of rollout (weights and cache) and update (gradient and activations) comes on top of
    `held`, what stays in memory (`abstract.held`).
    """
    model, split = cfg.model, sizing.split_of(cfg.mesh)
    decode = sizing.decode_split_of(cfg.mesh, model)
    rollout = roofline.cache_bytes(work, decode, work.columns)
    rollout += sizing.whole_count(model) * work.item / decode.tensor
    tokens = max(model.part_tokens, work.columns) / cfg.mesh.context
    kept = model.width if model.remat else 10 * model.width + 3 * model.feedforward / split.tensor
    scores = 4 * 3 * tokens * model.heads * (work.prompt_columns + work.columns) / split.tensor
    scores *= 1 if model.remat else model.layers
    activations = tokens * kept * model.layers * work.item
    activations += scores if model.kernels == "xla" else 0.0
    return sum(held.values()) + max(rollout, held["policy"] + activations)


def _variants(asked: Asked) -> Iterator[tuple[Config, str]]:
    """Yield configs and the overrides that make them."""
    stage = asked.stage
    part = "grm" if stage.role == "grm" else "model"
    model: ModelConfig = getattr(asked.cfg, part)
    rows = stage.prompts * stage.samples if isinstance(stage, RlStage) else 0
    for data, fsdp, tensor in _meshes(asked.topology.devices // asked.cfg.mesh.context):
        mesh = dataclasses.replace(asked.cfg.mesh, data=data, fsdp=fsdp, tensor=tensor)
        half = rows // mesh.row_shards // 2
        for tokens, slots, remat, decode in itertools.product(
            {model.part_tokens, max(1, model.part_tokens // 2)},
            {model.slots, 0, half},
            (model.remat, not model.remat),
            {0, *sizing.decode_views(model, mesh)},
        ):
            new = dataclasses.replace(
                model, part_tokens=tokens, slots=slots, remat=remat, decode_tensor=decode
            )
            parts: dict[str, Any] = {part: new}
            words = [f"mesh.data={data}", f"mesh.fsdp={fsdp}", f"mesh.tensor={tensor}"]
            words += [
                f"{part}.{key}={str(getattr(new, key)).lower()}"
                for key in ("part_tokens", "slots", "remat", "decode_tensor")
                if getattr(new, key) != getattr(model, key)
            ]
            yield dataclasses.replace(asked.cfg, mesh=mesh, **parts), " ".join(words)


def _meshes(count: int) -> Iterator[tuple[int, int, int]]:
    """Yield (data, fsdp, tensor) with the product `count`, tensor at most 8, a host."""
    for tensor in range(1, min(count, 8) + 1):
        if count % tensor:
            continue
        rest = count // tensor
        for data in range(1, rest + 1):
            if rest % data == 0:
                yield data, rest // data, tensor
