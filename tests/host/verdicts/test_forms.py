"""Pairs of a right and a wrong answer in one form: labels are certain, the form tells nothing."""

import random

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.verdicts import forms

ROWS = [
    {"question": f"{i} + {i}?", "reference": str(2 * i), "answer": f"= {2 * i}", "verdict": i % 2}
    for i in range(10, 50)
]


def encode(text):
    return list(text.encode())


def make(share=0.5, longest=99, seed=0):
    return forms.make_forms(ROWS, share, encode, longest, random.Random(seed))


def test_as_many_pairs_as_the_share():
    assert len(make(0.5)) == 40 and make(0.0) == []


@pytest.mark.parametrize("seed", range(5))
def test_one_of_a_pair_is_right_and_the_other_has_its_form(seed):
    rows = make(seed=seed)
    for right, wrong in zip(rows[::2], rows[1::2], strict=True):
        assert (right["verdict"], wrong["verdict"]) == (1, 0)
        assert right["question"] == wrong["question"]
        reference = right["reference"]
        (form,) = {x for x in forms.FORMS if x.format(reference) == right["answer"]}
        before, after = form.format("|").split("|")
        assert wrong["answer"].startswith(before)
        if not wrong["answer"].endswith(after):
            assert wrong["answer"] == before + reference and after[:1] in "}<"
        else:
            assert not rules.score(wrong["answer"], reference, "contains")
        for row in (right, wrong):
            assert row["answer_ids"] == encode(row["answer"])


def test_some_wrong_answers_say_nothing_and_some_leave_a_box_open():
    wrong = [row["answer"] for n in range(20) for row in make(1.0, seed=n) if not row["verdict"]]
    assert any(not any(ch.isdigit() for ch in text) for text in wrong)
    assert 0 < sum("boxed{" in text and "}" not in text for text in wrong) < 100


def test_none_twice_and_none_too_long():
    rows = make(2.0, longest=14)  # two pairs about a problem
    names = [(row["question"], row["answer"]) for row in rows]
    assert len(set(names)) == len(names) and all(len(row["answer_ids"]) <= 14 for row in rows)


def test_the_same_seed_makes_the_same():
    assert make(seed=3) == make(seed=3) != make(seed=4)


@pytest.mark.parametrize("text, capital", [("yes", "Yes"), ("x = 3", "x = 3"), ("NaCl", "NaCl")])
def test_a_capital_is_given_to_words_alone(text, capital):
    assert forms._capital(text) == capital
