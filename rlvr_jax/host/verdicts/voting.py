"""One answer of several to a problem: by the best score, or by votes for final answers.

A vote is for a final answer, not for a text.  Scores are those of a reward model; a weighted vote
counts sigma(score) (Free Process Rewards, arXiv 2412.01981, section 4.1), a plain one counts 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlvr_jax.host.text import answers


def ballot(text: str) -> str | None:
    """The final answer of a text, written as all equal ones are; None where there is none."""
    found = answers.extract(text)
    if found is None:
        return None
    found = answers.bare(found)
    value = answers.number(found)
    return " ".join(answers.plain(found).split()).casefold() if value is None else str(value)


def elected(ballots: Sequence[str | None], weights: Sequence[float]) -> int:
    """The place of the first vote for the answer of most weight; ties to the first, None is no
    vote, and without any vote it is place 0.
    """
    total: dict[str, float] = {}
    for vote, weight in zip(ballots, weights, strict=True):
        if vote is not None:
            total[vote] = total.get(vote, 0.0) + float(weight)
    return ballots.index(max(total, key=lambda vote: total[vote])) if total else 0


def majority(ballots: Sequence[str | None], samples: int) -> np.ndarray:
    """The row [Q] that the most frequent answer to each problem stands in first."""
    return _each([elected(group, [1.0] * samples) for group in _groups(ballots, samples)], samples)


def weighted(ballots: Sequence[str | None], score_B: np.ndarray, samples: int) -> np.ndarray:
    """The same for the answer whose votes, sigma(score) each, weigh most."""
    weight_B = 0.5 * (1 + np.tanh(np.asarray(score_B, np.float64) / 2))  # exp would overflow
    pairs = zip(_groups(ballots, samples), _groups(weight_B, samples), strict=True)
    return _each([elected(*pair) for pair in pairs], samples)


def best(score_B: np.ndarray, samples: int) -> np.ndarray:
    """The row [Q] of the best score of each problem; ties to the first."""
    return _each(np.argmax(np.reshape(score_B, (-1, samples)), 1), samples)


def _groups(rows: Any, samples: int) -> list:
    return [rows[at : at + samples] for at in range(0, len(rows), samples)]


def _each(place_Q: Any, samples: int) -> np.ndarray:
    return np.arange(len(place_Q)) * samples + np.asarray(place_Q)
