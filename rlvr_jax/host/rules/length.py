"""Length shaping: DAPO's soft overlong penalty and the cosine reward, in [0, 1] or as published."""

from __future__ import annotations

import math


def soft_overlong(completion: str, longest: int = 16384, grace: int = 4096) -> float:
    """1 + DAPO's penalty, by characters: 1 up to longest - grace, then falling, 0 at longest."""
    return 1.0 + overlong_penalty(len(completion), longest, grace)


def overlong_penalty(length: int, longest: int, grace: int) -> float:
    """DAPO's penalty (arXiv 2503.14476): 0, then ((longest - grace) - length) / grace, then -1.

    Raises:
      ValueError: unless 0 < grace <= longest.
    """
    if not 0 < grace <= longest:
        raise ValueError(f"needs 0 < grace <= longest, not {grace} and {longest}")
    return max(-1.0, min(0.0, (longest - grace - length) / grace))


def cosine(length: int, longest: int, correct: bool) -> float:
    """The cosine reward (arXiv 2502.03373): short right answers and long wrong ones are best.

    Right answers fall from 1 to 0.5 with length, wrong ones rise from 0 to 0.25: in [0, 1], and a
    wrong answer never earns what a right one does.

    Raises:
      ValueError: longest is not positive.
    """
    if longest < 1:
        raise ValueError(f"needs longest >= 1, not {longest}")
    low, high = (0.5, 1.0) if correct else (0.25, 0.0)
    share = min(max(length, 0) / longest, 1.0)
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2
