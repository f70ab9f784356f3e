"""Compute rewards from lengths: the soft overlong penalty of DAPO and the cosine reward."""

from __future__ import annotations

import math


def soft_overlong(completion: str, longest: int = 16384, grace: int = 4096) -> float:
    """Return the reward 1 + `overlong_penalty` for the length of a completion.

    All lengths are numbers of characters.  The reward is 1 up to `longest` - `grace` characters,
    then falls linearly, and is 0 from `longest` on.

    Raises:
      ValueError: 0 < grace <= longest does not hold.
    """
    return 1.0 + overlong_penalty(len(completion), longest, grace)


def overlong_penalty(length: int, longest: int, grace: int) -> float:
    """Return the soft overlong penalty of DAPO (arXiv 2503.14476, equation 13), in [-1, 0].

    All lengths have the same unit.  The penalty is 0 up to a length of longest - grace, then
    (longest - grace - length) / grace, and -1 from `longest` on.

    Raises:
      ValueError: 0 < grace <= longest does not hold.
    """
    if not 0 < grace <= longest:
        raise ValueError(f"needs 0 < grace <= longest, not {grace} and {longest}")
    return max(-1.0, min(0.0, (longest - grace - length) / grace))


def cosine(length: int, longest: int, correct: bool) -> float:
    """Return the cosine reward (arXiv 2502.03373) of an answer of some length.

    With the length, the reward of a right answer falls from 1 to 0.5, and the reward of a wrong
    answer rises from 0 to 0.25; from `longest` on, both are constant.  So the reward lies in [0,
    1], and no wrong answer earns as much as a right one.

    Raises:
      ValueError: `longest` is not positive.
    """
    if longest < 1:
        raise ValueError(f"needs longest >= 1, not {longest}")
    low, high = (0.5, 1.0) if correct else (0.25, 0.0)
    share = min(max(length, 0) / longest, 1.0)
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2
