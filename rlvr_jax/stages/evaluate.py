"""Stage `evaluate` measures accuracy on held-out problems: oracle, exact match and verifier.

The oracle is a rule: the one that the stage names, or the rule of each task.  `measure` does the
same for the command `python -m rlvr_jax.evaluate`.
"""

import functools
import json
from typing import Any

import jax
import numpy as np

from rlvr_jax import prm
from rlvr_jax.config import EvaluateStage, RlStage
from rlvr_jax.host.files import whole_file
from rlvr_jax.host.hardening import trials
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.verdicts import estimates, voting
from rlvr_jax.host.verdicts.agreement import agreement
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import audit, left
from rlvr_jax.stages.answers import GREEDY, Answerer, Answers, form_of
from rlvr_jax.stages.first_step import CUT_OFF
from rlvr_jax.stages.models import PRETRAINED
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Params

CHOSEN = {  # ways to choose one answer of k, and how the table calls them
    "majority": "majority of k",
    "weighted": "votes weighted by the PRM",
    "best_of_k_min": "best of k, least line",
    "best_of_k_sum": "best of k, sum",
}
BY_VERIFIER = {
    "weighted_verifier": "votes weighted by the verifier",
    "best_of_k_verifier": "best of k by the verifier",
}


def run(stage: EvaluateStage, ws: Workspace) -> dict:
    """Evaluate a policy on all test problems, and return the result (`summary`).

    It is written to eval/NAME.json, and the answers to eval/NAME.jsonl.  No random key of training
    is used.
    """
    cfg = ws.cfg
    params = ws.load(stage.policy, cfg.model)
    judge = ws.load(stage.verifier, cfg.verifier) if stage.verifier else None
    sampled, greedy = answer(stage, ws, params, judge, ws.problems("test"))
    result: dict[str, Any] = {"name": stage.name, "policy": stage.policy}
    result |= {"step": _steps_of(ws, stage.policy)} | summary(stage, sampled, greedy)
    if judge is not None:
        result["audit"] = _audit(stage, ws, judge)
    if ws.run.team.first:
        path = ws.run.kept_answers(stage.name)
        path.parent.mkdir(exist_ok=True)
        whole_file.write_whole(path, kept_lines(sampled, greedy))
    ws.run.write_json(ws.run.evaluation(stage.name), result)
    said = [f"{result['measure']} {result['accuracy']['all']:.1%}"] if stage.samples else []
    said.append(f"greedy {result['greedy']['all']:.1%}")
    log.say(f"{stage.name}: {', '.join(said)}, exact match {result['exact_match']['all']:.1%}")
    if (cut := result["cut_off"]["all"]) >= CUT_OFF:
        ws.run.remark(
            f"{stage.name}: {cut:.0%} of the answers were cut off at {cfg.data.response_columns} "
            "tokens, which counts as wrong: raise data.response_columns, or ask for shorter answers"
        )
    return result


def answer(
    stage: EvaluateStage,
    ws: Workspace,
    params: Params,
    judge: Params | None,
    problems: dataset.RandomAccessSource,
) -> tuple[Answers, Answers]:
    """Let a policy answer problems `stage.samples` times and once greedily, and grade the answers.

    Without samples the greedy answers are returned twice.
    """
    rate = _prm_scorer(stage, ws) if stage.prm else None
    form = form_of(stage)
    one = form._replace(sample=GREEDY, samples=1, shown=f"{stage.name}, greedy")
    with pool.Pool(seconds=stage.seconds) as workers:
        if not stage.samples:
            greedy = Answerer(ws, one, workers, judge is not None)(params, judge, problems, rate)
            return greedy, greedy
        sampled = Answerer(ws, form, workers, judge is not None)(params, judge, problems, rate)
        return sampled, Answerer(ws, one, workers)(params, None, problems)


def summary(stage: EvaluateStage, sampled: Answers, greedy: Answers) -> dict[str, Any]:
    """Compute the measures of answers, each over all problems and by domain.

    `accuracy` is avg@k, the mean over k answers per problem; `pass_at` has for each number the
    share of problems that so many answers solve, without bias (`estimates.best_of`), and
    `pass_at_k` is that of all k.  `greedy` is the accuracy of one answer at temperature 0.  A
    response that was cut off counts as wrong.  If scores other than 0 and 1 occur, `measure` is
    "mean score", and pass@k is the best score of k answers.  `intervals` has the interval of each.

    `majority` is the accuracy of the most frequent final answer among the k.  A PRM adds three more
    accuracies.  For `weighted`, the weight of a vote is the sigmoid of the smallest reward among
    the lines of the response.  For `best_of_k_min`, the answer is chosen whose smallest line reward
    is greatest; for `best_of_k_sum`, the answer whose sum of rewards is greatest.  A verifier adds
    `weighted_verifier`, where its reward is the weight of a vote, and `best_of_k_verifier`.
    """
    k, domains = max(stage.samples, 1), greedy["domain"]
    score_QG = sampled["oracle"].reshape(-1, k)
    per_problem = {
        "accuracy": score_QG.mean(1),
        "pass_at_k": score_QG.max(1),
        "greedy": greedy["oracle"],
        "exact_match": sampled["exact"].reshape(-1, k).mean(1),
        "cut_off": sampled["cut"].reshape(-1, k).mean(1),
        "crashed": sampled["crashed"].reshape(-1, k).mean(1),
    }
    if sampled["reward"].size:
        per_problem["verifier_reward"] = sampled["reward"].reshape(-1, k).mean(1)
    for name, row_Q in _chosen(sampled, k).items():
        per_problem[name] = sampled["oracle"][row_Q]
    passed = {f"pass@{n}": estimates.best_of(score_QG, n) for n in estimates.choose_counts(k)}
    means, intervals = estimates.by_domain(per_problem | passed, domains)
    result: dict[str, Any] = {
        "n": len(domains),
        "samples": stage.samples,
        "measure": "accuracy" if _is_binary(sampled, greedy) else "mean score",
        "domains": {name: domains.count(name) for name in sorted(set(domains))},
        **{name: means[name] for name in per_problem},
        "pass_at": {name.removeprefix("pass@"): means[name] for name in passed},
        "intervals": {name: intervals[name] for name in per_problem},
    }
    result["intervals"]["pass_at"] = {n.removeprefix("pass@"): intervals[n] for n in passed}
    if sampled["reward"].size:
        said, truth = sampled["reward"] > 0.5, sampled["oracle"] > 0.5
        result["verifier"] = agreement(said, truth)
        domain = np.repeat(domains, k)
        result["verifier_by_domain"] = {
            name: agreement(said[domain == name], truth[domain == name])
            for name in sorted(set(domains))
        }
    return result


def _is_binary(*answered: Answers) -> bool:
    return all(bool(np.isin(answers["oracle"], (0.0, 1.0)).all()) for answers in answered)


def kept_lines(sampled: Answers, greedy: Answers) -> str:
    """Return the lines of eval/NAME.jsonl: by problem, the greedy answer and then the others."""
    first = greedy["row"]
    k = len(sampled["row"]) // len(first)
    rows: list[dict] = []
    for i, row in enumerate(first):
        rows.append(row)
        rows += sampled["row"][i * k : (i + 1) * k] if sampled is not greedy else []
    return "".join(json.dumps(log.plain(row), ensure_ascii=False) + "\n" for row in rows)


def _steps_of(ws: Workspace, policy: str) -> int:
    """Return after how many steps of reinforcement learning a policy stands."""
    if policy == PRETRAINED:
        return 0
    found = left.find(ws.run, policy)
    return found.step if found.kind == RlStage.stage else 0


def _chosen(sampled: Answers, k: int) -> dict[str, np.ndarray]:
    """Return the row of the answer that is chosen for each problem, for each way to choose."""
    ballots, reward_B = sampled["ballot"], sampled["reward"]
    chosen = {"majority": voting.majority(ballots, k)}
    if sampled["least"].size:
        least_B, sum_B = sampled["least"], sampled["sum"]
        chosen |= {
            "weighted": voting.weighted(ballots, least_B, k),
            "best_of_k_min": voting.best(least_B, k),
            "best_of_k_sum": voting.best(sum_B, k),
        }
    if reward_B.size:
        chosen |= {
            "weighted_verifier": voting.weighed(ballots, reward_B, k),
            "best_of_k_verifier": voting.best(reward_B, k),
        }
    return chosen


def _prm_scorer(stage: EvaluateStage, ws: Workspace):
    """Return a function from a rollout to the smallest line reward [B] and the sum of rewards [B].

    The rewards are those of the stage's PRM, with the beta and temperature of its training.
    """
    cfg = ws.cfg
    source = ws.models.cfg.prm_stage(stage.prm)
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
    graded = any(e.get("measure") == "mean score" for e in evals)
    measure = "mean score" if graded else "accuracy"
    drawn = any(e.get("samples", 1) for e in evals)
    measure = measure if drawn else f"greedy {measure}"
    domains = list(evals[0]["accuracy"])
    if len(domains) == 2:  # all, and the only one
        domains = domains[:1]
    rows: list[list[Any]] = [
        [f"{measure}, {domain}", *(e["accuracy"][domain] for e in evals)] for domain in domains
    ]
    if all("intervals" in e for e in evals):
        edges = [e["intervals"]["accuracy"]["all"] for e in evals]
        rows.insert(1, ["95 % interval", *(f"{low:.3f} - {high:.3f}" for low, high in edges)])
    if drawn:
        rows.append([f"{measure}, all, greedy", *(e["greedy"]["all"] for e in evals)])
    rows.append(["exact match, all", *(e["exact_match"]["all"] for e in evals)])
    for name, words in (CHOSEN | BY_VERIFIER).items() if drawn else ():
        chosen = [e[name]["all"] if name in e else "-" for e in evals]
        if set(chosen) != {"-"}:
            rows.append([f"{words}, all", *chosen])
    agreed = [e.get("verifier", {}).get("accuracy", "-") for e in evals]
    if set(agreed) != {"-"}:
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
