"""The models of a run: what a stage starts from, what earlier stages left, and frozen bases.

Where a model learns by an adapter, the adapter lies on a base: the pretrained weights, or what
another model's stage left.  All stages from there on keep that base, and their checkpoints hold
adapters only.  A base is loaded once in a stage, and all models that lie on it share its arrays.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rlvr_jax import adapters, parameters
from rlvr_jax.config import AdapterConfig, Config, ModelConfig, parse_left
from rlvr_jax.host import weights
from rlvr_jax.host.runs import checkpoint, log
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.host.weights import peft
from rlvr_jax.stages import left, programs
from rlvr_jax.structs import Array, Params, TrainState

PRETRAINED = "pretrained"


class Origin(NamedTuple):
    """An Origin says of what parameters a model consists: a base, and an adapter on it or none."""

    base: str  # the stage that left the base, or `pretrained`
    weights: str  # of a pretrained base: its file or folder
    adapter: str  # the stage that left the adapter, `pretrained`, or empty: none
    form: AdapterConfig  # of the adapter


def origin(cfg: Config, source: str, model: ModelConfig) -> Origin:
    """Return the origin of what the stage `source` left, or of `pretrained` for a model's config.

    `source` may name a step of a stage, or a stage of another run, whose model has no adapter.  The
    stage must be one that trains a model, and must not start from `fresh` with an adapter.
    """
    if source == PRETRAINED:
        named = PRETRAINED if model.adapter.weights else ""
        return Origin(PRETRAINED, model.weights, named, model.adapter)
    place = parse_left(source)
    if place.run:
        return Origin(source, "", "", AdapterConfig())
    stage = {stage.name: stage for stage in cfg.stages}[place.stage]
    own: ModelConfig = getattr(cfg, stage.trains or "model")
    if not own.adapter.rank:
        return Origin(source, "", "", AdapterConfig())
    start = next(item.source for item in stage.inputs if item.key in ("init", "policy"))
    return origin(cfg, start, own)._replace(adapter=source, form=own.adapter)


class Models:
    """A `Models` object loads the models of a run onto a mesh."""

    def __init__(self, run: Run, mesh: Mesh):
        self._run, self.layout = run, programs.Layout(mesh, run.cfg.mesh)
        parts = (run.cfg.model, run.cfg.verifier, run.cfg.grm)
        self._shares = any(part.adapter.rank for part in parts)
        self._bases: dict[tuple[str, ...], Params] = {}

    @property
    def cfg(self) -> Config:
        """Return the config of the run whose models these are."""
        return self._run.cfg

    def forget(self) -> None:
        """Drop the bases that are loaded; a stage calls this at its end."""
        self._bases.clear()

    def load(
        self, source: str, cfg: ModelConfig, part: str = "params", *, value_head: bool = False
    ) -> Params:
        """Load the parameters that a finished stage left, or pretrained ones, to be read only.

        `part` names the parameters within the state of that stage; with `value_head` they have one.
        If `cfg` has an adapter, they lie on their base; if only the stage had one, it is merged.

        Raises:
          RunError: the stage has not been run, or its checkpoint or its base is another one.
        """
        made = origin(self._run.cfg, source, cfg)
        if not made.adapter and (not self._shares or part != "params" or value_head):
            return self._whole(source, cfg, cfg.frozen_dtype, part, value_head)
        base = self._base(made, cfg)
        if not made.adapter:
            return base
        like = dataclasses.replace(cfg, adapter=made.form)
        adapter = self._adapter(made, like, part, value_head)
        if cfg.adapter.rank:
            return base | adapter
        merge = jax.jit(adapters.merge, static_argnums=(1, 2))
        merged = merge(base | adapter, like, jnp.dtype(read_in(cfg.frozen_dtype)))
        return programs.held(merged, cfg.frozen_dtype, self.layout)

    def base(self, source: str, cfg: ModelConfig) -> Params:
        """Load what an adapter of `cfg` lies on where training starts from `source`, or nothing.

        Raises:
          RunError: as `load`.
        """
        return self._base(origin(self._run.cfg, source, cfg), cfg) if cfg.adapter.rank else {}

    def new_state(
        self,
        key: Array,
        cfg: ModelConfig,
        tx: optax.GradientTransformation,
        init: str,
        *,
        start: programs.Start = programs.ALONE,
        prm_start: tuple[str, str] = ("", ""),
    ) -> TrainState:
        """Make the state of a stage before its first update; see `Workspace.new_state`.

        `prm_start` is a stage and the part of its state from which the PRM starts; with an empty
        name it starts as the policy.
        """
        prm_init, part = prm_start
        given = (
            self._learned(init, cfg),
            self._learned(prm_init, cfg, part) if prm_init else None,
        )

        build = functools.partial(programs.build_state, key=key, cfg=cfg, tx=tx, start=start)
        where = self.layout.shardings(jax.eval_shape(build, given))
        return jax.jit(build, out_shardings=where)(given)

    def _learned(self, source: str, cfg: ModelConfig, part: str = "params") -> Params | None:
        """Load what training goes on from, in float32; None where it starts from nothing."""
        if source == "fresh":
            return None
        made = origin(self._run.cfg, source, cfg)
        if cfg.adapter.rank:
            return self._adapter(made, cfg, part) if made.adapter else None
        if made.adapter:
            return self.load(source, dataclasses.replace(cfg, frozen_dtype="float32"), part)
        return self._whole(source, cfg, "float32", part)

    def _base(self, made: Origin, cfg: ModelConfig) -> Params:
        key = (made.base, made.weights, cfg.frozen_dtype)
        if key not in self._bases:
            source = dataclasses.replace(cfg, weights=made.weights) if made.weights else cfg
            self._bases[key] = self._whole(made.base, source, cfg.frozen_dtype)
            if made.base == PRETRAINED:
                name = name_of_base(made.weights, cfg.frozen_dtype)
                self._run.check_base(name, digest(self._bases[key]))
        return self._bases[key]

    def _adapter(
        self, made: Origin, cfg: ModelConfig, part: str, value_head: bool = False
    ) -> Params:
        like = self.layout.abstract(parameters.abstract_learned(cfg, value_head=value_head))
        if made.adapter != PRETRAINED:
            return self._restore(made.adapter, like, part)
        base = peft.Base(made.weights, digest(self._base(made, cfg)))
        to = {name: x.sharding for name, x in like.items()}
        return peft.load(cfg.adapter.weights, cfg, to, base)

    def _whole(
        self, source: str, cfg: ModelConfig, dtype: str, part: str = "params", head: bool = False
    ) -> Params:
        if source == PRETRAINED:
            return load_pretrained(cfg.weights, cfg, dtype, self.layout, log.say)
        shapes = parameters.abstract_frozen(cfg, read_in(dtype), value_head=head)
        return programs.held(
            self._restore(source, self.layout.abstract(shapes), part), dtype, self.layout
        )

    def _restore(self, source: str, like: Any, part: str) -> Params:
        found = left.find(self._run, source)
        return checkpoint.restore_params(found.folder, like, part, found.step)


def load_pretrained(
    path: str, cfg: ModelConfig, dtype: str, layout: programs.Layout, say: Callable[[str], object]
) -> Params:
    """Load the pretrained weights `path`, held in `dtype`; for int8 one parameter after the other.

    Raises:
      WeightsError: as `weights.load`.
    """
    like = layout.abstract(parameters.abstract_frozen(cfg, read_in(dtype)))
    to = {name: x.sharding for name, x in like.items()}
    dtypes = {name: x.dtype for name, x in like.items()}
    hold = functools.partial(programs.held, dtype=dtype, layout=layout)
    return weights.load(weights.find_model(path), cfg, to, say, dtypes=dtypes, hold=hold)


def read_in(dtype: str) -> str:
    """Return the dtype in which a model is read before it is held in `dtype`."""
    return "float32" if dtype == "int8" else dtype


def name_of_base(name: str, dtype: str) -> str:
    """Return the name under which the digest of pretrained weights is stored, held in `dtype`."""
    return f"{name} as int8" if dtype == "int8" else name


def digest(params: Params) -> str:
    """Return the digest of parameters in hexadecimal (`adapters.digest`)."""
    return "".join(f"{int(x):08x}" for x in jax.device_get(jax.jit(adapters.digest)(params)))
