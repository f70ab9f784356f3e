"""Load the objective and the estimator that a user wrote in files of Python, and try them.

`loss.objective: my/loss.py` names a file with

    def objective(tokens: rlvr_jax.loss.Tokens, cfg: LossConfig) -> Array

which returns what is maximised for each token, float [B, R], or a pair of that and a bool array
[B, R] of the tokens that were clipped.  Its rows must not depend on one another, because a batch is
read in parts.  `advantage.baseline: my/estimator.py` names a file with

    def advantages(reward_QG: Array, length_QG: Array, counted_Q: Array) -> Array

which returns the advantages of the responses, [Q, G].  Its rewards are the weighted sums less the
KL penalty; `counted_Q` marks the prompts that are learned from, all of them without a filter.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax.config import Formula, LossConfig, RlStage, Stage
from rlvr_jax.host.files.looked_up import looked_up
from rlvr_jax.host.rules import user_file
from rlvr_jax.loss import Tokens

OBJECTIVE, ESTIMATOR = "objective", "advantages"  # the functions that the files have


def check_files(stage: Stage) -> None:
    """Refuse a stage that names a file which is not there.

    Nothing is imported: a file may use arrays, and the devices are not chosen yet.

    Raises:
      ValueError: there is no such file.
    """
    if isinstance(stage, RlStage):
        for path in (stage.loss.objective, stage.advantage.baseline):
            if path.endswith(".py") and not Path(path).is_file():
                raise ValueError(f"the file {path} is not there{looked_up(path)}")


def with_formulas(stage: RlStage) -> RlStage:
    """Return a stage with the functions of its own files in the place of their paths.

    Raises:
      OSError: there is no such file.
      ValueError: it cannot be imported, or its function is missing.
    """
    loss, advantage = stage.loss, stage.advantage
    if loss.objective.endswith(".py"):
        loss = replace(loss, objective=_formula(loss.objective, OBJECTIVE))
    if advantage.baseline.endswith(".py"):
        advantage = replace(advantage, baseline=_formula(advantage.baseline, ESTIMATOR))
    return replace(stage, loss=loss, advantage=advantage)


def try_formulas(stage: Stage) -> None:
    """Try the functions of a stage's own files on small numbers, on a device of this process.

    Call this outside of the mesh of the run: its devices may be those of other processes, or none
    that can compute.

    Raises:
      OSError, ValueError: as `with_formulas`, or a function raises, returns something else or
        numbers that are not finite, or has no gradient.
    """
    if not isinstance(stage, RlStage):
        return
    stage = with_formulas(stage)
    loss, baseline = stage.loss, stage.advantage.baseline
    if isinstance(loss.objective, Formula):
        _try(loss.objective, functools.partial(_try_objective, loss))
    if isinstance(baseline, Formula):
        shape = stage.prompts, stage.samples
        _try(baseline, functools.partial(_try_estimator, shape, baseline))


def _formula(path: str, name: str) -> Formula:
    file = Path(path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Formula(path, _load(str(file.resolve()), name, digest))


@functools.lru_cache(16)
def _load(path: str, name: str, _: str) -> Callable[..., Any]:
    """Import a file once for each content that it has, so that a program is compiled once."""
    function = getattr(user_file.import_file(path, "file"), name, None)
    if not callable(function):
        raise ValueError(f"the file {path} has no function `{name}` (docs/extending.md)")
    return _paired(function) if name == OBJECTIVE else function


def _paired(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an objective that also returns which tokens were clipped, none unless it says so."""

    def objective(tokens: Tokens, cfg: LossConfig) -> Any:
        value = function(tokens, cfg)
        return value if isinstance(value, tuple) else (value, jnp.zeros_like(tokens.mask_BR))

    return objective


def _try(path: str, trial: Callable[[], str]) -> None:
    try:
        problem = trial()
    except Exception as error:
        problem = user_file.describe(error, str(Path(path).resolve()))
    if problem:
        raise ValueError(f"{path} was tried on small numbers: {problem}")


def _try_objective(cfg: LossConfig) -> str:
    """Return what is wrong with an objective, tried on two rows of three tokens."""
    function, tokens = cfg.objective.function, _some_tokens()  # type: ignore[attr-defined]
    value, cut = jax.eval_shape(lambda t: function(t, cfg), tokens)
    if value.shape != (2, 3) or not jnp.issubdtype(value.dtype, jnp.floating):
        return f"`{OBJECTIVE}` returned {value.dtype}{list(value.shape)}, not float [B, R]"
    if cut.shape != (2, 3) or cut.dtype != bool:
        return f"`{OBJECTIVE}` returned {cut.dtype}{list(cut.shape)} as clipped, not bool [B, R]"

    def total(logprob_BR: Any) -> Any:
        value_BR, _ = function(tokens._replace(logprob_BR=logprob_BR), cfg)
        return jnp.sum(jnp.where(tokens.mask_BR, value_BR, 0.0))

    slope_BR = jax.grad(total)(tokens.logprob_BR)
    if not np.isfinite([total(tokens.logprob_BR), *slope_BR.ravel()]).all():
        return "the value or its gradient is not finite"
    if not np.any(slope_BR):
        return "the gradient with respect to logprob_BR is 0: the policy would learn nothing"
    whole = function(tokens, cfg)[0]
    for row in range(2):
        alone = function(jax.tree.map(lambda x, at=row: x[at : at + 1], tokens), cfg)[0]
        if not np.allclose(alone[0], whole[row], atol=1e-5):
            return (
                "a row depends on the others, and a batch is read in parts: let it depend on "
                "its own tokens only"
            )
    return ""


def _some_tokens() -> Tokens:
    rng = np.random.default_rng(0)
    mask = jnp.array([[True, True, True], [True, True, False]])
    logs = [jnp.where(mask, jnp.array(-rng.random((2, 3)), jnp.float32), 0.0) for _ in range(5)]
    logprob, behaviour, sampler, reference, entropy = logs
    advantage = jnp.array([[1.0, 1.0, 1.0], [-0.5, -0.5, -0.5]])
    return Tokens(logprob, -entropy, behaviour, sampler, reference, advantage, mask)


def _try_estimator(shape: tuple[int, int], formula: Formula) -> str:
    """Return what is wrong with an estimator, tried on rewards that differ and that are equal."""
    rng = np.random.default_rng(0)
    length_QG = jnp.array(rng.integers(1, 9, shape), jnp.int32)
    counted_Q = jnp.ones(shape[0], bool)
    rewards = {"random": rng.random(shape), "all 0": np.zeros(shape), "all 1": np.ones(shape)}
    for name, some_QG in rewards.items():
        reward_QG = jnp.array(some_QG, jnp.float32)
        found = jax.eval_shape(formula.function, reward_QG, length_QG, counted_Q)
        if found.shape != shape or not jnp.issubdtype(found.dtype, jnp.floating):
            return f"`{ESTIMATOR}` returned {found.dtype}{list(found.shape)}, not float [Q, G]"
        if not np.isfinite(formula.function(reward_QG, length_QG, counted_Q)).all():
            return f"`{ESTIMATOR}` returned numbers that are not finite for rewards {name}"
    return ""
