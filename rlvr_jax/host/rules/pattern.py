"""Match the regular expressions of a data set within a time limit.

Some expressions take extremely long on some texts, and a match of `re` cannot be stopped.  The
package `regex` reads the same expressions and measures its own processor time, so that the load of
a machine does not decide a grade.
"""

from __future__ import annotations

import functools
import math
import re

import regex

SECONDS = 1.0  # of processor time, for one match
MAX_REPEATS = 100_000  # `regex` writes counted repeats out, so a{1000} in {1000} fills the memory
MAX_LENGTH = 10_000

_REPEAT = re.compile(r"(\))?\{(\d*)(?:,(\d*))?\}")


@functools.lru_cache(256)
def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Return a compiled regular expression, in which a dot matches a line break too.

    Raises:
      ValueError: the pattern is no regular expression, or is too large.
    """
    if not isinstance(pattern, str) or len(pattern) > MAX_LENGTH:
        raise ValueError("a pattern has to be a text of at most 10000 characters")
    groups, single = [1], [1]
    for match in _REPEAT.finditer(pattern):
        longest = max(int(number[:9] or 0) for number in (match[2], match[3] or ""))
        (groups if match[1] else single).append(max(1, longest))
    if math.prod(groups) * max(single) > MAX_REPEATS:
        raise ValueError(f"the pattern {pattern[:80]!r} repeats more than {MAX_REPEATS} times")
    try:
        return regex.compile(pattern, regex.DOTALL)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the pattern {pattern[:80]!r} cannot be read: {error}") from error


def fits(pattern: str, text: str) -> bool:
    """Return whether a whole text matches a pattern.

    Raises:
      ValueError: the pattern is no regular expression, or is too large.
      TimeoutError: the match takes longer than SECONDS.
    """
    return compile_pattern(pattern).fullmatch(text, timeout=SECONDS) is not None


def occurs(pattern: str, text: str) -> bool:
    """Return whether a part of a text matches a pattern.

    Raises:
      ValueError: the pattern is no regular expression, or is too large.
      TimeoutError: the search takes longer than SECONDS.
    """
    return compile_pattern(pattern).search(text, timeout=SECONDS) is not None
