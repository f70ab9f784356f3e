"""A judge gets final answers: new samples, answers of an rl stage, or answers judged before."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax import engine, verifier
from rlvr_jax.config import LabelStage, RewardConfig, RlStage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.verdicts import collected, negatives
from rlvr_jax.host.verdicts.agreement import Vote
from rlvr_jax.stages import verdicts
from rlvr_jax.stages.workspace import Workspace, chunks, padded


class Answer(NamedTuple):
    """An Answer is the final answer of a finished response, as a verifier would see it."""

    record: dataset.Record
    ids: list[int]
    opening: str = ""  # first sentence of the response, where the response goes on after it
    before: Vote = None  # verdict of an earlier judge
    sure: float = 0.5  # how far from 0.5 the reward was that a verifier gave it


def sample_answers(stage: LabelStage, ws: Workspace) -> Iterator[tuple[int, list[Answer]]]:
    """Yield for each batch of label problems the number of samples and the answers to judge.

    Unfinished answers are counted but not judged.  Hard negatives are made from the finished
    answers and judged too: answers to other problems, and answers cut short.
    """
    tok, cfg = ws.tokenizer, ws.cfg
    params = ws.load(stage.policy, cfg.model)
    judge = ws.load(stage.verifier, cfg.verifier) if stage.verifier else None
    verdict = ws.verdict()

    @jax.jit
    def write(params, judge, verdict, prompts, key):
        columns = cfg.data.response_columns
        sampler = engine.Sampler(key, tok.eos, stage.samples, columns, stage.sample)
        rollout, _ = engine.generate(params, prompts, sampler, cfg.model)
        sure_B = jnp.full(rollout.length_B.shape, 0.5)
        if judge is not None:
            asked = RewardConfig(min_mass=0.0)
            score = verifier.score(judge, prompts, rollout, verdict, asked, cfg.verifier)
            sure_B = jnp.abs(score.reward_B - 0.5)
        return rollout, verifier.answer_mask(rollout, verdict), sure_B

    problems, done = ws.problems("label"), 0
    with contextlib.closing(log.Bar(stage.name, len(problems), 0, "problem")) as bar:
        for number, records in enumerate(chunks(problems, stage.batch)):
            prompts = ws.columns(padded(records, stage.batch))
            key = jax.random.fold_in(ws.key(stage.name), number)
            written = write(params, judge, verdict, ws.place(prompts), key)
            rollout, answer_BR, sure_B = ws.fetch(written)
            answers = answers_of_batch(records, rollout, answer_BR, stage, tok, sure_B)
            yield len(records) * stage.samples, answers
            done += len(records)
            bar.step(done, {})


def answers_of_batch(
    records, rollout, answer_BR, stage: LabelStage, tok, sure_B: np.ndarray
) -> list[Answer]:
    """Return the finished answers of a batch, then the hard negatives that are made of them.

    `answer_BR` marks the tokens of each final answer.  With a limit there are no hard negatives,
    because no verifier was asked about them.
    """
    owners = [record for record in records for _ in range(stage.samples)]
    # A short last batch was padded: its further rows have no owner.
    finals = [_final_answer(rollout, answer_BR, i, tok) for i in range(len(owners))]
    kept = [
        Answer(owners[i], *final, sure=float(sure_B[i])) for i, final in enumerate(finals) if final
    ]
    if stage.limit:
        return kept
    ids = [final[0] if final else [] for final in finals]
    return kept + [Answer(owners[i], answer) for i, answer in _hard_negatives(ids, stage)]


def _final_answer(rollout, answer_BR, row: int, tok) -> tuple[list[int], str] | None:
    """Return the ids of a final answer and the opening of its response; None if there is none."""
    ids = rollout.response_BR[row][answer_BR[row]].tolist()
    if not ids or rollout.truncated_B[row]:
        return None
    whole = tok.decode(rollout.response_BR[row, : rollout.length_B[row]].tolist())
    return ids, negatives.opening(whole, tok.decode(ids))


def _hard_negatives(ids: list[list[int]], stage: LabelStage) -> Iterator[tuple[int, list[int]]]:
    """Yield (row, answer ids) of wrong answers that rewards lead to and samples do not contain.

    They are answers to other problems, and answers that are cut short.  A verifier that was trained
    without them accepts "the answer is" with nothing after it (arXiv 2507.08794).
    """
    for i in range(0, len(ids), stage.samples):
        for shift in range(1, stage.strangers + 1):
            other = (i + shift * stage.samples) % len(ids)
            if ids[other]:
                yield i, ids[other]
        for j in range(i, min(i + stage.cuts, i + stage.samples)):
            if len(ids[j]) > 1:
                yield i, ids[j][: 1 + (i + j) % (len(ids[j]) - 1)]


def least_sure(answers: Sequence[Answer], limit: int) -> list[Answer]:
    """Return the `limit` different answers of which the verifier was least sure, in order."""
    first: dict[tuple[Any, ...], int] = {}
    for number, answer in enumerate(answers):
        first.setdefault((answer.record["key"], answer.record["question"], *answer.ids), number)
    chosen = sorted(first.values(), key=lambda i: (answers[i].sure, i))[:limit]
    return [answers[i] for i in sorted(chosen)]


def load_answers(stage: LabelStage, ws: Workspace) -> Iterator[tuple[int, list[Answer]]]:
    """Yield batches like `sample_answers`, of the answers that the stage `stage.answers` left.

    Raises:
      RunError: the answers are to other problems than the run's, or their file is damaged.
      ValueError: the rl stage collected no answers.
    """
    (source,) = (other for other in ws.cfg.stages if other.name == stage.answers)
    if "verdicts" in source.leaves:
        rows = verdicts.load_verdicts(ws, source.name)
    else:
        rows = collected.load_answers(ws.run.collected(source.name))
    records = _records(ws)
    size = stage.batch * stage.samples
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield len(part), [_answer(row, records, stage.answers) for row in part]


def _records(ws: Workspace) -> dict[tuple[str, str], dataset.Record]:
    """Return all problems that may have answers, by their key and question."""
    splits = [name for name in ("label", "train") if getattr(ws.cfg.data, name)]
    every = (record for name in splits for record in dataset.each(ws.problems(name)))
    return {(record["key"], record["question"]): record for record in every}


def _answer(row: dict[str, Any], records, source: str) -> Answer:
    record = records.get((verdicts.problem_key(row), row["question"]))
    if record is None:
        raise RunError(
            f"what stage {source} left is about other problems than those of this run: remove its "
            "files and its marker in stages/"
        )
    sure = abs(row.get("reward", 1.0) - 0.5)
    return Answer(record, row["answer_ids"], row.get("opening", ""), row.get("verdict"), sure)


class Collector:
    """A Collector writes a share of the answers of an rl stage to a file, step by step."""

    def __init__(self, stage: RlStage, ws: Workspace):
        self._stage, self._ws, self._verdict = stage, ws, ws.verdict()
        self._mask = jax.jit(verifier.answer_mask)
        self._file: collected.Writer | None = None

    def step(self, number: int, records: list[dataset.Record], rollout, reward_B) -> None:
        """Write the answers of a step with their rewards; call it for every step, in order.

        The first call of a resumed stage drops the lines of this step and later ones.
        """
        ws, count = self._ws, len(records) * self._stage.samples
        if self._file is None and ws.run.team.first:
            self._file = collected.Writer(ws.run.collected(self._stage.name), number)
        numbers = ws.own_numbers(len(rollout.length_B))
        on_host = ws.fetch_own((rollout, self._mask(rollout, self._verdict), reward_B))
        share, name = self._stage.collect, self._stage.name
        rows: dict[int, Any] = {}
        for at, i in enumerate(numbers):
            if i < count and collected.is_chosen(name, number, i, share):
                rows[i] = self._row(number, records[i // self._stage.samples], at, *on_host)
        for theirs in ws.run.team.gather("answers", list(rows.items())):
            rows |= dict(theirs)
        if self._file is not None:
            self._file.write(rows[i] for i in sorted(rows) if rows[i])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _row(self, number: int, record, i: int, rollout, answer_BR, reward_B: np.ndarray):
        final = _final_answer(rollout, answer_BR, i, self._ws.tokenizer)
        if final is None:
            return None
        return {
            "step": number,
            "problem": record["key"],
            "question": record["question"],
            "reference": record["reference"],
            "answer_ids": final[0],
            "opening": final[1],
            "reward": float(reward_B[i]),
            "response": self._ws.tokenizer.decode(rollout.response_BR[i, : rollout.length_B[i]]),
        }
