r"""Families of notations: answers that say what the reference says, and near misses of each."""

import pytest
from make_notations import RIGHT, WRONG

from rlvr_jax.host import rules


@pytest.mark.parametrize("family", RIGHT)
def test_members_are_right(family):
    assert not [pair for pair in RIGHT[family] if rules.score(pair[1], pair[0]) != 1.0]


@pytest.mark.parametrize("family", WRONG)
def test_near_misses_are_wrong(family):
    assert not [pair for pair in WRONG[family] if rules.score(pair[1], pair[0]) != 0.0]


def test_equal_values_are_equal_however_they_are_written():
    """The policy: C(7, 3) and C(7, 4) are both 35, and the reference asks for its value."""
    assert rules.score(r"\boxed{{7 \choose 4}}", r"{7 \choose 3}") == 1.0
