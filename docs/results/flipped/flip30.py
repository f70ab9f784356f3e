"""The judge of flip.py that flips 30 % of the verdicts."""

import flip


def score(completion, record):
    return flip.score(completion, record, 0.30)
