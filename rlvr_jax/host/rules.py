"""The rule that scores an answer without a model: reward of rule-checked runs, oracle of all.

It is deterministic, never raises and fails closed: what it cannot read scores 0.0. Nothing that a
model wrote is executed or parsed as code.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping

from rlvr_jax.host import answers, tasks
from rlvr_jax.host.sources import gym

# Scorers of reasoning-gym give part of the credit to an answer that contains the right one, so a
# policy would learn to list candidates: less than all of the credit is none of it. Exactly all:
# spell_backward's sums to 0.9999999999999999 for the right word with more letters after it.
FULL = 1.0

_LONG = re.compile(r"[^\W\d_]{2}")
_LETTER = re.compile(r"[(*`\"']*([^\W\d_])[)*`\"'.:]*")
_MINUS = re.compile(r"(?<![^\W\d_])-|-(?![^\W\d_])")
_WORDS = re.compile(r"[\w\s.,;:!?'\"()*`\u2018\u2019\u201c\u201d-]*")


def score(completion: str, record: Mapping[str, str]) -> float:
    """1.0 when the completion's final answer is right, else 0.0."""
    if not isinstance(completion, str):
        return 0.0
    try:
        kind, _, name = record["task"].partition(":")
        if not name:
            return tasks.score(completion, record)
        text = answers.tail(completion)
        return float(_gym(text, record, name) if kind == "gym" else _file(text, record))
    except Exception:  # whatever a hostile text or a foreign record breaks: a reward, not a crash
        return 0.0


def check(task: str) -> None:
    """Refuse a task that `score` could only give 0.0 here: call it once before a run.

    Raises:
      ValueError: a toy task that is not known, or a reasoning-gym one that cannot be scored.
    """
    kind, _, name = task.partition(":")
    if not name:
        tasks.known(task)
    elif kind == "gym":
        gym.check(name, {})


def _gym(text: str, record: Mapping[str, str], name: str) -> bool:
    gold = record["answer"]
    if (value := answers.number(gold)) is not None:
        found = answers.last_number(text)
        # Equality is asked for here too: gsm_symbolic's scorer reads "-5" as 5.
        if found is None or answers.number(found) != value:
            return False
        candidates = {found, str(value)}  # many scorers compare letters: 12.0 is not 12 to them
    else:
        line = answers.last_line(text)
        candidates = {line, line.strip("*` "), answers.bare(line)}
    metadata = json.loads(record["extra"] or "{}").get("metadata", {})
    entry = {"question": record["question"], "answer": gold, "metadata": metadata}
    return any(gym.score(name, found, entry) == FULL for found in candidates)


def _file(text: str, record: Mapping[str, str]) -> bool:
    gold, box = record["reference"], answers.boxed(text)
    if (value := answers.number(gold)) is not None:
        found = answers.last_number(text) if box is None else answers.only_number(box)
        return found is not None and answers.number(found) == value
    wanted = _normal(gold)
    line = answers.last_line(text) if box is None else box
    return bool(wanted) and wanted in (_normal(line), _normal(answers.bare(line)))


def _normal(text: str) -> str:
    """Text to compare: words without case, articles and punctuation; formulas without spaces."""
    marks = {unicodedata.decomposition(char).partition(">")[0] for char in text}
    if not marks & {"<super", "<sub", "<circle"}:  # NFKC would make x2 of x squared
        text = unicodedata.normalize("NFKC", text)
    text = answers.plain(text).casefold().strip()
    if choice := _LETTER.fullmatch(text):
        return choice[1]
    if any(char.isnumeric() for char in text) or not _is_prose(text):
        return "".join(text.split()).strip("$").rstrip(".")
    words = re.sub(r"[^\w\s]", " ", text).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def _is_prose(text: str) -> bool:
    """Words and their marks: a lone letter is a choice or a variable, a bare minus a sign."""
    return bool(_WORDS.fullmatch(text) and _LONG.search(text) and not _MINUS.search(text))
