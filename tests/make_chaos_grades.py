"""A rule for tests/test_chaos.py: half of all answers are right, and each always has one grade."""

import zlib


def score(completion, record):
    return float(zlib.crc32(completion.encode("utf-8", "replace")) % 2)
