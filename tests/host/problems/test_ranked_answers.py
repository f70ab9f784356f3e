"""Ranked answers: the grades are true, the best is unique, and no surface feature gives it away."""

import collections
import random
import re
import statistics

import pytest

pytest.importorskip("reasoning_gym")

from rlvr_jax.config import DataConfig, PreferencesConfig  # noqa: E402
from rlvr_jax.host.problems import (  # noqa: E402
    dataset,
    preference,
    ranked_answers,
    task_answers,
    worked_answers,
)
from rlvr_jax.host.problems import tasks as toy_tasks  # noqa: E402
from rlvr_jax.host.problems.sources import build_splits, origin, toy  # noqa: E402
from rlvr_jax.host.text import tokenizer  # noqa: E402

NAMES = list(toy_tasks.TASKS)
COUNTS = {"sft": 120, "train": 121, "test": 40}


@pytest.fixture(scope="module")
def rows():
    return toy.generate_splits(NAMES, {"all": 2100}, 0)["all"]


@pytest.fixture(scope="module")
def items(rows):
    return [ranked_answers.build_item(row, (2, 6), 0.0, 0) for row in rows]


def parse_scores(demonstration):
    return [int(x) for x in re.search(r"boxed\{([\d, ]+)\}$", demonstration)[1].split(", ")]


def parse_steps(text):
    return re.findall(r"^(-?\d+ [-+*/] \d+) = (-?\d+)$", text, re.M)


def holds(step):
    expression, result = step
    return eval(expression) == int(result)


def is_right(item, scores):
    if len(scores) == 1:
        return scores == [item.best]
    return all(scores[item.best] > s for i, s in enumerate(scores) if i != item.best)


def test_every_item_has_one_best_and_a_label_of_difficulty(rows, items):
    for row, item in zip(rows, items, strict=True):
        assert item.best == preference.best_of(item.quality)
        assert item.query == row["question"] and item.reference == row["reference"]
        task, level = item.domain.split("/")
        assert task == row["task"] and level in ("easy", "hard")
        assert item.strength in ("slightly better", "better", "much better")
        assert preference.parse_item(preference.build_record(item)).responses == item.responses
    sizes = collections.Counter(len(item.responses) for item in items)
    assert set(sizes) == {2, 3, 4, 5, 6} and min(sizes.values()) > 300


def test_grades_agree_with_the_oracle_and_with_arithmetic(rows, items):
    seen = collections.Counter()
    for row, item in zip(rows, items, strict=True):
        for text, grade in zip(item.responses, item.quality, strict=True):
            # 3 to 6: the result is right; 2, 1, 0: there is none, it is wrong or not readable.
            assert task_answers.score(text, row) == float(grade >= 3), (text, grade)
            steps = parse_steps(text)
            if steps and grade in (3.0, 5.0, 6.0):
                assert sum(not holds(step) for step in steps) == (grade == 3.0), text
            if grade == 6.0:
                assert text.rpartition("\n")[2].split()[-1] == row["answer"] and "\n" in text
            seen[grade] += 1
    assert set(seen) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0}


def test_the_lines_of_each_task_are_true_and_the_wrong_ones_false(rows):
    rng = random.Random(0)
    for row in rows:
        lines = worked_answers.write_lines(row)
        spoiled, wrong = worked_answers.spoil_line(row, lines, rng)
        assert len(spoiled) == len(lines) and wrong in spoiled and wrong not in lines
        assert sum(a != b for a, b in zip(lines, spoiled, strict=True)) == 1
        if toy_tasks.TASKS[row["task"]].kind != "number":
            facts = re.split(r"[.;] ", row["question"])
            assert all(line in facts for line in lines) and wrong not in facts
            assert worked_answers.write_lines_to(row, "other", rng) == lines
            continue
        assert all(map(holds, parse_steps("\n".join(lines)))) and len(lines) >= 1
        assert parse_steps(lines[-1])[0][1] == row["answer"]
        other = str(int(row["answer"]) + 2)
        steps = parse_steps("\n".join(worked_answers.write_lines_to(row, other, rng)))
        assert steps[-1][1] == other and sum(not holds(step) for step in steps) == 1


def test_a_wrong_line_about_a_family_or_a_premise_contradicts_the_question():
    row = {"task": "syllogism", "answer": "No"}
    row["question"] = "Some cats are not dogs. No dogs are fish. Does it follow that so?"
    drawn = {
        worked_answers.spoil_line(row, worked_answers.write_lines(row), random.Random(i))[1]
        for i in range(40)
    }
    assert drawn <= {"All cats are dogs", "All dogs are fish", "Some dogs are fish"}
    assert len(drawn) == 3


def test_single_responses_are_right_or_wrong_in_equal_parts(rows):
    singles = [ranked_answers.build_item(row, (1, 1), 0.0, 0) for row in rows]
    for row, item in zip(rows, singles, strict=True):
        assert item.best == task_answers.score(item.responses[0], row)
        assert parse_scores(item.demonstration) == [item.best]
    assert abs(statistics.mean(item.best for item in singles) - 0.5) < 0.04
    for feature in FEATURES.values():
        values = [feature(item.responses[0]) for item in singles]
        middle = statistics.median(values)
        hits = [(v > middle) == item.best for v, item in zip(values, singles, strict=True)]
        assert abs(statistics.mean(hits) - 0.5) < 0.06


FEATURES = {
    "length": len,
    "words": lambda text: len(text.split()),
    "lines": lambda text: text.count("\n"),
    "steps": lambda text: text.count("="),
    "digits": lambda text: sum(char.isdigit() for char in text),
    "capitals": lambda text: sum(char.isupper() for char in text),
    "phrases": lambda text: "I think" in text,
    "last line": lambda text: len(text.rpartition("\n")[2]),
    "size of result": lambda text: abs(int((re.findall(r"\d+", text) or ["0"])[-1])),
}


def lift(items, feature, pick):
    """How much more often than a random choice the response that `pick` takes is the best."""
    gain = 0.0
    for item in items:
        values = [feature(text) for text in item.responses]
        top = [i for i, value in enumerate(values) if value == pick(values)]
        gain += (item.best in top) / len(top) - 1 / len(values)
    return gain / len(items)


def test_no_surface_feature_gives_the_best_away(rows, items):
    more = [ranked_answers.build_item(row, (2, 6), 0.0, seed) for row in rows for seed in (1, 2)]
    for level, limit in (("hard", 0.05), ("easy", 0.12)):
        mine = [item for item in [*items, *more] if item.domain.endswith(level)]
        for name, feature in FEATURES.items():
            for pick in (max, min, lambda values: sorted(values)[len(values) // 2]):
                assert lift(mine, feature, pick) < limit, (level, name)
    fours = [item.best for item in [*items, *more] if len(item.responses) == 4]
    places = collections.Counter(fours)
    assert all(abs(places[i] / len(fours) - 0.25) < 0.05 for i in range(4))


def test_a_demonstration_is_three_lines_that_judge_rightly(items):
    for item in items:
        criteria, analysis, scores = item.demonstration.split("\n")
        assert criteria == f"Criteria: {item.criteria}" and analysis.startswith("Analysis: ")
        clauses = re.split(r"; (?=\d: )", analysis)[1:]
        assert [int(c[0]) for c in clauses] == list(range(1, len(item.responses) + 1))
        assert scores.startswith("Scores: \\boxed{")
        given = parse_scores(scores)
        assert len(given) == len(item.responses) and set(given) <= set(range(1, 11))
        assert is_right(item, given)
        order = sorted(range(len(given)), key=given.__getitem__)
        assert sorted(order, key=item.quality.__getitem__) == order


@pytest.mark.parametrize("counts", [(1, 1), (2, 6)])
def test_a_wrong_demonstration_is_never_right(rows, items, counts):
    wrong = [ranked_answers.build_item(row, counts, 1.0, 0) for row in rows]
    for item in wrong:
        given = parse_scores(item.demonstration)
        assert not is_right(item, given)
        assert set(given) <= (set(range(1, 11)) if counts[0] > 1 else {0, 1})
    some = [ranked_answers.build_item(row, counts, 0.2, 0) for row in rows]
    share = statistics.mean(not is_right(i, parse_scores(i.demonstration)) for i in some)
    assert abs(share - 0.2) < 0.04
    if counts[0] > 1:
        assert [item.responses for item in some] == [item.responses for item in items]


def test_splits_hold_items_and_share_no_query():
    data = DataConfig(
        tasks=tuple(NAMES), preferences=PreferencesConfig(1, 4), demonstration_errors=0.5
    )
    splits = build_splits(data, COUNTS, 3)
    assert {name: len(rows) for name, rows in splits.items()} == COUNTS
    assert splits == build_splits(data, COUNTS, 3) != build_splits(data, COUNTS, 4)
    queries = [row["question"] for rows in splits.values() for row in rows]
    assert len(set(queries)) == len(queries)
    wrong = {}
    for name, rows in splits.items():
        assert all(set(row) == set(dataset.FIELDS) for row in rows)
        found = [preference.parse_item(row) for row in rows]
        assert {len(item.responses) for item in found} == {1, 2, 3, 4}
        wrong[name] = sum(not is_right(i, parse_scores(i.demonstration)) for i in found)
    assert wrong["sft"] > 40 and wrong["train"] == wrong["test"] == 0


def test_the_origin_changes_with_the_preferences():
    plain = DataConfig(tasks=("sum",))
    ranked = DataConfig(tasks=("sum",), preferences=PreferencesConfig(2, 4))
    assert "preferences" not in origin.compute_origin(plain, COUNTS, 0)["config"]
    assert origin.compute_origin(ranked, COUNTS, 0)["config"]["preferences"]["most"] == 4


@pytest.mark.parametrize("least, most", [(0, 2), (3, 2), (2, 7), (-1, 2), (1, 0)])
def test_counts_that_make_no_item_are_refused(least, most):
    with pytest.raises(ValueError, match="least <= most <= 6"):
        PreferencesConfig(least, most)


def test_preferences_without_tasks_are_refused():
    with pytest.raises(ValueError, match="preferences are made of tasks"):
        DataConfig(preferences=PreferencesConfig(2, 4))


def test_a_typical_response_is_short_for_a_small_vocabulary(tmp_path, items):
    texts = [
        line
        for item in items
        for text in (item.query, item.demonstration, *item.responses)
        for line in text.split("\n")
    ]
    tokenizer.train(texts, 768, tmp_path / "tokenizer.model")
    tok = tokenizer.open_tokenizer(tmp_path / "tokenizer.model")
    lengths = [len(tok.encode(text)) for item in items for text in item.responses]
    assert statistics.median(lengths) < 20 and max(lengths) < 64
    assert statistics.median(len(tok.encode(item.demonstration)) for item in items) < 64
