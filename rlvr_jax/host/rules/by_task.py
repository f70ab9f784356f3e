"""Grade a completion by the task that its record names: the rule `task`.

A task is a toy task (`sum`), a data set of reasoning-gym (`gym:NAME`) or a file of problems
(`file:NAME`).  Problems of a toy task or of reasoning-gym are graded by the scorer of that task or
data set.  Problems of a file are compared with their reference: as the label of an option, as a
number, or as words in normal form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlvr_jax.host.problems import gym_scorers, option_lines, task_answers, tasks
from rlvr_jax.host.rules import choice
from rlvr_jax.host.rules.maths import equivalence, sentence
from rlvr_jax.host.text import answers
from rlvr_jax.host.text.normal_form import normal_form


def score(completion: str, record: Mapping[str, Any]) -> float:
    """Return 1.0 if the final answer of a completion is right by the record's task, else 0.0."""
    kind, _, name = record["task"].partition(":")
    if not name:
        return task_answers.score(completion, record)
    ending = answers.tail(completion)
    if kind == "gym":
        return float(_is_right_for_gym(ending, record, name))
    if letter := option_lines.parse_letter(record["reference"], record["question"]):
        return choice.score(completion, letter, record["question"])
    return float(_is_right_for_file(completion, record))


def check_task(task: str) -> None:
    """Refuse a task whose problems cannot be graded, because every completion would score 0.0.

    Call this function once before a run.

    Raises:
      ValueError: an unknown toy task, or a reasoning-gym data set that cannot be scored.
    """
    kind, _, name = task.partition(":")
    if not name:
        tasks.check_task(task)
    elif kind == "gym":
        from rlvr_jax.host.problems.sources import gym  # heavy: it also reads and writes data sets

        gym.check_gym_dataset(name, {})


def _is_right_for_gym(ending: str, record: Mapping[str, Any], name: str) -> bool:
    gold = record["answer"]
    if (value := answers.number(gold)) is not None:
        number = answers.last_number(ending)
        # The scorer alone does not suffice: the one of gsm_symbolic reads "-5" as 5.
        if number is None or answers.number(number) != value:
            return False
        candidates = {number, str(value)}  # many scorers compare letters: 12.0 is not 12 to them
    else:
        line = answers.last_line(ending)
        candidates = {line, line.strip("*` "), answers.bare(line)}
    metadata = json.loads(record.get("extra") or "{}").get("metadata", {})
    entry = {"question": record["question"], "answer": gold, "metadata": metadata}
    return any(gym_scorers.score(name, text, entry) == gym_scorers.FULL for text in candidates)


def _is_right_for_file(completion: str, record: Mapping[str, Any]) -> bool:
    """Return whether the final answer equals the reference, as a number or as words."""
    gold, answer = record["reference"], answers.extract(completion)
    if answer is None:
        return False
    if (value := answers.number(gold)) is not None:
        if equivalence.are_equal(gold, answer):
            return True
        # Here, unlike there, 5 % may be written as 5.
        texts = (answers.bare(answer), *sentence.candidates(answer)[:1])
        return any(answers.number(text) == value for text in texts)
    wanted = normal_form(gold)
    return bool(wanted) and wanted in (normal_form(answer), normal_form(answers.bare(answer)))
