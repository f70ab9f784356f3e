r"""Where the answer stands in a completion, and when there is none."""

import time
import unicodedata

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
        ("<THINK>41</THINK>42", "42"),
        ("\u25c1think\u25b741\u25c1/think\u25b742", "42"),
        ("<|channel|>analysis<|message|>41<|channel|>final<|message|>42", "42"),
        (r"\boxed{42}. Wait no more!", "42"),
        (r"\framebox{7}", "7"),
        (r"\boxed{41}. Then \boxed{42}", "42"),
        (r"\boxed{42}. It is not 41.", "42"),
    ],
)
def test_what_is_found(text, found):
    assert answers.extract(text) == found


@pytest.mark.parametrize(
    "text",
    [
        *(None, 3, b"42", "", " \n\t", "\x00", "\u200b", "4\u200b2"),
        *("\u202e24", "4\x002", "\ud8002"),
        *(r"\boxed{42} is wrong.", r"$\boxed{42}$ isn't it.", r"\boxed{41} or \boxed{42}"),
        *(r"\(\boxed{41}\) and \(\boxed{42}\)", "<THINK>42", "\u25c1think\u25b742"),
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


SPELLED = [  # marks and joiners that belong to the spelling of a script
    *("\u0928\u0939\u0940\u0902", "\u0915\u093e\u0920\u092e\u093e\u0921\u094c\u0902",),
    *("\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48",),
    *("\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645",),
    *("\u0dc1\u0dca\u200d\u0dbb\u0dd3", "\u0d28\u0d4d\u200d",),
    *("\u0645\u064f\u062d\u064e\u0645\u064e\u0651\u062f",),
    *("\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",),
    *("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f", "1\ufe0f\u20e3",),
    *("\U0001f44d\U0001f3fd", "\u0baf\u0bbe\u0bb4\u0bcd",),
]  # fmt: skip
DISGUISED = [  # invisible where no script needs it
    *("a\u200cb", "\u0430\u200c\u0431", "4\u200d2", "\u4e00\u200d\u4e8c", "4\ufe0f2",),
    *("a\ufe0f", "42\u20e3", "\u0928\u200d\u200d", "\u034f42", "\u0430\u034f",),
    *("\u200d42", "\u0645\u202e", "\u064b42", "\u0430\ufe00",),
]  # fmt: skip


@pytest.mark.parametrize("text", SPELLED)
def test_the_spelling_of_a_script_is_text(text):
    assert answers.clean(text) == unicodedata.normalize("NFC", text)
    assert answers.extract(f"<answer>{text}</answer>") == answers.clean(text)


@pytest.mark.parametrize("text", DISGUISED)
def test_invisible_text_is_refused_where_no_script_needs_it(text):
    assert answers.clean(text) is None
