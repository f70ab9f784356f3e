"""In stage `label` a judge gives verdicts on answers to the label problems."""

import contextlib
import json
from collections import Counter

import numpy as np

from rlvr_jax.config import LabelStage
from rlvr_jax.host.files import whole_file
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import Interrupted, RunError
from rlvr_jax.host.verdicts import agreement
from rlvr_jax.host.verdicts.judge import Judge, Votes
from rlvr_jax.stages import judged_answers, judges
from rlvr_jax.stages.judged_answers import Answer
from rlvr_jax.stages.workspace import Workspace, chunks


def run(stage: LabelStage, ws: Workspace) -> dict:
    """Write verdicts/NAME.jsonl, and return the result for the stage's marker file.

    A line holds question, reference, domain, problem key, the final answer as text and as ids,
    the verdict 0 or 1, and, where they exist, the single votes and the opening of the response.
    An answer without a verdict is left out and counted: as `unread` where the judge's reply
    could not be read or did not come, as `unasked` where the judge's budget was spent.

    Raises:
      RunError: too many answers are unread.
      ValueError: all verdicts are the same.
      Interrupted: a signal asked the run to stop.
    """
    answers, votes, sampled = [], [], 0
    batches = judged_answers.load_answers if stage.answers else judged_answers.sample_answers
    with contextlib.closing(judges.make_judge(stage, ws)) as judge:
        for number, part in batches(stage, ws):
            sampled += number
            answers += part
            votes += [] if stage.limit else _votes(judge, part, ws)
            if signum := ws.run.agree_to_stop():
                raise Interrupted(signum)
        if stage.limit:
            answers = judged_answers.least_sure(answers, stage.limit)
        for part in chunks(answers[len(votes) :], stage.batch * stage.samples):
            votes += _votes(judge, part, ws)
            if signum := ws.run.agree_to_stop():
                raise Interrupted(signum)
        counts = ws.run.team.share("counts", lambda: dict(getattr(judge, "counts", {})))
    verdicts = [agreement.majority(several) for several in votes]
    _refuse_silence(stage, votes, verdicts, counts)
    rows = _rows(answers, votes, verdicts, ws)
    accepted = sum(row["verdict"] for row in rows)
    if not 0 < accepted < len(rows):
        raise ValueError(
            f"the judge gave {accepted} of {len(rows)} answers a 1, both verdicts are needed: "
            "train the policy of stage label for longer or shorter, or draw more answers"
        )
    _write(ws, stage.name, rows)
    result = {"answers": sampled, "judged": len(rows), "accepted": accepted / len(rows)}
    result |= _silent(votes, verdicts) | _kappas(stage, answers, votes, verdicts) | counts
    log.say(
        f"{stage.name}: {sampled} answers, {len(rows)} judged with strange and cut ones, "
        f"{result['accepted']:.0%} accepted"
    )
    return result


def _votes(judge: Judge, answers: list[Answer], ws: Workspace) -> list[Votes]:
    texts = [ws.tokenizer.decode(answer.ids) for answer in answers]
    return judge(texts, [answer.record for answer in answers])


def _silent(votes: list[Votes], verdicts: list[agreement.Vote]) -> dict[str, int]:
    """Count answers without a verdict: a judge that was asked gave at least one vote or None."""
    pairs = zip(votes, verdicts, strict=True)
    counts = Counter(bool(several) for several, verdict in pairs if verdict is None)
    return {"unread": counts[True], "unasked": counts[False]}


def _refuse_silence(stage: LabelStage, votes, verdicts, counts: dict[str, int]) -> None:
    """Raise RunError where more of the judge's replies are unread than the config allows."""
    asked, unread = sum(map(bool, votes)), _silent(votes, verdicts)["unread"]
    if unread > stage.judge.max_unread * asked:
        details = "".join(f", {name} {n}" for name, n in counts.items())
        raise RunError(
            f"the judge gave no verdict on {unread} of {asked} answers{details}: see what it "
            f"replies, or raise {stage.name}.judge.max_unread"
        )


def _kappas(stage: LabelStage, answers: list[Answer], votes, verdicts) -> dict[str, float]:
    """Compute Cohen's kappa between the votes, and with the earlier judge of the same answers."""
    kappas = {}
    if stage.judge.votes > 1:
        whole = [several for several in votes if several]
        kappas["kappa_votes"] = agreement.kappa_of_votes(whole)
    pairs = zip(answers, verdicts, strict=True)
    both = [(a.before, new) for a, new in pairs if a.before is not None and new is not None]
    if both:
        kappas[f"kappa_{stage.answers}"] = agreement.kappa(*np.array(both).T)
    return kappas


def _rows(answers: list[Answer], votes: list[Votes], verdicts, ws: Workspace) -> list[dict]:
    rows = []
    for answer, several, verdict in zip(answers, votes, verdicts, strict=True):
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
    if not ws.run.team.first:
        return
    path = ws.run.verdicts(name)
    path.parent.mkdir(exist_ok=True)
    whole_file.write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
