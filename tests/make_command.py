"""The command of a training, for tests: with fewer programs to trace and to compile."""

import sys

QUICK = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(75))  # as in the first lines of the command
from rlvr_jax import ragged, train
ragged.LEAST = {least}
train.run_process(train.main)
"""


def train(least: int = 1024) -> list[str]:
    """`python -m rlvr_jax.train`, which pads rows to no width below so many columns.

    Each width is the model once more in every program.  tests/test_ragged.py is about widths, and
    tests/test_end_to_end.py trains with all of them.
    """
    return [sys.executable, "-c", QUICK.format(least=least)]
