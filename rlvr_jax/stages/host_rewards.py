"""The host computes these rewards between the two programs of the split step.

    rule         the score of a rule
    verifier     the verifier's reward, as inside the fused step
    rule_first   1 where the rule accepts, else the verifier's reward (arXiv 2505.22203, section 6)
    both         the product of the two: an answer that one of them rejects is rejected
    rule_then_grm  1 where the rule accepts, else the mean vote of a generative reward model

Gates multiply the reward: an answer that breaks a format earns nothing, and an answer that keeps it
earns nothing extra.  (Added to the reward, a format reward would be blown up to full size by the
normalisation of groups that no answer solves.)

A verifier with its own tokenizer reads the text of the answer, which this module encodes again.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlvr_jax import adapters, grm, step_metrics, verifier
from rlvr_jax.config import RewardConfig, Sampling
from rlvr_jax.host.processes import gathering
from rlvr_jax.host.rules import jobs
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text import answers
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import programs
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Array, Frozen, Prompts, Rollout, TrainState

# What a reward is made of, each [B]: scores by name, and as "status" how its grading ended.
Parts = dict[str, Any]
# (records, their placed prompts, rollout, on_error, key of the round if a model samples votes)
# -> rewards [B] by name, metrics, parts
Rewarder = Callable[..., tuple[dict[str, Array], dict[str, Any], Parts]]
# (records, their placed prompts, rollout, texts of this process's rows, on_error, key of the round)
# -> reward [B] of all rows, metrics
Scorer = Callable[..., tuple[Any, dict[str, Any]]]
# The same -> reward [B] of all rows, metrics, parts
PartScorer = Callable[..., tuple[Any, dict[str, Any], Parts]]
_SAID: set[tuple[str, str]] = set()  # rules and statuses about which a sentence was printed
WIDER = 2  # columns of an answer in the verifier's own tokens, for each column of the policy's


def rewarder(
    stage: Sampling,
    ws: Workspace,
    frozen: Frozen,
    workers: pool.Pool,
    also: Mapping[str, str],
) -> Rewarder:
    """Return a function that computes all rewards of a rollout and places them on the mesh.

    The outcome is named `reward`; `also` maps the names of further rewards to their rules.
    """
    score = part_scorer(stage, ws, frozen, workers)

    def reward(
        records: list, prompts: Prompts, rollout: Rollout, on_error: str, key: Array | None = None
    ):
        texts = response_texts(ws, rollout)
        reward_B, metrics, parts = score(records, prompts, rollout, texts, on_error, key)
        rewards = {"reward": np.asarray(reward_B, np.float32)}
        grade = functools.partial(score_by_rule, ws=ws, workers=workers, on_error=on_error)
        for name, rule in also.items():
            rewards[name], _ = grade(rule, records, texts, rollout)
            parts = parts | {name: rewards[name]}
        return ws.place(rewards), metrics, parts

    return reward


def scorer(stage: Sampling, ws: Workspace, frozen: Frozen, workers: pool.Pool) -> Scorer:
    """Return a function that computes the outcome reward of a rollout on the host."""
    score = part_scorer(stage, ws, frozen, workers)
    return lambda *args, **more: score(*args, **more)[:2]


def part_scorer(stage: Sampling, ws: Workspace, frozen: Frozen, workers: pool.Pool) -> PartScorer:
    """Return a function that also tells what the outcome reward is made of."""
    cfg = stage.reward
    by_rule = functools.partial(score_by_rule, ws=ws, workers=workers)
    ask = None
    if cfg.judged:
        ask = _foreign(stage, ws, frozen) if ws.cfg.verifier_tokenizer else _own(stage, ws, frozen)
    if cfg.by_grm:
        ask = _by_votes(stage, ws, frozen)

    def score(records, prompts, rollout, texts=None, on_error=cfg.on_error, key=None):
        rule_B = gate_B = np.ones(len(rollout.length_B), np.float32)
        metrics: dict[str, Any] = {}
        parts: Parts = {}
        if texts is None and (cfg.hosted or ws.cfg.verifier_tokenizer):
            texts = response_texts(ws, rollout)
        if cfg.ruled:
            rule_B, results = by_rule(cfg.rule, records, texts, rollout, on_error=on_error)
            metrics = jobs.status_metrics(results)
            parts = {"rule": rule_B, "status": [result.status for result in results]}
        for gate in cfg.gates:
            passed_B, _ = by_rule(gate, records, texts, rollout, on_error=on_error)
            gate_B = gate_B * passed_B
            parts[f"gate {Path(gate).stem}"] = passed_B
            metrics |= {f"gate/{Path(gate).stem}": float(passed_B.mean())}
        if ask is None:
            return rule_B * gate_B, metrics, parts
        judged_B, verdict_metrics = ws.fetch(ask(prompts, rollout, texts, key))
        reward_B = combine(cfg.source, rule_B, judged_B)
        if cfg.ruled:
            differ_B = (rule_B >= 1) != (judged_B > 0.5)
            metrics |= {"rule/mean": float(rule_B.mean())}
            who = "grm" if cfg.by_grm else "verifier"
            metrics |= {f"{who}/disagree_frac": float(differ_B.mean())}
        parts["votes" if cfg.by_grm else "p1"] = judged_B
        return reward_B * gate_B, metrics | verdict_metrics, parts

    return score


def on_rule_error(stage: Sampling, state: TrainState) -> str:
    """Return how this step treats an error of the user's own rule: `stop` or `zero`.

    Only the first step of a stage follows `reward.on_error`; later steps give 0.  A rule that fails
    on its first answers is broken, but one rare answer must not end a long run.
    """
    return stage.reward.on_error if int(jax.device_get(state.step)) == 0 else "zero"


def score_by_rule(
    rule: str,
    records,
    texts: Sequence[str],
    rollout: Rollout,
    ws: Workspace,
    workers: pool.Pool,
    on_error: str = "stop",
) -> tuple[np.ndarray, list[pool.Result]]:
    """Score each response with a rule, 0 where the response was truncated.

    `texts` are those of this process's rows, which its own workers grade.  Returns the scores [B]
    and the results of all rows.

    Raises:
      RunError: the user's own rule failed on an answer, and `on_error` is `stop`.
    """
    rows = len(rollout.length_B)
    samples = rows // len(records)
    owners = [record for record in records for _ in range(samples)]
    numbers = ws.own_numbers(rows)
    results = grade(rule, numbers, texts, [owners[i] for i in numbers], ws, workers, on_error)
    scores_B = np.array([result.score for result in results], np.float32)
    return scores_B * ~ws.fetch(rollout.truncated_B), results


def grade(
    rule: str,
    numbers: Sequence[int],
    texts: Sequence[str],
    owners: Sequence[Any],
    ws: Workspace,
    workers: pool.Pool,
    on_error: str = "stop",
) -> list[pool.Result]:
    """Grade this process's rows of a batch with its own workers; return the results of all rows.

    `numbers` are the numbers of these rows, `texts` their texts and `owners` their records.  The
    first error, the first crash and the first output of a rule in this run are printed.

    Raises:
      RunError: the user's own rule failed on an answer, and `on_error` is `stop`.
    """
    mine = workers.map(jobs.grading_jobs(texts, owners, rule))
    name = rule or "task"
    reasons = {
        status: jobs.first_reason(mine, texts, status) for status in ("error", "crash", "ok")
    }
    every = ws.run.team.gather("reasons", reasons)
    results = [pool.Result(*x) for x in gathering.gather_rows(ws.run.team, numbers, mine)]
    for told in every:
        if failure := told["error"]:
            failure = f"the rule {name} failed on {_count(results, 'error')}: {failure}"
            if on_error == "stop":
                raise RunError(f"{failure}. Mend it, or set on_error: zero")
            _say_once(name, "error", failure, ws.run.remark)
        if told["crash"]:
            failed = f"the rule {name} crashed on {_count(results, 'crash')}, which score 0"
            _say_once(name, "crash", f"{failed}: {told['crash']}", ws.run.remark)
        if told["ok"]:
            _say_once(name, "ok", f"the rule {name} {told['ok']}", log.say)
    return results


def _count(results: Sequence[pool.Result], status: str) -> str:
    return f"{sum(x.status == status for x in results)} of {len(results)} answers"


def _say_once(rule: str, status: str, sentence: str, say: Callable[[str], object]) -> None:
    """Say the first sentence about a rule and a status: one is enough to find the cause."""
    if (rule, status) not in _SAID:
        _SAID.add((rule, status))
        say(sentence)


def combine(source: str, rule_B: np.ndarray, judged_B: np.ndarray) -> np.ndarray:
    """Combine the scores of a rule and of the model that judges into one reward [B]."""
    if source in ("rule_first", "rule_then_grm"):
        return np.where(rule_B >= 1, np.float32(1), judged_B)
    return rule_B * judged_B if source == "both" else judged_B


def response_texts(ws: Workspace, rollout: Rollout) -> list[str]:
    """Decode the text of each response in this process's rows."""
    ids, lengths = ws.fetch_own((rollout.response_BR, rollout.length_B))
    return [ws.tokenizer.decode(row[:n]) for row, n in zip(ids, lengths, strict=True)]


def visible_answer(text: str, how: str) -> str:
    """Return the part of a response that a verifier with its own tokenizer sees.

    `how` is the value of `data.answer`.  The result is empty if the response has no answer of one
    line.
    """
    if how == "line":
        return answers.last_line(text)
    answer = answers.extract(text, last_line_too=how == "final") or ""
    return "" if "\n" in answer else answer


def _own(stage: Sampling, ws: Workspace, frozen: Frozen):
    """Return a function that asks a verifier that reads the policy's token ids."""
    verify = programs.jit_verify(stage, ws.cfg.verifier)
    return lambda prompts, rollout, *_: verify(frozen, prompts, rollout)


def _by_votes(stage: Sampling, ws: Workspace, frozen: Frozen):
    """Return a function that asks a generative reward model."""
    cfg = ws.cfg
    form = grm.Form(cfg.grm, cfg.critique, stage.reward, ws.tokenizer.eos)

    judge = programs.jit_ask_grm(form)
    return lambda prompts, rollout, _, key: judge(frozen, prompts, rollout, key)


def _foreign(stage: Sampling, ws: Workspace, frozen: Frozen):
    """Return a function that asks a verifier that has a tokenizer of its own."""
    judge = text_judge(ws, stage.reward)

    def ask(prompts, rollout, texts, _):
        params = adapters.over(frozen.base, frozen.verifier)
        return judge(params, frozen.verdict, prompts, texts, rollout.truncated_B)

    return ask


def text_judge(ws: Workspace, reward: RewardConfig) -> Callable[..., tuple[Array, dict]]:
    """Return a function that lets a verifier with a tokenizer of its own judge texts.

    Its arguments are the verifier's parameters, its `Verdict`, the placed prompts, the texts of
    this process's rows, and whether each answer [B] was cut off.  It returns the rewards [B] and
    metrics, on the device.
    """
    cfg, tok = ws.cfg, ws.judge_tokenizer
    columns = WIDER * cfg.data.response_columns

    @jax.jit
    def judge(params, verdict, prompts, token_BR, length_B, cut_B):
        answers = verifier.Answers(token_BR, length_B, cut_B)
        score = verifier.score_answers(params, prompts, answers, verdict, reward, cfg.verifier)
        return score.reward_B, step_metrics.of_verdicts(score)

    def ask(params, verdict, prompts, texts, cut_B):
        ids_B = [tok.encode(visible_answer(text, cfg.data.answer)) for text in texts]
        ids_B = [ids if len(ids) <= columns else [] for ids in ids_B]
        token_BR = np.zeros((len(ids_B), columns), np.int32)
        for i, ids in enumerate(ids_B):
            token_BR[i, : len(ids)] = ids
        length_B = np.array([len(ids) for ids in ids_B], np.int32)
        token_BR, length_B = ws.place_own((token_BR, length_B))
        return judge(params, verdict, prompts, token_BR, length_B, cut_B)

    return ask
