"""Held-out problems of an rl stage must not be those that an earlier stage learned from."""

from collections.abc import Iterator

from rlvr_jax.config import Config, RlStage, Stage, stage_of


def check_held_out(cfg: Config, stage: Stage) -> None:
    """Refuse `eval.split` where the policy, its verifier or its PRM learned from that split.

    Raises:
      ValueError: the message names the stage that learned from it.
    """
    if not isinstance(stage, RlStage) or not stage.eval.every:
        return
    for other, split in _learned(cfg, stage, set()):
        if split == stage.eval.split:
            raise ValueError(
                f"stages.{stage.name}.eval.split is {split}, and what stage {stage.name} starts "
                f"from or is rewarded by comes from stage {other}, which read those problems: take "
                "`test`, which no stage learns from"
            )


def _learned(cfg: Config, stage: Stage, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the stages that a stage builds on, with the split of `data` that each one read."""
    stages = {other.name: other for other in cfg.stages}
    for needed in stage.inputs:
        other = stages.get(stage_of(needed.source))
        if other is None or other.name in seen:
            continue
        seen.add(other.name)
        if other.role == stage.role and other.problems is not None:
            yield other.name, other.problems.split
        yield from _learned(cfg, other, seen)
