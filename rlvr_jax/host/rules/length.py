"""Rewards by length: the soft overlong penalty of DAPO and the cosine reward, by characters."""

from __future__ import annotations

import math


def soft_overlong(completion: str, longest: int = 16384, grace: int = 4096) -> float:
    """Return 1 plus the overlong penalty, in characters: 1, then falling, 0 from `longest` on."""
    return 1.0 + overlong_penalty(len(completion), longest, grace)


def overlong_penalty(length: int, longest: int, grace: int) -> float:
    """Return the soft overlong penalty of DAPO (arXiv 2503.14476, equation 13), in [-1, 0].

    It is 0 up to a length of longest - grace, then (longest - grace - length) / grace, and -1 from
    `longest` on.

    Raises:
      ValueError: unless 0 < grace <= longest.
    """
    if not 0 < grace <= longest:
        raise ValueError(f"needs 0 < grace <= longest, not {grace} and {longest}")
    return max(-1.0, min(0.0, (longest - grace - length) / grace))


def cosine(length: int, longest: int, correct: bool) -> float:
    """Return the cosine reward (arXiv 2502.03373): short right and long wrong answers earn most.

    Right answers fall from 1 to 0.5 with length; wrong ones rise from 0 to 0.25.  So the reward
    lies in [0, 1], and no wrong answer earns as much as a right one.

    Raises:
      ValueError: `longest` is not positive.
    """
    if longest < 1:
        raise ValueError(f"needs longest >= 1, not {longest}")
    low, high = (0.5, 1.0) if correct else (0.25, 0.0)
    share = min(max(length, 0) / longest, 1.0)
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2
