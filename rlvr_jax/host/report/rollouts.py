"""The kept rollouts of training steps and the kept answers of evaluations, as the page shows them.

A page has sets of rollouts, one for each file.  A set is a list of problems, and a problem has its
rollouts; equal ones are counted and shown once.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlvr_jax.host.report.records import MAX_TEXT, Json, iterate_rows, number, spread, text

MAX_FILES = 40  # sample files of a run, and again answer files of its evaluations
MAX_ROLLOUTS = 2000  # of one file
MAX_PIECES = 4096  # tokens of one rollout
MAX_TOKENS = 500_000  # of one file: about as many as a page can hold with their values
RIGHT, WRONG, CUT, CRASHED = "right", "wrong", "cut off", "crashed"
STATUSES = (RIGHT, WRONG, CUT, CRASHED)
TOKEN_VALUES = ("logprob", "ratio", "token_reward", "advantage")
_SHARED = ("question", "reference", "domain", "prompt")  # what the rollouts of a problem share


def load_samples(folder: Path) -> Iterator[Json]:
    """Load the rollouts of evenly spaced sample files, MAX_FILES at most, in order of steps."""

    def place(path: Path) -> tuple[str, int]:
        match = re.fullmatch(r"(.*?)(\d+)", path.stem)
        return (match[1], int(match[2][-15:])) if match else (path.stem, -1)

    paths = sorted(folder.glob("*.jsonl"), key=place)
    for path in (paths[i] for i in spread(len(paths), MAX_FILES)):
        prefix, step = place(path)
        label = prefix.removesuffix("_").removesuffix("step").strip("_")
        yield from _load_set(path, label, "rollouts", step if step >= 0 else None)


def load_answers(folder: Path) -> Iterator[Json]:
    """Load the kept answers of at most MAX_FILES evaluations."""
    for path in sorted(folder.glob("*.jsonl"))[:MAX_FILES]:
        yield from _load_set(path, path.stem, "answers", None)


def _load_set(path: Path, label: str, kind: str, step: float | None) -> Iterator[Json]:
    """Yield the set of a file; nothing if it has no rollout."""
    kept: list[Json] = []
    total = tokens = 0
    for row in iterate_rows(path):
        if row is None:
            continue
        if step is None and not total:
            step = number(row.get("step"))
        total += 1
        if len(kept) < MAX_ROLLOUTS and tokens < MAX_TOKENS:
            kept.append(rollout(row))
            tokens += len(kept[-1].get("pieces", ()))
    if total:
        problems = group_by_problem(kept)
        yield {"label": label, "kind": kind, "step": step, "total": total, "problems": problems}


def rollout(row: Json) -> Json:
    """Return one rollout, cut to the maximum sizes, with finite numbers only."""
    out: Json = {key: text(row.get(key))[:MAX_TEXT] for key in _SHARED}
    out["question"] = out["question"] or text(row.get("problem"))[:MAX_TEXT]
    out["answer"] = text(row.get("answer"))[:MAX_TEXT]
    out |= {key: number(row.get(key)) for key in ("reward", "advantage")}
    out["oracle"] = number(row.get("oracle", row.get("score")))
    out["greedy"] = row.get("greedy") is True
    out["status"] = status(row)
    response = text(row.get("response", row.get("text")))
    if isinstance(pieces := row.get("pieces"), list):
        out["pieces"] = [text(piece)[:MAX_TEXT] for piece in pieces[:MAX_PIECES]]
        out["values"] = _token_values(row, len(out["pieces"]))
        # The page joins the pieces; it needs the response only if they give another text.
        whole = "".join(map(text, pieces)) == response
        out["cut"] = len(pieces) > MAX_PIECES or not whole and len(response) > MAX_TEXT
        response = "" if whole else response
    else:
        out["cut"] = len(response) > MAX_TEXT
    out["text"] = response[:MAX_TEXT]
    out["parts"] = _parts(row.get("parts"))
    return {k: v for k, v in out.items() if v is not None and v is not False and v not in ("", {})}


def status(row: Json) -> str:
    """Say whether a rollout is right, wrong, cut off or crashed; "" if the row does not tell.

    A rollout is right if the oracle gives it more than 0.5, or its reward where there is no oracle.
    """
    if row.get("status") in STATUSES:
        return row["status"]
    if row.get("truncated") is True:
        return CUT
    if row.get("status") in ("crash", "error", "timeout"):
        return CRASHED
    score = number(row.get("oracle", row.get("score", row.get("reward"))))
    return "" if score is None else RIGHT if score > 0.5 else WRONG


def _token_values(row: Json, count: int) -> dict[str, list[Any]]:
    """Return the values of the tokens by kind; older files have log-probs only."""
    given = row.get("token_values")
    tables = given if isinstance(given, dict) else {}
    tables = {"logprob": row.get("piece_values")} | tables
    found = {}
    for kind in TOKEN_VALUES:
        values = tables.get(kind)
        if isinstance(values, list) and any(number(v) is not None for v in values):
            found[kind] = [number(v, 3) for v in values[:count]]
    return found


def _parts(table: object) -> Json:
    """Return the parts of the reward: numbers by name."""
    if not isinstance(table, dict):
        return {}
    parts = {text(name)[:80]: number(value, 4) for name, value in list(table.items())[:20]}
    return {name: value for name, value in parts.items() if value is not None}


def group_by_problem(rollouts: Iterable[Json]) -> list[Json]:
    """Group rollouts by problem, in order of appearance; equal rollouts become one with a count.

    Rollouts are equal that have the same text, verdicts and rewards; the values of their tokens,
    which differ by rounding, are those of the first.
    """
    problems: dict[tuple[Any, ...], Json] = {}
    seen: dict[tuple[Any, ...], Json] = {}
    for row in rollouts:
        asked = tuple(row.get(key, "") for key in ("question", "reference", "domain"))
        if asked not in problems:
            problems[asked] = {key: row[key] for key in _SHARED if key in row} | {"rollouts": []}
        own = {k: v for k, v in row.items() if k not in _SHARED}
        if "prompt" in row:  # only one rollout of a problem has it
            problems[asked]["prompt"] = row["prompt"]
        spelled = own.get("text", ""), tuple(own.get("pieces", ()))
        rounded = tuple(number(own.get(key), 3) for key in ("reward", "advantage", "oracle"))
        key = (*asked, *spelled, own.get("status"), own.get("greedy"), *rounded)
        if key in seen:
            seen[key]["times"] = seen[key].get("times", 1) + 1
            continue
        seen[key] = own
        problems[asked]["rollouts"].append(own)
    return list(problems.values())
