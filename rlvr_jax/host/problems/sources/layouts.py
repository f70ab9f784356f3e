"""The layout of a row says which columns hold the prompt, the reference and the worked solution.

    verl             prompt, reward_model.ground_truth, data_source, extra_info
    arXiv 2503.23829 query, label, subject
    open-instruct    messages, ground_truth
    TRL and plain    prompt, question or problem, with answer, solution, ground_truth, label or
                     reference
    multiple choice  question, choices or options, answer
    preferences      chosen and rejected, and other layouts (`preference_rows`)
    conversations    messages alone, or prompt and completion, without a reference (`conversations`)

A prompt is text, or a list of messages whose last message is the user's. A structure may be written
as JSON text, and an empty cell counts as absent if another column of the same meaning is filled in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.sources import (
    conversations,
    options,
    preference_rows,
    references,
)
from rlvr_jax.host.problems.sources.cells import is_given, parse_label, parse_structure
from rlvr_jax.host.problems.sources.prompts import check_text, parse_messages
from rlvr_jax.host.text import accepted

Row = dict[str, Any]
PROMPTS = ("prompt", "question", "problem", "query")
REFERENCES = ("final_answer", "answer", "solution", "ground_truth", "label", "reference")
DOMAINS = ("data_source", "domain", "subject", "type", "dataset", "ability")
Columns = Mapping[str, str]  # of a source: the name of a column by what it is
NO_COLUMNS: Columns = MappingProxyType({})
# What a source may name -> our column for it, and those that a file may have in its place.
NAMED = {
    "question": ("prompt", (*PROMPTS, "messages")),
    "answer": (
        "answer",
        ({*REFERENCES} - {"solution"}) | {"reward_model", "answerKey", "answer_index"},
    ),
    "solution": ("solution", ("solution",)),
    "domain": ("domain", DOMAINS),
}


class Parts(NamedTuple):
    """The Parts of a row make a problem; `solution` is "" if the row has no worked solution."""

    prompt: Any
    reference: Any
    solution: str


def parse_records(row: Row, task: str, columns: Columns = NO_COLUMNS) -> list[Record]:
    """Parse one row of a file as a problem, a conversation or preference items, by its layout.

    A row whose answer `columns` names is a problem, whatever other columns it has.

    Raises:
      ValueError: the row cannot be used; the caller adds to the message where the row stands.
    """
    row = _with_named(row, columns)
    if "answer" in columns:
        return [parse_record(row, task)]
    if not preference_rows.is_preference(row):
        if conversations.has_conversation(row) and not _has_reference(row):
            name = task.partition(":")[2]
            return [conversations.build_record(row, name, _domain(row))]
        return [parse_record(row, task)]
    items = preference_rows.parse_items(row)
    records = [preference.build_record(item, task.partition(":")[2]) for item in items]
    for name, text in (pair for record in records for pair in record.items()):
        check_text(name, text)
    return records


def _with_named(row: Row, columns: Columns) -> Row:
    """Put the columns that a source names in the place of all others that mean the same."""
    given = {NAMED[what][0]: _cell(row, name) for what, name in columns.items()}
    gone = {*columns.values()}.union(*(NAMED[what][1] for what in columns))
    return {name: x for name, x in row.items() if name not in gone} | given


def _cell(row: Row, name: str) -> Any:
    """Return the cell of a column, or of the field `b` of the struct `a` for the name `a.b`."""
    cell: Any = row
    for part in name.split("."):
        if not isinstance(cell, dict) or part not in cell:
            raise ValueError(
                f"`columns` of the source names {name!r}, and it has no {part!r} there, but "
                f"{', '.join(map(str, row))}: name a column that all rows have."
            )
        cell = cell[part]
    return cell


def parse_record(row: Row, task: str) -> Record:
    """Parse one row of a file as the record of a problem.

    Raises:
      ValueError: the row cannot be a problem; the caller adds to the message where the row stands.
    """
    parts = _find_parts(row)
    messages = parse_messages(parts.prompt)
    for message in messages:
        check_text("prompt", message["content"])
        references.check_backslashes("prompt", message["content"])
    extra = _extra(row)
    if not _is_complete(row) and (listed := options.find_options(row)):
        messages[-1]["content"] = options.list_options(messages[-1]["content"], listed)
        gold = options.choose_option(row, listed)
    elif choices := references.parse_choices(parts.reference):
        gold, extra = choices[0], accepted.with_accepted(extra, choices, parts.reference)
    else:
        gold = references.parse_reference(parts.reference)
    if not gold:
        raise ValueError("it has no reference answer: fill it in or leave the row out.")
    references.check_backslashes("solution", parts.solution)
    record = {
        **{"question": messages[-1]["content"], "reference": gold, "answer": gold},
        **{
            "demonstration": parts.solution or gold,
            "domain": _domain(row) or task.partition(":")[2],
        },
        **{"task": task, "extra": _dumped(extra)},
        # A system prompt says how to answer; it is no part of the problem.
        "key": dataset.problem_key(*(m["content"] for m in messages if m["role"] != "system")),
        "messages": json.dumps(messages, ensure_ascii=False) if len(messages) > 1 else "",
    }
    for name, text in record.items():
        check_text(name, text)
    return record


def _unknown(prompt: Any, value: Any) -> str:
    """Say which columns a source has to name, as none is known by its name."""
    names = [name for name, found in (("question", prompt), ("answer", value)) if found is None]
    told = ", ".join(f"{name}: COLUMN" for name in names)
    return f"say which is the {' and the '.join(names)}, as `columns: {{{told}}}` of the source"


def _domain(row: Row) -> str:
    return next(filter(None, (parse_label(row.get(name)) for name in DOMAINS)), "")


def _has_reference(row: Row) -> bool:
    """Return whether any column that may hold a reference is filled in."""
    names = (*REFERENCES, "reward_model", *_choice_answers(row))
    return any(is_given(row.get(name)) for name in names)


def _is_complete(row: Row) -> bool:
    """Return whether a row has the layout of verl, whose prompt is the whole question."""
    return "prompt" in row and "reward_model" in row


def _find_parts(row: Row) -> Parts:
    """Find the parts of a row by its layout."""
    if _is_complete(row) and is_given(row["prompt"]):
        model = parse_structure(row["reward_model"])
        truth = model.get("ground_truth") if isinstance(model, dict) else None
        if is_given(truth) or not any(is_given(row.get(name)) for name in REFERENCES):
            return Parts(row["prompt"], truth, "")
    if "query" in row and is_given(row.get("label")):
        return Parts(row["query"], row["label"], "")
    if "messages" in row and is_given(row.get("ground_truth")):
        messages, last_turn = parse_structure(row["messages"]), ""
        if _ends_with_answer(messages):
            messages, last_turn = messages[:-1], str(messages[-1].get("content") or "")
        return Parts(messages, row["ground_truth"], last_turn)
    prompt, value = _first(row, PROMPTS), _first(row, (*REFERENCES, *_choice_answers(row)))
    if prompt is None or value is None:
        raise ValueError(
            f"its columns ({', '.join(map(str, row))}) are no known layout: "
            f"{_unknown(prompt or row.get('messages'), value)}, or see the layouts in docs/data.md."
        )
    solution = row.get("solution")
    solution = solution.strip() if isinstance(solution, str) else ""
    if isinstance(row[value], str):
        # An escape that lost its backslash may have hidden the box.
        references.check_backslashes(value, row[value])
        if value == "solution" or references.has_final_answer(row[value]):
            answer = references.parse_final_answer(row[value])
            return Parts(row[prompt], answer, row[value].strip())
    return Parts(row[prompt], row[value], solution)


def _choice_answers(row: Row) -> tuple[str, ...]:
    """Return the further columns that may name the right option; none if the row has no options."""
    return options.ANSWERS if options.find_options(row) else ()


def _first(row: Row, names: tuple[str, ...]) -> str | None:
    """Return the first of the columns that is filled in, else the first that is there, or None."""
    there = [name for name in names if name in row]
    return next((name for name in there if is_given(row[name])), there[0] if there else None)


def _ends_with_answer(messages: Any) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _dumped(extra: Row) -> str:
    # JSON has no dates, decimals and bytes, which parquet has; they become text.
    return json.dumps(extra, ensure_ascii=False, default=str) if extra else ""


def _extra(row: Row) -> Row:
    info = parse_structure(row.get("extra_info"))
    if isinstance(info, str) and info.lstrip()[:1] == "{":
        raise ValueError("its extra_info is text, but no JSON object: repair it.")
    extra = dict(info) if isinstance(info, dict) else {}
    if isinstance(ability := row.get("ability"), str):
        extra.setdefault("ability", ability)
    return extra
