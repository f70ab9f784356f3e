"""This module generates problems of reasoning-gym as records.

Only data sets of `gym_scorers.SCORED` are accepted. A scorer reads text of a policy that is
rewarded for the score, and some scorers of reasoning-gym run that text as code (sympy, eval) or
reward an answer that merely contains the right one.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.gym_scorers import SCORED, import_reasoning_gym

CHUNK = 500  # entries of one data set object: some objects plan all entries when they are made


def check_gym_dataset(name: str, params: Mapping[str, Any]) -> None:
    """Refuse a data set of reasoning-gym, or parameters for it, that cannot be used.

    Raises:
      ValueError: reasoning-gym is not installed, it has no such data set, the data set is not in
        SCORED, or the data set does not accept the parameters.
    """
    known = import_reasoning_gym().factory.DATASETS
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
    next(generate_entries(name, params, 0))


def generate_entries(name: str, params: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """Generate entries of a data set without end.

    A stream starts at a hash of name, parameters and seed, so that the streams of two seeds are
    very unlikely to overlap.

    Raises:
      ValueError: the data set does not accept the parameters, or fails to generate an entry.
    """
    # In reasoning-gym, item i of seed s is item i - 1 of seed s + 1; hashed seeds are far apart.
    text = json.dumps([name, dict(params), seed], sort_keys=True, default=str)
    start = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
    try:
        for chunk in itertools.count(start, CHUNK):
            dataset = import_reasoning_gym().create_dataset(name, seed=chunk, size=CHUNK, **params)
            yield from (dataset[i] for i in range(CHUNK))
    except (TypeError, ValueError, AssertionError, LookupError) as error:
        raise ValueError(f"reasoning-gym's {name!r} refuses {dict(params)}: {error}.") from error


def generate_records(name: str, params: Mapping[str, Any], seed: int) -> Iterator[Record | None]:
    """Generate the entries of a data set as records; an entry without an answer gives None."""
    for entry in generate_entries(name, params, seed):
        yield _record(name, entry) if entry["answer"] else None


def _record(name: str, entry: dict[str, Any]) -> Record:
    gold, question = str(entry["answer"]), entry["question"].strip()
    return {
        **{"question": question, "reference": gold, "answer": gold, "demonstration": gold},
        **{"domain": name, "task": f"gym:{name}", "messages": ""},
        "key": dataset.problem_key(question),
        # The metadata of gsm_symbolic has fractions, which JSON lacks and its scorer ignores.
        "extra": json.dumps({"metadata": entry["metadata"]}, ensure_ascii=False, default=str),
    }


def _allowed() -> str:
    return ", ".join(sorted(SCORED))
