"""A judge that is wrong on purpose: it flips a share of the verdicts of the toy tasks' own scorer.

Answer and problem decide whether a verdict is flipped: the same text is always judged alike.
"""

import zlib

from rlvr_jax.host.problems import task_answers


def score(completion, record, share):
    right = task_answers.score(completion, record)
    place = zlib.crc32(f"{record['question']}\n{completion}".encode()) / 2**32
    return 1.0 - right if place < share else right
