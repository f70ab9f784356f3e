"""This module reads rows of preferences: a prompt, responses, and which is the best or right.

    TRL, UltraFeedback binarized, RewardBench   prompt, chosen, rejected (texts, or conversations)
    Skywork preferences                         chosen, rejected (whole conversations)
    RewardBench 2                               prompt, chosen and rejected (lists of texts)
    HelpSteer2 and HelpSteer3 preference        prompt or context, two responses, and a strength
                                                from -3 (the first is better) to 3 (the second)
    UltraFeedback                               instruction, completions with scores or ratings
    RMB                                         conversation_input, chosen and reject, or bon_best
                                                and loser_list
    PPE                                         prompt, two responses and winner; or responses,
                                                scores and sampled_conflict_pairs: an item per pair
    TRL unpaired, ReaLMistake                   prompt or input, one response, and right or wrong

Of chosen and rejected responses the order is drawn by a hash of their texts, so that the best one
is not always the first.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlvr_jax.host.problems.dataset import problem_key
from rlvr_jax.host.problems.preference import Item, UnrankedError, best_of
from rlvr_jax.host.problems.sources.cells import is_given, parse_label, parse_structure
from rlvr_jax.host.problems.sources.prompts import check_text, parse_messages, parse_talk

Row = dict[str, Any]
PROMPTS = ("prompt", "instruction", "conversation_input", "context", "input", "question", "query")
DOMAINS = ("subset", "category_path", "domain", "source", "data_source", "category")
REFERENCES = ("reference", "ground_truth")
UNPAIRED = "prompt completion label"  # these columns may be those of a problem
STRENGTHS = {1: "slightly better", 2: "better", 3: "much better"}
_TURN = "<extra_id_1>"  # begins each turn after the first in the prompts of HelpSteer2


class Judged(NamedTuple):
    """Judged responses: `best` is an index, or of one response 1 if it is right and 0 if not."""

    responses: list[str]
    best: int
    quality: tuple[float, ...] = ()
    strength: str = ""


def is_preference(row: Row) -> bool:
    """Return whether the columns of a row are those of preferences, and not those of a problem."""
    layout = _find_layout(row)
    if layout == UNPAIRED and not isinstance(row["label"], bool):
        return False
    return layout is not None and "reward_model" not in row


def parse_items(row: Row) -> list[Item]:
    """Parse a row as preference items: one, or of PPE's correctness one for each pair.

    Raises:
      UnrankedError: the labels name no single best response.
      ValueError: the row is no item; the message says why.
    """
    layout = _find_layout(row)
    if layout is None:
        raise ValueError(f"its columns ({', '.join(map(str, row))}) are no layout of preferences.")
    judged, messages = LAYOUTS[layout](row)
    if messages is None:
        messages = parse_prompt(row)
    for message in messages:
        check_text("prompt", message["content"])
    return [
        Item(
            query=messages[-1]["content"],
            responses=tuple(responses),
            best=best,
            reference=next(filter(None, (parse_label(row.get(k)) for k in REFERENCES)), ""),
            messages=tuple(messages) if len(messages) > 1 else (),
            quality=quality,
            strength=strength,
            domain=parse_domain(row),
        )
        for responses, best, quality, strength in judged
    ]


def parse_prompt(row: Row) -> list[dict[str, str]]:
    """Return the prompt of a row as messages.

    Raises:
      ValueError: there is none, or it does not end with a user's message.
    """
    name = next((name for name in PROMPTS if is_given(row.get(name))), None)
    if name is None:
        raise ValueError("it has no prompt: fill it in or leave the row out.")
    prompt = row[name]
    if isinstance(prompt, str) and f"\n{_TURN}" in prompt:
        first, *turns = prompt.split(f"\n{_TURN}")
        named = [("User", first), *(turn.partition("\n")[::2] for turn in turns)]
        prompt = [{"role": role.lower(), "content": text} for role, text in named]
    return parse_messages(prompt)


def parse_domain(row: Row) -> str:
    """Return the subset, category or source that a row names; "" if it names none."""
    return next(filter(None, (parse_label(row.get(name)) for name in DOMAINS)), "")


def parse_response(cell: Any) -> str:
    """Return the response that a cell holds as text, as a message, or with its model's name.

    Raises:
      ValueError: the cell holds no response.
    """
    value = cell[0] if isinstance(cell, list) and len(cell) == 1 else cell
    if isinstance(value, dict):
        if value.get("role", "assistant") != "assistant":
            raise ValueError(f"a response is of the role {value['role']!r}, not assistant.")
        value = next((value[k] for k in ("answer", "content", "response") if k in value), None)
    if not isinstance(value, str):
        raise ValueError(f"a response must be text, not {type(value).__name__}.")
    check_text("response", value)
    return value


def _find_layout(row: Row) -> str | None:
    return next((name for name in LAYOUTS if all(k in row for k in name.split())), None)


Parsed = tuple[list[Judged], list[dict[str, str]] | None]


def _parse_pair(row: Row) -> Parsed:
    """Parse chosen and rejected; a tie of their scores, if the row has some, names no best."""
    chosen, rejected = row["chosen"], row["rejected"]
    if not any(is_given(row.get(name)) for name in PROMPTS):
        chosen, rejected = parse_talk(chosen), parse_talk(rejected)
    scores = [row.get(name) for name in ("score_chosen", "score_rejected")]
    quality: tuple[float, ...] = ()
    if all(is_given(score) for score in scores):
        quality = tuple(map(_number, scores))
        if best_of(quality) != 0:
            raise ValueError("its rejected response has the greater score: repair the labels.")
    if _is_talk(chosen) and _is_talk(rejected):
        messages, *texts = _split_talks(row, chosen, rejected)
        return [_shuffle(texts, quality)], messages
    if isinstance(chosen, list) and len(chosen) != 1:
        raise UnrankedError("it has no unique best response: several responses are chosen.")
    losers = rejected if isinstance(rejected, list) else [rejected]
    return [_shuffle([parse_response(chosen), *map(parse_response, losers)], quality)], None


def _is_talk(value: Any) -> bool:
    messages = isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value)
    return messages and bool(value)


def _split_talks(
    row: Row, chosen: Sequence[Any], rejected: Sequence[Any]
) -> tuple[list[dict[str, str]], str, str]:
    """Split two conversations into their common prompt and the two last answers."""
    (*before, first), (*others, second) = chosen, rejected
    plain = [[(m.get("role"), m.get("content")) for m in talk] for talk in (before, others)]
    if plain[0] != plain[1]:
        raise ValueError("its two conversations differ before their last answers: leave it out.")
    stated = parse_prompt(row) if any(is_given(row.get(name)) for name in PROMPTS) else []
    messages = parse_messages(before) if before else stated
    if stated and stated[-1]["content"].strip() != messages[-1]["content"].strip():
        raise ValueError("its prompt is not the one of its conversations: repair or leave it out.")
    return messages, parse_response(first), parse_response(second)


def _parse_reject(row: Row) -> Parsed:
    return [_shuffle([parse_response(row["chosen"]), parse_response(row["reject"])])], None


def _parse_best_of_n(row: Row) -> Parsed:
    losers = parse_structure(row["loser_list"])
    if not isinstance(losers, list) or not losers:
        raise ValueError("its loser_list must be a list of responses.")
    return [_shuffle([parse_response(row["bon_best"]), *map(parse_response, losers)])], None


def _parse_strength(names: tuple[str, str], label: str, row: Row) -> Parsed:
    """Parse two responses with a strength of preference, from -3 to 3."""
    value = row[label]
    if not isinstance(value, int | float) or value not in range(-3, 4):
        raise ValueError(f"its {label} is {value!r}, not an integer from -3 to 3.")
    if value == 0:
        raise UnrankedError("it has no unique best response: the two are about the same.")
    responses = [parse_response(row[name]) for name in names]
    return [Judged(responses, int(value > 0), (), STRENGTHS[abs(int(value))])], None


def _parse_completions(row: Row) -> Parsed:
    """Parse completions that carry an overall score, or ratings of several aspects."""
    completions = parse_structure(row["completions"])
    if not isinstance(completions, list) or len(completions) < 2:
        raise ValueError("its completions must be a list of at least two responses.")
    quality = tuple(_rate(completion) for completion in completions)
    responses = [parse_response(completion) for completion in completions]
    return [Judged(responses, best_of(quality), quality)], None


def _rate(completion: Any) -> float:
    """Return the overall score of a completion, or else the mean of its ratings."""
    if not isinstance(completion, dict):
        raise ValueError("each completion needs a response and a score.")
    for name in ("overall_score", "score", "fine-grained_score"):
        if is_given(completion.get(name)):
            return _number(completion[name])
    aspects = completion.get("annotations")
    ratings = [
        _number(aspect.get("Rating"))
        for aspect in (aspects.values() if isinstance(aspects, Mapping) else ())
        if isinstance(aspect, Mapping)
    ]
    if not ratings:
        raise ValueError("a completion has no score and no ratings: leave the row out.")
    return sum(ratings) / len(ratings)


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) < float("inf"):
        raise ValueError(f"a score is {value!r}, not a number: repair it or leave the row out.")
    return number


def _parse_winner(row: Row) -> Parsed:
    """Parse a battle of two models."""
    winner = str(row["winner"])
    if winner.startswith("tie"):
        raise UnrankedError("it has no unique best response: the battle is a tie.")
    if winner not in ("model_a", "model_b"):
        raise ValueError(f"its winner is {winner!r}, not model_a, model_b or tie.")
    responses = [parse_response(row[name]) for name in ("response_1", "response_2")]
    return [Judged(responses, int(winner == "model_b"))], None


def _parse_conflicts(row: Row) -> Parsed:
    """Parse pairs of a right and a wrong response; the pairs count responses from 0."""
    scores = parse_structure(row["scores"])
    pairs = parse_structure(row["sampled_conflict_pairs"])
    judged = []
    for first, second in pairs:
        if not 0 <= min(first, second) <= max(first, second) < len(scores):
            raise ValueError(f"its pair {first}, {second} names a response that has no score.")
        responses = [parse_response(row.get(f"response_{i + 1}")) for i in (first, second)]
        quality = float(scores[first]), float(scores[second])
        judged.append(Judged(responses, best_of(quality), quality))
    if not judged:
        raise ValueError("it has no pair of a right and a wrong response: leave it out.")
    return judged, None


def _parse_label(name: str, label: str, row: Row) -> Parsed:
    """Parse one response with a label: right or wrong."""
    known = {"error": 0, "no_error": 1, "true": 1, "false": 0, "1": 1, "0": 0}
    value = str(row[label]).lower()
    if value not in known:
        raise ValueError(f"its {label} is {row[label]!r}, which is neither right nor wrong.")
    return [Judged([parse_response(row[name])], known[value])], None


def _shuffle(responses: list[str], quality: tuple[float, ...] = ()) -> Judged:
    """Order responses, of which the first is the best, by a hash of their texts."""
    order = list(range(len(responses)))
    random.Random(problem_key(*responses)).shuffle(order)
    ranked = tuple(quality[i] for i in order) if quality else ()
    if len(responses) == 1:
        raise ValueError("it has one response and nothing says whether that is right.")
    return Judged([responses[i] for i in order], order.index(0), ranked)


# The columns that make a layout, and what reads it; the first layout whose columns are all there.
LAYOUTS: dict[str, Any] = {
    "bon_best loser_list": _parse_best_of_n,
    "chosen rejected": _parse_pair,
    "chosen reject": _parse_reject,
    "scores sampled_conflict_pairs": _parse_conflicts,
    "response_1 response_2 preference_strength": functools.partial(
        _parse_strength, ("response_1", "response_2"), "preference_strength"
    ),
    "response_1 response_2 winner": _parse_winner,
    "response1 response2 overall_preference": functools.partial(
        _parse_strength, ("response1", "response2"), "overall_preference"
    ),
    "instruction completions": _parse_completions,
    "llm_response label": functools.partial(_parse_label, "llm_response", "label"),
    "llm_response error_label": functools.partial(_parse_label, "llm_response", "error_label"),
    UNPAIRED: functools.partial(_parse_label, "completion", "label"),
}
