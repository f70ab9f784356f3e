"""A preference item is a query with responses of which one is known to be the best.

A generative reward model is trained and measured on preference items.  On disk an item is a record
like every other problem: the query is its question, and `extra` holds the responses as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlvr_jax.host.problems.dataset import Record, problem_key

TASK = "preference"  # the task of a record that is a preference item


class UnrankedError(ValueError):
    """The responses of an item have no single best one, or some of them are empty or equal."""


@dataclass(frozen=True)
class Item:
    """An Item is a query, its responses, and which of them is right or best.

    With several responses `best` is the index of the only best one, counted from 0.  With one
    response `best` is 1 if the response is right and 0 if it is wrong.
    """

    query: str
    responses: tuple[str, ...]
    best: int
    reference: str = ""  # a reference answer that a judge may see; "" if there is none
    messages: tuple[Mapping[str, str], ...] = ()  # the conversation that ends with the query
    quality: tuple[float, ...] = ()  # a label for each response, larger is better; may be empty
    strength: str = ""  # how much better the best response is, in words; "" if not known
    criteria: str = ""  # criteria for this query that the data give; "" if they give none
    domain: str = ""  # a name for reports: subset, category or difficulty
    demonstration: str = ""  # a judgement to learn from; "" if there is none

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise ValueError("its query is empty: fill it in or leave the item out.")
        if not self.responses or not all(text.strip() for text in self.responses):
            raise UnrankedError(
                "it has an empty response or none: fill it in or leave the item out."
            )
        if len(set(self.responses)) < len(self.responses):
            raise UnrankedError("two of its responses are equal: leave one of them out.")
        places = max(len(self.responses), 2)  # of one response `best` says whether it is right
        if not 0 <= self.best < places:
            raise ValueError(f"its best response has index {self.best}, not one below {places}.")
        if self.quality and len(self.quality) != len(self.responses):
            raise ValueError("it needs one quality for each response, or none.")


def best_of(quality: tuple[float, ...]) -> int:
    """Return the index of the greatest quality.

    Raises:
      UnrankedError: two responses share the greatest quality, so that no response is the best.
    """
    top = max(quality)
    if sum(value == top for value in quality) > 1:
        raise UnrankedError("it has no unique best response: two labels tie at the top.")
    return quality.index(top)


def build_record(item: Item, domain: str = TASK) -> Record:
    """Write an item as a record of a problem set; `domain` is that of items without one.

    The first half of the key is that of the conversation alone, so that the items of one query
    come into one split.
    """
    extra: dict[str, Any] = {"responses": list(item.responses), "best": item.best}
    for name in ("quality", "strength", "criteria"):
        if value := getattr(item, name):
            extra[name] = value
    talk = [dict(message) for message in item.messages]
    return {
        "question": item.query,
        "reference": item.reference,
        "answer": str(item.best),
        "demonstration": item.demonstration,
        "domain": item.domain or domain,
        "task": TASK,
        "key": query_key(item)[:16] + problem_key(item.query, *item.responses)[16:],
        "messages": json.dumps(talk, ensure_ascii=False) if len(talk) > 1 else "",
        "extra": json.dumps({TASK: extra}, ensure_ascii=False),
    }


def query_key(item: Item) -> str:
    """Compute the key of an item's query: the conversation without the system's messages."""
    if not item.messages:
        return problem_key(item.query)
    return problem_key(*(m["content"] for m in item.messages if m["role"] != "system"))


def parse_item(record: Record) -> Item:
    """Return the item that a record holds.

    Raises:
      ValueError: the record is no preference item.
    """
    try:
        extra = json.loads(record["extra"])[TASK]
        return Item(
            query=record["question"],
            responses=tuple(extra["responses"]),
            best=int(extra["best"]),
            reference=record["reference"],
            messages=tuple(json.loads(record["messages"] or "[]")),
            quality=tuple(extra.get("quality", ())),
            strength=extra.get("strength", ""),
            criteria=extra.get("criteria", ""),
            domain=record["domain"],
            demonstration=record["demonstration"],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            "it is no preference item: it needs responses and the index of the best."
        ) from error


def reorder(item: Item, order: Sequence[int]) -> Item:
    """Return the item with its responses in another order; `order` holds their indices."""
    best = item.best if len(order) == 1 else list(order).index(item.best)
    return replace(
        item,
        responses=tuple(item.responses[i] for i in order),
        quality=tuple(item.quality[i] for i in order) if item.quality else (),
        best=best,
        demonstration="",  # it speaks of the old order
    )
