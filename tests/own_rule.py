def score(completion, record):
    """Half of all answers are right, whatever the question."""
    return float(sum(completion.encode()) % 2)
