r"""Where the answer stands in a completion, and when there is none."""

import time

import pytest

from rlvr_jax.host.text import answers


@pytest.mark.parametrize(
    "text, found",
    [
        ("42", "42"),
        ("We add.\n\nIt is 42.\n \n", "It is 42."),
        (r"so \boxed{12}.", "12"),
        (r"\boxed{1} then $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        ("Answer: 42\nBecause it is so.", "42"),
        ("**Answer:** 42", "42"),
        ("ANSWER: 42", "42"),
        ("Answer:\n\n42\nor so", "42"),
        ("Final answer: 41\nAnswer: 42", "42"),
        ("2 + 2 = 4\n#### 4", "4"),
        ("#### Step 1\nWe add.\n4", "4"),  # a heading
        ("#### 4\nor 5", "or 5"),
        ("<answer>42</answer> done", "42"),
        ("<answer>41</answer> <answer>42</answer>", "42"),
        (r"<answer>\boxed{42}</answer>", "42"),
        (r"Answer: $\boxed{42}$", "42"),
        (r"\boxed{41}" + "\nAnswer: 42", "42"),
        ("<think>41? No.</think>42", "42"),
        ("thoughts</think>\n42", "42"),
        ("\ufeff42\u200b", "42"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),
    ],
)
def test_what_is_found(text, found):
    assert answers.extract(text) == found


@pytest.mark.parametrize(
    "text",
    [
        *(None, 3, b"42", "", " \n\t", "\x00", "\u200b", "4\u200b2"),
        *("\u202e24", "4\x002", "\ud8002"),
        *("4\u03362", "42\u20dd", "\u00ad42\u00ad1", "9" * 1001, "Answer:", "#### "),
        *("<answer></answer>", r"\boxed{}", r"\boxed{4", r"\boxed{42} and \boxed{4", "<answer>42"),
        "<answer>42</answer><answer>4",
        *("<think>42", "<think>42</think>", "<think>a</think>42<think>43", r"not \boxed{42}"),
        *(r"x \neq \boxed{42}", r"$x < \boxed{42}$", r"it isn't equal to $\boxed{42}$"),
        *(r"\boxed{42}. No, wait, it is 41.", r"\boxed{42} Wait, no.", "Answer: 42\nScratch that."),
        *(r"\boxed{42}. That is wrong.", "\\boxed{" * 3000, "{" * 10**6),
    ],
)  # fmt: skip
def test_no_answer(text):
    begin = time.monotonic()
    assert answers.extract(text) is None
    assert time.monotonic() - begin < 1


def test_markers_are_the_callers():
    assert answers.extract("Result => 42\nbye", ["=>"]) == "42"
    assert answers.extract("Answer: 42\nbye", ["=>"]) == "bye"
    assert answers.extract("<result>42</result> bye", ["<result>"]) == "42"


def test_only_the_end_is_read_and_a_cut_makes_no_answer():
    assert answers.extract(r"\boxed{1}" + " word" * 2000) != "1"
    assert answers.extract("x " * 10**6 + r"\boxed{42}") == "42"
    assert answers.extract("1" * 10**6) is None
