"""The tasks: disjoint splits, readable questions, and an oracle that agrees with reasoning-gym."""

import collections
import itertools
import json
import random
import re
import subprocess
import sys

import pytest

pytest.importorskip("reasoning_gym")

from rlvr_jax.host.problems import dataset, task_answers, tasks  # noqa: E402
from rlvr_jax.host.problems.number_words import number_to_words, parse_number_words  # noqa: E402
from rlvr_jax.host.problems.sources import toy  # noqa: E402

NAMES = list(tasks.TASKS)
COUNTS = {"sft": 300, "train": 301, "test": 60}


@pytest.fixture(scope="module")
def splits():
    return toy.generate_splits(NAMES, COUNTS, 0)


@pytest.fixture(scope="module")
def rows(splits):
    return [row for part in splits.values() for row in part]


def one(rows, task):
    return next(row for row in rows if row["task"] == task)


def test_splits_have_the_counts_and_an_equal_mix(splits):
    assert {split: len(part) for split, part in splits.items()} == COUNTS
    for split, part in splits.items():
        mix = collections.Counter(row["task"] for row in part)
        assert set(mix) == set(NAMES)
        assert max(mix.values()) - min(mix.values()) <= 1, split


def test_records_are_strings_with_the_documented_fields(rows):
    fields = {"question", "reference", "answer", "demonstration", "domain", "task", "key"}
    for row in rows:
        assert set(row) == set(dataset.FIELDS) == fields | {"messages", "extra"}
        assert row["messages"] == row["extra"] == ""
        assert all(isinstance(row[name], str) and row[name] for name in fields)
        assert "\n" not in row["question"] and len(row["question"]) < 150
    assert {row["domain"] for row in rows} == {"arithmetic", "algebra", "gsm", "logic"}


def test_no_problem_occurs_twice(rows):
    assert len({(row["task"], row["key"]) for row in rows}) == len(rows)
    assert len({row["question"] for row in rows}) == len(rows)


def test_splits_stay_disjoint_over_seeds_and_task_lists(splits):
    other = toy.generate_splits(NAMES[:3], COUNTS, 1)
    for a, b in itertools.permutations(COUNTS, 2):
        keys = {(row["task"], row["key"]) for row in splits[a]}
        assert not keys & {(row["task"], row["key"]) for row in other[b]}


def test_generation_is_deterministic_in_another_process(splits):
    small = {"a": 30, "b": 12}
    here = json.dumps(toy.generate_splits(NAMES, small, 3))
    code = (
        "import json, sys; from rlvr_jax.host.problems.sources import toy;"
        f"sys.stdout.write(json.dumps(toy.generate_splits({NAMES!r}, {small!r}, 3)))"
    )
    path = [entry for entry in sys.path if entry]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    assert run.stdout == here
    assert json.dumps(toy.generate_splits(NAMES, small, 4)) != here


def test_too_few_problems_is_one_sentence():
    with pytest.raises(ValueError, match="'family' has too few distinct problems for 6000 rows"):
        toy.generate_splits(["family"], {"all": 6000}, 0)


def test_unknown_task_names_a_near_match():
    with pytest.raises(ValueError, match="did you mean 'equation'"):
        toy.generate_splits(["equations"], COUNTS, 0)
    with pytest.raises(ValueError, match="Unknown task 'zzz'"):
        toy.generate_splits(["zzz"], COUNTS, 0)
    for bad in ([], ["sum", "sum"]):
        with pytest.raises(ValueError, match="without repeats"):
            toy.generate_splits(bad, COUNTS, 0)
    assert toy.generate_splits(["sum"], {"a": 0, "b": 2}, 0)["a"] == []


def test_right_answers_score_one_and_rarely_match_the_reference(rows):
    for row in rows:
        assert task_answers.score(row["reference"], row) == 1.0
        assert task_answers.score(row["demonstration"], row) == 1.0
        assert task_answers.exact_match(row["reference"], row) == 1.0
    for name in NAMES:
        mine = [row for row in rows if row["task"] == name]
        missed = sum(task_answers.exact_match(row["demonstration"], row) == 0.0 for row in mine)
        assert missed > 0.6 * len(mine), name


def test_every_surface_form_round_trips(rows):
    rng = random.Random(0)
    for row in rows:
        wrong = task_answers.mistake(row, rng)
        assert wrong != row["answer"]
        for answer in (row["answer"], wrong):
            for _ in range(6):
                text = task_answers.render(row, answer, rng)
                for shown in (text, text.upper(), f"Let me see. 7 or 8\n\n  {text}.  \n"):
                    assert task_answers.canonical(shown, row) == answer, (row, shown)
                    assert task_answers.score(shown, row) == float(answer == row["answer"])


@pytest.mark.parametrize("name", NAMES)
def test_oracle_agrees_with_reasoning_gym(name):
    import reasoning_gym

    task, rng = tasks.TASKS[name], random.Random(1)
    judge = reasoning_gym.create_dataset(task.dataset, size=1, seed=0, **task.params)
    checked = 0
    for entry in itertools.islice(toy.generate_entries(name, 5), 10_000):
        row = toy.build_record(name, entry, rng)
        if row is None:
            continue
        for answer in (
            row["answer"],
            task_answers.mistake(row, rng),
            task_answers.mistake(row, rng),
        ):
            text = task_answers.render(row, answer, rng)
            theirs = judge.score_answer(task_answers.canonical(text, row), entry)
            assert (theirs >= 0.99) == (task_answers.score(text, row) == 1.0), (row, text)
        checked += 1
        if checked == 200:
            break
    assert checked == 200


def test_syllogism_golds_hold_in_every_world():
    # Independent check: try all worlds (which kinds of things exist) with no empty noun.
    kinds = list(itertools.product((False, True), repeat=3))
    worlds = [
        [k for k, there in zip(kinds, m, strict=True) if there]
        for m in itertools.product((0, 1), repeat=8)
    ]
    worlds = [w for w in worlds if all(any(k[i] for k in w) for i in range(3))]

    def holds(claim, world, nouns):
        words = claim.rstrip("?.").split()
        i, j = nouns.index(words[1]), nouns.index(words[-1])
        both = any(k[i] and k[j] for k in world)
        only = any(k[i] and not k[j] for k in world)
        if words[0].lower() == "some":
            return only if "not" in words else both
        return not both if words[0].lower() == "no" else not only

    for row in toy.generate_splits(["syllogism"], {"all": 150}, 2)["all"]:
        premises, conclusion = row["key"].split(" => ")
        first, second = premises.split("; ")
        nouns = sorted({word for p in (first, second) for word in (p.split()[1], p.split()[-1])})
        true = all(
            holds(conclusion, w, nouns)
            for w in worlds
            if holds(first, w, nouns) and holds(second, w, nouns)
        )
        assert row["answer"] == ("Yes" if true else "No"), row["question"]


def test_arithmetic_and_leg_golds_are_right(rows):
    for row in rows:
        if row["task"] == "sum":
            expression = row["question"].removeprefix("What is ").split("?")[0]
            assert eval(expression) == int(row["answer"])
        elif row["task"] == "equation":
            left, right = row["question"].split(": ")[1].split(" = ")
            unknown = next(c for c in left if c.isalpha())
            assert eval(left, {unknown: int(row["answer"])}) == int(right)
        elif row["task"] == "siblings":
            sisters = re.search(r"(\d+) sisters", row["question"])
            assert int(sisters[1]) + 1 == int(row["answer"])


@pytest.mark.parametrize(
    "n, text",
    [
        (0, "zero"),
        (-23, "minus twenty-three"),
        (105, "one hundred and five"),
        (140, "one hundred and forty"),
        (1007, "one thousand and seven"),
        (9999, "nine thousand nine hundred and ninety-nine"),
    ],
)
def test_number_words(n, text):
    assert number_to_words(n) == text
    assert parse_number_words(text) == n


@pytest.mark.parametrize("text", ["", "eleventy", "one two", "ten thousand", "five apples", "5"])
def test_other_words_are_no_number(text):
    assert parse_number_words(text) is None


def number(answer="12", task="legs"):
    question = "How many legs are there in total if you have 3 cows?"
    return {"question": question, "answer": answer, "task": task, "key": "3 cow"}


@pytest.mark.parametrize(
    "text, value",
    [
        ("12", "12"),
        ("Twelve legs.", "12"),
        ("so the final answer is: **12**", "12"),
        ("\uff11\uff12", "12"),  # full-width digits
        ("12.0", "12"),
        ("1,012 legs", "1012"),
        ("negative twenty three", "-23"),
        ("\u2212 12", None),
        ("\u221212", "-12"),
        ("a hundred and five legs", "105"),
        ("one hundred five", "105"),
        ("12 legs in total", "12"),
        ("thinking: 5\n12\n\n", "12"),
        ("12\n13", "13"),
    ],
)
def test_numbers_are_read(text, value):
    assert task_answers.canonical(text, number()) == value


@pytest.mark.parametrize(
    "text",
    ["", " \n\t\n", "answer is", "the answer is", "legs", "the answer is legs", "minus", "hundred"]
    + ["12 or 13", "12 13", "12, 13", "12/13", "12-13", "between 12 and 13", "not 12", "12 legs 12"]
    + ["the answer is 12, not 13", "12 = 13", "twelve thirteen", "twelve twelve", "twelve and"]
    + ["answer-12", "- 12 -", "12%", "1e1", "0x0c", "12.5", "1,2", "12 sisters", "x12", "12!"]
    + [
        "\u0661\u0662",
        "1\u00b2",
        "\u246b",
        "12\u200b",
        "1\x002",
        "12\x0c13",
        "\ud83d12",
        "1\u03382",
    ]
    + ["9" * 50, "12" + " " * 300, "12 " * 100_000, "twelve " * 50_000, "x" * 1_000_000]
    + ["1\n" * 3 + "?", "a" * 90 + "12", "\n" * 4095 + "12" + "\n" * 4095 + "."],
)
def test_hostile_numbers_are_refused(text):
    for answer in ("12", "-12", "0", "13"):
        assert task_answers.score(text, number(answer)) == 0.0


def test_a_line_cut_by_the_length_bound_is_not_read():
    tail = "\n" * (task_answers.MAX_TEXT - 2)
    assert task_answers.canonical("not 12" + tail, number()) is None
    assert task_answers.canonical("x\n" * 9000 + "12", number()) == "12"


def test_choices(rows):
    row = one(rows, "family")
    options = tasks.parse_options(row)
    right = next(letter for letter, text in options.items() if text == row["answer"])
    wrong = next(letter for letter in options if letter != right)
    gold, other = row["answer"], options[wrong]
    every = " ".join(f"({letter}) {text}" for letter, text in options.items())
    for text in (f"({right})", f"{right}.", f"Option ({right.upper()})", f"{right}: {gold}"):
        assert task_answers.score(text, row) == 1.0, text
    refused = [every, f"({right}) {other}", f"({wrong}) {gold}", f"{gold} or {other}", "A B C"]
    refused += [f"{right} {wrong}", "abc", "(D)", "", "option", "the", "()", f"not {gold}"]
    refused += [f"{gold} {gold}", f"the {gold} of {other}", row["question"], "A) B) C)", other]
    for text in refused:
        assert task_answers.score(text, row) == 0.0, text


def test_yes_and_no(rows):
    row = dict(one(rows, "syllogism"), answer="Yes")
    for text in ("Yes.", "YES", "it is valid", "the answer is: true", "yes, it follows"):
        assert task_answers.score(text, row) == 1.0, text
    for text in ("yes no", "yes or no", "yes, it does not", "not yes", "no", "y", "1", "maybe"):
        assert task_answers.score(text, row) == 0.0, text
    no = dict(row, answer="No")
    for text in ("No", "it doesn't follow", "it is not valid", "the answer is no"):
        assert task_answers.score(text, no) == 1.0, text


def test_equation_names_its_own_unknown():
    question = "Solve for e: 5 - 8*e = -51"
    row = {"question": question, "answer": "7", "task": "equation", "key": "5 - 8*x = -51"}
    for text in ("e = 7", "e=7", "E is seven", "the answer is e = 7", "7"):
        assert task_answers.score(text, row) == 1.0, text
    for text in ("x = 7", "e = 7 = 8", "e = ", "e", "e is-7", "7 = 7"):
        assert task_answers.score(text, row) == 0.0, text


@pytest.mark.parametrize("record", [{}, {"task": "legs"}, {"task": "no"}, {"task": None}, None, 3])
def test_score_never_raises(record):
    for text in ("12", "", None, 12, b"12", "\udc80"):
        assert task_answers.score(text, record) == 0.0
        assert task_answers.score(text, number()) == float(text == "12")


def test_demonstrations_have_the_error_rate_asked(rows):
    rng = random.Random(2)
    for rate in (0.0, 0.3, 1.0):
        right = sum(
            task_answers.score(task_answers.demonstrate(row, rate, rng), row) for row in rows
        )
        assert right / len(rows) == pytest.approx(1 - rate, abs=0.08 if rate == 0.3 else 0)
