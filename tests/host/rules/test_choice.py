"""The rule `choice`: labels in sentences of many forms and languages, and what chooses none."""

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.rules import choice

QUESTION = "What boils?\nA) oil\nB) a red lamp\nC) the sum\nD) 40\nE) none of the above"
RIGHT = [
    *("B", "(b)", "[B]", "**B**", "\uff22", "\\boxed{\\text{B}}", "\\boxed{B\\ }", "B!", "So, B."),
    *("I pick B.", "We choose (B).", "It's B", "It has to be B.", "My answer is B", "Option B"),
    *("B because a lamp is red.", "B. a red lamp", "B: a red lamp", "(B) a red lamp", "a red lamp"),
    *("B) a red lamp (I checked)", "The answer is B, a red lamp.", "The answer is a red lamp."),
    *("I would go with option B, since A is wrong.", "A is incorrect. B is correct.", "B, not A."),
    *("B is the best answer; C is a distractor.", "The answer is B rather than C."),
    *("The answer is (b).", "Hence the answer is B!", "I'm confident that the answer is B."),
    *("A car would not boil, so B is correct.", "the best choice is B because A and C are wrong."),
    *("\u7b54\u6848\u662fB", "\u6b63\u786e\u7b54\u6848\uff1aB", "\u56e0\u6b64\u9009B"),
    *("\u6b63\u89e3\u306fB\u3067\u3059", "\uc815\ub2f5\uc740 B\uc785\ub2c8\ub2e4"),
    *("B \u2705", "\u2192 B", "This corresponds to option B.", "I'd say B", "B \u2014 a red lamp"),
    *("La respuesta es B", "Die richtige Antwort ist B.", "\u041e\u0442\u0432\u0435\u0442: B"),
    *("R\u00e9ponse finale : B", "\u0627\u0644\u0625\u062c\u0627\u0628\u0629: B", "Risposta: B"),
]
WRONG = [
    *("The answer is not B.", "the answer isn't B", "It's not B", "Not B", "B is incorrect.", "B?"),
    *("A or B", "B or A", "B and C", "B, C", "B/C", "(A)(B)", "BC", "Either B or C", "B, A"),
    *("Neither A, B, nor C", "Both A and B.", "All of A, B", "Not only B but A.", "maybe B"),
    *("The answer is B. A works too.", "The answer is B. It is A.", "The answer is B (or A)"),
    *("The answer is B. B is wrong.", "The answer is B: false", "It is B that is wrong."),
    *("B) oil", "B. oil", "B: oil", "The answer is B, the sum.", "The answer is B: 40"),
    *("Wrong: B", "Incorrect option: B", "Distractor: B", "I would eliminate B."),
    *(
        "A is correct. B is incorrect.",
        "C is correct, B is tempting",
        "B is not wrong but A is right",
    ),
    *("If it rains, the answer is B", "The answer is A car, B", "The answer is B-cells"),
    *("\u7b54\u6848\u4e0d\u662fB", "\u4e0d\u9009B", "\u7b54\u6848\uff1aB\u3001C"),
    *("B \u274c", "\u274c B", "This does not match option B.", "I would never say B"),
    *("I choose C.", "B, A and C are wrong", "the lamp", "", "all"),
]


def grade(text, reference, question=None):
    return rules.judge(text, {"reference": reference, "question": question}, "choice")


@pytest.mark.parametrize("text", RIGHT)
def test_a_sentence_that_chooses(text):
    assert grade(text, "B", QUESTION) == (1.0, "ok")
    assert grade(text, "B) a red lamp", QUESTION) == (1.0, "ok")


@pytest.mark.parametrize("text", WRONG)
def test_a_sentence_that_chooses_nothing_or_something_else(text):
    for question in (QUESTION, QUESTION.replace("\n", " ")):
        assert grade(text, "B", question)[0] == 0.0


@pytest.mark.parametrize("question", [None, "", "Which one is right?"])
@pytest.mark.parametrize(
    "reference, right, wrong",
    [
        ("C", ["C", "c", "$C$", "C because it fits", "Option C"], ["D", "C, D and E are wrong"]),
        ("(k)", ["The answer is K.", "\\boxed{(k)}"], ["The answer is L.", "OK"]),
        ("2", ["Answer: 2", "(2)", "2 because nothing else fits"], ["12", "2.5", "-2", "2 or 3"]),
        ("I", ["I", "I is correct."], ["I think so", "I know"]),
        ("A", ["A", "The answer is a."], ["A car", "the answer is a car"]),
        ("B) red", ["B", "red", "The answer is B: red"], ["B) blue", "blue", "C) red"]),
        ("apple", ["apple", "The answer is apple."], ["apple pie", "A"]),
    ],
)
def test_the_label_is_graded_where_the_question_lists_no_options(question, reference, right, wrong):
    assert [grade(text, reference, question) for text in right] == [(1.0, "ok")] * len(right)
    assert [grade(text, reference, question)[0] for text in wrong] == [0.0] * len(wrong)


@pytest.mark.parametrize(
    "question, options",
    [
        ("Which? (a) red (b) blue (c) green", {"A": "red", "B": "blue", "C": "green"}),
        ("Pick:\n1) red\n2) blue", {"1": "red", "2": "blue"}),
        ("I met Mr. A. Smith. A. red B. blue", {"A": "red", "B": "blue"}),
        ("A) red B) apple (C) an apple pie", {"A": "red", "B": "apple", "C": "an apple pie"}),
        ("Plan A: none.", {}),
    ],
)
def test_options(question, options):
    assert choice.parse_options(question) == options


def test_a_reference_that_is_a_text_may_look_like_a_label():
    question = "How many? A) 2 B) 3 C) 4"
    assert grade("B", "3", question) == grade("3", "3", question) == (1.0, "ok")
    assert grade("C", "3", question) == grade("2", "3", question) == (0.0, "ok")
