"""Rows: references that cannot be right are refused, and the others are what the row means."""

import json
import struct

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.problems import sources
from rlvr_jax.host.problems.sources import files, references


def record(**row):
    return files.parse_record({"question": "How much?"} | row, "file:x")


def reference(**row):
    return record(**row)["reference"]


# -- references that no answer can equal ----------------------------------------------------------

HOPELESS = {
    "pandas": dict(answer="NaN"),
    "null": dict(answer="null"),
    "none of Python": dict(answer="None"),
    "no number": dict(ground_truth="N/A"),
    "nothing to compare": dict(solution="Proof"),
    "not found": dict(final_answer=" Not found "),
    "form feed": dict(answer="\frac{5}{8}"),
    "form feed in a box": dict(solution="So \\boxed{\frac{5}{8}}."),
    "tab": dict(answer="5 \times 10^3"),
    "tab of text": dict(answer="9\text{ km}"),
    "bell": dict(answer="\angle ABC"),
    "line end": dict(answer="x \neq 8"),
    "return": dict(answer="( 2 \right)"),
    "box that became a backspace": dict(solution="So \boxed{8}."),
    "fraction without a backslash": dict(answer="frac{3}{8}"),
    "rest of a fraction": dict(answer="rac{3}{8}"),
    "root without a backslash": dict(answer="4 sqrt{7}"),
    "right to left": dict(answer="1\u202e23"),
    "zero width": dict(answer="1\u200b23"),
    "joiner in English": dict(answer="Lon\u200ddon"),
    "soft hyphen": dict(answer="Lon\u00addon"),
    "tab between words": dict(answer="Paris\tFrance"),
    "open box": dict(solution="It is \\boxed{\\frac{1}{8}"),
    "open box as reference": dict(ground_truth="\\boxed{6"),
    "empty box": dict(solution="It is \\boxed{}."),
    "long": dict(answer="7" * 4097),
    "text below the marker": dict(answer="2 + 6 = 8\n#### 8\nGood luck!"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_what_no_answer_can_equal_is_refused(name):
    with pytest.raises(ValueError, match=r"^(its|it|text) ") as caught:
        record(**HOPELESS[name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("none", "nano", "Na", "Nora", "proofs", "null set", "unknown", "\u2205", "42"),
        *("\\frac{5}{8}", "5 \\times 10^3", "fractions", "sqrt(5)", "tangent", "0.125"),
        *("\u0645\u06cc\u200c\u0631\u0648\u062f", "\u0915\u094d\u200d\u0937"),
        *("\U0001f468\u200d\U0001f33e", "\u0e01\u200b\u0e02", "\u0633\u0624\u0627\u0644"),
        *("def f(x):\n\treturn x", "a\r\nb", "7" * 4096, "[" + "1, " * 2000 + "1]"),
    ],
)
def test_what_an_answer_can_equal_stays(text):
    assert reference(answer=text) == text


def test_blanks_and_invisible_ends_are_cut():
    for text in ("\u200b8", "8\ufeff", " 8\u00a0\u200f", "\u20608\u200b"):
        assert reference(answer=text) == "8"


def test_lost_backslashes_in_a_prompt_or_a_solution_are_refused():
    with pytest.raises(ValueError, match="its prompt has '.x0c' before 'rac'"):
        record(question="What is \frac{1}{9}?", answer="9")
    with pytest.raises(ValueError, match="its solution has"):
        record(answer="9", solution="As \theta = 9")
    assert record(question="Page 1\f\fNext.\n\tau lait?", answer="9")["reference"] == "9"


# -- the final answer of a worked solution --------------------------------------------------------


@pytest.mark.parametrize(
    "solution, answer",
    [
        ("6 + 6\n#### 12,345,678", "12345678"),
        ("6 + 6\n#### -$9,876.50", "-$9876.50"),
        ("6 + 6\n#### 2,718", "2718"),
        ("6 + 6\n#### 2,71", "2,71"),
        ("6 + 6\n#### 12,3456", "12,3456"),
        ("6 + 6\n#### (6, 12]", "(6, 12]"),
        ("6 + 6\n#### 6, 12", "6, 12"),
        ("6 + 6\n#### Rome, Italy", "Rome, Italy"),
        ("6 + 6 #### 12", "12"),
        ("6 + 6\n####12\n\n", "12"),
        ("6 + 6\n####\n12", "12"),
        ("6 + 6\n#### \\boxed{12}", "12"),
        ("#### Step 1\n6 + 6\n#### 12", "12"),
        ("#### Solution\n6 + 6 = 12\n\nIt is twelve.", "It is twelve."),
        ("#### Solution\nSo \\boxed{12}\n#### Remark\nNice.", "12"),
        ("##### Solution\n\\boxed{12}", "12"),
        ("# a comment\nprint(12)", "# a comment\nprint(12)"),
        ("12", "12"),
    ],
)
def test_markers_headings_and_boxes(solution, answer):
    assert references.parse_final_answer(solution) == answer
    assert record(solution=solution)["demonstration"] == solution.strip()


# -- columns --------------------------------------------------------------------------------------


def test_an_empty_column_gives_way_to_a_full_one():
    for blank in (None, "", "  ", [], float("nan")):
        assert record(question=blank, problem="Why?", answer="8")["question"] == "Why?"
        assert reference(answer=blank, solution="So \\boxed{8}") == "8"
        assert reference(answer="8", solution=blank) == "8"
        row = {"prompt": "Why?", "reward_model": {"ground_truth": blank}, "answer": "8"}
        assert files.parse_record(row, "file:x")["reference"] == "8"
    with pytest.raises(ValueError, match="no reference"):
        record(answer="", solution=None)


def test_structures_as_text():
    messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "Why?"}]
    row = {"prompt": messages, "reward_model": {"ground_truth": "8"}, "extra_info": {"index": 3}}
    wanted = files.parse_record(row, "file:x")
    for write in (json.dumps, repr, lambda value: json.dumps(value, indent=1)):
        spelled = {name: write(value) for name, value in row.items()}
        assert files.parse_record(spelled, "file:x") == wanted
    assert record(prompt="[1, 2, 3]: sum?", answer="6")["question"] == "[1, 2, 3]: sum?"
    assert record(prompt='[{"a": 1}]', answer="6")["question"] == '[{"a": 1}]'
    for bad in ({"prompt": '[{"role": "user", "content'}, {"extra_info": "{'tests': "}):
        with pytest.raises(ValueError, match="as text|is text"):
            record(**{"prompt": "Why?", "answer": "6"} | bad)


def test_a_capital_suffix_and_marks_in_joined_files(tmp_path):
    path = tmp_path / "BIG.JSONL"
    line = json.dumps({"question": "{}?", "answer": "5"})
    path.write_text("".join("\ufeff" + line.replace("{}", str(i)) + "\n" for i in range(3)))
    files.check_file(path)
    assert [r["question"] for r in files.load_records(path, "file:x")] == ["0?", "1?", "2?"]


@pytest.mark.parametrize("number", [0.7, 1e-3, 12.8, -45.67, 3.0, 123456.0, 0.1, 250.5])
def test_the_noise_of_floats_is_taken_off(number):
    (single,) = struct.unpack("f", struct.pack("f", number))
    text = str(int(number)) if number.is_integer() else str(number)
    assert reference(answer=single) == text == reference(answer=number)
    if "e" not in repr(single) and single != number:
        assert reference(answer=repr(single)) == text
        assert reference(answer=float(f"{single:.10g}")) == text
    assert reference(answer=number * 3 / 3 + 0.0) == text


@pytest.mark.parametrize("number", [2.718281828459045, 0.333333333333, 1.23456789, 8.30000002])
def test_digits_that_are_no_noise_stay(number):
    assert reference(answer=number) == str(number) == reference(answer=str(number))


# -- multiple choice ------------------------------------------------------------------------------

METALS = ["iron", "gold", "zinc"]
CHOICES = {
    "MMLU": dict(choices=METALS, answer=1, subject="chemistry"),
    "text": dict(options=METALS, answer="Gold"),
    "letter": dict(options=METALS, answer="B"),
    "letter and text": dict(options=METALS, answer="(B) gold"),
    "MMLU-Pro": dict(options=METALS, answer="B", answer_index=1),
    "MedQA": dict(options={"A": "iron", "B": "gold", "C": "zinc"}, answer="gold", answer_idx="B"),
    "ARC": dict(choices={"text": METALS, "label": ["A", "B", "C"]}, answerKey="B"),
    "ARC, numbers": dict(choices={"text": METALS, "label": ["1", "2", "3"]}, answerKey="2"),
    "pairs": dict(options=[{"key": k, "value": v} for k, v in zip("ABC", METALS, strict=True)])
    | dict(answer="B"),
    "HellaSwag": dict(endings=METALS, label="1"),
    "AQuA": dict(options=["A)iron", "B)gold", "C)zinc"], correct="B"),
    "columns": dict(A="iron", B="gold", C="zinc", answer="B"),
    "named columns": dict(option_a="iron", option_b="gold", option_c="zinc", answer="b"),
    "text of a list": dict(choices=json.dumps(METALS), answer="1"),
    "worked": dict(options=METALS, answer="It shines.\n#### B"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_options_become_part_of_the_question(name):
    row = record(**CHOICES[name])
    assert row["question"] == "How much?\nA) iron\nB) gold\nC) zinc"
    assert row["reference"] == "B) gold"
    for right in ("\\boxed{B}", "gold", "The answer is (B)."):
        assert rules.score_record(right, row) == 1.0
    for wrong in ("\\boxed{A}", "zinc", "A or B", "1"):
        assert rules.score_record(wrong, row) == 0.0


def test_options_that_the_question_lists_are_not_listed_twice():
    asked = "Which? (A) iron (B) gold (C) zinc"
    row = record(question=asked, choices=METALS, answer=2)
    assert (row["question"], row["reference"]) == (asked, "C) zinc")
    assert rules.score_record("\\boxed{C}", row) == 1.0 > rules.score_record("\\boxed{B}", row)


@pytest.mark.parametrize(
    "row, words",
    [
        (dict(choices=METALS, answer=3), "answer 3 is none of its 3 options"),
        (dict(choices=METALS, answer=-1), "none of its 3"),
        (dict(choices=METALS, answer="lead"), "'lead' is none"),
        (dict(choices=METALS, answer="A) gold"), "is none"),
        (dict(choices=METALS, answer="A", answer_index=1), "is none"),
        (dict(choices=["3", "2", "1"], answer="2"), "could be several"),
        (dict(choices=["gold", "Gold", "zinc"], answer=0), "twice"),
        (dict(choices=METALS, answer=None), "no reference"),
        (dict(choices=[str(i) for i in range(11)], answer=0), "11 options"),
        (dict(choices={"text": METALS, "label": ["A"]}, answerKey="A"), "3 options and 1 labels"),
    ],
)
def test_options_that_are_not_clear_are_refused(row, words):
    with pytest.raises(ValueError, match=words):
        record(**row)


@pytest.mark.parametrize("value", [None, [], "", {"temperature": 1}, [[1], [2]], "fast"])
def test_other_columns_of_these_names_are_no_options(value):
    row = record(options=value, answer="8")
    assert (row["question"], row["reference"]) == ("How much?", "8")


def test_a_suffix_stands_before_the_options(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"question": f"Which, {i}?", "choices": METALS, "answer": 2} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = sources.SourceConfig(file=str(path), suffix="Answer by letter.")
    (row,) = sources.mix_sources([source], {"train": 1}, 0)["train"]
    assert row["question"].endswith("? Answer by letter.\nA) iron\nB) gold\nC) zinc")
    assert rules.score_record("zinc", row) == 1.0
