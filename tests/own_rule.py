"""A rule of the user's own: half of all answers are right, by the sum of their bytes."""


def score(completion, record):
    return float(sum(completion.encode()) % 2)
