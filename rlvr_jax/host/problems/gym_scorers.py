"""reasoning-gym's own scorers, of the data sets whose scorer has been read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

# Scorers of reasoning-gym give part of the credit to an answer that contains the right one, so a
# policy would learn to list candidates: less than all of the credit is none of it. Exactly all:
# spell_backward's sums to 0.9999999999999999 for the right word with more letters after it.
FULL = 1.0

# The answer is one line, the scorer compares text or numbers and needs no parameters of the data
# set. Those that inherit the base class's scorer first, then those with one of their own.
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
    """What the data set's own scorer says to an answer; 0.0 for one that is not in SCORED."""
    return float(_scorer(name).score_answer(answer, entry)) if name in SCORED else 0.0


@functools.cache
def _scorer(name: str) -> Any:
    return package().create_dataset(name, seed=0, size=1)


def package() -> Any:
    """The package reasoning-gym.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ValueError(
            "problems of reasoning-gym need its package: pip install 'rlvr-jax[tasks]'."
        ) from error
    return reasoning_gym
