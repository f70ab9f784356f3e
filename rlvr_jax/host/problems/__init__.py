"""This package builds problems from their sources, and stores and reads them as splits.

A problem is a record of text fields (`dataset.FIELDS`). Its way through this package:

    sources.build_splits(config)  ->  dataset.prepare  ->  dataset.open_split  ->  dataset.batches

`sources` builds the splits from the toy tasks (`tasks`, `task_answers`), from reasoning-gym, or
from the user's files and downloaded data sets. `dataset` writes them to the run folder once and
reads them in shuffled batches. A problem may be a preference item (`preference`); `ranked_answers`
makes items of known truth from the toy tasks. `gym_scorers` grades answers to the problems of
reasoning-gym.
"""
