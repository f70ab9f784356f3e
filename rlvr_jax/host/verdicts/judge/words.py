"""This module writes the prompt for a judging model and parses its reply: YES, NO, or unreadable.

How a judge is asked is a wording (`host/text/wording.py`), by default our `judge`.
"""

from collections.abc import Mapping, Sequence

from rlvr_jax.config import JudgeConfig
from rlvr_jax.host.text import answers
from rlvr_jax.host.text.chat import ROLE_MARKER
from rlvr_jax.host.text.wording import load_wording
from rlvr_jax.host.verdicts.agreement import Vote

WORDS = ("YES", "NO")  # of a wording that names none
_THOUGHT = "</think>"
_WORD = {"yes": 1, "1": 1, "no": 0, "0": 0}


def visible_answer(answer: str) -> str | None:
    """Return an answer on one line, as a judge sees it; None if the answer is wrong in any case.

    An answer is wrong in any case if it is empty, overlong or disguised (`answers.clean`), or
    contains a role marker.
    """
    clean = answers.clean(answer)
    return None if clean is None or ROLE_MARKER.search(clean) else " ".join(clean.split())


def judge_words(cfg: JudgeConfig) -> tuple[str, str]:
    """Return the words for right and wrong that the judge is asked for."""
    return load_wording(cfg.template).words or WORDS


def values(record: Mapping[str, str], answer: str, cfg: JudgeConfig) -> dict[str, str]:
    """Return what the judge's wording shows, by the names of its holes."""
    accept, reject = judge_words(cfg)
    shown = {"reference": record["reference"], "answer": answer}
    shown |= {"accept": accept, "reject": reject}
    return shown | ({"question": record["question"]} if cfg.question else {})


def parse_vote(reply: str | None, words: Sequence[str] = WORDS) -> Vote:
    """Return 1 or 0 if the reply, after any thoughts, is one word; else None.

    The word is one of `words`, or one of YES, NO, 1 and 0.
    """
    if reply is None or reply.rfind("<think>") > reply.rfind(_THOUGHT):
        return None
    word = reply.rpartition(_THOUGHT)[2].strip().strip("*_`\"'.!").strip().casefold()
    known = _WORD | {words[0].casefold(): 1, words[1].casefold(): 0}
    return known.get(word)
