"""The rule `language`: shares by script and detector, codes and names."""

import json

import pytest

from rlvr_jax.host import rules
from rlvr_jax.host.rules import language, languages

UKRAINIAN = (
    "\u0414\u043e\u0431\u0440\u0438\u0439 \u0440\u0430\u043d\u043e\u043a, \u044f\u043a "
    "\u0442\u0432\u043e\u0457 \u0441\u043f\u0440\u0430\u0432\u0438?"
)


@pytest.mark.parametrize(
    "code, text",
    [
        *(("en", "Good morning world"), ("English", "So the sum is 42."), ("eng", "Therefore")),
        *(
            ("en_US", "Mia has 5 pears and gives 2 to Ben."),
            ("de", "Guten Morgen"),
            ("fr", "Merci"),
        ),
        *(("es", "Buenos d\u00edas"), ("it", "Buongiorno a tutti"), ("nl", "Goedemorgen wereld")),
        *(("ru", "\u0434\u043e\u0431\u0440\u043e\u0435 \u0443\u0442\u0440\u043e"),),
        *(("zh-TW", "\u4f60\u597d"), ("ja", "\u304a\u306f\u3088\u3046"), ("ko", "\uc548\ub155")),
        *(("te", "\u0c28\u0c2e\u0c38\u0c4d\u0c24\u0c47"), ("ka", "\u10d2\u10d0\u10db\u10d0\u10e0")),
        *(("am", "\u12a5\u1295\u12f0\u121d\u1295"), ("ar", "\u0635\u0628\u0627\u062d")),
        *(("my", "\u1019\u1004\u103a\u1039\u1002\u101c\u102c\u1015\u102b"),),
    ],
)
def test_a_text_in_the_language(code, text):
    assert language.consistency(text, code) == 1.0


@pytest.mark.parametrize(
    "code, text",
    [
        ("en", "Bonjour tout le monde"),
        ("fr", "The result is 12 because the product is even."),
        ("de", "The dog lies under the table"),
        ("es", "O gato dorme na cozinha porque est\u00e1 cansado e n\u00e3o quer sair."),
        (
            "ru",
            UKRAINIAN,
        ),
        ("zh", "\u304a\u306f\u3088\u3046\u3054\u3056\u3044\u307e\u3059"),
        ("th", "good"),
        ("en", "12 $x$"),
        ("en", ""),
    ],
)
def test_a_text_in_another_language(code, text):
    assert language.consistency(text, code) == 0.0


def test_a_mixture_is_a_share_and_formulas_do_not_count():
    assert language.consistency("hello $x$ \u043c\u0438\u0440", "en") == 5 / 8
    text = (
        "The first number is twice as large as the second, so we divide the sum by three.\n"
        "Le premier nombre est deux fois plus grand que le second, donc on divise la somme.\n"
    )
    assert 0.4 < language.consistency(text, "en") < 0.6


def test_every_language_of_the_detector_has_a_code():
    unknown = {"zxx", "ace", "gcf", "fuv", "gcr", "guw", "ltg", "uzs"}  # dialects, and no language
    assert set(language._detector().labels) - set(languages.codes()) <= unknown
    alike = {code for group in languages.ALIKE for code in group.split()}
    assert alike - set(languages.codes()) <= unknown


@pytest.mark.parametrize("code", ["xx", "Klingon", "", "e"])
def test_an_unknown_language_is_refused_before_a_run(code):
    record = {"reference": "", "extra": json.dumps({"language": code})}
    with pytest.raises(ValueError, match="not known"):
        rules.check_record(record, "language")
    assert rules.judge("hello", record, "language") == (0.0, "crash")


def test_long_texts_end():
    assert language.consistency("I like green pears. " * 10_000, "en") == 1.0
