"""Language consistency: how much of a text is written in the script of a language."""

from __future__ import annotations

import re
import unicodedata

MAX_WORDS = 20_000
_SCRIPTS = {
    **dict.fromkeys("en de fr es it pt nl sv pl tr vi id".split(), ("LATIN",)),
    **{"zh": ("CJK",), "ja": ("CJK", "HIRAGANA", "KATAKANA"), "ko": ("HANGUL",)},
    **{"ru": ("CYRILLIC",), "uk": ("CYRILLIC",), "ar": ("ARABIC",), "fa": ("ARABIC",)},
    **{"hi": ("DEVANAGARI",), "he": ("HEBREW",), "el": ("GREEK",), "th": ("THAI",)},
}
_FORMULA = re.compile(r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|```.*?```|\\[A-Za-z]+", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")


def consistency(completion: str, language: str) -> float:
    """Share of the letters that are of the language's script; formulas and code do not count.

    R1 rewards the share of words in the target language; by script, languages that share one
    (English and French) cannot be told apart.  No words at all: 0.0.

    Raises:
      KeyError: a language without a known script.
    """
    scripts, mine, total = _SCRIPTS[language], 0, 0
    for number, word in enumerate(_WORD.finditer(_FORMULA.sub(" ", completion))):
        if number == MAX_WORDS:
            break
        for char in word[0]:
            total += 1
            mine += unicodedata.name(char, "").startswith(scripts)
    return mine / total if total else 0.0
