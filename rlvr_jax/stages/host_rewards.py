"""Rewards on the host side of the split step: by rule, by the verifier, or by both.

    rule         the rule's score
    verifier     the verifier's, as inside the fused step
    rule_first   1 where the rule accepts, else the verifier's (arXiv 2505.22203, section 6)
    both         their product: what one rejects is rejected

Gates multiply it: an answer that breaks a format earns nothing, and one that keeps it nothing extra
(added, such a reward would be blown up to full size by the normalisation of unsolved groups).

A verifier with a tokenizer of its own is shown the text of the answer, encoded again here.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlvr_jax import step_metrics, train_step, verifier
from rlvr_jax.config import Sampling
from rlvr_jax.host.text import answers
from rlvr_jax.host.workers import pool
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Frozen, Prompts, Rollout

# (records, their placed prompts, rollout, texts of the rows or None) -> reward [B], metrics
Scorer = Callable[[list, Prompts, Rollout, Sequence[str] | None], tuple[Any, dict[str, Any]]]
WIDER = 2  # columns of an answer in the verifier's own tokens, for each column of the policy's


def scorer(stage: Sampling, ws: Workspace, frozen: Frozen, workers: pool.Pool) -> Scorer:
    """The reward of a stage, outside its fused step."""
    cfg = stage.reward
    ask = None
    if cfg.judged:
        ask = _foreign(stage, ws, frozen) if ws.cfg.verifier_tokenizer else _own(stage, ws, frozen)

    def score(records, prompts, rollout, texts=None):
        rule_B = gate_B = np.ones(len(rollout.length_B), np.float32)
        metrics: dict[str, Any] = {}
        if texts is None and (cfg.hosted or ws.cfg.verifier_tokenizer):
            texts = written(ws, rollout)
        if cfg.ruled:
            rule_B, metrics = by_rule(cfg.rule, records, texts, rollout, workers)
        for gate in cfg.gates:
            passed_B, _ = by_rule(gate, records, texts, rollout, workers)
            gate_B = gate_B * passed_B
            metrics |= {f"gate/{Path(gate).stem}": float(passed_B.mean())}
        if ask is None:
            return rule_B * gate_B, metrics
        judged_B, told = jax.device_get(ask(prompts, rollout, texts))
        reward_B = combine(cfg.source, rule_B, judged_B)
        if cfg.ruled:
            differ_B = (rule_B >= 1) != (judged_B > 0.5)
            metrics |= {"rule/mean": float(rule_B.mean())}
            metrics |= {"verifier/disagree_frac": float(differ_B.mean())}
        return reward_B * gate_B, metrics | told

    return score


def by_rule(
    rule: str, records, texts: Sequence[str], rollout: Rollout, workers: pool.Pool
) -> tuple[np.ndarray, dict[str, Any]]:
    """A rule's score of each response, 0 where it was cut off, and metrics."""
    samples = len(texts) // len(records)
    owners = [record for record in records for _ in range(samples)]
    results = workers.map(pool.jobs(texts, owners, rule))
    scores_B = np.array([result.score for result in results], np.float32)
    return scores_B * ~jax.device_get(rollout.truncated_B), pool.metrics(results)


def combine(source: str, rule_B: np.ndarray, judged_B: np.ndarray) -> np.ndarray:
    """One reward of a rule's and a verifier's."""
    if source == "rule_first":
        return np.where(rule_B >= 1, np.float32(1), judged_B)
    return rule_B * judged_B if source == "both" else judged_B


def written(ws: Workspace, rollout: Rollout) -> list[str]:
    """The text of each response."""
    ids, lengths = jax.device_get((rollout.response_BR, rollout.length_B))
    return [ws.tokenizer.decode(row[:n]) for row, n in zip(ids, lengths, strict=True)]


def shown(text: str, how: str) -> str:
    """What a verifier sees of a response, as `data.answer` says; "" where there is no answer."""
    if how == "line":
        return answers.last_line(text)
    found = answers.extract(text, last_line_too=how == "final") or ""
    return "" if "\n" in found else found


def _own(stage: Sampling, ws: Workspace, frozen: Frozen):
    reward = jax.jit(functools.partial(train_step.reward, cfg=stage, verifier_cfg=ws.cfg.verifier))
    return lambda prompts, rollout, _: reward(frozen, prompts, rollout)


def _foreign(stage: Sampling, ws: Workspace, frozen: Frozen):
    cfg, tok = ws.cfg, ws.judge_tokenizer
    columns = WIDER * cfg.data.response_columns

    @jax.jit
    def judge(params, prompts, token_BR, length_B, cut_B, verdict):
        score = verifier.judge(
            params, prompts, token_BR, length_B, cut_B, verdict, stage.reward, cfg.verifier
        )
        return score.reward_B, step_metrics.verdicts(score)

    def ask(prompts, rollout, texts):
        found = [tok.encode(shown(text, cfg.data.answer)) for text in texts]
        found = [ids if len(ids) <= columns else [] for ids in found]
        token_BR = np.zeros((len(found), columns), np.int32)
        for i, ids in enumerate(found):
            token_BR[i, : len(ids)] = ids
        length_B = np.array([len(ids) for ids in found], np.int32)
        token_BR, length_B = ws.place((token_BR, length_B))
        return judge(
            frozen.verifier, prompts, token_BR, length_B, rollout.truncated_B, frozen.verdict
        )

    return ask
