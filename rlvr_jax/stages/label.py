"""Stage `label`: the policy answers the label problems, a judge gives each answer a verdict."""

import functools
import itertools
import json

import jax
import numpy as np

from rlvr_jax import policy, verifier
from rlvr_jax.config import LabelStage
from rlvr_jax.host import data, judge, log
from rlvr_jax.stages.workspace import Workspace


def run(stage: LabelStage, ws: Workspace) -> dict:
    """Writes verdicts/NAME.jsonl: question, reference, the final answer's ids, and 0 or 1.

    Only answers that the verifier would be asked about are kept: finished and not empty.
    """
    tok, cfg = ws.tokenizer, ws.cfg
    params = ws.load(stage.policy, cfg.model)
    verdict = ws.verdict()

    @jax.jit
    def write(params, verdict, prompts, key):
        rollout, _ = policy.generate(
            params,
            prompts,
            key,
            tok.eos,
            stage.samples,
            cfg.data.response_columns,
            stage.sample,
            cfg.model,
        )
        return rollout, verifier.answer_mask(rollout, verdict)

    rows, asked = [], 0
    for number, records in enumerate(chunks(ws.problems("label"), stage.batch)):
        prompts = ws.columns(padded(records, stage.batch))
        key = jax.random.fold_in(ws.key(stage.name), number)
        rollout, answer_BR = jax.device_get(write(params, verdict, ws.place(prompts), key))
        asked += len(records) * stage.samples
        rows += _judged(records, rollout, answer_BR, stage, tok)
    accepted = sum(row["verdict"] for row in rows)
    if not 0 < accepted < len(rows):
        raise ValueError(
            f"the judge gave {accepted} of {len(rows)} answers a 1, both verdicts are needed: "
            "train the policy of stage label for longer or shorter, or draw more answers"
        )
    path = ws.run.verdicts(stage.name)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)
    result = {"answers": asked, "judged": len(rows), "accepted": accepted / len(rows)}
    log.say(
        f"label: {asked} answers drawn, {len(rows)} judged with strange and cut ones, "
        f"{result['accepted']:.0%} accepted"
    )
    return result


def _judged(records, rollout, answer_BR, stage: LabelStage, tok) -> list[dict]:
    samples = stage.samples
    owners = [record for record in records for _ in range(samples)]
    # A short last chunk was padded: its further rows have no owner.
    rows = list(zip(rollout.response_BR, answer_BR, strict=True))[: len(owners)]
    ids = [row[mask].tolist() for row, mask in rows]
    finished = [
        bool(found) and not cut for found, cut in zip(ids, rollout.truncated_B, strict=False)
    ]
    kept = [(record, ids[i]) for i, record in enumerate(owners) if finished[i]]
    kept += [(owners[i], answer) for i, answer in _hard(ids, finished, stage)]
    answers = [tok.decode(answer) for _, answer in kept]
    verdicts = judge.rule(answers, [record for record, _ in kept])
    return [
        {
            "question": record["question"],
            "reference": record["reference"],
            "domain": record["domain"],
            "answer": text,
            "answer_ids": answer,
            "verdict": verdict,
        }
        for (record, answer), text, verdict in zip(kept, answers, verdicts, strict=True)
    ]


def _hard(ids: list[list[int]], finished: list[bool], stage: LabelStage):
    """(row, answer ids) that a policy under reward would find and samples do not show.

    An answer to another problem, and an answer cut short: without them the verifier comes to
    accept "the answer is" with nothing after it (the cure of arXiv 2507.08794).
    """
    for i in range(0, len(ids), stage.samples):
        for shift in range(1, stage.strangers + 1):
            other = (i + shift * stage.samples) % len(ids)
            if finished[other]:
                yield i, ids[other]
        for j in range(i, min(i + stage.cuts, i + stage.samples)):
            if finished[j] and len(ids[j]) > 1:
                yield i, ids[j][: 1 + (i + j) % (len(ids[j]) - 1)]


def chunks(source, size: int):
    """Lists of up to `size` records, in order."""
    records = data.each(source)
    return iter(functools.partial(lambda: list(itertools.islice(records, size))), [])


def padded(records: list, size: int) -> list:
    """A short last chunk repeats its last record: one shape, one compile."""
    return records + [records[-1]] * (size - len(records))


def accuracy(hits: np.ndarray, domains: list[str]) -> dict[str, float]:
    """Mean over everything and by domain."""
    names = np.array(domains)
    by_domain = {d: float(hits[names == d].mean()) for d in sorted(set(domains))}
    return {"all": float(hits.mean()), **by_domain}
