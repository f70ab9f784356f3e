"""Answers that are wrong for certain: of each kind what was asked, none that may be right."""

import random
import re

import pytest

from rlvr_jax.config import NegativesConfig
from rlvr_jax.host import rules
from rlvr_jax.host.verdicts import negatives

ROWS = [
    {
        "question": f"What is {i} + {i}?",
        "reference": str(2 * i),
        "answer": f"The answer is {2 * i}." if i % 2 else f"{2 * i + 1}",
        "answer_ids": [i],
        "verdict": i % 2,
        "opening": f"First we look at {i}." if i % 3 == 0 else "",
    }
    for i in range(10, 50)
]
ALL = NegativesConfig(
    keys=0.5, openings=0.1, cuts=0.25, near_misses=0.5, strangers=0.25, hedges=0.25
)


def encode(text):
    return list(text.encode())


def make(cfg=ALL, rows=ROWS, longest=99, seed=0):
    return negatives.make_negatives(rows, cfg, encode, longest, random.Random(seed))


def test_nothing_is_made_unless_asked_for():
    assert not any(make(NegativesConfig()).values())


def test_as_many_of_each_kind_as_its_share():
    found = make()
    assert {kind: len(rows) for kind, rows in found.items()} == {
        "keys": 20, "openings": 4, "cuts": 10, "near_misses": 20, "strangers": 10, "hedges": 10
    }  # fmt: skip


def test_no_more_than_there_are():
    found = make(NegativesConfig(openings=1))["openings"]
    assert len(found) == sum(bool(row["opening"]) for row in ROWS)


@pytest.mark.parametrize("seed", range(5))
def test_all_are_wrong_and_labelled_so(seed):
    for kind, rows in make(seed=seed).items():
        for row in rows:
            assert row["verdict"] == 0 and row["answer_ids"] == encode(row["answer"])
            if kind == "hedges":  # they hold the right answer, next to another
                continue
            assert not rules.score(row["answer"], row["reference"], "numeric"), (kind, row)
            assert not rules.score(row["answer"], row["reference"], "contains"), (kind, row)


@pytest.mark.parametrize("seed", range(5))
def test_a_hedge_names_the_right_answer_and_does_not_stand_by_it(seed):
    for row in make(NegativesConfig(hedges=1), seed=seed)["hedges"]:
        numbers = set(re.findall(r"-?\d+", row["answer"]))
        denied = {"not", "wrong", "less", "least", "<", ">"} & set(row["answer"].split())
        assert row["reference"] in numbers and (len(numbers) > 1 or denied)


def test_the_same_seed_makes_the_same():
    assert make(seed=3) == make(seed=3) != make(seed=4)


def test_none_twice_and_none_too_long():
    for rows in make(longest=8).values():
        names = [(row["question"], row["answer"]) for row in rows]
        assert len(set(names)) == len(names) and all(len(row["answer_ids"]) <= 8 for row in rows)


def test_what_the_judge_accepted_is_never_wrong():
    """The second wording was accepted, so it is no stranger's answer to this problem."""
    base = {"question": "Capital of France?", "reference": "Paris", "answer_ids": []}
    other = {"question": "City of light?", "reference": "Paname", "answer_ids": []}
    rows = [
        *({**base, "answer": text, "verdict": 1} for text in ("Paris", "La Ville Lumiere")),
        {**other, "answer": "La Ville Lumiere", "verdict": 1},
    ]
    found = make(NegativesConfig(strangers=1), rows)["strangers"]
    assert all(
        r["answer"] != "La Ville Lumiere" for r in found if r["question"] == base["question"]
    )


def test_strangers_are_answers_to_problems_of_the_same_domain():
    """Those are the ones that a policy mixes up."""
    rows = [
        row | {"domain": "ab"[i % 2], "answer": f"{i}", "verdict": 1} for i, row in enumerate(ROWS)
    ]
    found = make(NegativesConfig(strangers=1), rows)["strangers"]
    assert found and all("ab"[int(row["answer"]) % 2] == row["domain"] for row in found)


def test_the_ten_published_keys_are_there():
    published = {" ", ".", ",", ":", "Thought process:", "Solution"}
    published |= {"Let's solve this problem step by step.", "\u89e3", "\u304b\u3044\u305b\u3064"}
    assert published | {"Respuesta"} <= set(negatives.KEYS)
    assert len(set(negatives.KEYS)) == len(negatives.KEYS)


@pytest.mark.parametrize(
    ("response", "answer", "first"),
    [
        ("We add them. That is 4.\n4", "4", "We add them."),
        ("Thought process:\nTwo and two\n4", "4", "Thought process:"),
        ("4", "4", ""),
        ("It is 4. Surely.\n4", "4", ""),  # it holds the answer
        ("\n\n", "", ""),
        ("我们相加。得四", "得四", "我们相加。"),
    ],
)
def test_opening(response, answer, first):
    assert negatives.opening(response, answer) == first


@pytest.mark.parametrize("text", ["It is 42.", "3.14", "0", "7 of 19", "10", "so -5", "3-5"])
def test_near_miss(text):
    rng = random.Random(0)
    found = {negatives.near_miss(text, rng) for _ in range(200)}
    assert len(found) > 3
    head = text[: text.rindex(negatives._NUMBER.findall(text)[-1])]
    assert all(miss.startswith(head) for miss in found)
    assert negatives.near_miss("Paris", rng) is None


def test_a_near_miss_takes_a_sign_away_or_gives_one():
    rng = random.Random(0)
    for text, other in (("x = -5", "x = 5"), ("it is 5", "it is -5"), ("3-5", "3--5")):
        found = {negatives.near_miss(text, rng) for _ in range(200)}
        assert other in found and not any("--" in miss for miss in found - {"3--5"})


def test_a_near_miss_of_a_number_in_words_is_another_number_in_words():
    rng = random.Random(0)
    found = {negatives.near_miss("she has minus three", rng) for _ in range(100)}
    values = ("minus thirteen", "minus four", "minus two", "seven", "three")
    assert found == {f"she has {value}" for value in values}
    many = {negatives.near_miss("one hundred and five legs", rng) for _ in range(100)}
    assert "one hundred and six legs" in many and "minus one hundred and five legs" in many
    assert negatives.near_miss("someone often", rng) is None
    assert negatives.near_miss("one two", rng) == "minus one two"


def test_a_near_miss_may_be_about_another_unknown():
    rng = random.Random(0)
    found = {negatives.near_miss("x is nine", rng) for _ in range(300)}
    assert {"y is nine", "a is nine", "x is ten"} <= found and "x is nine" not in found
    assert all(" is nine" in miss or miss.startswith("x is ") for miss in found)
    row = {"question": "x?", "reference": "x = 9", "answer": "x is nine", "verdict": 1}
    maker = negatives.Maker([row], rng)
    assert maker.wrong("y is nine", row) and maker.wrong("y = 9", row)
    assert not maker.wrong("x is nine", row) and not maker.wrong("9", row)
    other = row | {"answer": "the value is nine"}
    judged = row | {"answer": "y is nine, that is x = 9"}
    assert negatives.Maker([row, other], rng).wrong("y = 9", row)
    assert not negatives.Maker([row, judged], rng).wrong("y is nine, that is x = 9", row)
    nameless = row | {"reference": "9", "answer": "9"}
    assert not negatives.Maker([nameless], rng).wrong("y = 9", nameless)
