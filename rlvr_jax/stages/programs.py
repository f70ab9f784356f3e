"""The compiled programs of a stage: what the stage runs, and what `plan` compiles without a device.

A stage makes its state, its settings and its jitted functions here.  `plan` makes them with the
same functions, and calls them with abstract arrays in place of real ones, so that what it says
about a program is about the program that runs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from rlvr_jax import grm, judging, optim, parameters, sharding, step, supervised
from rlvr_jax.config import Config, MeshConfig, ModelConfig, RlStage, Sampling
from rlvr_jax.stages import own_formulas
from rlvr_jax.structs import Array, Params, Setup, StepResult, TrainState, UpdateResult


class Start(NamedTuple):
    """A Start says what the state of a stage holds beside the model and its optimizer."""

    value_head: bool = False
    kl_coef: float | None = None  # the first KL coefficient, if the coefficient adapts
    prm_tx: optax.GradientTransformation | None = None  # of a PRM that learns beside the policy
    follow: bool = False  # a reference policy that starts as the policy and follows it


ALONE = Start()


def rl_setup(stage: RlStage, cfg: Config, eos: tuple[int, ...]) -> Setup[RlStage]:
    """Return what is fixed when the step of an rl stage is compiled.

    `cfg` is the config as the stage sees it: to a stage that trains a generative reward model, that
    model is `cfg.model` and the preference items are `cfg.data`.

    Raises:
      ValueError: as `own_formulas.with_formulas`.
    """
    return Setup[RlStage](
        stage=own_formulas.with_formulas(stage),
        model=cfg.model,
        verifier=cfg.verifier,
        columns=cfg.data.response_columns,
        eos=eos,
        tx=optim.make_optimizer(stage.optim, stage.steps * stage.updates),
        prm_tx=optim.make_optimizer(stage.prm.optim, stage.steps),
        grm=cfg.grm,
        critique=cfg.critique,
    )


def rl_start(stage: RlStage, setup: Setup[RlStage]) -> Start:
    """Return what the state of an rl stage holds beside the policy and its optimizer."""
    return Start(
        value_head=stage.advantage.baseline == "value",
        kl_coef=stage.loss.kl_coef if stage.loss.kl_target else None,
        prm_tx=setup.prm_tx if stage.has_prm_beside_policy else None,
        follow=stage.reference.update_every > 0,
    )


def keeps_reference(stage: RlStage) -> bool:
    """Return whether a stage reads a reference policy that never changes."""
    return stage.asks_reference and not stage.reference.update_every


def is_split(stage: Sampling, cfg: Config) -> bool:
    """Return whether the rewards of a stage need the host, so that its step is split in two."""
    return stage.hosted or bool(cfg.verifier_tokenizer)


def build_state(
    given: tuple[Params | None, Params | None],
    key: Array,
    cfg: ModelConfig,
    tx: optax.GradientTransformation,
    start: Start,
) -> TrainState:
    """Make the state of a stage before its first update.

    `given` holds the parameters of the model, None for random ones, and those of the PRM, None for
    a PRM that starts as the policy.  Jit this function with `out_shardings`.
    """
    params, prm_params = given
    new = jax.random.fold_in(key, 0)
    first = parameters.init_learned(new, cfg) if params is None else params
    first = parameters.hold(first, cfg.learned_dtype)
    own_key = jax.random.fold_in(key, 1)
    head = parameters.with_value(first, cfg) if start.value_head else first
    state = step.init_state(own_key, head, tx)
    if start.prm_tx is not None:
        prm = first if prm_params is None else parameters.hold(prm_params, cfg.learned_dtype)
        state = step.with_prm(state, prm, start.prm_tx)
    if start.kl_coef is not None:
        state = dataclasses.replace(state, kl_coef=jnp.float32(start.kl_coef))
    if start.follow:
        state = step.with_reference(state, first)
    return state


class Layout(NamedTuple):
    """A Layout says where the arrays of a run lie."""

    mesh: Mesh | AbstractMesh
    cfg: MeshConfig

    def shardings(self, tree: Any) -> Any:
        """Return the sharding of each leaf of a pytree of parameters, moments or states."""
        return sharding.shard_tree(tree, self.mesh, self.cfg)

    def abstract(self, tree: Any) -> Any:
        """Return shapes, dtypes and shardings of such a pytree."""
        return abstract(tree, self.shardings(tree))


def abstract(tree: Any, shardings: Any) -> Any:
    """Return the shapes and dtypes of a pytree with the given shardings, one or one for each leaf.

    The leaves may be arrays, or shapes and dtypes.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda x: shardings, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def held(params: Params, dtype: str, layout: Layout) -> Params:
    """Return parameters as `parameters.hold` holds them; only those to be int8 are not so yet."""
    if dtype != "int8":
        return params
    hold = functools.partial(parameters.hold, dtype=dtype)
    where = layout.shardings(jax.eval_shape(hold, params))
    return jax.jit(hold, out_shardings=where)(params)


def jit_step(function: Callable, state: TrainState, result: Any, layout: Layout) -> Callable:
    """Jit a training step; the state is donated, and the new state keeps its shardings.

    `result` is the type that the step returns, with a field `state`.
    """
    kept = result(**dict.fromkeys(result._fields) | {"state": layout.shardings(state)})
    return jax.jit(function, donate_argnums=0, out_shardings=kept)


def jit_train_step(setup: Setup[RlStage], state: TrainState, layout: Layout) -> Callable:
    """Jit the step of an rl stage that runs as one program: (state, frozen, prompts)."""
    return jit_step(functools.partial(step.train_step, setup=setup), state, StepResult, layout)


def jit_write(setup: Setup[RlStage]) -> Callable:
    """Jit the first program of a split step: (state, prompts, number of the round, base)."""
    return jax.jit(functools.partial(step.write_round, setup=setup))


def jit_verify(stage: Sampling, verifier: ModelConfig) -> Callable:
    """Jit the program that asks the verifier: (frozen, prompts, rollout)."""
    return jax.jit(functools.partial(judging.verify, cfg=stage.reward, verifier_cfg=verifier))


def jit_ask_grm(form: grm.Form) -> Callable:
    """Jit the program that asks a generative reward model: (frozen, prompts, rollout, key)."""
    return jax.jit(functools.partial(judging.ask_grm, form=form))


def jit_update(setup: Setup[RlStage], state: TrainState, layout: Layout) -> Callable:
    """Jit the last program of a split step, which learns: (state, frozen, round, outcome)."""
    return jit_step(functools.partial(step.update, setup=setup), state, StepResult, layout)


def jit_supervised(
    cfg: ModelConfig, tx: optax.GradientTransformation, state: TrainState, layout: Layout
) -> Callable:
    """Jit the step of an sft or verifier stage: (state, rows, base, learned tokens or None)."""
    function = functools.partial(supervised.supervised_step, model_cfg=cfg, tx=tx)
    return jit_step(function, state, UpdateResult, layout)
