"""The rules beside `math`: each on right, wrong and strange answers, and a user's own."""

import json
import math
import random

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.rules import length, repetition

QUESTION = "Which is a fruit? A) red B) apple C) stone (D) an apple pie"


@pytest.mark.parametrize(
    "kind, reference, right, wrong",
    [
        ("exact", "Ab", ["Ab", r"\boxed{Ab}", "so\nAb"], ["ab", "Ab.", "", "xAb"]),
        ("text", "The Eiffel Tower", ["eiffel tower", "Answer: the Eiffel Tower."], ["tower", ""]),
        ("text", "7", ["seven", "7", "Seven."], ["eight", "seventeen", "-7"]),
        ("text", "forty-two", ["42", "forty two"], ["24", "forty"]),
        ("contains", "Paris", ["It is Paris.", "paris"], ["Parisian", "Lyon", "Paris\nLyon"]),
        ("contains", "42", ["41 or 42"], ["142", "4 2"]),
        ("numeric", "9.81 m/s^2", ["9.81", "9.815", "981 cm/s^2"], ["9.9", "9.81 kg"]),
        ("numeric", "0", ["0", "0.0"], ["0.001", "zero-ish"]),
        ("numeric", "1e-7", ["1e-7", r"1.0\times10^{-7}"], ["2e-7", "0", "-1e-7"]),
        ("numeric", "3.1416", [r"\pi", "3.14"], ["3.2", "pie", "3 or 4", "inf"]),
        ("set", "red, green", ["green and red", '["green", "red"]', "Red; green"], ["red"]),
        ("set", "1,2,3", [r"\boxed{\{3,2,1\}}", "[1, 2, 3]"], ["1,2", "1,2,3,4", ""]),
        ("list", "a, b", ["a, b", "[a, b]", '["a","b"]'], ["b, a", "a", "a, b, c"]),
        ("math", "1/2", ["0.5"], ["2"]),
        ("text", "3rd", ["third", "3rd"], ["3", "second", "thirty"]),
        ("text", "twenty-first", ["21st"], ["21", "22nd"]),
        ("text", "re-elect", ["reelect", "re elect"], ["elect", "reject"]),
        ("text", "7", ["7"], ["$7", "\u20ac7", "7%"]),
        ("text", "NH3", ["NH\u2083", "NH_3"], ["NH\u00b3", "NH4"]),
        ("text", "winter", ["#winter", "Winter."], ["winters"]),
        ("text", "\u0928\u0940\u0902", ["\u0928\u0940\u0902"], ["\u0928", "\u0928\u0940"]),
        ("exact", "\u0921\u094c\u0902", ["\u0921\u094c\u0902"], ["\u0921\u094c"]),
        ("list", "Al, Bo and Cy", ["Al, Bo & Cy", "The order is Al, Bo, Cy."], ["Al, Cy, Bo"]),
        ("set", "tea, milk", [r"\text{milk}, \text{tea}"], ["tea"]),
        ("set", "tea, milk", ["<answer>1. milk\n2. tea</answer>"], ["milk, ale"]),
        ("numeric", "42", ["[42]", r"\{42\}"], ["[42, 43]", "[]"]),
        ("numeric", "700 nm", [r"7.0\times10^{-7}\ \mathrm{m}"], ["700 mm", "7e-7 s"]),
    ],
)  # fmt: skip
def test_by_reference(kind, reference, right, wrong):
    assert [rules.score(text, reference, kind) for text in right] == [1.0] * len(right)
    assert [rules.score(text, reference, kind) for text in wrong] == [0.0] * len(wrong)


def test_jaccard():
    assert rules.score("the red fox", "a red fox", "jaccard") == pytest.approx(2 / 4)
    assert rules.score("red fox", "Red fox", "jaccard") == 1.0
    assert rules.score("", "a", "jaccard") == rules.score("a", "", "jaccard") == 0.0


@pytest.mark.parametrize("reference", ["B", "(B)", "apple"])
def test_choices(reference):
    record = {"reference": reference, "question": QUESTION}

    def score(text):
        return rules.judge(text, record, "choice")[0]

    for text in (
        "B",
        "b",
        "(B)",
        "B) apple",
        "The answer is B.",
        "apple",
        r"\boxed{B}",
        "option B",
    ):
        assert score(text) == 1.0, text
    for text in ("A", "A B C D", "A or B", "not B", "B) stone", "apple pie", "", "all", "B and C"):
        assert score(text) == 0.0, text


def by_extra(kind, text, **extra):
    return rules.judge(text, {"reference": "", "extra": json.dumps(extra)}, kind)


def test_patterns():
    assert by_extra("regex", "so\nAB12", pattern=r"[A-Z]{2}\d+") == (1.0, "ok")
    assert by_extra("regex", "AB12 or so", pattern=r"[A-Z]{2}\d+") == (0.0, "ok")
    assert by_extra("regex", "x", pattern="(") == (0.0, "crash")


def test_schemas():
    schema = {
        "type": "object",
        "required": ["n"],
        "properties": {"n": {"type": "integer", "minimum": 0}, "s": {"enum": ["a", "b"]}},
        "additionalProperties": False,
    }
    for text in ('{"n": 1}', 'Here:\n```json\n{"n": 0, "s": "a"}\n```'):
        assert by_extra("json", text, schema=schema)[0] == 1.0, text
    for text in ('{"n": -1}', '{"n": true}', "{}", '{"n": 1, "x": 1}', '{"n": 1, "s": "c"}', "n"):
        assert by_extra("json", text, schema=schema)[0] == 0.0, text
    for text in ("[" * 10**5, '{"n": NaN}', '{"n": 1e999}', '{"n": ' + "9" * 10**5 + "}"):
        assert by_extra("json", text, schema=schema)[0] == 0.0, text[:20]
    assert by_extra("json", "[1, 2]", schema={"items": {"type": "number"}, "maxItems": 2})[0] == 1.0


def test_format_language_and_code():
    for text, value in (("<think>a</think>b", 1.0), ("<think></think>b", 0.0), ("b", 0.0)):
        assert by_extra("format", text)[0] == value
    assert by_extra("format", "<think>a</think><think>b</think>c")[0] == 0.0
    assert by_extra("language", "hello $x$ \u043c\u0438\u0440", language="en")[0] == 5 / 8
    assert by_extra("language", "12 $x$", language="en")[0] == 0.0
    assert by_extra("language", "hello", language="xx") == (0.0, "crash")
    assert by_extra("code", "print(7)", tests=[{"input": "", "output": "7"}])[0] == 1.0


def test_lengths():
    assert [length.overlong_penalty(n, 100, 20) for n in (0, 80, 90, 100, 999)] == [
        0,
        0,
        -0.5,
        -1,
        -1,
    ]
    assert by_extra("overlong", "x" * 90, longest=100, grace=20)[0] == 0.5
    assert length.cosine(0, 10, True) == 1.0 and length.cosine(10, 10, True) == 0.5
    assert length.cosine(0, 10, False) == 0.0 and length.cosine(99, 10, False) == 0.25
    assert length.cosine(5, 10, True) == pytest.approx(0.75)
    with pytest.raises(ValueError):
        length.overlong_penalty(1, 10, 11)
    with pytest.raises(ValueError):
        length.cosine(1, 0, True)


def test_repetition():
    assert repetition.distinct_share("a b c d") == 1.0 == repetition.distinct_share("a b")
    assert repetition.distinct_share("a a a a a") == pytest.approx(1 / 3)
    assert repetition.distinct_share("x " * 10**6) < 0.001


def test_a_users_rule(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def score(completion, record):\n    return float(completion == record['x'])\n")
    assert rules.judge("1", {"x": "1"}, str(path)) == (1.0, "ok")
    assert rules.judge("1", {}, str(path)) == (0.0, "error")
    rules.check_rule(str(path))
    for name, words in (
        ("maths", "did you mean 'math'"),
        (str(tmp_path / "no.py"), "is not there"),
    ):
        with pytest.raises(ValueError, match=words):
            rules.check_rule(name)
    for number, (text, words) in enumerate(
        [("x = 1", "no function"), ("1/0", "cannot be imported")]
    ):
        bad = tmp_path / f"bad{number}.py"
        bad.write_text(text)
        with pytest.raises(ValueError, match=words):
            rules.check_rule(str(bad))


def test_no_kind_raises_or_leaves_the_unit_interval():
    rng = random.Random(0)
    alphabet = list(
        "0123456789.,/-+=$%{}()[]*_`'\"\\ \n:abx^!|<>\u0661\u00b2\u2212\x00\ud800\u00b1"
    )
    alphabet += [
        "\\frac",
        "\\boxed{",
        "\\sqrt",
        " or ",
        "Answer:",
        "\\pm",
        "<answer>",
        "cm",
        "\\cup",
    ]
    kinds = [kind for kind in rules.KINDS if kind not in ("code", "regex")]
    for _ in range(1500):
        text, gold = ("".join(rng.choices(alphabet, k=rng.randint(0, 14))) for _ in range(2))
        value = rules.score(text, gold, rng.choice(kinds))
        assert isinstance(value, float) and 0.0 <= value <= 1.0 and math.isfinite(value)
