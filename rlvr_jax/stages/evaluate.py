"""Stage `evaluate`: held-out accuracy by the oracle, beside exact match and the verifier."""

import functools
import json
from typing import Any

import jax
import numpy as np

from rlvr_jax import engine, prm, verifier
from rlvr_jax.config import EvaluateStage, PrmStage, RewardConfig, RlStage, SampleConfig
from rlvr_jax.host.hardening import trials
from rlvr_jax.host.problems import task_answers
from rlvr_jax.host.rules import jobs
from rlvr_jax.host.runs import log
from rlvr_jax.host.verdicts import voting
from rlvr_jax.host.verdicts.agreement import agreement
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import audit
from rlvr_jax.stages.workspace import Workspace, chunks, padded
from rlvr_jax.structs import Frozen

GREEDY = SampleConfig(temperature=0)
CHOSEN = {  # accuracy of one answer of k, however it was chosen
    "majority": "majority of k",
    "weighted": "votes weighted by the PRM",
    "best_of_k_min": "best of k, least line",
    "best_of_k_sum": "best of k, sum",
}


def run(stage: EvaluateStage, ws: Workspace) -> dict:
    """Writes eval/NAME.json.

    accuracy: avg@k, the mean over k samples per problem; pass@k: share of problems with a right
    sample among the k; greedy: one answer at temperature 0.  The oracle and exact match see the
    whole text of finished answers only.  Training keys are not touched.

    majority: the most frequent final answer of the k.  With a PRM: weighted, by sigma of an
    answer's least line reward; best_of_k_min, best_of_k_sum, by its least line reward or its sum.
    """
    cfg = ws.cfg
    params = ws.load(stage.policy, cfg.model)
    judge = ws.load(stage.verifier, cfg.verifier) if stage.verifier else None
    rate = _rater(stage, ws) if stage.prm else None
    sampled = _answers(stage, ws, params, judge, stage.sample, stage.samples, rate)
    greedy = _answers(stage, ws, params, None, GREEDY, 1)
    best = sampled["oracle"].reshape(-1, stage.samples).max(1)
    domains = greedy["domain"]
    result: dict[str, Any] = {
        "name": stage.name,
        "policy": stage.policy,
        "step": {s.name: s.steps for s in cfg.stages if isinstance(s, RlStage)}.get(
            stage.policy, 0
        ),
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
    log.write_json(ws.run.evaluation(stage.name), result)
    log.say(
        f"{stage.name}: accuracy {result['accuracy']['all']:.1%}, "
        f"greedy {result['greedy']['all']:.1%}, exact match {result['exact_match']['all']:.1%}"
    )
    return result


def _chosen(stage: EvaluateStage, sampled: dict) -> dict[str, np.ndarray]:
    """The row of the answer chosen for each problem, by the ways there are to choose."""
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


def _rater(stage: EvaluateStage, ws: Workspace):
    """rollout -> least line reward [B], sum [B]: by the PRM, as it was trained to compare."""
    cfg = ws.cfg
    source = next(s for s in cfg.stages if s.name == stage.prm)
    assert isinstance(source, RlStage | PrmStage)
    params = ws.load_prm(stage.prm)
    reference = ws.load(stage.prm_reference or source.policy, cfg.model)
    newline_V = ws.tokenizer.tables(cfg.model.vocab)[0]
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
    """The quick audit of the verifier, as the metrics of an rl stage have it."""
    asked = RlStage(name=stage.name, verifier=stage.verifier)
    frozen = Frozen(reference={}, verifier=judge, verdict=ws.verdict())
    with pool.Pool(seconds=stage.seconds) as workers:
        return trials.metrics(audit.run(ws, asked, frozen, workers, quick=True))


def summarise(ws: Workspace) -> None:
    """A table of all evaluations of the run, one column each, and the speed of its rl stages."""
    names = [s.name for s in ws.cfg.stages if isinstance(s, EvaluateStage)]
    evals = [json.loads(ws.run.evaluation(name).read_text(encoding="utf-8")) for name in names]
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
    for stage in ws.cfg.stages:
        if isinstance(stage, RlStage):
            speed = ws.run.metrics.median(stage.name, "perf/tokens_per_s")
            log.say(f"{stage.name}: {speed:.0f} generated tokens/s in the median step")


def accuracy(hits: np.ndarray, domains: list[str]) -> dict[str, float]:
    """Mean over everything and by domain."""
    names = np.array(domains)
    by_domain = {d: float(hits[names == d].mean()) for d in sorted(set(domains))}
    return {"all": float(hits.mean()), **by_domain}


def _answers(
    stage, ws: Workspace, params, judge, sample: SampleConfig, samples: int, rate=None
) -> dict:
    """Answers to all test problems and what oracle, exact match, verifier and PRM say, as arrays;
    ballots and domains as lists.
    """
    cfg, tok = ws.cfg, ws.tokenizer
    verdict = None if judge is None else ws.verdict()
    shards = cfg.mesh.data * cfg.mesh.fsdp
    batch = -(-stage.batch // shards) * shards

    @jax.jit
    def write(params, judge, verdict, prompts, key):
        columns = cfg.data.response_columns
        sampler = engine.Sampler(key, tok.eos, samples, columns, sample)
        rollout, _ = engine.generate(params, prompts, sampler, cfg.model)
        if judge is None:
            return rollout, None
        soft = RewardConfig()
        score = verifier.score(judge, prompts, rollout, verdict, soft, cfg.verifier)
        return rollout, score.reward_B

    names = ("oracle", "exact", "reward", "least", "sum", "ballot", "domain")
    out: dict[str, list] = {name: [] for name in names}
    with pool.Pool(seconds=stage.seconds) as workers:
        for number, records in enumerate(chunks(ws.problems("test"), batch)):
            asked = ws.columns(padded(records, batch))
            key = jax.random.fold_in(ws.key(stage.name), number)
            rollout, reward_B = write(params, judge, verdict, ws.place(asked), key)
            rated = rate(rollout) if rate else ()
            rollout, reward_B, rated = jax.device_get((rollout, reward_B, rated))
            rows = range(len(records) * samples)
            for name, value_B in zip(("least", "sum"), rated, strict=False):
                out[name] += [value_B[i] for i in rows]
            texts = [tok.decode(rollout.response_BR[i, : rollout.length_B[i]]) for i in rows]
            owners = [records[i // samples] for i in rows]
            judged = workers.map(jobs.grading_jobs(texts, owners, stage.rule))
            for i, (text, record) in enumerate(zip(texts, owners, strict=True)):
                finished = not rollout.truncated_B[i]
                out["oracle"].append(judged[i].score * finished)
                out["exact"].append(task_answers.exact_match(text, record) * finished)
                out["reward"].append(0.0 if reward_B is None else reward_B[i])
                out["ballot"].append(voting.ballot(text) if finished else None)
                out["domain"].append(record["domain"])
    lists = ("ballot", "domain")
    return {k: v if k in lists else np.array(v, np.float32) for k, v in out.items()}
