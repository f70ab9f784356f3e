"""Stage `evaluate` measures accuracy on held-out problems: oracle, exact match and verifier.

The oracle is a rule: the one that the stage names, or the rule of each task.
"""

import functools
import json
from typing import Any

import jax
import numpy as np

from rlvr_jax import prm
from rlvr_jax.config import EvaluateStage, RlStage
from rlvr_jax.host.hardening import trials
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.verdicts import voting
from rlvr_jax.host.verdicts.agreement import agreement
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import audit, left
from rlvr_jax.stages.answers import GREEDY, Answerer, Form, accuracy
from rlvr_jax.stages.models import PRETRAINED
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen

CHOSEN = {  # ways to choose one answer of k, and how the table calls them
    "majority": "majority of k",
    "weighted": "votes weighted by the PRM",
    "best_of_k_min": "best of k, least line",
    "best_of_k_sum": "best of k, sum",
}


def run(stage: EvaluateStage, ws: Workspace) -> dict:
    """Evaluate a policy on all test problems, write the result to eval/NAME.json and return it.

    `accuracy` is avg@k, the mean over k samples per problem; `pass_at_k` is the share of
    problems with a right sample among the k; `greedy` is the accuracy of one answer at
    temperature 0.  A response that was cut off counts as wrong.  No random key of training is
    used.

    `majority` is the accuracy of the most frequent final answer among the k.  A PRM adds three more
    accuracies.  For `weighted`, the weight of a vote is the sigmoid of the smallest reward among
    the lines of the response.  For `best_of_k_min`, the answer is chosen whose smallest line reward
    is greatest; for `best_of_k_sum`, the answer whose sum of rewards is greatest.
    """
    cfg = ws.cfg
    params = ws.load(stage.policy, cfg.model)
    judge = ws.load(stage.verifier, cfg.verifier) if stage.verifier else None
    rate = _prm_scorer(stage, ws) if stage.prm else None
    with pool.Pool(seconds=stage.seconds) as workers:
        form = Form(stage.name, stage.sample, stage.samples, stage.batch, stage.rule, stage.name)
        records = ws.problems("test")
        sampled = Answerer(ws, form, workers, judge is not None)(params, judge, records, rate)
        one = form._replace(sample=GREEDY, samples=1, shown=f"{stage.name}, greedy")
        greedy = Answerer(ws, one, workers)(params, None, records)
    best = sampled["oracle"].reshape(-1, stage.samples).max(1)
    domains = greedy["domain"]
    result: dict[str, Any] = {
        "name": stage.name,
        "policy": stage.policy,
        "step": _steps_of(ws, stage.policy),
        "n": len(domains),
        "samples": stage.samples,
        "accuracy": accuracy(sampled["oracle"], sampled["domain"]),
        "pass_at_k": accuracy(best, domains),
        "greedy": accuracy(greedy["oracle"], domains),
        "exact_match": accuracy(sampled["exact"], sampled["domain"]),
    }
    for name, row_Q in _chosen(stage, sampled).items():
        result[name] = accuracy(sampled["oracle"][row_Q], domains)
    if judge is not None:
        result["verifier"] = agreement(sampled["reward"] > 0.5, sampled["oracle"] > 0.5)
        result["verifier_reward"] = accuracy(sampled["reward"], sampled["domain"])
        result["audit"] = _audit(stage, ws, judge)
    ws.run.write_json(ws.run.evaluation(stage.name), result)
    log.say(
        f"{stage.name}: accuracy {result['accuracy']['all']:.1%}, "
        f"greedy {result['greedy']['all']:.1%}, exact match {result['exact_match']['all']:.1%}"
    )
    return result


def _steps_of(ws: Workspace, policy: str) -> int:
    """Return after how many steps of reinforcement learning a policy stands."""
    if policy == PRETRAINED:
        return 0
    found = left.find(ws.run, policy)
    return found.step if found.kind == RlStage.stage else 0


def _chosen(stage: EvaluateStage, sampled: dict) -> dict[str, np.ndarray]:
    """Return the row of the answer that is chosen for each problem, for each way to choose."""
    k, ballots = stage.samples, sampled["ballot"]
    plain = {"majority": voting.majority(ballots, k)}
    if not stage.prm:
        return plain
    least_B, sum_B = sampled["least"], sampled["sum"]
    return plain | {
        "weighted": voting.weighted(ballots, least_B, k),
        "best_of_k_min": voting.best(least_B, k),
        "best_of_k_sum": voting.best(sum_B, k),
    }


def _prm_scorer(stage: EvaluateStage, ws: Workspace):
    """Return a function from a rollout to the smallest line reward [B] and the sum of rewards [B].

    The rewards are those of the stage's PRM, with the beta and temperature of its training.
    """
    cfg = ws.cfg
    source = cfg.prm_stage(stage.prm)
    params = ws.load_prm(stage.prm)
    reference = ws.load(stage.prm_reference or source.policy, cfg.model)
    newline_V = ws.replicate(ws.tokenizer.tables(cfg.model.vocab)[0])
    score = jax.jit(
        functools.partial(
            prm.score_responses,
            beta=source.prm.beta,
            sample_cfg=source.sample.whole,
            model_cfg=cfg.model,
        )
    )
    return lambda rollout: score(params, reference, rollout, newline_V)


def _audit(stage: EvaluateStage, ws: Workspace, judge) -> dict[str, float]:
    """Run the quick audit of the verifier and return the metrics that an rl stage logs of it."""
    rewarded = RlStage(name=stage.name, verifier=stage.verifier)
    frozen = Frozen(reference={}, verifier=judge, verdict=ws.verdict())
    with pool.Pool(seconds=stage.seconds) as workers:
        return trials.metrics(audit.run(ws, rewarded, frozen, workers, quick=True))


def summarise(ws: Workspace) -> None:
    """Print a table with a column for each evaluation, and the speed of each rl stage."""
    names = [stage.name for stage in ws.cfg.evaluations]
    evals = [_load_evaluation(ws, name) for name in names]
    if not evals:
        return
    rows: list[list[Any]] = [
        [f"accuracy, {domain}", *(e["accuracy"][domain] for e in evals)]
        for domain in evals[0]["accuracy"]
    ]
    rows.append(["accuracy, all, greedy", *(e["greedy"]["all"] for e in evals)])
    rows.append(["exact match, all", *(e["exact_match"]["all"] for e in evals)])
    for name, words in CHOSEN.items():
        chosen = [e[name]["all"] if name in e else "-" for e in evals]
        if set(chosen) != {"-"}:
            rows.append([f"{words}, all", *chosen])
    agreed = [e.get("verifier", {}).get("accuracy", "-") for e in evals]
    rows.append(["verifier = oracle", *agreed])
    log.table("held-out problems, by the oracle", ["", *names], rows)
    for stage in ws.cfg.rl_stages:
        speed = ws.run.metrics.median(stage.name, "perf/tokens_per_s")
        log.say(f"{stage.name}: {speed:.0f} generated tokens/s in the median step")


def _load_evaluation(ws: Workspace, name: str) -> dict[str, Any]:
    """Load the result of an evaluation.

    Raises:
      RunError: the file is missing or damaged.
    """
    path = ws.run.evaluation(name)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(found[key]["all"], float | int) for key in ("accuracy", "greedy")):
            return found
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise RunError(f"{path} is missing or damaged: remove the marker of stage {name} in stages/")
