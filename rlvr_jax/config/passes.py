"""A stage may count passes over its problems in place of steps; the steps follow from both."""

from dataclasses import replace
from typing import Any

from rlvr_jax.config.fields import check_positive, option


def passes_option() -> Any:
    """Declare the config key `passes` of a stage."""
    return option(
        0,
        "passes over its problems, in place of steps: the steps are passes * (problems / batch, "
        "rounded down), as the resolved config says where the config knows the number; 0: none",
    )


def check_steps(stage: Any) -> None:
    """Raise ValueError unless a stage has a number of steps or of passes, and not both."""
    if stage.passes < 0:
        raise ValueError(f"passes must be at least 0, not {stage.passes}")
    if stage.passes and stage.steps:
        raise ValueError("give steps or passes, not both: one follows from the other")
    if not stage.passes:
        check_positive(stage, "steps")


def with_steps(stage: Any, rows: int, batch: int) -> Any:
    """Return a stage of passes as the same stage of steps, for `rows` rows in batches of `batch`.

    A pass leaves out the rows that do not fill a batch.  A stage of steps, or without one batch of
    rows, stays as it is.
    """
    if not stage.passes or rows < batch:
        return stage
    return replace(stage, steps=stage.passes * (rows // batch), passes=0)


def count_steps(stage: Any, data: Any) -> Any:
    """Return a stage with the steps that the counts of `data` give; the same if they do not say.

    They say nothing of verdicts, of preference items and of a count that is not a number.
    """
    problems = stage.problems
    if not getattr(stage, "passes", 0) or problems is None or stage.role != "policy":
        return stage
    count = getattr(data, problems.split)
    return with_steps(stage, count, problems.at_least) if isinstance(count, int) else stage
