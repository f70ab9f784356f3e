"""The rule `language`: how much of a text is written in the script of a language."""

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
    """Return the share of letters in the script of a language, without formulas and code.

    A text without words has a share of 0.0.  DeepSeek-R1 (arXiv 2501.12948) rewards the share of
    words in the target language; here, languages of one script (English, French) count as one.

    Raises:
      KeyError: a language (such as `en`) that is not in the table of scripts.
    """
    scripts, mine, total = _SCRIPTS[language], 0, 0
    for number, word in enumerate(_WORD.finditer(_FORMULA.sub(" ", completion))):
        if number == MAX_WORDS:
            break
        for char in word[0]:
            total += 1
            mine += unicodedata.name(char, "").startswith(scripts)
    return mine / total if total else 0.0
