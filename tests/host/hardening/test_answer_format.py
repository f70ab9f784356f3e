"""The form in which a user's rule takes answers: learned from the data, decided by the rule."""

import re

import pytest

from rlvr_jax.host.hardening import attacks
from rlvr_jax.host.hardening.answer_format import Form, dress, learn

SHOWN = {
    "So 3.\n#### {}": "#### {}",
    "Hm. <answer>{}</answer>": "<answer>{}</answer>",
    "<think>1</think> <final_answer> {} </final_answer>": "<final_answer>{}</final_answer>",
    "It is $\\boxed{{{}}}$.": "\\boxed{{{}}}",
    "We see.\nFinal answer: {}": "Final answer: {}",
    "{}": "{}",
}


def rows(shape):
    found = [{"answer": str(n), "demonstration": shape.format(n)} for n in (7, 12, 1000)]
    return [row | {"reference": row["answer"], "question": "?"} for row in found]


@pytest.mark.parametrize("shape", SHOWN)
def test_the_form_of_the_data_is_learned(shape):
    form = SHOWN[shape]
    pattern = re.escape(form.format("@")).replace("@", r"(\d+)") + r"\Z"

    def ask(record, text):
        found = re.search(pattern, text)
        return bool(found) and found[1] == record["reference"]

    learned = learn(rows(shape), ask)
    assert learned is not None and learned.write("5") == form.format("5")


def test_the_rule_decides_and_not_the_data():
    boxed = lambda record, text: f"\\boxed{{{record['reference']}}}" in text  # noqa: E731
    assert learn(rows("#### {}"), boxed) == Form("\\boxed{", "}")
    assert learn(rows("#### {}"), lambda record, text: False) is None
    assert learn([], boxed) is None


def test_items_in_a_form():
    record, form = rows("So\n#### {}")[0], Form("#### ")
    plain = list(attacks.of_record(record, "17", False))
    dressed = list(dress(plain, record, form))
    right = [item.text for item in dressed if item.right]
    assert right == ["#### 7", "We look at it.\n#### 7", "So\n#### 7"]
    wrong = {item.text for item in dressed if not item.right}
    assert {item.text for item in plain if not item.right} < wrong
    assert {"#### 8", "#### 8 or 7", "#### ."} <= wrong and "#### 7" not in wrong
    names = [(item.group, item.name) for item in dressed]
    assert len(set(names)) == len(names)
