"""Text <-> ids, whatever the tokenizer's file: sentencepiece, tokenizer.json, GGUF, or bytes.

Text never becomes a control token: `</s>` or `<|im_start|>` in a question, or in the content of a
chat message, is encoded as the characters it is made of.
"""

import codecs
import functools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rlvr_jax.host.text import chat
from rlvr_jax.host.text.chat import Message, TokenizerError
from rlvr_jax.host.text.tokenizer import byte, fast, folder, ggml, spm
from rlvr_jax.host.text.tokenizer.codec import Codec, Facts, alternatives
from rlvr_jax.host.text.tokenizer.spm import train

__all__ = ["VERDICTS", "Tokenizer", "TokenizerError", "open_tokenizer", "train"]

VERDICTS = ("1", "0")  # accept, reject
LETTERS = 32  # bytes of a token that device code may read: a few tokens of blanks are longer


class Tokenizer:
    """Text <-> ids, chat, and the vocabulary tables that device code reads."""

    def __init__(self, codec: Codec, facts: Facts):
        """Raises TokenizerError if nothing says which token ends a response."""
        self._codec, self._facts = codec, facts
        self.vocab: int = len(codec.texts)
        self._source = facts.template or ""
        self._render = self._template()
        self.bos: int | None = codec.names.get(facts.tokens.get("bos_token", ""))
        self.eos: tuple[int, ...] = self._ends()
        ends = {name: i for name, i in codec.names.items() if i in self.eos}
        self._specials = codec.specials | ends
        unknown = {self._named("unk_token")} - {*self.eos}  # which text may well become
        self._controls = set(self._specials.values()) - unknown
        self._lookalike = re.compile(alternatives(self._specials))
        self._special = re.compile(f"{codec.pattern}|{alternatives(ends)}")

    # ---- text ------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of a text, none of them a control token and no BOS.

        Half of a surrogate pair, which JSON can carry and UTF-8 cannot, becomes `?`.
        """
        return self._data(_whole(text), True)

    def raw_prompt(self, text: str) -> list[int]:
        """A text that is not a conversation, behind BOS where the model wants one."""
        start = [self.bos] if self._facts.add_bos and self.bos is not None else []
        return start + self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids up to the first EOS.  What is no UTF-8 becomes U+FFFD."""
        push = self.stream()
        return "".join(map(push, ids)) + push(None)

    def stream(self) -> Callable[[int | None], str]:
        """A function: an id in, the text that can no longer change out; None for the last of it."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        begun, ended = not self._codec.drops_space, False

        def push(i: int | None) -> str:
            nonlocal begun, ended
            if ended:
                return ""
            ended = i is None or i in self.eos
            shown = b"" if ended else self._shown(i)
            text = decoder.decode(shown, final=ended)
            if text and not begun:
                begun, text = True, text.removeprefix(" ")
            return text

        return push

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id looks like, for people."""
        return [self._piece(int(i)) for i in ids]

    def single(self, word: str) -> int:
        """The id of a word; raises TokenizerError if that is not one token."""
        ids = self.encode(word)
        if len(ids) != 1:
            raise TokenizerError(
                f"the verdict {word!r} is {len(ids)} tokens in this tokenizer and must be one"
            )
        return ids[0]

    @functools.cached_property
    def verdict_ids(self) -> list[int]:
        """Accept, reject of the usual words; raises as `verdicts`."""
        return self.verdicts(VERDICTS)

    def verdicts(self, words: Sequence[str]) -> list[int]:
        """Ids of accept and reject; raises TokenizerError unless each is one token of its own."""
        ids = [self.single(word) for word in words]
        if len(set(ids)) != len(ids):
            raise TokenizerError(
                f"the verdicts {' and '.join(map(repr, words))} are the same token in this "
                "tokenizer: choose other data.verdict_words"
            )
        return ids

    def tables(self, vocab: int | None = None) -> tuple[Any, Any, Any]:
        """`newline_V`, `blank_V`, `control_V`: tokens that hold a new line, or show nothing, or are
        no text at all.  A model's vocabulary may be larger: what is beyond is blank and control.
        """
        size = self.vocab if vocab is None else vocab
        texts = self._codec.texts[:size]
        newline, blank, control = np.zeros(size, bool), np.ones(size, bool), np.ones(size, bool)
        shown = [text or b"" for text in texts]
        newline[: len(texts)] = [b"\n" in text for text in shown]
        blank[: len(texts)] = [not text.decode("utf-8", "replace").strip() for text in shown]
        control[: len(texts)] = [text is None for text in texts]
        for i in self.eos:
            if i < size:
                newline[i], blank[i], control[i] = False, True, True
        return newline, blank, control

    def spelling(self, vocab: int | None = None) -> tuple[Any, Any]:
        """`bytes_VW`, `length_V`: the text of each token, of long ones the first LETTERS bytes."""
        size = self.vocab if vocab is None else vocab
        shown = [b"" if i in self.eos else (t or b"") for i, t in enumerate(self._codec.texts)]
        shown = [text[:LETTERS] for text in shown[:size]]
        lengths, table = np.zeros(size, np.int32), np.zeros((size, LETTERS), np.uint8)
        for i, text in enumerate(shown):
            lengths[i], table[i, : len(text)] = len(text), np.frombuffer(text, np.uint8)
        return table[:, : max(1, lengths.max(initial=0))], lengths

    # ---- chat ------------------------------------------------------------------------------

    @property
    def has_chat(self) -> bool:
        return self._render is not None

    def chat_text(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """A conversation as the model's template writes it.

        Raises TokenizerError if there is no template, or it refuses the messages.
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
        """Ids of a conversation: special tokens come from the template, never from a message.

        Raises TokenizerError as `chat_text`.
        """
        written, texts = self._written(messages, add_generation_prompt, variables)
        return self._join(written, texts, True)

    def chat_around(
        self,
        messages: Sequence[Message],
        hole: str,
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> tuple[list[int], list[int]]:
        """Ids of a conversation before and after `hole`, a character in one of its messages.

        Raises TokenizerError as `chat_text`, and if the template does not write it exactly once.
        """
        written, texts = self._written(messages, add_generation_prompt, variables)
        if written.count(hole) != 1:
            raise TokenizerError(
                f"the chat template of {self._facts.template_file} must write each message once "
                f"and writes one {written.count(hole)} times: change it"
            )
        head, _, tail = written.partition(hole)
        return self._join(head, texts, True), self._join(tail, texts, False)

    def _written(
        self, messages: Sequence[Message], add_generation_prompt: bool, variables: dict[str, Any]
    ) -> tuple[str, dict[str, str]]:
        """The text of a template, and what stands in it for look-alikes of special tokens."""
        given: Any = (messages, variables)
        said = "\n".join(_strings(given))
        texts: dict[str, str] = {}
        if self._lookalike.search(said):
            given = _hidden(given, self._lookalike, _unused(said + self._source), texts)
        said = self.chat_text(given[0], add_generation_prompt=add_generation_prompt, **given[1])
        return _whole(said), texts

    def _join(self, written: str, texts: dict[str, str], first: bool) -> list[int]:
        """Ids of a template's text: between its special tokens all is data."""
        if first and not texts and self._codec.encode_template is not None:
            return self._codec.encode_template(written)
        ids: list[int] = []
        at = 0
        for match in self._special.finditer(written):
            ids += self._data(_shown_again(written[at : match.start()], texts), first and at == 0)
            name = match.group()
            ids.append(self._specials[name if name in self._specials else name.strip()])
            at = match.end()
        return ids + self._data(_shown_again(written[at:], texts), first and at == 0)

    # ---- files -----------------------------------------------------------------------------

    def save(self, target: Path) -> None:
        """Write what a Hugging Face model folder needs to know about text."""
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
        if not is_fast:  # what transformers would else assume of a sentencepiece model
            config |= {"add_prefix_space": self._codec.drops_space}
            config.setdefault("bos_token", None)
        if self._facts.template is not None:
            config["chat_template"] = self._facts.template
        return config

    # ---- parts -----------------------------------------------------------------------------

    def _data(self, text: str, first: bool) -> list[int]:
        """Ids of a text; where the kind spells a control token from text, that is cut in two."""
        ids = self._codec.encode(text, first) if text else []
        if self._controls.isdisjoint(ids):
            return ids
        cuts = [0, *(m.start() + 1 for m in self._lookalike.finditer(text)), len(text)]
        parts = [text[a:b] for a, b in pairwise(cuts)]
        cut = [i for n, part in enumerate(parts) for i in self._codec.encode(part, first and not n)]
        return [i for i in cut if i not in self._controls]

    def _shown(self, i: Any) -> bytes:
        return (self._codec.texts[i] or b"") if 0 <= i < self.vocab else b""

    def _piece(self, i: int) -> str:
        shown = self._shown(i)
        if not shown or i in self.eos:
            return self._names.get(i, f"<{i}>")
        try:
            return shown.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in shown)

    @functools.cached_property
    def _names(self) -> dict[int, str]:
        return {i: name for name, i in self._codec.names.items()}

    def _named(self, token: str) -> int | None:
        return self._codec.names.get(self._facts.tokens.get(token, ""))

    def _template(self) -> Callable[..., str] | None:
        if self._facts.template is None:
            return None
        return chat.compiled(self._facts.template, self._facts.template_file)

    def _ends(self) -> tuple[int, ...]:
        found = [self._turn_end(), self._named("eos_token"), *self._facts.eos]
        ends = tuple(dict.fromkeys(i for i in found if i is not None and 0 <= i < self.vocab))
        if not ends:
            raise TokenizerError(
                f"nothing says which token of {self._facts.source} ends a response: name its "
                "eos_token in tokenizer_config.json"
            )
        return ends

    def _turn_end(self) -> int | None:
        """The special token that the template writes behind what an assistant says."""
        if self._render is None:
            return None
        mark = _unused(self._source)
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        try:
            written = self.chat_text(turns, add_generation_prompt=False)
        except TokenizerError:  # it may have a reason to want other messages
            return None
        _, found, after = written.rpartition(mark)
        match = re.search(alternatives(self._codec.specials), after if found else "")
        return self._codec.specials[match.group()] if match else None


def open_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer of a model folder, a tokenizer.json, a .model, a .gguf, or the word `byte`.

    Raises TokenizerError if it cannot be read.
    """
    if str(path) == "byte":
        return Tokenizer(*byte.build())
    path = Path(path)
    if path.is_dir():
        path = folder.tokenizer_in(path)
    readers = {".json": fast.read, ".model": spm.read, ".gguf": ggml.read}
    if path.suffix not in readers:
        raise TokenizerError(
            f"{path} is no tokenizer: give a model folder, a tokenizer.json, a .model, a .gguf, or "
            "the word byte"
        )
    if not path.exists():
        raise TokenizerError(f"there is no tokenizer {path}: correct the path")
    return Tokenizer(*readers[path.suffix](path))


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _strings(value: Any) -> list[str]:
    """All texts in lists and dicts, however deep."""
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    is_many = isinstance(value, dict | list | tuple)
    return [text for part in values for text in _strings(part)] if is_many else []


def _unused(text: str) -> str:
    """A character for private use that is not in the text."""
    return next(char for char in map(chr, range(0xE000, 0x110000)) if char not in text)


def _hidden(value: Any, pattern: re.Pattern, mark: str, texts: dict[str, str]) -> Any:
    """The value with each match in its texts replaced by a key of `texts`, which tells them."""

    def hide(match: re.Match) -> str:
        key = f"{mark}{len(texts)}{mark}"
        texts[key] = match.group()
        return key

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(hide, value)
        if isinstance(value, dict):
            return {key: walk(part) for key, part in value.items()}
        return [walk(part) for part in value] if isinstance(value, list | tuple) else value

    return walk(value)


def _shown_again(text: str, texts: dict[str, str]) -> str:
    return re.sub(alternatives(texts), lambda m: texts[m.group()], text) if texts else text
