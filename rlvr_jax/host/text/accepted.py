"""A problem may have several accepted answers, each of which is right.

Its `reference` is the first of them.  `extra` has all of them, and the list as the data file wrote
it, for rules that read a list.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

ACCEPTED = "accepted_answers"  # keys of `extra`
LISTED = "reference_list"


def accepted(record: Mapping[str, Any]) -> list[str]:
    """Return the accepted answers of a record; mostly its reference alone."""
    known = _extra(record).get(ACCEPTED)
    return [str(x) for x in known] if isinstance(known, list) else [record.get("reference", "")]


def as_listed(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record whose reference is the list of the data file as JSON, if it has one."""
    listed = _extra(record).get(LISTED)
    return {**record, "reference": listed} if isinstance(listed, str) else record


def with_accepted(extra: Mapping[str, Any], answers: Sequence[str], value: Any) -> dict[str, Any]:
    """Return `extra` of a record with its accepted answers and their list in the data file."""
    return {**extra, ACCEPTED: list(answers), LISTED: json.dumps(value, ensure_ascii=False)}


def _extra(record: Mapping[str, Any]) -> dict[str, Any]:
    text = record.get("extra") or ""
    found = json.loads(text) if ACCEPTED in text else {}
    return found if isinstance(found, dict) else {}
