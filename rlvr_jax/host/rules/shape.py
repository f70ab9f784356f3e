"""Rules for the form of a completion: a pattern, a JSON schema, thoughts before an answer.

Use them as a gate on another reward.  If they are added to it, group normalisation scales the form
up to a full reward in every group in which no answer is right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rlvr_jax.host.text import answers

MAX_DEPTH = 20
_THOUGHTS = re.compile(r"<think>(.*?)</think>(.*)", re.DOTALL)
_TYPES: dict[str, Any] = {
    **{"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)},
    **{"number": (int, float), "integer": int},
}


def matches_pattern(completion: str, pattern: str) -> float:
    """Return 1.0 if the whole extracted answer matches a regular expression, else 0.0.

    Some patterns never end: run the rule in the pool, where a time limit holds.
    """
    answer = answers.extract(completion)
    return float(answer is not None and re.fullmatch(pattern, answer, re.DOTALL) is not None)


def has_thoughts(completion: str) -> float:
    """Return 1.0 for one non-empty <think>...</think> with more text behind it, else 0.0."""
    match = _THOUGHTS.fullmatch(completion.strip())
    alone = completion.count("<think>") == completion.count("</think>") == 1
    return float(bool(match and alone and match[1].strip() and match[2].strip()))


def fits_schema(completion: str, schema: str | Mapping[str, Any]) -> float:
    """Return 1.0 if a completion is JSON that fits a schema, alone or in its last code fence.

    The words of JSON Schema known here are type, properties, required, additionalProperties,
    items, enum, const, minimum, maximum, minItems, maxItems, minLength and maxLength.  No
    completion fits a schema with another word.

    Raises:
      ValueError: the completion is not JSON.
    """
    wanted = json.loads(schema) if isinstance(schema, str) else schema
    fences = re.findall(r"```(?:json)?\s*\n(.*?)```", completion, re.DOTALL)
    text = fences[-1] if fences else completion
    if len(text) > 100_000:
        return 0.0
    return float(_fits(json.loads(text, parse_constant=_refuse), wanted, 0))


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _fits(value: Any, schema: Mapping[str, Any], depth: int) -> bool:
    if depth > MAX_DEPTH:
        return False
    checks = {
        "type": lambda want: any(
            map(lambda t: _has_type(value, t), [want] if isinstance(want, str) else want)
        ),
        "enum": lambda want: any(value == v and type(value) is type(v) for v in want),
        "const": lambda want: value == want and type(value) is type(want),
        "minimum": lambda want: not _has_type(value, "number") or value >= want,
        "maximum": lambda want: not _has_type(value, "number") or value <= want,
        "minItems": lambda want: not isinstance(value, list) or len(value) >= want,
        "maxItems": lambda want: not isinstance(value, list) or len(value) <= want,
        "minLength": lambda want: not isinstance(value, str) or len(value) >= want,
        "maxLength": lambda want: not isinstance(value, str) or len(value) <= want,
        "required": lambda want: not isinstance(value, dict) or set(want) <= set(value),
        "items": lambda want: (
            not isinstance(value, list) or all(_fits(v, want, depth + 1) for v in value)
        ),
        "properties": lambda want: (
            not isinstance(value, dict)
            or all(_fits(value[k], want[k], depth + 1) for k in want if k in value)
        ),
        "additionalProperties": lambda want: (
            want is True
            or not isinstance(value, dict)
            or set(value) <= set(schema.get("properties", {}))
        ),
    }
    return all(word in checks and checks[word](want) for word, want in schema.items())


def _has_type(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])
