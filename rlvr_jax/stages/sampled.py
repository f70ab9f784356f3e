"""The rl and prm stages share their frozen models, problems, and the audit before training.

In every step of both stages, a policy answers problems and a verifier or a rule rewards the
answers.
"""

from rlvr_jax.config import Sampling
from rlvr_jax.host.hardening import trials
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import audit, verdicts
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Params


def is_split(stage: Sampling, ws: Workspace) -> bool:
    """Return whether the rewards of a stage need the host, so that its step is split in two."""
    return stage.hosted or bool(ws.cfg.verifier_tokenizer)


def frozen_models(stage: Sampling, ws: Workspace, reference: Params) -> Frozen:
    """Load the models that the steps of a stage read and never change."""
    newline_V, _, _ = ws.tokenizer.tables(ws.cfg.model.vocab)
    if not stage.reward.judged:
        return Frozen(reference, {}, None, ws.replicate(newline_V))
    verifier = ws.load(stage.verifier, ws.cfg.verifier)
    return Frozen(reference, verifier, ws.verdict(), ws.replicate(newline_V))


def unjudged_problems(stage: Sampling, ws: Workspace) -> dataset.RandomAccessSource:
    """Return the problems of a stage without those whose verdicts its verifier learned from.

    The verifier would be too sure of itself on them; the paper (arXiv 2503.23829) keeps its two
    sets of prompts apart too.

    Raises:
      RunError: too few problems remain.
    """
    source = ws.problems(stage.split)
    learned = verdicts.learnt_problems(ws, stage.verifier) if stage.reward.judged else set()
    if not learned:
        return source
    fresh = [i for i, record in enumerate(dataset.each(source)) if record["key"] not in learned]
    if len(fresh) == len(source):
        return source
    if len(fresh) < stage.prompts:
        train = stage.split == "train"
        other = "explore with `split: label`" if train else "take those of `split: train`"
        raise RunError(
            f"{len(source) - len(fresh)} of {len(source)} problems of split {stage.split} are "
            f"those that the verifier of stage {stage.name} learnt from, and {stage.prompts} "
            f"others are needed: {other}, or raise data.{stage.split}"
        )
    log.say(f"{stage.name}: {len(source) - len(fresh)} problems left out, its verifier knows them")
    return dataset.keep(source, fresh)


def audit_verifier(
    ws: Workspace, stage: Sampling, frozen: Frozen, workers: pool.Pool
) -> dict[str, float]:
    """Attack the verifier of a stage in the quick form, and return metrics for the first step.

    Raises:
      RunError: the audit found more than its limits allow, and `reward.audit` is `stop`.
    """
    if stage.reward.audit == "off" or not stage.reward.judged:
        return {}
    report = audit.run(ws, stage, frozen, workers, quick=True)
    faults = trials.faults(report, ws.cfg.audit)
    if faults:
        message = f"audit of {stage.verifier}: {'; '.join(faults)}"
        if stage.reward.audit == "stop":
            raise RunError(f"{message}. Harden it (docs/audit.md), or set reward.audit: warn")
        log.say(message)
    return trials.metrics(report)
