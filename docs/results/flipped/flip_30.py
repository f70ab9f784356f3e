"""A judge that is wrong on purpose: the oracle's verdict, turned around for 30 % of the answers."""

import zlib

from rlvr_jax.host.rules import by_task

SHARE = 0.3


def score(completion, record):
    """Return the oracle's verdict or its opposite; an answer has the same verdict every time."""
    name = f"{record['question']}\n{completion}"
    flipped = zlib.crc32(name.encode()) % 10_000 < 10_000 * SHARE
    right = by_task.score(completion, record) > 0.5
    return float(right != flipped)
