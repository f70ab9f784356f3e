"""Tokenizers: one class for sentencepiece models, tokenizer.json, GGUF files and bare bytes.

`spm`, `fast`, `ggml` and `byte` each load one kind of tokenizer as a `Codec` and its `Facts`; the
class `Tokenizer` adds everything that all kinds share.

Text never becomes a control token: `</s>` or `<|im_start|>` in a question, or in the content of a
chat message, is encoded like any other text and never as that token.
"""

import codecs
import datetime
import functools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rlvr_jax.host.files.looked_up import looked_up
from rlvr_jax.host.text import chat
from rlvr_jax.host.text.chat import Message, TokenizerError
from rlvr_jax.host.text.tokenizer import byte, fast, folder, ggml, placeholders, spm
from rlvr_jax.host.text.tokenizer.codec import Codec, Facts, alternatives
from rlvr_jax.host.text.tokenizer.spm import train

__all__ = ["VERDICTS", "Tokenizer", "TokenizerError", "open_tokenizer", "train"]

VERDICTS = ("1", "0")  # the words for right and wrong
SPELLING_BYTES = 32  # bytes of a token that device code sees; few tokens are longer, all blanks


class Tokenizer:
    """A `Tokenizer` encodes and decodes text and chats, and makes tables of its vocabulary.

    `vocab` is the number of tokens, `bos` the token before a text or None, `eos` has the tokens
    that end a response, and `controls` all tokens that are no text.
    """

    def __init__(self, codec: Codec, facts: Facts, now: datetime.datetime | None = None):
        """Raise TokenizerError if the files do not say which token ends a response.

        `now` is the time that the chat template sees, by default that of the clock.
        """
        self._codec, self._facts, self._now = codec, facts, now
        self.vocab: int = len(codec.texts)
        self._source = facts.template or ""
        self._render = self._template()
        self.bos: int | None = codec.names.get(facts.tokens.get("bos_token", ""))
        self.eos: tuple[int, ...] = self._ends()
        ends = {name: i for name, i in codec.names.items() if i in self.eos}
        self._specials = codec.specials | ends
        unknown = {self._named("unk_token")} - {*self.eos}  # text may become the unknown token
        self.controls = set(self._specials.values()) - unknown
        self._lookalike = re.compile(alternatives(self._specials))
        self._special = re.compile(f"{codec.pattern}|{alternatives(ends)}")

    # ---- text ------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Encode a text as ids without BOS and without control tokens.

        A lone surrogate, which JSON can contain and UTF-8 cannot, becomes `?`.
        """
        return self._encode_text(_valid(text), True)

    def encode_inside(self, text: str) -> list[int]:
        """Encode a text that continues other text: no blank is put in front of it."""
        return self._encode_text(_valid(text), False)

    def raw_prompt(self, text: str) -> list[int]:
        """Encode a prompt that is no conversation, after BOS if the model expects BOS."""
        start = [self.bos] if self._facts.add_bos and self.bos is not None else []
        return start + self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode the ids before the first EOS to text; invalid UTF-8 becomes U+FFFD."""
        push = self.stream()
        return "".join(map(push, ids)) + push(None)

    def stream(self) -> Callable[[int | None], str]:
        """Return a function that decodes ids one at a time.

        For each id, the function returns the text that later ids cannot change any more; for None,
        which ends the response, it returns the remaining text.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        begun, ended = not self._codec.drops_space, False

        def push(i: int | None) -> str:
            nonlocal begun, ended
            if ended:
                return ""
            ended = i is None or i in self.eos
            data = b"" if ended else self._bytes(i)
            text = decoder.decode(data, final=ended)
            if text and not begun:
                begun, text = True, text.removeprefix(" ")
            return text

        return push

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return a readable text for each id; control tokens show their names."""
        return [self._piece(int(i)) for i in ids]

    def single(self, word: str) -> int:
        """Return the id of a verdict word; raise TokenizerError if it is not one token."""
        ids = self.encode(word)
        if len(ids) != 1:
            raise TokenizerError(
                f"the verdict {word!r} is {len(ids)} tokens in this tokenizer and must be one"
            )
        return ids[0]

    @functools.cached_property
    def verdict_ids(self) -> list[int]:
        """Return the ids of the default verdict words; raise as `verdicts` does."""
        return self.verdicts(VERDICTS)

    def verdicts(self, words: Sequence[str]) -> list[int]:
        """Return the ids of verdict words.

        Raises:
          TokenizerError: a word is not a single token, or two words are the same token.
        """
        ids = [self.single(word) for word in words]
        if len(set(ids)) != len(ids):
            raise TokenizerError(
                f"the verdicts {' and '.join(map(repr, words))} are the same token in this "
                "tokenizer: choose other data.verdict_words"
            )
        return ids

    def tables(self, vocab: int | None = None) -> tuple[Any, Any, Any]:
        """Return the bool tables `newline_V`, `blank_V` and `control_V`.

        They mark the tokens that contain a new line, the tokens whose text is blank, and the tokens
        that are no text.  `vocab` is the size of the tables; ids beyond the tokenizer's vocabulary
        are blank and control tokens.
        """
        size = self.vocab if vocab is None else vocab
        texts = self._codec.texts[:size]
        newline, blank, control = np.zeros(size, bool), np.ones(size, bool), np.ones(size, bool)
        spelled = [text or b"" for text in texts]
        newline[: len(texts)] = [b"\n" in text for text in spelled]
        blank[: len(texts)] = [not text.decode("utf-8", "replace").strip() for text in spelled]
        control[: len(texts)] = [text is None for text in texts]
        for i in self.eos:
            if i < size:
                newline[i], blank[i], control[i] = False, True, True
        return newline, blank, control

    def spelling(self, vocab: int | None = None) -> tuple[Any, Any]:
        """Return the bytes of each token (uint8 `bytes_VW`) and their number (int32 `length_V`).

        Of a long token, the table has the first SPELLING_BYTES bytes.  Tokens without text, and
        EOS, have length 0.
        """
        size = self.vocab if vocab is None else vocab
        spelled = [b"" if i in self.eos else (t or b"") for i, t in enumerate(self._codec.texts)]
        spelled = [text[:SPELLING_BYTES] for text in spelled[:size]]
        lengths, table = np.zeros(size, np.int32), np.zeros((size, SPELLING_BYTES), np.uint8)
        for i, text in enumerate(spelled):
            lengths[i], table[i, : len(text)] = len(text), np.frombuffer(text, np.uint8)
        return table[:, : max(1, lengths.max(initial=0))], lengths

    # ---- chat ------------------------------------------------------------------------------

    @property
    def has_chat(self) -> bool:
        """Return whether the tokenizer has a chat template."""
        return self._render is not None

    def chat_text(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Return a conversation as the text that the model's chat template writes.

        Raises:
          TokenizerError: there is no template, or the template refuses the messages.
        """
        if self._render is None:
            raise TokenizerError(
                f"{self._facts.source} has no chat template: put chat_template.jinja beside it or "
                "use prompts that are plain text"
            )
        known = {**self._facts.tokens, "add_generation_prompt": add_generation_prompt}
        return self._render(messages, **(known | variables))

    def chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """Encode a conversation; special tokens come from the template only, never from a message.

        Raises:
          TokenizerError: there is no template, or the template refuses the messages.
        """
        text, hidden = self._render_hidden(messages, add_generation_prompt, variables)
        return self._encode_rendered(text, hidden, True)

    def chat_around(
        self,
        messages: Sequence[Message],
        hole: str,
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[list[int]]:
        """Encode a conversation as the ids before, between and after its holes.

        `hole` is a character; each of its places in the messages is one hole, where other ids will
        stand.

        Raises:
          TokenizerError: there is no template, the template refuses the messages, or it does not
            write each hole exactly once.
        """
        text, hidden = self._render_hidden(messages, add_generation_prompt, variables)
        holes = sum(found.count(hole) for found in placeholders.list_texts(list(messages)))
        if text.count(hole) != holes:
            raise TokenizerError(
                f"the chat template of {self._facts.template_file} must write each message once "
                f"and writes one {text.count(hole) // max(holes, 1)} times: change it"
            )
        return [
            self._encode_rendered(part, hidden, i == 0) for i, part in enumerate(text.split(hole))
        ]

    def _render_hidden(
        self, messages: Sequence[Message], add_generation_prompt: bool, variables: dict[str, Any]
    ) -> tuple[str, dict[str, str]]:
        """Render a conversation with placeholders for text that looks like a special token.

        Returns the text and the placeholders: key -> the text that it replaces.
        """
        inputs: Any = (messages, variables)
        content = "\n".join(placeholders.list_texts(inputs))
        hidden: dict[str, str] = {}
        if self._lookalike.search(content):
            mark = placeholders.unused_character(content + self._source)
            inputs = placeholders.hide(inputs, self._lookalike, mark, hidden)
        messages, variables = inputs
        text = self.chat_text(messages, add_generation_prompt=add_generation_prompt, **variables)
        return _valid(text), hidden

    def _encode_rendered(self, text: str, hidden: dict[str, str], first: bool) -> list[int]:
        """Encode a rendered conversation: its special tokens, and as plain text all between them.

        `first` tells whether the text is the beginning of the conversation.
        """
        if first and not hidden and self._codec.encode_template is not None:
            return self._codec.encode_template(text)
        ids: list[int] = []
        at = 0
        for match in self._special.finditer(text):
            between = placeholders.unhide(text[at : match.start()], hidden)
            ids += self._encode_text(between, first and at == 0)
            name = match.group()
            ids.append(self._specials[name if name in self._specials else name.strip()])
            at = match.end()
        return ids + self._encode_text(placeholders.unhide(text[at:], hidden), first and at == 0)

    # ---- files -----------------------------------------------------------------------------

    def save(self, target: Path) -> None:
        """Write the tokenizer's files into a Hugging Face model folder."""
        target.mkdir(parents=True, exist_ok=True)
        for name, path in self._facts.files.items():
            if path.resolve() != (target / name).resolve():
                shutil.copyfile(path, target / name)
        if not self._facts.files:
            self._codec.write(target)
        if "tokenizer_config.json" not in self._facts.files:
            config = self._config((target / "tokenizer.json").exists())
            text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
            (target / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _config(self, is_fast: bool) -> dict[str, Any]:
        kind = "PreTrainedTokenizerFast" if is_fast else "LlamaTokenizer"
        config: dict[str, Any] = {"tokenizer_class": kind, **self._facts.tokens}
        config |= {"add_bos_token": self._facts.add_bos, "add_eos_token": False}
        config |= {"clean_up_tokenization_spaces": False}
        if not is_fast:  # transformers has other defaults for sentencepiece models
            config |= {"add_prefix_space": self._codec.drops_space}
            config.setdefault("bos_token", None)
        if self._facts.template is not None:
            config["chat_template"] = self._facts.template
        return config

    # ---- parts -----------------------------------------------------------------------------

    def _encode_text(self, text: str, first: bool) -> list[int]:
        """Encode a text without control tokens.

        Some codecs encode a text such as `</s>` as a control token; this method then cuts the text
        after its first character and encodes the parts.
        """
        ids = self._codec.encode(text, first) if text else []
        if self.controls.isdisjoint(ids):
            return ids
        cuts = [0, *(m.start() + 1 for m in self._lookalike.finditer(text)), len(text)]
        parts = [text[a:b] for a, b in pairwise(cuts)]
        cut = [i for n, part in enumerate(parts) for i in self._codec.encode(part, first and not n)]
        return [i for i in cut if i not in self.controls]

    def _bytes(self, i: Any) -> bytes:
        return (self._codec.texts[i] or b"") if 0 <= i < self.vocab else b""

    def _piece(self, i: int) -> str:
        data = self._bytes(i)
        if not data or i in self.eos:
            return self._names.get(i, f"<{i}>")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)

    @functools.cached_property
    def _names(self) -> dict[int, str]:
        return {i: name for name, i in self._codec.names.items()}

    def _named(self, token: str) -> int | None:
        return self._codec.names.get(self._facts.tokens.get(token, ""))

    def _template(self) -> Callable[..., str] | None:
        if self._facts.template is None:
            return None
        return chat.compile_template(self._facts.template, self._facts.template_file, self._now)

    def _ends(self) -> tuple[int, ...]:
        ids = [self._turn_end(), self._named("eos_token"), *self._facts.eos]
        ends = tuple(dict.fromkeys(i for i in ids if i is not None and 0 <= i < self.vocab))
        if not ends:
            raise TokenizerError(
                f"nothing says which token of {self._facts.source} ends a response: name its "
                "eos_token in tokenizer_config.json"
            )
        return ends

    def _turn_end(self) -> int | None:
        """Return the special token that the template writes after an assistant's message."""
        if self._render is None:
            return None
        mark = placeholders.unused_character(self._source)
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        try:
            text = self.chat_text(turns, add_generation_prompt=False)
        except TokenizerError:  # the template may need a system message or other turns
            return None
        _, separator, after = text.rpartition(mark)
        match = re.search(alternatives(self._codec.specials), after if separator else "")
        return self._codec.specials[match.group()] if match else None


def open_tokenizer(path: Path | str, now: datetime.datetime | None = None) -> Tokenizer:
    """Load the tokenizer at `path`, or the byte tokenizer for the word `byte`.

    `path` is a model folder, a tokenizer.json, a sentencepiece .model or a .gguf file.  A run
    gives its own time as `now`, so that a template writes the same date whenever the run goes on.

    Raises:
      TokenizerError: there is no tokenizer at `path`, or it cannot be read.
    """
    if str(path) == "byte":
        return Tokenizer(*byte.build(), now)
    path = Path(path)
    if path.is_dir():
        path = folder.tokenizer_in(path)
    loaders = {
        ".json": fast.load_tokenizer_json,
        ".model": spm.load_sentencepiece,
        ".gguf": ggml.load_gguf_tokenizer,
    }
    if path.suffix not in loaders:
        raise TokenizerError(
            f"{path} is no tokenizer: give a model folder, a tokenizer.json, a .model, a .gguf, or "
            "the word byte"
        )
    if not path.exists():
        raise TokenizerError(f"there is no tokenizer {path}{looked_up(path)}: correct the path")
    return Tokenizer(*loaders[path.suffix](path), now)


def _valid(text: str) -> str:
    """Replace lone surrogates by `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")
