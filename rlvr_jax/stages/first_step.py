"""After the first step of a stage that samples, what stands out in it is said in words.

The mistakes of a first run show here: a budget of tokens that cuts answers off, a prompt that asks
for no final answer, a reward that is the same for all.
"""

from collections.abc import Mapping
from typing import Any

from rlvr_jax.config import PrmStage, RlStage, Trained
from rlvr_jax.stages.workspace import Workspace

MANY = 0.5  # share of the answers from which on something stands out


def look(ws: Workspace, stage: Trained, values: Mapping[str, Any]) -> None:
    """Say what stands out in the metrics of the first step, and keep it for the report."""
    if isinstance(stage, RlStage | PrmStage):
        grm = stage.role == "grm"
        columns = (ws.cfg.critique.data if grm else ws.cfg.data).response_columns
        key = "critique.data" if grm else "data"
        for remark in remarks(stage, values, columns, f"{key}.response_columns"):
            ws.run.remark(f"{stage.name} step 1: {remark}")


def remarks(
    stage: RlStage | PrmStage, values: Mapping[str, Any], columns: int, key: str
) -> list[str]:
    """Return sentences about a step; `columns` is the token budget, which `key` sets."""
    rows = stage.prompts * stage.samples

    def share(name: str) -> float:
        return float(values.get(name) or 0.0)

    def of(name: str) -> str:
        # A filter leaves out rows and draws others: their number is not that of the config.
        filtered = isinstance(stage, RlStage) and stage.filter.on
        part = share(name)
        return f"{part:.0%} of the" if filtered else f"{part * rows:.0f} of {rows}"

    cut = "completion/truncated_frac"
    found = []
    if share(cut) >= MANY:
        found.append(
            f"{of(cut)} answers were cut off at {columns} tokens: raise {key}, or ask for shorter "
            "answers"
        )
    if share("rule/no_answer") >= MANY:
        found.append(
            f"the rule found no final answer in {of('rule/no_answer')} answers: ask for one in the "
            "prompt (`suffix` of a source), or choose a rule that needs none"
        )
    if share("rule/timeout") > 0:
        found.append(
            f"{of('rule/timeout')} gradings took too long and score 0: raise reward.seconds"
        )
    if values.get("reward/std") == 0:
        found.append(
            f"all rewards are equal ({share('reward/mean'):g}), and from equal rewards nothing is "
            "learned: look at the samples, and at what the rule gives to them"
        )
    elif share("reward/frac_zero_std") == 1 and stage.samples > 1:
        found.append(
            f"in every group of {stage.samples} answers all rewards are equal: take problems that "
            "are neither too easy nor too hard, or more samples"
        )
    return found
