"""A wording is the question that a verifier or a judge is asked about an answer, as a file.

Three kinds of files are read:

    NAME.yaml    the texts below, by name; our own files in `wordings/` are of this kind
    NAME.jinja   a jinja template of the question, with the variables question, reference, answer,
                 accept and reject; it runs in the sandbox of chat templates
    any other    the question as plain text with holes

    ask      the question: with a chat template it is the user's message
    text     the question where there is no chat template; left out: the same as `ask`
    system   the system message; left out: that of the chat template, if it has one
    turns    examples before the question: a list of {user: ..., assistant: ...}
    words    the two words for right and wrong; left out: `data.verdict_words`

The holes are {question}, {reference}, {answer}, {accept} and {reject}; the last two are the words.
If the config hides the question, a line whose only hole is {question} is left out.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlvr_jax.host.text import chat
from rlvr_jax.host.text.chat import Message
from rlvr_jax.host.text.holes import HOLE, fill, find_file, named

FOLDER = Path(__file__).parent / "wordings"
OURS = named(FOLDER)
_NAMES = ("question", "reference", "answer", "accept", "reject")
_PROBE = {name: chr(0xFDD1 + i) for i, name in enumerate(_NAMES)}  # stands in no text


@dataclass(frozen=True)
class Wording:
    """A Wording is one way to ask whether an answer is right."""

    ask: str
    text: str = ""
    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()  # user, assistant
    words: tuple[str, str] | None = None
    jinja: bool = False

    def messages(self, values: Mapping[str, str]) -> list[Message]:
        """Return the conversation; `values` maps the names of holes to texts.

        Without a question in `values`, the lines that show it are left out.

        Raises:
          TokenizerError: a jinja template refuses the values.
        """
        told = [{"role": "system", "content": self.system}] if self.system else []
        for user, assistant in self.turns:
            told += [{"role": "user", "content": self._fill(user, values)}]
            told += [{"role": "assistant", "content": self._fill(assistant, values)}]
        return [*told, {"role": "user", "content": self._fill(self.ask, values)}]

    def plain(self, values: Mapping[str, str]) -> str:
        """Return the question as text for a model without a chat template; see `messages`."""
        return self._fill(self.text or self.ask, values)

    def _fill(self, text: str, values: Mapping[str, str]) -> str:
        if self.jinja:
            return _compile(text)([], **values)
        if "question" not in values:
            lines = text.split("\n")
            text = "\n".join(x for x in lines if set(HOLE.findall(x)) != {"question"})
        return fill(text, **{"question": "", **values})


@functools.lru_cache
def load_wording(name: str) -> Wording:
    """Load one of our wordings by its name, or a wording from a file.

    Raises:
      ValueError: the file cannot be read, or its texts or holes are not as they must be; the
        message is one sentence.
    """
    path = find_file(name, FOLDER, "the template")
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the template {path} cannot be read: {error}") from None
    if path.suffix == ".jinja":
        wording = Wording(source.removesuffix("\n"), jinja=True)
    elif path.suffix in (".yaml", ".yml"):
        wording = _parse(source, path)
    else:
        wording = Wording(source.removesuffix("\n"))
    _check(wording, path)
    return wording


def _parse(source: str, path: Path) -> Wording:
    try:
        # Every scalar is a text: YES is a word, not a boolean.
        texts = yaml.load(source, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the template {path} is no YAML: {reason}") from None
    known = {field.name for field in dataclasses.fields(Wording)} - {"jinja"}
    if not isinstance(texts, dict) or not texts.keys() <= known or "ask" not in texts:
        raise ValueError(
            f"the template {path} must have the text `ask`, and may have text, system, turns and "
            "words"
        )
    turns, words = texts.pop("turns", []), texts.pop("words", None)
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"the template {path} has a value that is no text: put it in quotes")
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        raise ValueError(f"turns of the template {path} must be a list of {{user, assistant}}")
    if words is not None:
        words = tuple(words) if isinstance(words, list) else ()
        if len(words) != 2 or not all(isinstance(word, str) for word in words):
            raise ValueError(f"words of the template {path} must be two words: [right, wrong]")
    return Wording(
        **texts, turns=tuple((turn["user"], turn["assistant"]) for turn in turns), words=words
    )


def _is_turn(turn: Any) -> bool:
    if not isinstance(turn, dict) or turn.keys() != {"user", "assistant"}:
        return False
    return all(isinstance(text, str) for text in turn.values())


def _check(wording: Wording, path: Path) -> None:
    """Refuse a wording whose question lacks a hole, or that writes what a chat template writes."""
    for turn in wording.turns:
        for text in turn:
            _check_names(text, path, {"accept", "reject"})
    _check_names(wording.system, path, set())
    everything = [wording.ask, wording.text, wording.system, *sum(wording.turns, ())]
    for text in everything:
        if role := chat.ROLE_MARKER.search(text):
            raise ValueError(
                f"the template {path} holds the role marker {role.group()!r}: write the message "
                "alone, the model's chat template adds its markers"
            )
    if not wording.jinja:
        for text in (wording.ask, wording.text):
            _check_names(text, path, set(_NAMES))
    for shown in (wording.messages(_PROBE)[-1]["content"], wording.plain(_PROBE)):
        if shown.count(_PROBE["answer"]) != 1:
            raise ValueError(
                f"the template {path} must show {{answer}} once and shows it "
                f"{shown.count(_PROBE['answer'])} times"
            )
        if _PROBE["reference"] not in shown:
            raise ValueError(f"the template {path} must show {{reference}}: add it")


def _check_names(text: str, path: Path, allowed: set[str]) -> None:
    for name in set(HOLE.findall(text)) - allowed:
        near = difflib.get_close_matches(name, allowed, 1, 0.5)
        hint = f"did you mean {{{near[0]}}}?" if near else f"take one of {', '.join(_NAMES)}"
        raise ValueError(f"the template {path} has the hole {{{name}}} where it may not: {hint}")


@functools.lru_cache
def _compile(source: str):
    return chat.compile_template(source, "the verifier's question")
