"""This module selects one of several responses to a problem, by scores or by majority vote.

A response votes for its final answer, so two texts with equal answers vote together.  In a weighted
vote, each response counts sigma(score) with the score of a reward model (Free Process Rewards,
arXiv 2412.01981, section 4.1); in a plain vote, each counts 1.

Arrays [B] have one element per response, with the `samples` responses to a problem in succession;
arrays [Q] have one element per problem.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlvr_jax.host.text import answers


def ballot(text: str) -> str | None:
    """Return the final answer of a text in a normal form; None if the text has no final answer."""
    return ballot_of(answers.extract(text))


def ballot_of(answer: str | None) -> str | None:
    """Return a final answer in a normal form; None for None."""
    if answer is None:
        return None
    answer = answers.bare(answer)
    value = answers.number(answer)
    return " ".join(answers.plain(answer).split()).casefold() if value is None else str(value)


def elected(ballots: Sequence[str | None], weights: Sequence[float]) -> int:
    """Return the index of the first vote for the answer with the greatest total weight.

    Of answers with equal weight, the one that comes first wins. None is no vote; without any vote
    the index is 0.
    """
    total: dict[str, float] = {}
    for vote, weight in zip(ballots, weights, strict=True):
        if vote is not None:
            total[vote] = total.get(vote, 0.0) + float(weight)
    return ballots.index(max(total, key=lambda vote: total[vote])) if total else 0


def majority(ballots: Sequence[str | None], samples: int) -> np.ndarray:
    """Return the row [Q] of the first response with the most frequent answer to each problem."""
    return _each([elected(group, [1.0] * samples) for group in _groups(ballots, samples)], samples)


def weighted(ballots: Sequence[str | None], score_B: np.ndarray, samples: int) -> np.ndarray:
    """Return the row [Q] of the first response with the answer of greatest weight sigma(score)."""
    weight_B = 0.5 * (1 + np.tanh(np.asarray(score_B, np.float64) / 2))  # exp would overflow
    return weighed(ballots, weight_B, samples)


def weighed(ballots: Sequence[str | None], weight_B: np.ndarray, samples: int) -> np.ndarray:
    """Return the row [Q] of the first response with the answer of greatest total weight."""
    pairs = zip(_groups(ballots, samples), _groups(weight_B, samples), strict=True)
    return _each([elected(*pair) for pair in pairs], samples)


def best(score_B: np.ndarray, samples: int) -> np.ndarray:
    """Return the row [Q] of the first response with the best score to each problem."""
    return _each(np.argmax(np.reshape(score_B, (-1, samples)), 1), samples)


def _groups(rows: Any, samples: int) -> list:
    return [rows[at : at + samples] for at in range(0, len(rows), samples)]


def _each(place_Q: Any, samples: int) -> np.ndarray:
    return np.arange(len(place_Q)) * samples + np.asarray(place_Q)
