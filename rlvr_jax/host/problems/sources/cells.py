"""This module reads single cells of a row: empty cells, and structures that are written as text."""

from __future__ import annotations

import ast
import json
import math
from typing import Any


def is_given(value: Any) -> bool:
    """Return whether a cell is filled in: not null, blank, an empty list or NaN."""
    if isinstance(value, float):
        return not math.isnan(value)
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [], {})


def parse_structure(value: Any) -> Any:
    """Return the object or list that a text spells, as JSON or Python; else the value itself."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return parsed if isinstance(parsed, dict | list) else value
    return value


def parse_label(value: Any) -> str:
    """Return the text of a cell, or of the first entry of its list; "" if it holds no text."""
    value = value[0] if isinstance(value, list) and value else value
    return value.strip() if isinstance(value, str) else ""
