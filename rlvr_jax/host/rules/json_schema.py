"""Check that a completion holds one JSON value that fits a JSON Schema (2020-12): the rule `json`.

The package `jsonschema` compares.  Patterns run within a time limit, and no schema is loaded from
another address.  The specification says that unknown keywords are ignored, so that a misspelt
keyword checks nothing: `check_schema` refuses unknown keywords before a run.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import referencing
from jsonschema.validators import extend

from rlvr_jax.host.rules import pattern as patterns
from rlvr_jax.markers import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

MAX_TEXT = 100_000
MAX_DEPTH = 20  # of the value
_NOTES = frozenset(
    "title description default examples deprecated readOnly writeOnly format contentMediaType"
    " contentEncoding contentSchema $comment $schema $id $anchor $defs definitions"
    " then else minContains maxContains discriminator".split()
)
_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_OF_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_OF_ONE = (
    *("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_FENCE = re.compile(r"(```|~~~)[ \t]*(?:json\w*)?\s*(.*?)\1", re.DOTALL | re.I)


def fits_schema(completion: str, schema: Any) -> float:
    """Return 1.0 if the JSON value of a completion fits a schema, else 0.0.

    The schema is a mapping, a truth value, or JSON text.  A completion without a JSON value, or
    with a value deeper than MAX_DEPTH, scores 0.0.

    Raises:
      ValueError: `check_schema` refuses the schema.
      TimeoutError: a pattern of the schema takes too long.
    """
    validator = _validator(schema if isinstance(schema, str) else json.dumps(schema))
    try:
        value = parse_value(completion)
    except (ValueError, RecursionError):
        return 0.0
    return float(_depth(value) <= MAX_DEPTH and validator.is_valid(value))


def check_schema(schema: Any) -> None:
    """Refuse a JSON Schema that is malformed or cannot be checked by this module.

    Raises:
      ValueError: the schema is malformed, has a keyword that JSON Schema does not know, refers to
        another address, or has a pattern that cannot be compiled.
    """
    _validator(schema if isinstance(schema, str) else json.dumps(schema))


def parse_value(completion: str) -> Any:
    """Return the one JSON value of a completion, parsed.

    The value is searched for after the thoughts, inside the last <answer> if there is one, and
    there inside the last code fence if there is one.  If that text is not JSON as a whole, the
    value is the only object or array in it.

    Raises:
      ValueError: there is no JSON value, it is not certain which value is meant, or the text is too
        long.
      RecursionError: the JSON is nested too deeply to be parsed.
    """
    begin = completion.rfind(THINK_CLOSE)
    if completion.rfind(THINK_OPEN) > begin:
        raise ValueError("the thoughts do not end")
    text = completion[begin + len(THINK_CLOSE) :] if begin >= 0 else completion
    if len(text) > MAX_TEXT:
        raise ValueError("too long")
    if ANSWER_OPEN in text:
        text, close, _ = text.rpartition(ANSWER_OPEN)[2].partition(ANSWER_CLOSE)
        if not close:
            raise ValueError("the answer does not end")
    fences = _FENCE.findall(text)
    return _parse_prose((fences[-1][1] if fences else text).strip())


def _parse_prose(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        pass
    begin = re.search(r"[{\[]", text)
    if begin is None:
        raise ValueError("no JSON value")
    value, end = json.JSONDecoder(parse_constant=_refuse).raw_decode(text, begin.start())
    if re.search(r"[{}\[\]]", text[end:]):
        raise ValueError("more than one JSON value")
    return value


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner = [v for v in level if isinstance(v, dict | list)]
        level = [x for v in inner for x in (v.values() if isinstance(v, dict) else v)]
        depth += 1
    return depth


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and not patterns.occurs(pattern, value):
        yield jsonschema.ValidationError("no match")


def _pattern_properties(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    for pattern, inner in wanted.items() if isinstance(value, dict) else ():
        for name in value:
            if patterns.occurs(pattern, name):
                yield from validator.descend(value[name], inner)


def _additional(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    for name in value if isinstance(value, dict) else ():
        named = name in schema.get("properties", {})
        if not named and not any(
            patterns.occurs(pattern, name) for pattern in schema.get("patternProperties", {})
        ):
            yield from validator.descend(value[name], wanted)


def _unique(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    if wanted and isinstance(value, list) and len({_canonical(v) for v in value}) < len(value):
        yield jsonschema.ValidationError("not unique")


def _canonical(value: Any) -> str:
    """Return equal texts for values that are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, dict):
        names = sorted(value)
        return f"{{{','.join(f'{json.dumps(k)}:{_canonical(value[k])}' for k in names)}}}"
    return json.dumps(value)


_Validator: Any = extend(
    jsonschema.Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional,
        "uniqueItems": _unique,
    },
)


@functools.lru_cache(256)
def _validator(text: str) -> Any:
    schema = json.loads(text)
    if not isinstance(schema, bool | dict):
        raise ValueError(f"a schema is an object or true or false, not {text[:80]}")
    try:
        _Validator.check_schema(schema)
        _check_words(schema)
        validator = _Validator(schema, registry=referencing.Registry())
        samples: tuple[Any, ...] = (None, {}, [], "", 0)
        for value in samples:
            validator.is_valid(value)
    except jsonschema.SchemaError as error:
        raise ValueError(f"the schema is malformed: {error.message[:200]}") from error
    except RecursionError as error:
        raise ValueError("the schema refers to itself without end") from error
    except Exception as error:
        raise ValueError(f"the schema cannot be used: {str(error)[:200]}") from error
    return validator


def _check_words(schema: Any) -> None:
    """Refuse words that JSON Schema does not know, wherever a schema may stand."""
    if not isinstance(schema, Mapping):
        return
    for word, inner in schema.items():
        if word not in _Validator.VALIDATORS and word not in _NOTES and not word.startswith("x-"):
            raise ValueError(f"JSON Schema has no word {word!r}")
        if word == "$ref" and not inner.startswith("#"):
            raise ValueError(f"$ref {inner!r} is not inside the schema")
        if word == "unevaluatedProperties" and "patternProperties" in schema:
            raise ValueError("unevaluatedProperties beside patternProperties has no time limit")
        if word in ("pattern", "patternProperties"):
            for pattern in [inner] if word == "pattern" else inner:
                patterns.compile_pattern(pattern)
        is_many = word in _OF_MANY or word == "items" and isinstance(inner, list)
        parts = inner if is_many else [inner] if word in _OF_ONE else ()
        for part in inner.values() if word in _OF_NAMES else parts:
            _check_words(part)
