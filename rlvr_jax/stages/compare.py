"""Stage `compare` makes preference items of the responses that an rl stage collected.

A rule says which responses are right.  An item shows one right response and wrong ones to the same
problem, so its best response is known without a person.  A generative reward model that learns
these items follows the policy that it pays.
"""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from rlvr_jax.config import CompareStage
from rlvr_jax.host.files import whole_file
from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.rules import jobs
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.verdicts import collected
from rlvr_jax.host.workers import pool
from rlvr_jax.stages.workspace import Workspace


def run(stage: CompareStage, ws: Workspace) -> dict:
    """Write the items of a stage, and return their number for the stage's marker file.

    Raises:
      RunError: no problem has both a right and a wrong response.
    """
    rows = collected.load_answers(ws.run.collected(stage.answers))
    records = {
        record["key"]: record
        for split in ("train", "label")
        if getattr(ws.cfg.data, split)
        for record in dataset.each(ws.problems(split))
    }
    rows = [row for row in rows if row["problem"] in records and row.get("response", "").strip()]
    owners = [records[row["problem"]] for row in rows]
    texts = [row["response"] for row in rows]
    with pool.Pool() as workers:
        graded = ws.divide(
            lambda mine: workers.map(
                jobs.grading_jobs([texts[i] for i in mine], [owners[i] for i in mine], stage.rule)
            ),
            len(texts),
        )
    results = [pool.Result(*result) for result in graded]
    answers: dict[str, dict[str, bool]] = defaultdict(dict)
    for row, result in zip(rows, results, strict=True):
        if result.status in ("ok", "none"):
            answers[row["problem"]][row["response"].strip()] = result.score >= 1
    items = build_items(records, answers, stage.most, f"{ws.cfg.seed}/{stage.name}")
    if not items:
        raise RunError(
            f"no problem of stage {stage.answers} has both a right and a wrong response: collect "
            "more answers, or of a policy that is less sure"
        )
    items = items[: stage.items or len(items)]
    if ws.run.team.first:
        _write(ws.run.items(stage.name), items)
    log.say(f"{stage.name}: {len(items)} items of {len(rows)} responses")
    return {"items": len(items), "responses": len(rows)}


def _write(path: Path, items: list[preference.Item]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(preference.build_record(item), ensure_ascii=False) for item in items]
    whole_file.write_whole(path, "\n".join(lines) + "\n")


def build_items(
    records: dict[str, Any], answers: dict[str, dict[str, bool]], most: int, seed: str
) -> list[preference.Item]:
    """Return one item for each problem with a right and a wrong response, in random order.

    `answers` maps the key of a problem to its responses and whether each is right.  An item has one
    right response and at most `most` - 1 wrong ones.
    """
    rng = random.Random(seed)
    items = []
    for key in sorted(answers):
        right = sorted(text for text, good in answers[key].items() if good)
        wrong = sorted(text for text, good in answers[key].items() if not good)
        if not right or not wrong:
            continue
        best = rng.choice(right)
        shown = [best, *rng.sample(wrong, min(most - 1, len(wrong)))]
        rng.shuffle(shown)
        record = records[key]
        items.append(
            preference.Item(
                query=record["question"],
                responses=tuple(shown),
                best=shown.index(best),
                reference=record["reference"],
                messages=tuple(json.loads(record["messages"] or "[]")),
                domain=record["domain"],
            )
        )
    rng.shuffle(items)
    return items
