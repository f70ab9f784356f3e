"""This module loads, splits and balances the verdicts of label stages for verifier stages."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.stages.workspace import Workspace

Row = dict[str, Any]
FIELDS = {"question", "reference", "answer_ids", "verdict"}


def load_verdicts(ws: Workspace, label: str) -> list[Row]:
    """Load the rows that a label stage wrote.

    Raises:
      RunError: the file is missing or damaged.
    """
    path = ws.run.verdicts(label)
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if any(FIELDS - row.keys() for row in rows):
            raise ValueError
    except FileNotFoundError:
        raise RunError(f"there is no {path}: put a `label` stage before the verifier") from None
    except (ValueError, AttributeError, RecursionError):
        raise RunError(f"{path} is damaged: remove it and its marker in stages/") from None
    return rows


def problem_key(row: Row) -> str:
    """Return the key of the problem that a verdict is about."""
    return row.get("problem") or dataset.problem_key(row["question"])


def split_by_problem(rows: Sequence[Row], held_out: int) -> tuple[list[Row], list[Row]]:
    """Split rows into training rows and the last `held_out` rows, about other problems.

    No problem is in both parts.  If the held-out problems have more than `held_out` rows, their
    first rows are in neither part.
    """
    counts = Counter(map(problem_key, rows))
    held: set[str] = set()
    size = 0
    for row in reversed(rows):
        if size < held_out and problem_key(row) not in held:
            held.add(problem_key(row))
            size += counts[problem_key(row)]
    learn = [row for row in rows if problem_key(row) not in held]
    return learn, [row for row in rows if problem_key(row) in held][-held_out:]


def balance(rows: list[Row], how: str, rng: random.Random) -> list[Row]:
    """Return rows with as many verdicts 0 as 1.

    `how` is `down` to leave out some rows of the more frequent verdict, `up` to repeat rows of the
    other verdict, or `none`.  With `none`, or if all verdicts are equal, the result is `rows`.
    """
    ones = [row for row in rows if row["verdict"]]
    zeros = [row for row in rows if not row["verdict"]]
    few, many = sorted((ones, zeros), key=len)
    if how == "none" or not few:
        return rows
    if how == "down":
        return few + rng.sample(many, len(few))
    times, rest = divmod(len(many), len(few))
    return many + few * times + rng.sample(few, rest)


def learnt_problems(ws: Workspace, verifier: str) -> set[str]:
    """Return the keys of all problems whose verdicts a verifier was trained on.

    The verdicts of the verifiers that it was initialised from count too.  `verifier` is the name of
    a stage, `pretrained` or `fresh`; a stage that trains no verifier has no such problems.
    """
    stage = {stage.name: stage for stage in ws.cfg.stages}.get(verifier)
    if stage is None or stage.trains != "verifier":
        return set()
    known: set[str] = set()
    for needed in stage.inputs:
        if needed.product == "verdicts":
            known |= {problem_key(row) for row in load_verdicts(ws, needed.source)}
        else:
            known |= learnt_problems(ws, needed.source)
    return known
