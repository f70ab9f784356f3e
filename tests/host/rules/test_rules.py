"""The rule: right answers in many forms score 1, hostile text scores 0, and nothing raises."""

import json
import random
import time

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.text import answers


def gym_row(name, gold, **metadata):
    extra = json.dumps({"metadata": metadata})
    return {"task": f"gym:{name}", "question": "?", "answer": gold, "extra": extra}


def file_row(gold):
    return {"task": "file:mine", "question": "?", "reference": gold, "answer": gold, "extra": ""}


@pytest.mark.parametrize(
    "text, value",
    [
        ("12", "12"),
        ("first 7, then 12.", "12"),
        ("3 + 4 = 7", "7"),
        ("3+4=7", "7"),
        ("**Answer:** 7", "7"),
        ("Answer:7", "7"),
        ("x = -5", "-5"),
        ("\u22125", "-5"),
        ("5 - 3", "3"),
        ("$1,234.50", "1234.50"),
        ("\\$18", "18"),
        ("50%", "50"),
        ("\\boxed{42}", "42"),
        ("$\\boxed{\\frac{3}{4}}$", "3/4"),
        ("12 apples", "12"),
        ("(12)", "12"),
        ("1{,}000", "1000"),
        ("12cm", None),
        ("it was 12 but 13x", None),  # the earlier number must not stand in
        ("1e9", None),
        ("\u0661\u0662", None),
        ("12 \u0661", None),
        ("\u00bd", None),
        ("10^{12}", None),
        ("1,2", None),
        ("1/0", None),
        ("12_000", None),
        ("9" * 5000, None),
        ("", None),
        ("none", None),
    ],
)
def test_last_number(text, value):
    assert answers.last_number(text) == value


@pytest.mark.parametrize(
    "text, value",
    [
        (r"so \boxed{12}", "12"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\fbox{7}", "7"),
        (r"$\boxed 7$ it is", "7"),
        (r"\boxed{1", None),
        (r"\boxed", None),
        (r"\boxedx{1}", None),
        ("12", None),
    ],
)
def test_boxed(text, value):
    assert answers.boxed(text) == value


@pytest.mark.parametrize("gold", ["12", "1,000", "$3.50", "-7", "3/4", "18.0", "5%"])
def test_numeric_references(gold):
    row, value = file_row(gold), str(float(answers.number(gold)))
    for text in (
        gold,
        f"It is {gold}.",
        f"so\nthe answer is **{value}**",
        f"\\boxed{{{gold}}} or 9",
    ):
        assert rules.score_record(text, row) == 1.0, text
    for text in (f"{gold} or 9", f"{gold}\n9", "", "x", f"-{gold}", f"\\boxed{{9}} {gold}"):
        assert rules.score_record(text, row) == 0.0, text


@pytest.mark.parametrize(
    "gold, right, wrong",
    [
        ("The Eiffel Tower", ["eiffel tower", "Answer: the Eiffel Tower."], ["Tower"]),
        ("B", ["b", "(B)", "The answer is B.", "**B**"], ["A", "B or C", "AB", "the"]),
        ("A", ["a", "(A)"], ["the", "an", ""]),
        ("Cell wall", ["cell  wall", "cell wall!"], ["wall cell", "cellwall"]),
        ("x^2-1", ["x^2 - 1", "$x^2-1$", r"so \boxed{x^2 - 1}"], ["x^21", "x^2+1", "x\u00b2-1"]),
        ("\u5317\u4eac", ["\u5317\u4eac"], ["\u5357\u4eac"]),
        ("don't", ["don\u2019t", "Don't"], ["dont know"]),
        ("...", [], ["...", "", "."]),
    ],
)  # fmt: skip
def test_text_references(gold, right, wrong):
    row = file_row(gold)
    assert [rules.score_record(text, row) for text in right] == [1.0] * len(right)
    assert [rules.score_record(text, row) for text in wrong] == [0.0] * len(wrong)
    assert [rules.score_record(f"because\n{text}\n\n", row) for text in right] == [1.0] * len(right)


def test_the_final_line_decides():
    assert rules.score_record("Paris\nLyon", file_row("Paris")) == 0.0
    assert rules.score_record("Lyon\n\nParis\n \n", file_row("Paris")) == 1.0


def test_toy_tasks_keep_their_oracle():
    row = {"task": "sum", "question": "What is 3 + 4?", "answer": "7", "reference": "seven"}
    assert rules.score_record("= seven", row) == 1.0
    assert rules.score_record("3 + 4 = 7", row) == 0.0


class TestGym:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("reasoning_gym")

    def test_numbers(self):
        row = gym_row("products", "1012")
        for text in ("1012", "1,012", "22 * 46 = 1012.0", "\\boxed{1012}", "+1012", "it is 1012."):
            assert rules.score_record(text, row) == 1.0, text
        for text in ("10120", "1012 or 3", "1 1012 2", "-1012", "x1012", "1012x", "", "1012/1012"):
            assert rules.score_record(text, row) == 0.0, text

    def test_text(self):
        row = gym_row("spell_backward", "olleh")
        for text in ("olleh", "it is\n**olleh**.", 'Answer: "olleh"'):
            assert rules.score_record(text, row) == 1.0, text
        for text in ("hello", "olleh\nhello", "it is olleh"):
            assert rules.score_record(text, row) == 0.0, text

    def test_no_partial_credit_even_where_it_rounds_to_all(self):
        from rlvr_jax.host.problems import gym_scorers

        hacks = [("a" * n, "a" * n + "zz") for n in range(1, 60)]
        paid = [gym_scorers.score("spell_backward", text, {"answer": gold}) for gold, text in hacks]
        assert max(paid) > 0.99  # the reason
        scores = [rules.score_record(text, gym_row("spell_backward", gold)) for gold, text in hacks]
        assert set(scores) == {0.0}

    def test_a_sign_that_a_scorer_misses(self):
        assert rules.score_record("-5", gym_row("gsm_symbolic", "5")) == 0.0
        assert rules.score_record("5", gym_row("gsm_symbolic", "5")) == 1.0

    def test_metadata_reaches_the_scorer(self):
        row = gym_row("word_sorting", "a, b", sorted_words=["a", "b"])
        assert rules.score_record("a, b", row) == 1.0
        assert rules.score_record("b, a", row) == 0.0

    def test_what_is_not_allowed_scores_nothing(self):
        assert rules.score_record("x", gym_row("polynomial_multiplication", "x")) == 0.0
        with pytest.raises(ValueError, match="not known to be safe"):
            rules.check_task("gym:polynomial_multiplication")
        rules.check_task("gym:products")

    def test_every_allowed_data_set_scores_its_own_answers(self):
        from rlvr_jax.host.problems import gym_scorers
        from rlvr_jax.host.problems.sources import gym

        for name in sorted(gym_scorers.SCORED):
            rows = [
                row
                for row, _ in zip(gym.generate_records(name, {}, 0), range(8), strict=False)
                if row
            ]
            right = [rules.score_record(f"We get\n{row['answer']}", row) for row in rows]
            more = [rules.score_record(f"We get\n{row['answer']} or 0x1z", row) for row in rows]
            assert (set(right), set(more)) == ({1.0}, {0.0}), name


HOSTILE = [None, 3, b"12", "", " ", "\x00", "\ud800", "{" * 100_000, "\\boxed{" * 50_000]
HOSTILE += ["9" * 1_000_000, "12" * 500_000, "1/" * 100_000, "1," * 100_000, "12 " * 300_000]
HOSTILE += ["\\frac{1}{0}", "\\boxed{}", "answer " * 100_000, "\u0661" * 9999, "**" * 200_000]
HOSTILE += [
    "__import__('os').system('true')",
    "-" * 100_000,
    "1e999999999",
    "=" * 100_000,
    "\n" * 99_999,
]
HOSTILE += [
    "nan",
    "inf",
    "NaN",
    "0x0c",
    "the answer is",
    "Answer: " * 999,
    "[" * 9999 + "1",
    "\n" * 99_999,
]


@pytest.mark.parametrize("gold", ["13", "abc", "['1', '2']"])
def test_hostile_completions_score_zero_and_fast(gold):
    rows = [file_row(gold), gym_row("number_filtering", gold), gym_row("gcd", gold)]
    rows += [gym_row("dice", gold), gym_row("family_relationships", gold)]
    begin = time.monotonic()
    for text in HOSTILE:
        for row in rows:
            assert rules.score_record(text, row) == 0.0, (str(text)[:30], row["task"])
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "record",
    [{}, None, 3, {"task": None}, {"task": "gym:"}, {"task": "gym:gcd"}, {"task": "file:x"}],
)
def test_foreign_records_score_zero(record):
    for text in ("12", "", None):
        assert rules.score_record(text, record) == 0.0


def test_random_text_never_raises():
    rng = random.Random(0)
    alphabet = "0123456789.,/-+=$%{}()[]*_`'\"\\ \n:abAnswer\u0661\u00b2\u2212\x00\ud800"
    rows = [file_row("12"), file_row("ab"), gym_row("gcd", "12"), gym_row("dice", "1/6")]
    for _ in range(3000):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 30)))
        for row in rows:
            assert rules.score_record(text, row) in (0.0, 1.0)


def test_the_cut_of_a_long_completion_makes_no_number():
    text = "1" * 50 + "2" + " " * (answers.MAX_TEXT - 2) + "."
    assert rules.score_record(text, file_row("2")) == 0.0
    assert rules.score_record("x " * 9999 + "\n12", file_row("12")) == 1.0


def test_check_names_a_near_toy_task():
    with pytest.raises(ValueError, match="did you mean"):
        rules.check_task("sums")
    rules.check_task("sum")
    rules.check_task("file:mine")


HEDGES = [
    *(("A, C", "The answer is C."), ("A,B", "B,A"), ("-x", "x"), ("x", "-x"), ("b-a", "a-b")),
    *(("(a,b)", "(b,a)"), ("n!", "n"), ("f'(x)", "f(x)"), ("-sin(x)", "sin(x)"), ("-ln x", "ln x")),
    *(("5", r"\boxed{3 or 5}"), ("5", r"\boxed{3, 5}"), ("5", r"\boxed{2 \cdot 5}")),
    *(("5", r"\boxed{\sqrt 5}"), ("5", r"\boxed{x > 5}"), ("1/2", "3 1/2"), ("0", "1 000")),
]
WAYS = [
    *(("$42$", "So she has 42 apples."), ("$42$", r"\boxed{42.0}"), ("$1,000$", r"\boxed{1000}")),
    *((r"$\frac{3}{4}$", "0.75"), ("42", "<answer>42</answer>"), ("42", "so</think>42")),
    *(("42", r"\boxed{42\text{ dollars}}"), ("90", r"\boxed{90^\circ}"), ("42", "\u20ac42")),
    *(("42", r"\textbf{42}"), ("-1/2", r"\boxed{\frac{-1}{2}}"), ("1/2", r"$\frac12$")),
    *(("-5", "It is \u20135"), ("B", r"\boxed{\text{B}}"), ("Paris", r"\boxed{\text{Paris}}")),
    *((r"\sqrt{2}", r"\(\sqrt{2}\)"), (r"\dfrac{a}{b}", r"\frac{a}{b}"), ("5", r"\boxed{x = 5}")),
    *(("5", r"\boxed{5 cm}"), ("sin(x)", r"\boxed{sin(x)}"), ("well-known", "well known")),
]


@pytest.mark.parametrize("gold, text", HEDGES)
def test_a_box_holds_one_answer_and_a_formula_keeps_its_signs(gold, text):
    assert rules.score_record(text, file_row(gold)) == 0.0


@pytest.mark.parametrize("gold, text", WAYS)
def test_ways_to_write_an_answer(gold, text):
    assert rules.score_record(text, file_row(gold)) == 1.0


@pytest.mark.parametrize(
    "gold, text",
    [
        *(("7", "The answer is negative 7."), ("42", r"\boxed{42}</think>"), ("42", "<answer>42")),
        *(("42", "Answer: at most 42"), ("42", "Answer: 42?"), ("42", r"\boxed{42} is wrong.")),
        *(("42", r"so it is not $\boxed{42}$"), ("42", r"\boxed{42}. No, wait, 41.")),
    ],
)
def test_what_math_refuses_the_default_rule_refuses(gold, text):
    assert rules.score_record(text, file_row(gold)) == rules.score(text, gold) == 0.0


@pytest.mark.parametrize("text", [r"\boxed{{-7}}", r"\boxed{(-7)}", r"\boxed{\displaystyle -7}"])
def test_braces_around_a_number_are_no_part_of_it(text):
    assert rules.score_record(text, file_row("-7")) == 1.0
