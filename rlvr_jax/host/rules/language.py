"""Measure how much of a text is written in a language: the rule `language`.

A letter counts if it belongs to a script of the language, and if the detector (py3langid) does not
find another language of that script much likelier for the sentences around the letter.  The model
of the detector is fixed and uses no random numbers, so equal texts have equal shares.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import regex

from rlvr_jax.host.rules.languages import ALIKE, Language, find_language

MAX_WORDS = 20_000
CHUNK = 60  # letters that the detector sees at once, at least; fewer tell too little
SURE = 20.0  # another language has to be this much likelier
_FORMULA = re.compile(r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|```.*?```|\\[A-Za-z]+", re.DOTALL)
_SENTENCE = re.compile(r"[^.!?\u3002\uff01\uff1f\u0964\n]+")
_WORD = regex.compile(r"\p{L}(?:[\p{L}\p{M}\u200c\u200d]|['\u2019](?=\p{L}))*")


def consistency(completion: str, language: str) -> float:
    """Return the share of the letters of a completion that are in a language, in [0, 1].

    Formulas and code do not count.  A text without words has a share of 0.0.  DeepSeek-R1 (arXiv
    2501.12948) rewards the share of words in the target language.

    Raises:
      ValueError: the language is not known.
    """
    wanted = find_language(language)
    mine = total = 0
    for words in _chunks(_FORMULA.sub(" ", completion), wanted):
        letters = [char for word in words for char in word if char.isalpha()]
        right = [word for word in words if _in_script(word, wanted)]
        count = sum(char.isalpha() and _in_script(char, wanted) for char in letters)
        total += len(letters)
        mine += count if right and _may_be(" ".join(right), wanted) else 0
    return mine / total if total else 0.0


def check_language(language: str) -> None:
    """Refuse a language that is not known.

    Raises:
      ValueError: the language is not known.
    """
    find_language(language)


def prepare() -> float:
    """Load the detector before the first text, so that its job does not wait for the detector."""
    _detector()
    return 1.0


def _chunks(text: str, wanted: Language) -> Iterator[list[str]]:
    """Yield the words of consecutive sentences, so many that the detector can tell."""
    words: list[str] = []
    count = letters = 0
    for sentence in _SENTENCE.finditer(text):
        for word in _WORD.finditer(sentence[0]):
            count += 1
            if count > MAX_WORDS:
                break
            words.append(word[0])
            letters += len(word[0])
        if letters >= CHUNK:
            yield words
            words, letters = [], 0
    if words:
        yield words


def _in_script(text: str, wanted: Language) -> bool:
    return unicodedata.name(text[0], "").startswith(wanted.scripts)


def _may_be(text: str, wanted: Language) -> bool:
    """Return whether no other language of the script is much likelier than the wanted one."""
    detector = _detector()
    if wanted.code not in detector.labels:
        return True
    groups = [group.split() for group in ALIKE]
    alike = {wanted.code}.union(*(group for group in groups if wanted.code in group))
    shares = dict(detector.rank(text))
    rivals = [
        float(share)
        for code, share in shares.items()
        if code not in alike and set(_scripts(code)) & set(wanted.scripts)
    ]
    mine = max(float(share) for code, share in shares.items() if code in alike)
    return max(rivals, default=0.0) < SURE * mine


def _scripts(code: str) -> tuple[str, ...]:
    try:
        return find_language(code).scripts
    except ValueError:
        return ()


@functools.cache
def _detector() -> Any:
    from py3langid import langid  # about a second, for its model

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
