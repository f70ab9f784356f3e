"""reasoning-gym problems as records, and the data sets whose own scorers can be trusted.

reasoning-gym scores free text that a policy wrote, and the policy is paid for the score. Some of
its scorers parse that text as code (sympy, eval), others give part of the credit to an answer that
merely contains the right one. So only data sets whose scorer has been read are taken.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems import gym_scorers as rules
from rlvr_jax.host.problems.gym_scorers import SCORED

Record = dict[str, str]

CHUNK = 500  # some data sets plan all their entries when they are made


def check(name: str, params: Mapping[str, Any]) -> None:
    """Refuse a data set or parameters that cannot be used, before anything is generated.

    Raises:
      ValueError: reasoning-gym is missing, it has no such data set, the data set's scorer is not
        one of SCORED, or the parameters are not its own.
    """
    known = rules.package().factory.DATASETS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"take one of {_allowed()}."
        raise ValueError(f"reasoning-gym has no data set {name!r}; {hint}")
    if name not in SCORED:
        raise ValueError(
            f"the scorer of reasoning-gym's {name!r} is not known to be safe on text that a model "
            f"wrote: take one of {_allowed()}."
        )
    if reserved := {"seed", "size"} & set(params):
        raise ValueError(
            f"the parameters of {name!r} set {sorted(reserved)[0]}: leave it out, the run's seed "
            "and the sizes of the splits decide it."
        )
    next(entries(name, params, 0))


def entries(name: str, params: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of entries; no two seeds share a stretch of it.

    Raises:
      ValueError: the data set does not take these parameters, or cannot make an entry of them.
    """
    # Item i of seed s is item i - 1 of seed s + 1: hash, so that streams do not overlap.
    text = json.dumps([name, dict(params), seed], sort_keys=True, default=str)
    start = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
    try:
        for chunk in itertools.count(start, CHUNK):
            dataset = rules.package().create_dataset(name, seed=chunk, size=CHUNK, **params)
            yield from (dataset[i] for i in range(CHUNK))
    except (TypeError, ValueError, AssertionError, LookupError) as error:
        raise ValueError(f"reasoning-gym's {name!r} refuses {dict(params)}: {error}.") from error


def records(name: str, params: Mapping[str, Any], seed: int) -> Iterator[Record | None]:
    """The entries as records; None for one without an answer, which nobody could get right."""
    for entry in entries(name, params, seed):
        yield _record(name, entry) if entry["answer"] else None


def _record(name: str, entry: dict[str, Any]) -> Record:
    gold, question = str(entry["answer"]), entry["question"].strip()
    return {
        **{"question": question, "reference": gold, "answer": gold, "demonstration": gold},
        **{"domain": name, "task": f"gym:{name}", "messages": ""},
        "key": dataset.problem_key(question),
        # gsm_symbolic notes fractions, which its scorer does not read
        "extra": json.dumps({"metadata": entry["metadata"]}, ensure_ascii=False, default=str),
    }


def _allowed() -> str:
    return ", ".join(sorted(SCORED))
