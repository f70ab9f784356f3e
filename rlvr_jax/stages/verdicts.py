"""Verdicts between the stages: read, split by problem, balanced, and whose problems they are."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlvr_jax.config import VerifierStage
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.stages.workspace import Workspace

Row = dict[str, Any]
FIELDS = {"question", "reference", "answer_ids", "verdict"}


def read(ws: Workspace, label: str) -> list[Row]:
    """What a label stage wrote; RunError where there is nothing to read."""
    path = ws.run.verdicts(label)
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if any(FIELDS - row.keys() for row in rows):
            raise ValueError
    except FileNotFoundError:
        raise RunError(f"there is no {path}: put a `label` stage before the verifier") from None
    except (ValueError, AttributeError):
        raise RunError(f"{path} is damaged: remove it and its marker in stages/") from None
    return rows


def problem(row: Row) -> str:
    """The `key` of the problem that a verdict is about."""
    return row.get("problem") or dataset.problem_key(row["question"])


def split(rows: Sequence[Row], held_out: int) -> tuple[list[Row], list[Row]]:
    """Rows to learn, and `held_out` rows about other problems: the last in the file.

    What is left of the verdicts on the last of those problems is in neither.
    """
    counts = Counter(map(problem, rows))
    held: set[str] = set()
    size = 0
    for row in reversed(rows):
        if size < held_out and problem(row) not in held:
            held.add(problem(row))
            size += counts[problem(row)]
    learn = [row for row in rows if problem(row) not in held]
    return learn, [row for row in rows if problem(row) in held][-held_out:]


def balanced(rows: list[Row], how: str, rng: random.Random) -> list[Row]:
    """`rows`; `down`: some of the commoner verdict left out; `up`: the rarer one repeated."""
    ones = [row for row in rows if row["verdict"]]
    zeros = [row for row in rows if not row["verdict"]]
    few, many = sorted((ones, zeros), key=len)
    if how == "none" or not few:
        return rows
    if how == "down":
        return few + rng.sample(many, len(few))
    times, rest = divmod(len(many), len(few))
    return many + few * times + rng.sample(few, rest)


def problems(ws: Workspace, verifier: str) -> set[str]:
    """Keys of all problems whose verdicts went into a verifier, by way of other stages too."""
    stages = {stage.name: stage for stage in ws.cfg.stages}
    stage = stages.get(verifier)
    if not isinstance(stage, VerifierStage):
        return set()
    return {problem(row) for row in read(ws, stage.verdicts)} | problems(ws, stage.init)
