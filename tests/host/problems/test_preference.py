"""Preference items: what is refused, and that records hold all of an item."""

import dataclasses

import pytest

from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.problems.preference import Item

FULL = Item(
    query="What is 2+2?",
    responses=("It is 4.", "5", "four, since 2 and 2 make 4"),
    best=2,
    reference="4",
    messages=({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})
    + ({"role": "user", "content": "What is 2+2?"},),
    quality=(2.0, 0.0, 3.0),
    strength="slightly",
    criteria="correct; short",
    domain="sums",
    demonstration="The third is right. \\boxed{6, 1, 8}",
)


def test_a_record_holds_the_whole_item():
    record = preference.build_record(FULL)
    assert set(record) == set(dataset.FIELDS)
    assert preference.parse_item(record) == FULL
    plain = Item("Is it so?", ("yes",), 1)
    assert preference.parse_item(preference.build_record(plain)).best == 1
    assert preference.build_record(plain)["domain"] == "preference"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query": " "}, "query is empty"),
        ({"responses": ()}, "empty response or none"),
        ({"responses": ("a", "", "c")}, "empty response or none"),
        ({"responses": ("a", "b", "a")}, "are equal"),
        ({"best": 3}, "index 3"),
        ({"best": -1}, "index -1"),
        ({"responses": ("a",), "quality": (1.0,), "best": 2}, "index 2"),
        ({"quality": (1.0, 2.0)}, "one quality"),
    ],
)
def test_an_item_that_nobody_can_judge_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(FULL, **change)


def test_the_best_is_unique():
    assert preference.best_of((1.0, 3.0, 2.0)) == 1
    with pytest.raises(ValueError, match="unique best"):
        preference.best_of((3.0, 1.0, 3.0))


def test_other_records_are_no_items():
    record = preference.build_record(FULL)
    for extra in ("", "{}", '{"preference": {}}', "[1]"):
        with pytest.raises(ValueError, match="no preference item"):
            preference.parse_item(record | {"extra": extra})
