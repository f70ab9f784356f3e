"""This module calls reasoning-gym's scorers, where they are safe on text that a model wrote."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

# Scorers of reasoning-gym give partial credit to an answer that contains the right one, and a
# policy would learn to list candidates. So only full credit counts, and exactly 1.0 of it:
# spell_backward gives 0.9999999999999999 to the right word with more letters after it.
FULL = 1.0

# Data sets whose answer is one line and whose scorer compares text or numbers and needs no
# parameters of the data set. The first ones inherit the scorer of the base class, the others
# (from `ab`) have a scorer of their own; each of these scorers was read for this list.
SCORED = frozenset(
    "acre aiw arc_1d base_conversion basic_arithmetic binary_alternation caesar_cipher count_bits "
    "count_primes course_schedule gcd isomorphic_strings largest_island lcm leg_counting "
    "letter_counting list_functions mahjong_puzzle maze number_filtering number_sequence "
    "ransom_note rotten_oranges simple_equations simple_geometry string_manipulation "
    "string_splitting string_synthesis syllogism word_sequence_reversal "
    "ab chain_sum color_cube_rotation decimal_chain_sum dice family_relationships gsm_symbolic "
    "needle_haystack products spell_backward word_sorting".split()
)


def score(name: str, answer: str, entry: Mapping[str, Any]) -> float:
    """Grade an answer by the scorer of the data set `name`: 0.0 to 1.0.

    A data set that is not in SCORED gives 0.0.
    """
    return float(_scorer(name).score_answer(answer, entry)) if name in SCORED else 0.0


@functools.cache
def _scorer(name: str) -> Any:
    return import_reasoning_gym().create_dataset(name, seed=0, size=1)


def import_reasoning_gym() -> Any:
    """Import the package reasoning-gym.

    Raises:
      ValueError: the package is not installed.
    """
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ValueError(
            "problems of reasoning-gym need its package: pip install -e '.[tasks]' in the clone."
        ) from error
    return reasoning_gym
