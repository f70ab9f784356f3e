"""A preference item becomes the token ids of a prompt for a generative reward model.

A prompt is context, responses in their frames, and tail:

    context   instructions, query, and what the config adds: a reference answer, criteria
    response  its ids between the ids of its frame
    tail      the form of the judgement, and the start of the model's own turn

The text of a response is encoded alone, without control tokens, and its ids stand between the ids
of the template, so a response cannot open a role.  `hide_marks` removes text that looks like a
frame, so it cannot close its frame either.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlvr_jax.config import CritiqueConfig
from rlvr_jax.host.critiques.template import Template, fill
from rlvr_jax.host.problems.preference import Item
from rlvr_jax.host.text.template import HOLE, left_pad
from rlvr_jax.host.text.tokenizer import Tokenizer
from rlvr_jax.structs import Critic, Spelling, Verdict

EXAMPLE = Item("?", ("?",), 0)  # stands for any item where ids do not depend on it
FILLER = "?"  # its token stands in a response where text that looks like a frame stood


@dataclass(frozen=True)
class Prompter:
    """A Prompter writes prompts in the wording of a template, with the ids of a tokenizer."""

    tok: Tokenizer
    template: Template
    cfg: CritiqueConfig

    def prompt(self, item: Item, order: Sequence[int], *, hinted: bool = False) -> list[int]:
        """Return the ids of a prompt that shows the responses of an item in the given order.

        `order` holds indices of responses.  With `hinted` the prompt names the best response.

        Raises:
          ValueError: the item has more responses than the config allows, no criteria where the
            config wants given ones, or a single response and the template cannot judge one.
        """
        before, after = self.parts(item, order, hinted=hinted)
        if self.cfg.principles == "from_query":
            before = [*before, *self.tok.encode_inside(" " + item.criteria)]
        return [*before, *after]

    def parts(
        self, item: Item, order: Sequence[int], *, hinted: bool = False
    ) -> tuple[list[int], list[int]]:
        """Return the ids of a prompt before and after criteria from the query.

        In other modes the first part is empty.  The arguments and errors are those of `prompt`.
        """
        self.check(item)
        *early, context, tail = self.frame(item, order, hinted=hinted)
        ids = list(context)
        for place, index in enumerate(order):
            ids += self.framed(place, self.encode_response(item.responses[index]))
        return (early[0] if early else []), ids + tail

    def text(self, item: Item, order: Sequence[int], *, hinted: bool = False) -> str:
        """Return the prompt as text, for a model behind an endpoint; see `prompt`."""
        self.check(item)
        text = self.context_text(item)
        signs = re.compile("|".join(map(re.escape, self.template.marks)), re.IGNORECASE)
        for place, index in enumerate(order):
            before, after = self.template.framed(place)
            text += before + signs.sub(FILLER, item.responses[index]) + after
        return text + self._hint(item, order, hinted) + self.ask_text(len(order))

    def check(self, item: Item) -> None:
        """Refuse an item that this prompter cannot show; see `prompt`."""
        count = len(item.responses)
        if count > self.cfg.most:
            raise ValueError(
                f"it has {count} responses and critique.most is {self.cfg.most}: raise it or leave "
                "the item out"
            )
        if self.cfg.principles == "given" and not item.criteria:
            raise ValueError("it gives no criteria, and critique.principles is `given`")
        if count == 1 and not self.template.ask_one:
            raise ValueError(
                "it has one response, and this template chooses among several: leave it out"
            )

    def frame(self, item: Item, order: Sequence[int], *, hinted: bool = False) -> list[list[int]]:
        """Return the ids before and after the responses.

        If criteria come from the query, the ids before them come first.
        """
        hint = self._hint(item, order, hinted)
        return self._around(item, hint + self.ask_text(len(order)))

    def _hint(self, item: Item, order: Sequence[int], hinted: bool) -> str:
        """Return the sentence that names the best response, or nothing."""
        if not hinted:
            return ""
        if len(order) == 1:
            return fill(self.template.hint, best=1 if item.best else "none")
        hint = fill(self.template.hint, best=list(order).index(item.best) + 1)
        strength = fill(self.template.strength, strength=item.strength) if item.strength else ""
        return hint + strength

    def context_text(self, item: Item) -> str:
        """Return the text before the responses."""
        text = self.template.instructions + fill(self.template.query, query=_query(item))
        if self.cfg.reference and item.reference:
            text += fill(self.template.reference, reference=_plain(item.reference))
        if self.cfg.principles == "given":
            text += fill(self.template.criteria, criteria=_plain(item.criteria))
        return text

    def ask_text(self, count: int, *, scored: bool = False) -> str:
        """Return the text that asks for a judgement of `count` responses.

        With `scored` a single response is asked for a score from 1 to 10, not for right or wrong.
        """
        line = self.template.criteria_line if self.cfg.principles == "with_responses" else ""
        ask = self.template.ask if count > 1 or scored else self.template.ask_one
        names = [f"s{i + 1}" for i in range(count)] if self.cfg.form == "scores" else ["i"]
        return fill(ask, criteria_line=line, count=count, scores=", ".join(names))

    def alone(self, item: Item) -> tuple[list[int], list[int]]:
        """Return the ids around each response of an item that is judged without the others.

        The judgement is asked for as from a single response, with a score from 1 to 10 and without
        criteria from the query.
        """
        ask = self.ask_text(1, scored=True)
        before, after = self._encode_around([self.context_text(item) + HOLE + ask])
        return before, after

    def context(self, item: Item) -> list[int]:
        """Return the ids of a prompt before the responses, or before criteria from the query."""
        return self._around(item, self.ask_text(1, scored=True))[0]

    def _around(self, item: Item, ask: str) -> list[list[int]]:
        """Return the ids around the places of criteria from the query and of the responses."""
        if self.cfg.principles != "from_query":
            return self._encode_around([self.context_text(item) + HOLE + ask])
        query = self.context_text(item) + self.template.ask_criteria
        return self._encode_around([query, HOLE, "\n" + HOLE + ask])

    def framed(self, place: int, ids: Sequence[int]) -> list[int]:
        """Return the ids of a response between those of its frame, the `place`-th from 0."""
        before, after = self.template.framed(place)
        return [*self.tok.encode_inside(before), *ids, *self.tok.encode_inside(after)]

    def encode_response(self, text: str) -> list[int]:
        """Return the ids of a response as they are shown."""
        ids = self.tok.encode_inside(text)
        return hide_marks(ids, self.template.marks, self.spelling, self.filler)

    def critic(self, vocab: int, together: int) -> Critic:
        """Build the tables with which device code asks a GRM about `together` responses at a time.

        `vocab` is the number of rows of the tables over the vocabulary.
        """
        _, _, control_V = self.tok.tables(vocab)
        bytes_VW, length_V = self.tok.spelling(vocab)
        _, *between, tail = self._around(EXAMPLE, self.ask_text(together, scored=True))
        frames = [self.template.framed(place) for place in range(together)]
        before, after = (
            left_pad(rows, max(map(len, rows)), "frame")
            for rows in (
                [self.tok.encode_inside(text) for text, _ in frames],
                [self.tok.encode_inside(text) for _, text in frames],
            )
        )
        nothing: Any = np.zeros(0, np.uint8)
        last_line: Any = np.bool_(True)
        filler: Any = np.int32(self.filler)
        middle_C: Any = np.array([i for ids in between for i in ids], np.int32)
        tail_C: Any = np.array(tail, np.int32)
        return Critic(
            spelling=Spelling(bytes_VW, length_V, nothing, last_line),
            control_V=control_V,
            filler=filler,
            before_NC=before[0],
            before_mask_NC=before[1],
            after_NC=after[0],
            after_mask_NC=after[1],
            middle_C=middle_C,
            tail_C=tail_C,
            marks=self.template.marks,
            meta=self._verdict(vocab),
        )

    def _verdict(self, vocab: int) -> Verdict:
        """Build the tables with which the meta RM is asked whether a judgement is sound."""
        newline_V, blank_V, control_V = self.tok.tables(vocab)
        tail_JC, mask_JC = left_pad([self.meta_tail], len(self.meta_tail), "tail")
        ids: Any = np.array(self.tok.verdicts(self.cfg.data.verdict_words), np.int32)
        return Verdict(tail_JC, mask_JC, ids[:1], ids[1:], newline_V, blank_V, control_V)

    @functools.cached_property
    def meta_tail(self) -> list[int]:
        """Return the ids after a judgement that ask the meta RM about it."""
        accept, reject = self.cfg.data.verdict_words
        ask = fill(self.template.meta, accept=accept, reject=reject)
        return self._encode_around([EXAMPLE.query, HOLE, ask])[1]

    @functools.cached_property
    def filler(self) -> int:
        """Return the id of the token that replaces text which looks like a frame."""
        return self.tok.encode_inside(FILLER)[-1]

    @functools.cached_property
    def spelling(self) -> tuple[Any, Any]:
        """Return the bytes of each token and their number, as `Tokenizer.spelling`."""
        return self.tok.spelling()

    def _encode_around(self, turns: Sequence[str]) -> list[list[int]]:
        """Return the ids around the holes of a conversation, whose first turn is the user's.

        Without a chat template the turns follow each other as one text.
        """
        data = self.cfg.data
        if not data.chat:
            first, *others = "".join(turns).split(HOLE)
            return [self.tok.raw_prompt(first), *map(self.tok.encode_inside, others)]
        roles = ("user", "assistant")
        talk = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
        if data.system:
            talk.insert(0, {"role": "system", "content": data.system})
        return self.tok.chat_around(talk, HOLE, **data.chat_variables)


def hide_marks(
    ids: Sequence[int], marks: Sequence[str], spelling: tuple[Any, Any], filler: int
) -> list[int]:
    """Return ids with `filler` in place of all tokens that spell a part of a mark.

    Marks are found in any case and however tokens cut them.  `rlvr_jax.grm.hide_marks` does the
    same on the device.
    """
    bytes_VW, length_V = spelling
    pieces = [bytes(bytes_VW[i, : length_V[i]]) for i in ids]
    data = b"".join(pieces).lower()
    owner = np.repeat(np.arange(len(ids)), [len(piece) for piece in pieces])
    hidden: set[int] = set()
    for mark in marks:
        at = data.find(mark.encode())
        while at >= 0:
            hidden |= set(owner[at : at + len(mark)].tolist())
            at = data.find(mark.encode(), at + 1)
    return [filler if place in hidden else i for place, i in enumerate(ids)]


def _query(item: Item) -> str:
    """Return the query, or the whole conversation that ends with it."""
    if not item.messages:
        return _plain(item.query)
    return "\n".join(f"{m['role']}: {_plain(m['content'])}" for m in item.messages)


def _plain(text: str) -> str:
    """Return a text without the character that marks a hole."""
    return text.replace(HOLE, " ")


def plain_texts(item: Item, template: Template) -> list[str]:
    """Return an item's query, framed responses and demonstration, to train a tokenizer on."""
    frames = (template.framed(place) for place in range(len(item.responses)))
    framed = [
        before + text + after for (before, after), text in zip(frames, item.responses, strict=True)
    ]
    criteria = template.ask_criteria + "\n" + template.criteria_line
    return [item.query, *framed, criteria + template.ask, item.demonstration]
