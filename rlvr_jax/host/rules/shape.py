"""Check the form of a completion: a pattern, or thoughts before an answer.

Use these rules as a gate on another reward.  If they are added to another reward, group
normalisation scales the form up to a full reward in every group in which no answer is right.
"""

from __future__ import annotations

import re

from rlvr_jax.host.rules import pattern as patterns
from rlvr_jax.host.text import answers
from rlvr_jax.markers import THINK_CLOSE, THINK_OPEN

_ESCAPED = re.compile(r"\\([%$#&_{}])")


def matches_pattern(completion: str, pattern: str) -> float:
    r"""Return 1.0 if the whole extracted answer matches a regular expression, else 0.0.

    The answer is matched twice: as it is written, and without the backslashes of LaTeX's escapes,
    because `50\%` in a box means 50%.

    Raises:
      ValueError: `pattern` is no regular expression, or is too large.
      TimeoutError: the match takes too long.
    """
    answer = answers.extract(completion)
    if answer is None:
        return 0.0
    forms = dict.fromkeys((answer, _ESCAPED.sub(r"\1", answer)))
    return float(any(patterns.fits(pattern, form) for form in forms))


def has_thoughts(completion: str) -> float:
    """Return 1.0 if a completion is one <think>...</think> and text after it, else 0.0.

    Neither the thoughts nor the text may be empty.  Some chat templates write <think> themselves.
    The completion then begins inside the thoughts, so it may lack <think>.
    """
    thoughts, close, rest = completion.strip().partition(THINK_CLOSE)
    thoughts = thoughts.removeprefix(THINK_OPEN)
    alone = THINK_OPEN not in thoughts + rest and THINK_CLOSE not in rest
    return float(bool(close and alone and thoughts.strip() and rest.strip()))
