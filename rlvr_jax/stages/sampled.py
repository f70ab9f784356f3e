"""The rl and prm stages share their frozen models, problems, and the audit before training.

In every step of both stages, a policy answers problems and a verifier or a rule rewards the
answers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from rlvr_jax import adapters, grm
from rlvr_jax.config import RlStage, Sampling
from rlvr_jax.host.hardening import preferences, trials
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import audit, first_verdicts, grm_audit, programs, verdicts
from rlvr_jax.stages.grm_workspace import GrmWorkspace
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Params, Prompts


def is_split(stage: Sampling, ws: Workspace) -> bool:
    """Return whether the rewards of a stage need the host, so that its step is split in two."""
    return programs.is_split(stage, ws.cfg)


def frozen_models(stage: Sampling, ws: Workspace, reference: Params) -> Frozen:
    """Load the models that the steps of a stage read and never change.

    Where the stage trains an adapter, models on the same base hold only what differs from it.
    """
    frozen, base = _load_frozen(stage, ws, reference), ws.base(stage.policy, ws.cfg.model)
    return dataclasses.replace(
        frozen,
        base=base,
        reference=adapters.apart(reference, base),
        verifier=adapters.apart(frozen.verifier, base),
        grm=adapters.apart(frozen.grm, base),
        meta=adapters.apart(frozen.meta, base),
    )


def _load_frozen(stage: Sampling, ws: Workspace, reference: Params) -> Frozen:
    newline_V, _, _ = ws.tokenizer.tables(ws.cfg.model.vocab)
    if isinstance(ws, GrmWorkspace):
        return Frozen(reference, {}, newline_V=ws.replicate(newline_V), critic=ws.critic())
    if isinstance(stage, RlStage) and stage.uses_grm:
        asked, votes = GrmWorkspace(ws), stage.reward.grm
        return Frozen(
            reference,
            {},
            newline_V=ws.replicate(newline_V),
            grm=asked.load(stage.grm, ws.cfg.grm),
            meta=asked.load(votes.meta, ws.cfg.grm) if votes.meta else {},
            critic=asked.critic(votes.together),
        )
    if not stage.reward.judged:
        return Frozen(reference, {}, newline_V=ws.replicate(newline_V))
    verifier = ws.load(stage.verifier, ws.cfg.verifier)
    return Frozen(reference, verifier, ws.verdict(), newline_V=ws.replicate(newline_V))


def prompt_encoder(
    stage: Sampling, ws: Workspace, problems: dataset.RandomAccessSource
) -> Callable[[list[dataset.Record], int], Prompts]:
    """Return a function from records and the number of a step to prompts (numpy arrays).

    If a generative reward model judges the responses, the prompts hold its contexts.

    Raises:
      RunError: the context of a problem is longer than its columns.
    """
    if not (isinstance(stage, RlStage) and stage.uses_grm):
        return ws.columns
    asked = GrmWorkspace(ws)
    widest = max(len(asked.encode_context(record)) for record in dataset.each(problems))
    if widest > ws.cfg.critique.data.check_columns:
        raise RunError(
            f"the longest query of stage {stage.name} needs {widest} tokens in the prompt of its "
            f"generative reward model: raise critique.data.check_columns to at least {widest}"
        )

    def encode(records: list[dataset.Record], step: int) -> Prompts:
        context_QC, mask_QC = asked.encode_contexts(records)
        prompts = ws.columns(records, step)
        return dataclasses.replace(prompts, check_QC=context_QC, check_mask_QC=mask_QC)

    return encode


def unjudged_problems(stage: Sampling, ws: Workspace) -> dataset.RandomAccessSource:
    """Return the problems of a stage without those whose verdicts its verifier learned from.

    The verifier would be too sure of itself on them; the paper (arXiv 2503.23829) keeps its two
    sets of prompts apart too.

    Raises:
      RunError: too few problems remain.
    """
    if isinstance(ws, GrmWorkspace) and isinstance(stage, RlStage):
        return ws.items(stage.items, stage.split)
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


def check_verifier(ws: Workspace, stage: Sampling, frozen: Frozen) -> None:
    """Let the verifier that rewards a stage give its first verdicts; see `first_verdicts.check`.

    Raises:
      RunError: the verifier says something else than its two words.
    """
    if stage.reward.judged:
        params = adapters.over(frozen.base, frozen.verifier)
        first_verdicts.check(ws, stage.name, params, stage.reward, stage.split)


def audit_reward(
    ws: Workspace, stage: Sampling, frozen: Frozen, workers: pool.Pool
) -> dict[str, float]:
    """Attack the verifier or GRM that rewards a stage, in the quick form.

    Returns metrics for the first step.  Without preference items a GRM is not attacked.

    Raises:
      RunError: `reward.audit` is `stop`, and the audit found more than its limits allow or was not
        possible.
    """
    cfg = stage.reward
    if cfg.audit == "off" or not (cfg.judged or cfg.by_grm):
        return {}
    if isinstance(stage, RlStage) and stage.uses_grm:
        try:
            report = _audit_grm(ws, stage, frozen)
        except grm_audit.NoPairsError as error:
            _object(stage, f"no audit of {stage.grm}: {error}")
            return {}
        name, measured = stage.grm, preferences.metrics(report)
        faults = preferences.faults(report, ws.cfg.audit)
    else:
        report = audit.run(ws, stage, frozen, workers, quick=True)
        name, measured = stage.verifier, trials.metrics(report)
        faults = trials.faults(report, ws.cfg.audit)
    if faults:
        _object(stage, f"audit of {name}: {'; '.join(faults)}")
    return measured


def _audit_grm(ws: Workspace, stage: RlStage, frozen: Frozen) -> dict[str, Any]:
    if frozen.critic is None:
        raise ValueError("source grm needs the tables with which a GRM is asked")
    judge = grm.Judge(
        adapters.over(frozen.base, frozen.grm),
        frozen.critic,
        adapters.over(frozen.base, frozen.meta) if frozen.meta else {},
    )
    return grm_audit.run(GrmWorkspace(ws), stage, judge, quick=True)


def _object(stage: Sampling, message: str) -> None:
    """Print the result of an audit, or raise it as RunError if the stage wants that."""
    if stage.reward.audit == "stop":
        raise RunError(f"{message}. Harden it (docs/audit.md), or set reward.audit: warn")
    log.say(message)
