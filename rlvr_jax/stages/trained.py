"""The model that a stage of a run has trained, for commands that read it: [RUN:]STAGE[@STEP]."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from rlvr_jax import parameters
from rlvr_jax.config import Config, ModelConfig, parse_left
from rlvr_jax.host import weights
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.checkpoint import restore_params
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.runs.paths import Paths, tokenizer_path
from rlvr_jax.host.text.tokenizer import Tokenizer, open_tokenizer
from rlvr_jax.host.weights import peft
from rlvr_jax.stages import left
from rlvr_jax.stages.models import (
    PRETRAINED,
    Origin,
    digest,
    load_pretrained,
    name_of_base,
    origin,
    read_in,
)
from rlvr_jax.stages.programs import Layout, held
from rlvr_jax.structs import Params


class Source(NamedTuple):
    """A Source holds a model, the path of its config.json or GGUF file, and its tokenizer.

    `params` has the matrices of an adapter beside those of its base; `base` identifies the latter.
    """

    params: Params
    cfg: ModelConfig
    path: Path | None
    tokenizer: Tokenizer
    base: peft.Base | None = None  # None: no adapter


def load(source: str, layout: Layout, tokenizer: str = "") -> Source:
    """Load the model that a stage trained: a policy, a verifier, a GRM or a meta RM.

    `tokenizer` is the path of another tokenizer than the run's.

    Raises:
      ValueError: the run, the stage or the step is not there; the message says which are.
      CheckpointError: a checkpoint is damaged.
    """
    named = parse_left(source)
    if not named.run:
        found = left.describe(Path(source))
        raise ValueError(f"{source} is a run: name one of its stages, RUN:STAGE[@STEP]:\n{found}")
    paths, run = Paths(Path(named.run)), left.load_config(Path(named.run))
    stages = {stage.name: stage for stage in run.stages}
    if named.stage not in stages:
        raise ValueError(
            f"{named.run} has no stage {named.stage!r}; its stages are {', '.join(stages)}"
        )
    stage = stages[named.stage]
    if "scalar" in stage.leaves:
        raise ValueError(
            f"stage {stage.name} of {named.run} leaves a scalar reward model, and a model folder "
            "has no place for its value head: only the stages of other models are converted"
        )
    if not stage.trains:
        raise ValueError(f"stage {stage.name} of {named.run} trains no model:\n{_listed(paths)}")
    own = source.removeprefix(f"{named.run}:")
    cfg: ModelConfig = getattr(run, stage.trains)
    made = origin(run, own, cfg)
    params = _restore(paths, run, own, layout.abstract(parameters.abstract_learned(cfg)))
    base = None
    if made.adapter:
        below = _load_base(paths, run, made, cfg, layout)
        base = peft.Base(made.weights or f"{named.run}:{made.base}", digest(below))
        if made.base == PRETRAINED:
            _check_base(paths.folder, name_of_base(made.weights, cfg.frozen_dtype), base)
        params = below | params
    path = weights.find_model(cfg.weights) if cfg.weights else None
    codec = open_tokenizer(tokenizer or _tokenizer_of(run, stage.trains, paths.folder))
    return Source(params, cfg, path, codec, base)


def _listed(paths: Paths) -> str:
    return left.describe(paths.folder)


def _tokenizer_of(run: Config, part: str, folder: Path) -> str | Path:
    own = run.verifier_tokenizer if part == "verifier" else ""
    if own.startswith(weights.PACKAGE):
        return weights.find_model(own)
    return own or tokenizer_path(run, folder)


def _restore(
    paths: Paths, run: Config, source: str, like: Mapping[str, jax.ShapeDtypeStruct]
) -> Params:
    """Load what a stage of a run left, or what the run took from another one."""
    named = parse_left(source)
    if named.run:
        found = left.taken(paths, source)
        if found is None:
            raise RunError(f"{paths.folder} has taken no model {source}")
        return restore_params(found.folder, like, step=found.step)
    stage = {stage.name: stage for stage in run.stages}[named.stage]
    step = left.find_step(paths, stage, named.step)
    return restore_params(paths.checkpoints(stage.name), like, step=step)


def _load_base(paths: Paths, run: Config, made: Origin, cfg: ModelConfig, layout: Layout) -> Params:
    """Load the parameters below the adapter of a stage, in the dtype in which the run held them."""
    if made.base == PRETRAINED:
        return load_pretrained(made.weights, cfg, cfg.frozen_dtype, layout, log.say_aside)
    shapes = parameters.abstract_frozen(cfg, read_in(cfg.frozen_dtype))
    return held(_restore(paths, run, made.base, layout.abstract(shapes)), cfg.frozen_dtype, layout)


def _check_base(folder: Path, name: str, base: peft.Base) -> None:
    """Refuse pretrained weights other than those that the run stored a digest of."""
    file = folder / "bases.json"
    if not file.exists():
        return
    known = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(known, dict) or known.get(name) != base.digest:
        raise ValueError(
            f"the weights of {base.name} are not those that the adapter of {folder} lies on: "
            "put them back"
        )
