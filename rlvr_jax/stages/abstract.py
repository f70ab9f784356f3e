"""The programs of a stage with abstract arguments: shapes, dtypes and shardings, and no values.

`plan` compiles them for devices that are not here.  The programs are those of `stages.programs`;
what the host makes of text (widths of templates, tables over a vocabulary) has the sizes below.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from rlvr_jax import grm, optim, parameters, prompt_filter, sharding
from rlvr_jax.config import Config, ModelConfig, RlStage, SftStage, VerifierStage
from rlvr_jax.host.critiques.template import load_template
from rlvr_jax.stages import programs
from rlvr_jax.stages.models import origin
from rlvr_jax.structs import (
    Critic,
    Frozen,
    Outcome,
    Prompts,
    Ranking,
    Rollout,
    Setup,
    Spelling,
    TrainState,
    Verdict,
)

EOS = (0,)  # which token ends a response changes nothing that is measured
TAIL = 32  # columns of a template behind an answer, or behind responses
FRAME = 16  # columns before and after a response that a generative reward model reads
BYTES = 32  # of the longest token of a vocabulary
CHARACTERS = 0x110000  # of Unicode, in the table of their kinds

Planned = RlStage | SftStage | VerifierStage


class Program(NamedTuple):
    """A Program is a jitted function with abstract arguments."""

    name: str
    function: Callable
    arguments: tuple
    runs: int = 1  # in a step


class Made(NamedTuple):
    """A Made holds all abstract values of a stage on a mesh."""

    programs: list[Program]
    state: TrainState
    frozen: Frozen
    cfg: Config  # as the stage sees it


class Places(NamedTuple):
    """A Places makes abstract arrays on a mesh, which stand where functions expect real ones."""

    layout: programs.Layout

    def whole(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array that every device holds whole."""
        where = NamedSharding(self.layout.mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    def rows(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array that is split by its first dimension."""
        where = NamedSharding(self.layout.mesh, PartitionSpec(sharding.ROWS))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    def like(self, tree: Any, counts: set[int]) -> Any:
        """Return a pytree whose arrays are split by row if their first size is in `counts`."""

        def leaf(x: Any) -> jax.ShapeDtypeStruct:
            split = x.shape and x.shape[0] in counts
            return (self.rows if split else self.whole)(x.shape, x.dtype)

        return jax.tree.map(leaf, tree)

    def parameters(self, cfg: ModelConfig) -> Any:
        """Return the parameters of a model that is only read."""
        return self.layout.abstract(parameters.abstract_frozen(cfg, cfg.frozen_dtype))

    def base(self, cfg: ModelConfig) -> Any:
        """Return what the adapter of a model that learns lies on; empty if all of it learns."""
        return self.parameters(cfg) if cfg.adapter.rank else {}


def stage_config(cfg: Config, stage: Planned) -> Config:
    """Return the config as a stage sees it: see `GrmWorkspace`."""
    if stage.role == "grm":
        return dataclasses.replace(cfg, model=cfg.grm, data=cfg.critique.data)
    return cfg


def make(stage: Planned, whole: Config, mesh: Mesh, *, in_parts: bool) -> Made:
    """Make the programs of a stage, with `mesh` as the ambient mesh.

    With `in_parts` a step that runs as one program is made as several: writing, rewarding and
    learning, which are compiled in a fraction of the time.
    """
    cfg = stage_config(whole, stage)
    places = Places(programs.Layout(mesh, cfg.mesh))
    if isinstance(stage, RlStage):
        return _of_rl(stage, cfg, places, in_parts)
    return _of_supervised(stage, cfg, places)


def _state(places: Places, cfg: ModelConfig, tx: Any, start: programs.Start) -> TrainState:
    key = jax.eval_shape(lambda: jax.random.key(0))
    build = functools.partial(programs.build_state, cfg=cfg, tx=tx, start=start)
    given = (parameters.abstract_learned(cfg), None)
    return places.layout.abstract(jax.eval_shape(build, given, key))


def held(stage: RlStage, whole: Config) -> dict[str, float]:
    """Return what `resident` does, before anything is traced, and without devices.

    The mesh of the config must divide what it must.
    """
    cfg = stage_config(whole, stage)
    mesh = AbstractMesh(tuple(cfg.mesh.axes.values()), sharding.AXES)
    places = Places(programs.Layout(mesh, cfg.mesh))
    setup = programs.rl_setup(stage, cfg, EOS)
    state = _state(places, cfg.model, setup.tx, programs.rl_start(stage, setup))
    return resident(Made([], state, _frozen(stage, cfg, places), cfg))


def _of_supervised(stage: SftStage | VerifierStage, cfg: Config, places: Places) -> Made:
    model = cfg.verifier if isinstance(stage, VerifierStage) else cfg.model
    columns, budget = cfg.data.prompt_columns, cfg.data.response_columns
    if isinstance(stage, VerifierStage):
        columns, budget = cfg.mesh.even(cfg.data.check_columns + budget + TAIL), 1
    tx = optim.make_optimizer(stage.optim, stage.steps)
    state = _state(places, model, tx, programs.ALONE)
    rows = _rollout(places, stage.batch, stage.batch, columns, budget)
    function = programs.jit_supervised(model, tx, state, places.layout)
    base = places.base(model)
    update = Program("update", function, (state, rows, base))
    return Made([update], state, Frozen({}, {}, base=base), cfg)


def _rollout(places: Places, prompts: int, rows: int, columns: int, budget: int) -> Rollout:
    return Rollout(
        prompt_QP=places.rows((prompts, columns), jnp.int32),
        prompt_mask_QP=places.rows((prompts, columns), jnp.bool_),
        response_BR=places.rows((rows, budget), jnp.int32),
        length_B=places.rows((rows,), jnp.int32),
        truncated_B=places.rows((rows,), jnp.bool_),
        logprob_BR=places.rows((rows, budget), jnp.float32),
    )


def _of_rl(stage: RlStage, cfg: Config, places: Places, in_parts: bool) -> Made:
    setup = programs.rl_setup(stage, cfg, EOS)
    state = _state(places, cfg.model, setup.tx, programs.rl_start(stage, setup))
    frozen = _frozen(stage, cfg, places)
    prompts = _prompts(stage, cfg, places, stage.prompts)
    made = Made([], state, frozen, cfg)
    split = programs.is_split(stage, cfg)
    if not split and not in_parts:
        many = _prompts(stage, cfg, places, stage.prompts * stage.filter.rounds)
        step = programs.jit_train_step(setup, state, places.layout)
        made.programs.append(Program("step", step, (state, frozen, many)))
        return made
    rounds = stage.filter.rounds
    write = programs.jit_write(setup)
    number = places.whole((), jnp.int32)
    counts = {stage.prompts, stage.prompts * stage.samples}
    arguments = (state, prompts, number, frozen.base)
    rollout, decoded, greedy = places.like(jax.eval_shape(write, *arguments), counts)
    made.programs.append(Program("rollout", write, arguments, rounds))
    made.programs.extend(_rewards(setup, cfg, (frozen, prompts, rollout), rounds))
    rewards = {
        name: places.rows(rollout.length_B.shape, jnp.float32) for name in ("reward", *stage.also)
    }
    outcome = Outcome(rewards, baseline_Q=prompts.baseline_Q)
    if greedy is not None:
        of_greedy = {"reward": places.rows(greedy.length_B.shape, jnp.float32)}
        outcome = outcome._replace(greedy=of_greedy)
    if stage.filter.on:
        hold = functools.partial(prompt_filter.no_groups, rounds=rounds)
        held = jax.eval_shape(hold, rollout, outcome)
    else:
        held = jax.eval_shape(prompt_filter.keep_all, rollout, decoded, greedy, outcome)
    selection = places.like(held.round.selection, set())
    held = places.like(held, counts)
    held = held._replace(round=held.round._replace(selection=selection))
    update = programs.jit_update(setup, state, places.layout)
    made.programs.append(Program("update", update, (state, frozen, held.round, held.outcome)))
    return made


def _rewards(setup: Setup[RlStage], cfg: Config, arguments: tuple, rounds: int) -> list[Program]:
    """Return the programs that reward responses; a rule on the host has none."""
    stage = setup.stage
    if stage.reward.judged:
        return [Program("reward", programs.jit_verify(stage, cfg.verifier), arguments, rounds)]
    if stage.uses_grm:
        form = grm.Form(cfg.grm, cfg.critique, stage.reward, EOS)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return [Program("reward", programs.jit_ask_grm(form), (*arguments, key), rounds)]
    return []


def _prompts(stage: RlStage, cfg: Config, places: Places, count: int) -> Prompts:
    data, templates = cfg.data, 1
    check = 0
    if stage.reward.judged:
        check, templates = data.check_columns, len(data.check_templates)
    elif stage.uses_grm:
        check = cfg.critique.data.check_columns
    elif stage.role == "grm" and cfg.critique.principles == "from_query":
        check = data.check_columns
    ranking = None
    if stage.role == "grm":
        ranking = Ranking(
            places.rows((count, cfg.critique.most), jnp.bool_),
            places.rows((count,), jnp.int32),
            places.rows((count,), jnp.bool_),
        )
    return Prompts(
        places.rows((count, data.prompt_columns), jnp.int32),
        places.rows((count, data.prompt_columns), jnp.bool_),
        places.rows((count * templates, check), jnp.int32),
        places.rows((count * templates, check), jnp.bool_),
        ranking,
        *_tails(stage, data.tail_columns, places, count * templates),
        places.rows((count,), jnp.float32) if stage.advantage.baseline == "domain" else None,
    )


def _tails(stage: RlStage, columns: int, places: Places, count: int) -> tuple[Any, Any]:
    if not (stage.reward.judged and columns):
        return None, None
    shape = (count, columns)
    return places.rows(shape, jnp.int32), places.rows(shape, jnp.bool_)


def _frozen(stage: RlStage, cfg: Config, places: Places) -> Frozen:
    """Return the models and tables that a stage reads and never changes.

    Where the stage trains an adapter, its reference and other models of the same origin lie on the
    base too (`stages.models`); adapters of theirs are small and left out.
    """
    table, base = places.whole((cfg.model.vocab,), jnp.bool_), places.base(cfg.model)
    whole = programs.keeps_reference(stage) and not base
    reference = places.parameters(cfg.model) if whole else {}
    frozen = Frozen(reference, {}, newline_V=table, base=base)

    def read(source: str, own: ModelConfig) -> Any:
        return {} if base and _same_base(cfg, stage.policy, source, own) else places.parameters(own)

    if stage.role == "grm":
        return dataclasses.replace(frozen, critic=_critic(cfg, places, 1))
    if stage.uses_grm:
        return dataclasses.replace(
            frozen,
            grm=read(stage.grm, cfg.grm),
            meta=read(stage.reward.grm.meta, cfg.grm) if stage.reward.grm.meta else {},
            critic=_critic(cfg, places, stage.reward.grm.together),
        )
    if stage.reward.judged:
        own = cfg.verifier if cfg.verifier_tokenizer else cfg.model
        verdict = _verdict(places, own.vocab, len(cfg.data.check_templates))
        if cfg.data.answer != "line":
            spelling = _spelling(places, own.vocab, CHARACTERS)
            verdict = dataclasses.replace(verdict, spelling=spelling)
        verifier = read(stage.verifier, cfg.verifier)
        return dataclasses.replace(frozen, verifier=verifier, verdict=verdict)
    return frozen


def _same_base(cfg: Config, policy: str, source: str, own: ModelConfig) -> bool:
    """Return whether what a stage left lies on the arrays below the policy's adapter."""
    try:
        below, read = origin(cfg, policy, cfg.model), origin(cfg, source, own)
    except KeyError:  # no such stage, which `train` refuses
        return False
    merged = read.adapter and not own.adapter.rank  # into arrays of its own
    return not merged and below[:2] == read[:2] and own.frozen_dtype == cfg.model.frozen_dtype


def _spelling(places: Places, vocab: int, characters: int) -> Spelling:
    return Spelling(
        places.whole((vocab, BYTES), jnp.uint8),
        places.whole((vocab,), jnp.int32),
        places.whole((characters,), jnp.uint8),
        places.whole((), jnp.bool_),
    )


def _verdict(places: Places, vocab: int, templates: int) -> Verdict:
    words, table = places.whole((templates,), jnp.int32), places.whole((vocab,), jnp.bool_)
    return Verdict(
        places.whole((templates, TAIL), jnp.int32),
        places.whole((templates, TAIL), jnp.bool_),
        words,
        words,
        table,
        table,
        table,
    )


def _critic(cfg: Config, places: Places, together: int) -> Critic:
    vocab = cfg.grm.vocab
    frame = (
        places.whole((together, FRAME), jnp.int32),
        places.whole((together, FRAME), jnp.bool_),
    )
    middle = TAIL if cfg.critique.principles == "from_query" else 0
    return Critic(
        _spelling(places, vocab, 0),
        places.whole((vocab,), jnp.bool_),
        places.whole((), jnp.int32),
        *frame,
        *frame,
        middle_C=places.whole((middle,), jnp.int32),
        tail_C=places.whole((TAIL,), jnp.int32),
        marks=load_template(cfg.critique.template, cfg.critique.form).marks,
        meta=_verdict(places, vocab, 1),
    )


# ---- bytes -------------------------------------------------------------------------------------


def bytes_on_device(tree: Any) -> float:
    """Return the bytes of a pytree of arrays, abstract or not, on one device."""
    total = 0.0
    for x in jax.tree.leaves(tree):
        where = getattr(x, "sharding", None)  # an array of the host has none
        shape = x.shape if where is None else where.shard_shape(x.shape)
        key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        total += float(np.prod(shape, dtype=np.float64)) * (8 if key else x.dtype.itemsize)
    return total


def resident(made: Made) -> dict[str, float]:
    """Return the bytes on a device, by part, of what stays in memory all the time."""
    state, frozen = made.state, made.frozen
    parts = {
        "policy": state.params,
        "base": frozen.base,
        "moments": state.opt_state,
        "PRM": None if state.prm is None else state.prm.params,
        "PRM moments": None if state.prm is None else state.prm.opt_state,
        "reference": (state.reference, frozen.reference),
        "verifier": frozen.verifier,
        "GRM": frozen.grm,
        "meta RM": frozen.meta,
        "tables": (frozen.verdict, frozen.newline_V, frozen.critic),
    }
    sizes = {name: bytes_on_device(tree) for name, tree in parts.items()}
    return {name: size for name, size in sizes.items() if size}
