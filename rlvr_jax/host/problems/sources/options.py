"""This module reads options from a column of their own, as in MMLU, ARC and MedQA.

The options become lines of the question, and the line of the right option becomes the reference:
"C) Paris".
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from rlvr_jax.host.problems.option_lines import LETTERS, is_listed, write_lines
from rlvr_jax.host.problems.sources import references
from rlvr_jax.host.problems.sources.cells import is_given, parse_structure

COLUMNS = ("choices", "options", "endings", "candidates")
ANSWERS = (
    *("final_answer", "answer", "answerKey", "answer_key", "answer_idx", "answer_index"),
    *("correct_answer", "correct", "gold", "target", "ground_truth", "label", "reference"),
    "solution",
)
_LABELS = ("label", "labels", "key", "letter")
_TEXTS = ("text", "texts", "value", "content")
_NAMED = re.compile(r"(?:(?:option|opt|choice|ending|op)[_ ]?)([A-Ja-j]|[0-9])")
_LETTERED = re.compile(r"\(?([A-Ja-j])\s*(?:[).:]+\s*(.*))?", re.DOTALL)


class Options(NamedTuple):
    """Options hold the texts of a row's options, and the labels that the row gives them."""

    texts: list[str]
    labels: list[str]


def find_options(row: dict[str, Any]) -> Options | None:
    """Find the options of a row in their own column or columns; None if there are none."""
    for name in COLUMNS:
        if options := _parse_column(parse_structure(row.get(name))):
            return options
    if {"A", "B"} <= set(row):
        return _of_mapping({name: row[name] for name in LETTERS if name in row})
    named = {match[1]: row[name] for name in row if (match := _NAMED.fullmatch(str(name)))}
    return _of_mapping(dict(sorted(named.items()))) if len(named) > 1 else None


def list_options(question: str, options: Options) -> str:
    """Return the question with its options below it, unless it lists them already.

    Raises:
      ValueError: there are more options than letters.
    """
    if len(options.texts) > len(LETTERS):
        raise ValueError(f"it has {len(options.texts)} options and at most {len(LETTERS)} can be.")
    lines = write_lines(options.texts)
    listed = all(is_listed(line, question) for line in lines)
    return question if listed else "\n".join([question.rstrip(), *lines])


def choose_option(row: dict[str, Any], options: Options) -> str:
    """Return the right option as the line that lists it: its letter and its text.

    The row names the right option by its label or letter, by its text, or by its index from 0.

    Raises:
      ValueError: the row names no option or several, or the text of the right option is empty or
        occurs twice.
    """
    given = {name: row[name] for name in ANSWERS if is_given(row.get(name))}
    if not given:
        raise ValueError("it has no reference answer: fill it in or leave the row out.")
    meant = [places for value in given.values() if (places := _places(value, options))]
    common = set.intersection(*meant) if meant else set()
    if len(common) == 1:
        return _write_unique(options, common.pop())
    name, value = next(iter(given.items()))
    reason = "could be several" if common else "is none"
    raise ValueError(
        f"its {name} {value!r} {reason} of its {len(options.texts)} options: repair it."
    )


def _write_unique(options: Options, place: int) -> str:
    """Return the line of an option; ValueError if its text is empty or not unique."""
    texts = [text.casefold() for text in options.texts]
    if not texts[place] or texts.count(texts[place]) > 1:
        raise ValueError("the text of its right option is empty or twice there: repair it.")
    return write_lines(options.texts)[place]


def _places(value: Any, options: Options) -> set[int]:
    """Return the places of the options that a value may name."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    count = len(options.texts)
    if isinstance(value, int) and not isinstance(value, bool):
        if str(value) in options.labels:
            return {options.labels.index(str(value))}
        return {value} if 0 <= value < count else set()
    if not isinstance(value, str):
        return set()
    text = value.strip()
    if references.has_final_answer(text):
        text = references.parse_final_answer(text)
    by_text = {i for i, option in enumerate(options.texts) if option.casefold() == text.casefold()}
    by_name = {i for i, label in enumerate(options.labels) if label.casefold() == text.casefold()}
    if text.isdecimal() and not by_name and int(text) < count:
        by_name = {int(text)}
    return by_text | by_name or _lettered(text, options)


def _lettered(text: str, options: Options) -> set[int]:
    """Return the place that a letter names, alone or before the text of its option."""
    match = _LETTERED.fullmatch(text)
    if not match:
        return set()
    place, rest = LETTERS.index(match[1].upper()), (match[2] or "").strip()
    fits = place < len(options.texts)
    return {place} if fits and (not rest or _plain(options.texts[place]) == _plain(rest)) else set()


def _parse_column(value: Any) -> Options | None:
    """Return the options of a column: texts, texts with labels, or texts by letter."""
    if isinstance(value, dict):
        texts = next((value[name] for name in _TEXTS if isinstance(value.get(name), list)), None)
        labels = next((value[name] for name in _LABELS if isinstance(value.get(name), list)), None)
        if texts is not None:
            return _of_texts(texts, labels)
        return _of_mapping(value) if set(map(str, value)) <= {*LETTERS, *LETTERS.lower()} else None
    if isinstance(value, list) and all(isinstance(x, dict) for x in value):
        texts = [next((x[name] for name in _TEXTS if name in x), None) for x in value]
        labels = [next((x[name] for name in _LABELS if name in x), None) for x in value]
        return _of_texts(texts, labels if all(labels) else None)
    return _of_texts(value, None) if isinstance(value, list) else None


def _of_mapping(texts: dict[Any, Any]) -> Options | None:
    given = {str(key): text for key, text in texts.items() if is_given(text)}
    return _of_texts([*given.values()], [*given])


def _of_texts(texts: list[Any], labels: list[Any] | None) -> Options | None:
    """Return the options of a list of texts or numbers; None for any other list.

    Raises:
      ValueError: there is not one label for each text.
    """
    if len(texts) < 2 or not all(isinstance(text, str | int | float) for text in texts):
        return None
    plain = [" ".join(_as_text(text).split()) for text in texts]
    for i, (text, letter) in enumerate(zip(plain, LETTERS, strict=False)):
        plain[i] = re.sub(rf"^(?:\({letter}\)|{letter}[).:])\s*(?=\S)", "", text)
    names = [*LETTERS[: len(plain)]] if labels is None else [str(label) for label in labels]
    if labels is not None and len(names) != len(plain):
        raise ValueError(f"it has {len(plain)} options and {len(names)} labels: repair it.")
    return Options(plain, names)


def _as_text(value: str | float) -> str:
    return str(references.without_noise(value) if isinstance(value, float) else value)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
