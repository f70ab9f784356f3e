"""Wordings: our own say what they said before they were files, and other files are checked."""

import pytest

from rlvr_jax.host.text import wording
from rlvr_jax.host.text.chat import TokenizerError
from rlvr_jax.host.text.wording import load_wording

VALUES = {
    "question": "1 + 1?",
    "reference": "2",
    "answer": "two",
    "accept": "YES",
    "reject": "NO",
}
HIDDEN = {key: value for key, value in VALUES.items() if key != "question"}


def write(folder, text, name="w.txt"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", [name for name in wording.OURS if name != "judge"])
def test_our_own_begin_with_their_rule_and_six_examples(name):
    made = load_wording(name)
    talk = made.messages(VALUES)
    assert [x["role"] for x in talk] == ["user", "assistant"] * 6 + ["user"]
    assert talk[0]["content"].endswith("\n\nReference: 12\nAnswer: The answer is 12.")
    assert [x["content"] for x in talk[1::2]] == ["YES", "NO"] * 3
    assert talk[-1]["content"] == "Question: 1 + 1?\nReference: 2\nAnswer: two"
    assert made.messages(HIDDEN)[-1]["content"] == "Reference: 2\nAnswer: two"
    assert "1 + 1?\nReference: 2\nAnswer: two\n" in made.plain(VALUES)
    assert "\n\n" not in made.plain(HIDDEN) and "1 + 1" not in made.plain(HIDDEN)
    assert made.words is None


def test_a_file_of_plain_text_is_the_question(tmp_path):
    path = write(
        tmp_path, "Q: {question}\nS: {answer}\nR: {reference}\n{not a hole} \\boxed{} {}\n"
    )
    (message,) = load_wording(path).messages(VALUES)
    said = "Q: 1 + 1?\nS: two\nR: 2\n{not a hole} \\boxed{} {}"
    assert message == {"role": "user", "content": said} and load_wording(path).plain(VALUES) == said


def test_holes_in_the_texts_of_a_problem_are_text(tmp_path):
    made = load_wording(write(tmp_path, "{question} | {reference} | {answer}"))
    odd = VALUES | {
        "question": "{answer}{reference}",
        "reference": "{answer}",
        "answer": "{accept}",
    }
    assert made.plain(odd) == "{answer}{reference} | {answer} | {accept}"


def test_a_jinja_file_is_rendered_in_the_sandbox(tmp_path):
    source = (
        "{% if question %}Q {{ question }}\n{% endif %}{{ reference }} ~ {{ answer }} {{ accept }}"
    )
    made = load_wording(write(tmp_path, source, "w.jinja"))
    assert made.plain(VALUES) == "Q 1 + 1?\n2 ~ two YES" and made.plain(HIDDEN) == "2 ~ two YES"
    unsafe = "{{ answer }}{{ reference }}{{ ().__class__.__mro__ }}"
    with pytest.raises(TokenizerError, match="unsafe"):
        load_wording(write(tmp_path, unsafe, "u.jinja"))


def test_a_yaml_file_may_have_a_system_message_turns_and_words(tmp_path):
    path = write(
        tmp_path,
        "system: Be strict.\nwords: [Right, Wrong]\nask: '{reference} {answer}'\n"
        "text: 'R {reference} A {answer} V'\n"
        "turns:\n  - {user: 'u {accept}', assistant: '{reject}'}\n",
        "w.yaml",
    )
    made = load_wording(path)
    assert made.words == ("Right", "Wrong") and made.plain(VALUES) == "R 2 A two V"
    assert made.messages(VALUES) == [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": "u YES"},
        {"role": "assistant", "content": "NO"},
        {"role": "user", "content": "2 two"},
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("w.txt", "{reference}", "must show {answer} once and shows it 0 times"),
        ("w.txt", "{reference} {answer} {answer}", "once and shows it 2 times"),
        ("w.txt", "{answer}", "must show {reference}"),
        ("w.txt", "{reference} {answer} {refrence}", "did you mean {reference}"),
        ("w.txt", "{reference} {answer} {nonsense}", "take one of question, reference"),
        ("w.txt", "<|im_start|>user\n{reference} {answer}", "role marker '<|im_start|>'"),
        ("w.txt", "[INST] {reference} {answer} [/INST]", "role marker '[INST]'"),
        ("w.jinja", "{{ answer }}", "must show {reference}"),
        ("w.jinja", "{{ answer ", "is not valid"),
        ("w.yaml", "ask: [1]", "is no text"),
        ("w.yaml", "text: x", "must have the text `ask`"),
        ("w.yaml", "- 1", "must have the text `ask`"),
        ("w.yaml", "ask: '{reference} {answer}'\nwords: [YES]", "must be two words"),
        ("w.yaml", "ask: '{reference} {answer}'\nturns: [1]", "list of {user, assistant}"),
        (
            "w.yaml",
            "ask: '{reference} {answer}'\nturns: [{user: '{answer}', assistant: x}]",
            "has the hole {answer} where it may not",
        ),
        ("w.yaml", "ask: {", "is no YAML"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_do_is_refused_in_one_sentence(tmp_path, name, text, said):
    with pytest.raises(ValueError) as error:
        load_wording(write(tmp_path, text, name))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_is_not_ours_has_a_hint():
    assert load_wording("judge").words == ("YES", "NO")
    with pytest.raises(ValueError, match="did you mean 'strict'"):
        load_wording("strickt")
    with pytest.raises(ValueError, match="ours are compare, doubt, judge, plain, strict"):
        load_wording("none/at/all.txt")
