"""Stage `label`: answers to the label problems, or those that rl collected, get verdicts."""

import contextlib
import json
from collections import Counter

import numpy as np

from rlvr_jax.config import LabelStage
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import Interrupted, RunError
from rlvr_jax.host.verdicts import agreement
from rlvr_jax.host.verdicts.judge import Judge, Votes
from rlvr_jax.stages import judged_answers, judges
from rlvr_jax.stages.judged_answers import Answer
from rlvr_jax.stages.workspace import Workspace


def run(stage: LabelStage, ws: Workspace) -> dict:
    """Writes verdicts/NAME.jsonl: question, reference, the final answer's ids, and 0 or 1.

    An answer without a verdict is left out and counted: `unread` where the judge's word could not
    be read or did not come, `unasked` where its budget was spent.
    """
    answers, votes, asked = [], [], 0
    source = judged_answers.read_again if stage.answers else judged_answers.drawn
    with contextlib.closing(judges.make(stage, ws)) as judge:
        for number, part in source(stage, ws):
            asked += number
            answers += part
            votes += _votes(judge, part, ws)
            if signum := ws.run.check_signal():
                raise Interrupted(signum)
        counts = dict(getattr(judge, "counts", {}))
    said = [agreement.majority(several) for several in votes]
    _refuse_silence(stage, votes, said, counts)
    rows = _rows(answers, votes, said, ws)
    accepted = sum(row["verdict"] for row in rows)
    if not 0 < accepted < len(rows):
        raise ValueError(
            f"the judge gave {accepted} of {len(rows)} answers a 1, both verdicts are needed: "
            "train the policy of stage label for longer or shorter, or draw more answers"
        )
    _write(ws, stage.name, rows)
    result = {"answers": asked, "judged": len(rows), "accepted": accepted / len(rows)}
    result |= _silent(votes, said) | _kappas(stage, answers, votes, said) | counts
    log.say(
        f"{stage.name}: {asked} answers, {len(rows)} judged with strange and cut ones, "
        f"{result['accepted']:.0%} accepted"
    )
    return result


def _votes(judge: Judge, answers: list[Answer], ws: Workspace) -> list[Votes]:
    texts = [ws.tokenizer.decode(answer.ids) for answer in answers]
    return judge(texts, [answer.record for answer in answers])


def _silent(votes: list[Votes], said: list[agreement.Vote]) -> dict[str, int]:
    """Answers without a verdict, by why: a judge who was asked gave at least one vote or None."""
    pairs = zip(votes, said, strict=True)
    counts = Counter(bool(several) for several, verdict in pairs if verdict is None)
    return {"unread": counts[True], "unasked": counts[False]}


def _refuse_silence(stage: LabelStage, votes, said, counts: dict[str, int]) -> None:
    """A judge who is often not understood is not one to learn from."""
    asked, unread = sum(map(bool, votes)), _silent(votes, said)["unread"]
    if unread > stage.judge.max_unread * asked:
        told = "".join(f", {name} {n}" for name, n in counts.items())
        raise RunError(
            f"the judge gave no verdict on {unread} of {asked} answers{told}: see what it replies, "
            f"or raise {stage.name}.judge.max_unread"
        )


def _kappas(stage: LabelStage, answers: list[Answer], votes, said) -> dict[str, float]:
    """Cohen's kappa between the votes, and with the judge of the stage whose answers these are."""
    found = {}
    if stage.judge.votes > 1:
        whole = [several for several in votes if several]
        found["kappa_votes"] = agreement.kappa_of_votes(whole)
    pairs = zip(answers, said, strict=True)
    both = [(a.before, new) for a, new in pairs if a.before is not None and new is not None]
    if both:
        found[f"kappa_{stage.answers}"] = agreement.kappa(*np.array(both).T)
    return found


def _rows(answers: list[Answer], votes: list[Votes], said, ws: Workspace) -> list[dict]:
    rows = []
    for answer, several, verdict in zip(answers, votes, said, strict=True):
        if verdict is None:
            continue
        record = answer.record
        row = {
            "question": record["question"],
            "reference": record["reference"],
            "domain": record["domain"],
            "problem": record["key"],
            "answer": ws.tokenizer.decode(answer.ids),
            "answer_ids": answer.ids,
            "verdict": verdict,
        }
        row |= {"votes": several} if len(several) > 1 else {}
        rows.append(row | ({"opening": answer.opening} if answer.opening else {}))
    return rows


def _write(ws: Workspace, name: str, rows: list[dict]) -> None:
    path = ws.run.verdicts(name)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)
