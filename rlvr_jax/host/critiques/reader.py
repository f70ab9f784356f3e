r"""Read the scores of a judgement from its text, as `rlvr_jax.box_scores` does from token ids."""

from __future__ import annotations

import re

from rlvr_jax import markers

_INTEGER = r"(0|[1-9][0-9]*)"
_LIST = re.compile(rf"[ \t\r\n]*{_INTEGER}(?:[ \t\r\n]*,[ \t\r\n]*{_INTEGER})*[ \t\r\n]*")
LIKERT, BINARY = (1, 10), (0, 1)  # the smallest and the largest score


def read_scores(
    text: str, count: int, scale: tuple[int, int] = LIKERT, clamp: bool = False
) -> tuple[int, ...] | None:
    """Return the scores in the last closed box of a judgement, or None if the vote is invalid.

    The vote is valid if the box holds exactly `count` integers within `scale`, separated by commas.
    With `clamp` an integer outside the scale counts as the nearest one in it.
    """
    data = text.encode("utf-8", "replace")[-markers.SEARCHED :]
    text = data.decode("utf-8", "replace")
    close = text.rfind("}")
    opening = text.rfind(markers.SCORE_BOX, 0, max(close, 0))
    if opening < 0:
        return None
    first = opening + len(markers.SCORE_BOX)
    content = text[first : text.index("}", first)]
    if len(content.encode("utf-8", "replace")) > markers.SCORE_BYTES:
        return None
    if not _LIST.fullmatch(content):
        return None
    low, high = scale
    scores = tuple(int(part) for part in content.split(","))
    if clamp:
        scores = tuple(min(max(score, low), high) for score in scores)
    if len(scores) != count or not all(low <= score <= high for score in scores):
        return None
    return scores


def read_pick(text: str, count: int) -> int | None:
    """Return the index of the response that a judgement picks, counted from 0, or None."""
    picked = read_scores(text, 1, (1, count))
    return None if picked is None else picked[0] - 1


def is_right(scores: tuple[int, ...] | None, best: int) -> bool:
    """Return whether scores agree with the truth (arXiv 2504.02495, section 3.2).

    `best` is as in `host.problems.preference.Item`: with several responses the best one must be
    strictly above every other one, and a single response must have its true score.
    """
    if scores is None:
        return False
    if len(scores) == 1:
        return scores[0] == best
    others = [score for i, score in enumerate(scores) if i != best]
    return scores[best] > max(others)


def agrees(text: str, count: int, best: int, pick: bool, clamp: bool) -> bool:
    """Return whether a judgement of `count` responses agrees with the truth; see `is_right`.

    With `pick` the judgement names one response instead of scoring all.
    """
    if pick:
        return read_pick(text, count) == best
    return is_right(read_scores(text, count, BINARY if count == 1 else LIKERT, clamp), best)
