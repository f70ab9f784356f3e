"""A policy answers problems, and rule, exact match, verifier and PRM score the answers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rlvr_jax import engine, verifier
from rlvr_jax.config import RewardConfig, SampleConfig
from rlvr_jax.host.problems import dataset, task_answers
from rlvr_jax.host.processes import gathering
from rlvr_jax.host.runs import log
from rlvr_jax.host.verdicts import voting
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import host_rewards
from rlvr_jax.stages.workspace import Workspace, chunks, padded
from rlvr_jax.structs import Params

GREEDY = SampleConfig(temperature=0)
LISTS = ("ballot", "domain")
Answers = dict[str, Any]


class Form(NamedTuple):
    """A Form says how problems are answered and graded."""

    name: str  # of the stage; the random keys depend on it, and on nothing of the training
    sample: SampleConfig
    samples: int  # answers per problem
    batch: int  # problems per call, before it is rounded up to a multiple of the data shards
    rule: str  # empty: the rule of each task
    shown: str = ""  # words on a progress bar; empty: none, as in a stage that has one already


class Answerer:
    """An Answerer lets policies answer problems with one compiled program."""

    def __init__(self, ws: Workspace, form: Form, workers: pool.Pool, judged: bool = False):
        """Build the program; if `judged`, a verifier scores the answers too."""
        self._ws, self._form, self._workers = ws, form, workers
        cfg, tok = ws.cfg, ws.tokenizer
        self._verdict = ws.verdict() if judged else None

        def write(params, judge, verdict, prompts, key):
            columns = cfg.data.response_columns
            sampler = engine.Sampler(key, tok.eos, form.samples, columns, form.sample)
            rollout, _ = engine.generate(params, prompts, sampler, cfg.model)
            if not judged:
                return rollout, None
            soft = RewardConfig()
            score = verifier.score(judge, prompts, rollout, verdict, soft, cfg.verifier)
            return rollout, score.reward_B

        self._write = jax.jit(write)

    def __call__(
        self,
        params: Params,
        judge: Params | None,
        records: dataset.RandomAccessSource,
        rate: Callable[..., Any] | None = None,
    ) -> Answers:
        """Answer the problems; `rate` gives a PRM's smallest and summed reward of each answer.

        Returns by name an array with a score of each answer; `ballot`, the final answers for a
        vote, and `domain` are lists.
        """
        ws, samples = self._ws, self._form.samples
        batch = -(-self._form.batch // ws.cfg.mesh.row_shards) * ws.cfg.mesh.row_shards
        names = ("oracle", "exact", "reward", "least", "sum", *LISTS)
        out: dict[str, list] = {name: [] for name in names}
        for number, part in enumerate(self._show(chunks(records, batch), len(records))):
            prompts = ws.place_own(ws.columns(ws.own(padded(part, batch))))
            key = jax.random.fold_in(ws.key(self._form.name), number)
            rollout, reward_B = self._write(params, judge, self._verdict, prompts, key)
            scores = rate(rollout) if rate else ()
            rollout, reward_B, scores = ws.fetch((rollout, reward_B, scores))
            rows = range(len(part) * samples)
            for name, value_B in zip(("least", "sum"), scores, strict=False):
                out[name] += [value_B[i] for i in rows]
            texts = [
                ws.tokenizer.decode(rollout.response_BR[i, : rollout.length_B[i]]) for i in rows
            ]
            owners = [part[i // samples] for i in rows]
            graded = self._grade(texts, owners)
            for i, (text, record) in enumerate(zip(texts, owners, strict=True)):
                finished = not rollout.truncated_B[i]
                out["oracle"].append(graded[i].score * finished)
                out["exact"].append(task_answers.exact_match(text, record) * finished)
                out["reward"].append(0.0 if reward_B is None else reward_B[i])
                out["ballot"].append(voting.ballot(text) if finished else None)
                out["domain"].append(record["domain"])
        return {k: v if k in LISTS else np.array(v, np.float32) for k, v in out.items()}

    def _show(self, parts: Iterator[list[Any]], total: int) -> Iterator[list[Any]]:
        """Yield the parts, and show on a bar how many problems are done."""
        if not self._form.shown:
            yield from parts
            return
        done = 0
        with contextlib.closing(log.Bar(self._form.shown, total, 0, "problem")) as bar:
            for part in parts:
                yield part
                done += len(part)
                bar.step(done, {})

    def _grade(self, texts: list[str], owners: list[Any]) -> list[pool.Result]:
        ws = self._ws
        mine = gathering.share_of(ws.run.team, len(texts))
        shown, of_records = [texts[i] for i in mine], [owners[i] for i in mine]
        return host_rewards.grade(self._form.rule, mine, shown, of_records, ws, self._workers)


def accuracy(hits: np.ndarray, domains: list[str]) -> dict[str, float]:
    """Return the mean of `hits` over all answers, as `all`, and over those of each domain."""
    names = np.array(domains)
    by_domain = {d: float(hits[names == d].mean()) for d in sorted(set(domains))}
    return {"all": float(hits.mean()), **by_domain}
