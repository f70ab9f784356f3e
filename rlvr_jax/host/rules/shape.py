"""The shape of a completion: a pattern, a JSON schema, thoughts before an answer.

Meant as a gate on another reward.  As a reward added to it, group normalisation would blow the
shape up to full size in every group that solves nothing.
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


def matches(completion: str, pattern: str) -> float:
    """1.0 when the whole extracted answer matches a regular expression.

    A pattern can take time without end: it runs in the pool, and there it is killed.
    """
    found = answers.extract(completion)
    return float(found is not None and re.fullmatch(pattern, found, re.DOTALL) is not None)


def thinks(completion: str) -> float:
    """1.0 for one <think>...</think> with something in it, then something that is not a thought."""
    match = _THOUGHTS.fullmatch(completion.strip())
    alone = completion.count("<think>") == completion.count("</think>") == 1
    return float(bool(match and alone and match[1].strip() and match[2].strip()))


def fits(completion: str, schema: str | Mapping[str, Any]) -> float:
    """1.0 when the completion is JSON, alone or in its last code fence, that fits a schema.

    Of JSON Schema: type, properties, required, additionalProperties, items, enum, const, minimum,
    maximum, minItems, maxItems, minLength, maxLength; a schema with another word fits nothing.
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
            map(lambda t: _is(value, t), [want] if isinstance(want, str) else want)
        ),
        "enum": lambda want: any(value == v and type(value) is type(v) for v in want),
        "const": lambda want: value == want and type(value) is type(want),
        "minimum": lambda want: not _is(value, "number") or value >= want,
        "maximum": lambda want: not _is(value, "number") or value <= want,
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


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])
