"""After the first step of a stage that samples, what stands out in it is said in words.

The mistakes of a first run show here: a budget of tokens that cuts answers off, a prompt that asks
for no final answer, a reward that is the same for all.
"""

from collections.abc import Mapping
from typing import Any

from rlvr_jax.config import PrmStage, RlStage, Trained
from rlvr_jax.stages.workspace import Workspace

MANY = 0.5  # share of the answers from which on something stands out
CUT_OFF = 0.25  # the same of answers that were cut off, which teach to be short, if anything
EQUAL = 0.75  # the same of groups with equal rewards
HIGH = 2e-4  # learning rate from which on a pretrained model without an adapter soon says nothing


def look(ws: Workspace, stage: Trained, values: Mapping[str, Any]) -> None:
    """Say what stands out in the metrics of the first step, and keep it for the report."""
    if isinstance(stage, RlStage | PrmStage):
        grm = stage.role == "grm"
        columns = (ws.cfg.critique.data if grm else ws.cfg.data).response_columns
        key = "critique.data" if grm else "data"
        for remark in remarks(stage, values, columns, f"{key}.response_columns"):
            ws.run.remark(f"{stage.name} step 1: {remark}")
    model, new = getattr(ws.cfg, stage.trains), "fresh" in (x.source for x in stage.inputs)
    if model.weights and not model.adapter.rank and not new and stage.optim.lr > HIGH:
        ws.run.remark(
            f"{stage.name}: optim.lr is {stage.optim.lr:g}, which is high for a pretrained model: "
            "1e-6 to 5e-5 is usual, the less the larger the model"
        )


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
    if share(cut) >= CUT_OFF:
        found.append(
            f"{of(cut)} answers were cut off at {columns} tokens: raise {key}, or ask for shorter "
            "answers, if ten steps do not mend it"
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
    elif (equal := share("reward/frac_zero_std")) >= EQUAL and stage.samples > 1:
        found.append(
            f"in {equal:.0%} of the groups of {stage.samples} answers all rewards are equal: take "
            "problems that are neither too easy nor too hard, or more samples, if ten steps do not "
            "mend it"
        )
    return found
