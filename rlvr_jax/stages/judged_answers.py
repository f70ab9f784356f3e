"""Final answers for a judge: drawn anew, collected by an rl stage, or judged once before."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rlvr_jax import engine, verifier
from rlvr_jax.config import LabelStage, RlStage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.verdicts import collected, negatives
from rlvr_jax.host.verdicts.agreement import Vote
from rlvr_jax.stages import verdicts
from rlvr_jax.stages.workspace import Workspace, chunks, padded


class Answer(NamedTuple):
    """A final answer that the verifier would be asked about: finished and not empty."""

    record: dataset.Record
    ids: list[int]
    opening: str = ""  # the first sentence of the response, where that goes on
    before: Vote = None  # the verdict of another judge


def drawn(stage: LabelStage, ws: Workspace) -> Iterator[tuple[int, list[Answer]]]:
    """(answers drawn, those to judge) by calls: the policy answers the label problems."""
    tok, cfg = ws.tokenizer, ws.cfg
    params = ws.load(stage.policy, cfg.model)
    verdict = ws.verdict()

    @jax.jit
    def write(params, verdict, prompts, key):
        columns = cfg.data.response_columns
        sampler = engine.Sampler(key, tok.eos, stage.samples, columns, stage.sample)
        rollout, _ = engine.generate(params, prompts, sampler, cfg.model)
        return rollout, verifier.answer_mask(rollout, verdict)

    for number, records in enumerate(chunks(ws.problems("label"), stage.batch)):
        prompts = ws.columns(padded(records, stage.batch))
        key = jax.random.fold_in(ws.key(stage.name), number)
        rollout, answer_BR = jax.device_get(write(params, verdict, ws.place(prompts), key))
        yield len(records) * stage.samples, of_call(records, rollout, answer_BR, stage, tok)


def of_call(records, rollout, answer_BR, stage: LabelStage, tok) -> list[Answer]:
    """The finished answers of a call, then the hard ones made of them."""
    owners = [record for record in records for _ in range(stage.samples)]
    # A short last chunk was padded: its further rows have no owner.
    found = [_final(rollout, answer_BR, i, tok) for i in range(len(owners))]
    kept = [Answer(owners[i], *of) for i, of in enumerate(found) if of]
    ids = [of[0] if of else [] for of in found]
    return kept + [Answer(owners[i], answer) for i, answer in _hard(ids, stage)]


def _final(rollout, answer_BR, row: int, tok) -> tuple[list[int], str] | None:
    """Ids of a final answer and the opening of its response; None where it is not finished."""
    ids = rollout.response_BR[row][answer_BR[row]].tolist()
    if not ids or rollout.truncated_B[row]:
        return None
    whole = tok.decode(rollout.response_BR[row, : rollout.length_B[row]].tolist())
    return ids, negatives.opening(whole, tok.decode(ids))


def _hard(ids: list[list[int]], stage: LabelStage) -> Iterator[tuple[int, list[int]]]:
    """(row, answer ids) that a policy under reward would find and samples do not show.

    An answer to another problem, and an answer cut short: without them the verifier comes to
    accept "the answer is" with nothing after it (the cure of arXiv 2507.08794).
    """
    for i in range(0, len(ids), stage.samples):
        for shift in range(1, stage.strangers + 1):
            other = (i + shift * stage.samples) % len(ids)
            if ids[other]:
                yield i, ids[other]
        for j in range(i, min(i + stage.cuts, i + stage.samples)):
            if len(ids[j]) > 1:
                yield i, ids[j][: 1 + (i + j) % (len(ids[j]) - 1)]


def read_again(stage: LabelStage, ws: Workspace) -> Iterator[tuple[int, list[Answer]]]:
    """As `drawn`, from what the stage `stage.answers` left behind."""
    (source,) = (other for other in ws.cfg.stages if other.name == stage.answers)
    if isinstance(source, RlStage):
        rows = collected.load_answers(ws.run.collected(source.name))
    else:
        rows = verdicts.read(ws, source.name)
    records = _records(ws)
    size = stage.batch * stage.samples
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield len(part), [_answer(row, records, stage.answers) for row in part]


def _records(ws: Workspace) -> dict[tuple[str, str], dataset.Record]:
    """All problems that an answer may be to, by key and wording."""
    splits = [name for name in ("label", "train") if getattr(ws.cfg.data, name)]
    every = (record for name in splits for record in dataset.each(ws.problems(name)))
    return {(record["key"], record["question"]): record for record in every}


def _answer(row: dict[str, Any], records, source: str) -> Answer:
    record = records.get((verdicts.problem(row), row["question"]))
    if record is None:
        raise RunError(
            f"what stage {source} left is about other problems than those of this run: remove its "
            "files and its marker in stages/"
        )
    return Answer(record, row["answer_ids"], row.get("opening", ""), row.get("verdict"))


class Collector:
    """Writes a share of the answers of an rl stage to its file, step by step."""

    def __init__(self, stage: RlStage, ws: Workspace):
        self._stage, self._ws, self._verdict = stage, ws, ws.verdict()
        self._mask = jax.jit(verifier.answer_mask)
        self._file: collected.Writer | None = None

    def step(self, number: int, records: list[dataset.Record], rollout) -> None:
        """Call for every step in order; the first call of a resumed stage drops later lines."""
        if self._file is None:
            self._file = collected.Writer(self._ws.run.collected(self._stage.name), number)
        told = jax.device_get((rollout, self._mask(rollout, self._verdict)))
        rows = range(len(records) * self._stage.samples)
        share, name = self._stage.collect, self._stage.name
        picked = [i for i in rows if collected.is_chosen(name, number, i, share)]
        self._file.write(filter(None, (self._row(number, records, i, *told) for i in picked)))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _row(self, number: int, records, i: int, rollout, answer_BR: np.ndarray):
        found = _final(rollout, answer_BR, i, self._ws.tokenizer)
        if found is None:
            return None
        record = records[i // self._stage.samples]
        return {
            "step": number,
            "problem": record["key"],
            "question": record["question"],
            "reference": record["reference"],
            "answer_ids": found[0],
            "opening": found[1],
        }
