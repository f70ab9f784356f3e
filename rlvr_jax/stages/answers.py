"""A policy answers problems, and rule, exact match, verifier and PRM score the answers.

Answerer or an endpoint  ->  Parts of answers as text  ->  collect: grade  ->  Answers
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlvr_jax import engine, verifier
from rlvr_jax.config import EvaluateStage, RewardConfig, SampleConfig
from rlvr_jax.host.problems import dataset, task_answers
from rlvr_jax.host.processes import gathering
from rlvr_jax.host.runs import log
from rlvr_jax.host.text.answers import extract
from rlvr_jax.host.verdicts import voting
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import host_rewards
from rlvr_jax.stages.workspace import Workspace, chunks, padded
from rlvr_jax.structs import Params

GREEDY = SampleConfig(temperature=0)
LISTS = ("ballot", "domain", "row")
RIGHT = 0.5  # an answer whose score is above this counts as right, where only right or wrong counts
BROKEN = ("timeout", "crash", "error")  # how the grading of an answer fails
Answers = dict[str, Any]


class Form(NamedTuple):
    """A Form says how problems are answered and graded."""

    name: str  # of the stage; the random keys depend on it, and on nothing of the training
    sample: SampleConfig
    samples: int  # answers per problem
    batch: int  # problems per call, before it is rounded up to a multiple of the data shards
    rule: str  # empty: the rule of each task
    on_error: str = "stop"  # what an error of the user's own rule does among the first answers
    shown: str = ""  # words on a progress bar; empty: none, as in a stage that has one already


def form_of(stage: EvaluateStage) -> Form:
    """Return how the stage `evaluate` lets problems be answered, with a bar of its name."""
    form = Form(stage.name, stage.sample, stage.samples, stage.batch, stage.rule, stage.on_error)
    return form._replace(shown=stage.name)


class Part(NamedTuple):
    """A Part holds the answers to some problems; those to one problem follow one another."""

    records: list[dataset.Record]
    texts: list[str]
    finished: Sequence[bool]  # not cut off
    reward_B: Any = None  # of a verifier
    scores: Sequence[Any] = ()  # of a PRM: its smallest and its summed reward of each answer


class Answerer:
    """An Answerer lets policies answer problems with one compiled program."""

    def __init__(self, ws: Workspace, form: Form, workers: pool.Pool, judged: bool = False):
        """Build the program; if `judged`, a verifier scores the answers too."""
        self._ws, self._form, self._workers = ws, form, workers
        cfg, tok = ws.cfg, ws.tokenizer
        self._verdict = ws.verdict() if judged else None
        reads_text = judged and bool(cfg.verifier_tokenizer)
        self._judge = host_rewards.text_judge(ws, RewardConfig()) if reads_text else None

        def write(params, judge, verdict, prompts, key):
            columns = cfg.data.response_columns
            sampler = engine.Sampler(key, tok.eos, form.samples, columns, form.sample)
            rollout, _ = engine.generate(params, prompts, sampler, cfg.model)
            if not judged or reads_text:
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

        Returns what `collect` does.
        """
        parts = self._parts(params, judge, records, rate)
        return collect(parts, len(records), self._form, self._ws, self._workers)

    def _parts(self, params, judge, records, rate) -> Iterator[Part]:
        ws, samples = self._ws, self._form.samples
        batch = -(-self._form.batch // ws.cfg.mesh.row_shards) * ws.cfg.mesh.row_shards
        for number, part in enumerate(chunks(records, batch)):
            prompts = ws.place_own(ws.columns(ws.own(padded(part, batch))))
            key = jax.random.fold_in(ws.key(self._form.name), number)
            rollout, reward_B = self._write(params, judge, self._verdict, prompts, key)
            if self._judge:
                texts = host_rewards.response_texts(ws, rollout)
                asked = self._judge(judge, self._verdict, prompts, texts, rollout.truncated_B)
                reward_B, _ = asked
            scores = rate(rollout) if rate else ()
            rollout, reward_B, scores = ws.fetch((rollout, reward_B, scores))
            rows = range(len(part) * samples)
            texts = [
                ws.tokenizer.decode(rollout.response_BR[i, : rollout.length_B[i]]) for i in rows
            ]
            yield Part(part, texts, [not rollout.truncated_B[i] for i in rows], reward_B, scores)


def collect(
    parts: Iterable[Part], total: int, form: Form, ws: Workspace, workers: pool.Pool
) -> Answers:
    """Grade the answers to `total` problems, and show on a bar how many are done.

    Returns by name an array with a score of each answer.  Lists are `ballot`, the final answers for
    a vote, `domain`, and `row`, what is kept of each answer (`_row`).

    Raises:
      RunError: the user's own rule failed on one of the first answers, and `form` says `stop`.
    """
    names = ("oracle", "exact", "reward", "least", "sum", "cut", "crashed", *LISTS)
    out: dict[str, list] = {name: [] for name in names}
    for part in _show(parts, form.shown, total):
        owners = [record for record in part.records for _ in range(form.samples)]
        # A rule that fails on its first answers is broken; one rare answer must not end it all.
        on_error = "zero" if out["row"] else form.on_error
        graded = _grade(part.texts, owners, form.rule, ws, workers, on_error)
        if part.reward_B is not None:
            out["reward"] += [part.reward_B[i] for i in range(len(owners))]
        for name, value_B in zip(("least", "sum"), part.scores, strict=False):
            out[name] += [value_B[i] for i in range(len(owners))]
        for i, (text, record) in enumerate(zip(part.texts, owners, strict=True)):
            finished, answer = bool(part.finished[i]), extract(text)
            score = graded[i].score * finished
            broken = graded[i].status in BROKEN and finished
            out["oracle"].append(score)
            out["exact"].append(task_answers.exact_match(text, record) * finished)
            out["cut"].append(not finished)
            out["crashed"].append(broken)
            out["ballot"].append(voting.ballot_of(answer) if finished else None)
            out["domain"].append(record["domain"])
            row = _row(record, text, answer, finished, broken, score)
            greedy = form.sample.temperature == 0
            out["row"].append(row | {"greedy": greedy, "sample": i % form.samples})
    return {k: v if k in LISTS else np.array(v, np.float32) for k, v in out.items()}


def _row(
    record: dataset.Record, text: str, answer: str | None, finished: bool, broken: bool, score: Any
) -> dict[str, Any]:
    """Return what is kept of an answer: its problem, its texts, its score and what became of it."""
    status = "right" if score > RIGHT else "wrong"
    status = "crashed" if broken else status
    return {
        "problem": record["key"],
        "question": record["question"],
        "domain": record["domain"],
        "reference": record["reference"],
        "text": text,
        "answer": answer,
        "score": float(score),
        "status": status if finished else "cut off",
        "finished": finished,
    }


def _show(parts: Iterable[Part], shown: str, total: int) -> Iterator[Part]:
    """Yield the parts, and show on a bar how many problems are done."""
    if not shown:
        yield from parts
        return
    done = 0
    with contextlib.closing(log.Bar(shown, total, 0, "problem")) as bar:
        for part in parts:
            yield part
            done += len(part.records)
            bar.step(done, {})


def _grade(
    texts: list[str], owners: list[Any], rule: str, ws: Workspace, workers: pool.Pool, on_error: str
) -> list[pool.Result]:
    mine = gathering.share_of(ws.run.team, len(texts))
    shown, of_records = [texts[i] for i in mine], [owners[i] for i in mine]
    return host_rewards.grade(rule, mine, shown, of_records, ws, workers, on_error)


def accuracy(hits: np.ndarray, domains: list[str]) -> dict[str, float]:
    """Return the mean of `hits` over all answers, as `all`, and over those of each domain."""
    names = np.array(domains)
    by_domain = {d: float(hits[names == d].mean()) for d in sorted(set(domains))}
    return {"all": float(hits.mean()), **by_domain}
