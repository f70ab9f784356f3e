"""A list of accepted answers in a data file: each is right by every rule that compares."""

import json

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.problems import task_answers
from rlvr_jax.host.problems.sources import files, references
from rlvr_jax.host.text import accepted


def record(answer, **row):
    return files.parse_record({"question": "Who?", "answer": answer} | row, "file:x")


@pytest.mark.parametrize(
    "rule, answers, right, wrong",
    [
        (
            "",
            ["Jane Austen", "Austen"],
            ["Jane Austen", "austen"],
            ["Jane", "Jane Austen or Austen"],
        ),
        ("", [4, "four"], ["4", "Four"], ["5", "[4, 'four']"]),
        (
            "math",
            ["1/2", "0.6"],
            ["\\boxed{0.5}", "\\boxed{3/5}"],
            ["\\boxed{1/3}", "\\boxed{1/2, 0.6}"],
        ),
        ("exact", ["a", "b"], ["a", "b"], ["A", "ab"]),
        ("text", ["a cat", "a dog"], ["Cat", "the dog"], ["cow"]),
        ("contains", ["4.2", "seven"], ["It is 4.2 m", "seven"], ["4"]),
        ("numeric", [100, 200], ["100.05", "200"], ["150"]),
        ("choice", ["A", "C"], ["A", "I choose C."], ["B"]),
        ("set", ["a", "b"], ["b, a"], ["a", "b"]),
        ("list", ["a", "b"], ["a, b"], ["b, a", "a"]),
    ],
)
def test_any_of_them_is_right(rule, answers, right, wrong):
    row = record(answers)
    assert row["reference"] == str(answers[0])
    for text in right:
        assert rules.judge(text, row, rule) == (1.0, "ok"), text
    for text in wrong:
        assert rules.judge(text, row, rule)[0] == 0.0, text


def test_jaccard_gives_the_best_share():
    row = record(["red apple", "a green pear"])
    alone = rules.score("green pear", "a green pear", "jaccard")
    assert rules.judge("green pear", row, "jaccard")[0] == alone > 0.5


def test_exact_match_knows_all():
    row = record(["a", "b"])
    assert [task_answers.exact_match(x, row) for x in ("a", "so\nb", "c")] == [1.0, 1.0, 0.0]


def test_other_rules_read_the_list_as_it_was(tmp_path):
    tests = ["assert f(1) == 2", "assert f(2) == 3"]
    row = record(tests, extra_info={"level": 3})
    assert json.loads(row["extra"])["level"] == 3
    rules.check_record(row, "code")
    assert accepted.as_listed(row)["reference"] == json.dumps(tests)
    path = tmp_path / "mine.py"
    path.write_text(
        "import json\n"
        "def score(completion, record):\n"
        "    return float(json.loads(record['reference']) == ['x', 'y'])\n"
    )
    assert rules.judge("anything", record(["x", "y"]), str(path)) == (1.0, "ok")


def test_lists_that_are_no_choice():
    assert references.parse_choices(["a"]) == references.parse_choices("[1, 2]") == []
    assert references.parse_choices([[1], [2]]) == references.parse_choices(["a", {"b": 1}]) == []
    assert references.parse_choices(["a", "a", None]) == ["a"]
    assert references.parse_choices([0.30000001192, r"\boxed{7}"]) == ["0.3", "7"]
    plain = record("4")
    assert accepted.accepted(plain) == ["4"] and accepted.as_listed(plain) is plain
