"""A policy in training answers held-out problems, between two steps (`rl.eval`).

The random keys are those of the stage's name and the same at each evaluation, so that the draws of
training do not move, and two evaluations differ by the policy alone.
"""

from typing import Any

from rlvr_jax import adapters
from rlvr_jax.config import RlStage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.verdicts.agreement import agreement
from rlvr_jax.host.workers import pool
from rlvr_jax.stages.answers import GREEDY, Answerer, Answers, Form, accuracy
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, TrainState


class Examiner:
    """An Examiner measures the policy of a stage, every `eval.every` steps and after the last."""

    def __init__(self, stage: RlStage, ws: Workspace, frozen: Frozen, workers: pool.Pool):
        """Choose the problems, the first ones of the split, and build the programs."""
        cfg = stage.eval
        self._stage, self._frozen = stage, frozen
        problems = ws.problems(cfg.split)
        self._problems = dataset.keep(problems, list(range(min(cfg.problems, len(problems)))))
        # A verifier with a tokenizer of its own is asked on the host; it has no say here.
        self._judged = stage.reward.judged and not ws.cfg.verifier_tokenizer and cfg.samples > 0
        name = f"{stage.name}/eval"
        form = Form(name, stage.sample, cfg.samples, cfg.batch, stage.reward.rule)
        self._sampled = Answerer(ws, form, workers, self._judged) if cfg.samples else None
        self._greedy = Answerer(ws, form._replace(sample=GREEDY, samples=1), workers)

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Return the metrics of the policy after a step, named eval/NAME; nothing between two."""
        stage = self._stage
        if step % stage.eval.every and step != stage.steps:
            return {}
        params = adapters.over(self._frozen.base, state.params)
        greedy = self._greedy(params, None, self._problems)
        metrics = {"eval/greedy": float(greedy["oracle"].mean())}
        answers = greedy
        if self._sampled:
            answers = self._sampled(params, self._verifier(), self._problems)
            metrics["eval/pass_at_k"] = float(
                answers["oracle"].reshape(-1, stage.eval.samples).max(1).mean()
            )
        metrics |= _accuracy(answers)
        if self._judged:
            agreed = agreement(answers["reward"] > 0.5, answers["oracle"] > 0.5)
            metrics["eval/false_positive"] = agreed["false_positive"]
            metrics["eval/false_negative"] = agreed["false_negative"]
        log.say(
            f"{stage.name} step {step}: held-out accuracy {metrics['eval/accuracy']:.1%}, greedy "
            f"{metrics['eval/greedy']:.1%}"
        )
        return metrics

    def _verifier(self) -> Any:
        if not self._judged:
            return None
        return adapters.over(self._frozen.base, self._frozen.verifier)


def _accuracy(answers: Answers) -> dict[str, float]:
    by_domain = accuracy(answers["oracle"], answers["domain"])
    metrics = {"eval/accuracy": by_domain.pop("all")}
    if len(by_domain) > 1:
        metrics |= {f"eval/accuracy/{domain}": share for domain, share in by_domain.items()}
    return metrics
