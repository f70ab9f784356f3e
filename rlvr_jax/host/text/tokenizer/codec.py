"""The two things that each kind of tokenizer provides: a `Codec`, and `Facts` about its use."""

import itertools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rlvr_jax.host.text.chat import TokenizerError

_TOKENS = 1 << 20  # ids of a tokenizer; the largest vocabularies have a quarter of that
_CONTROLS = 1 << 14  # Gemma 3 has 6,000
_DEPTH = 20  # of a tree of names; Python's compiler is recursive
_BYTES = 1 << 26  # of a file; the largest known tokenizer.json has half of that


@dataclass(frozen=True)
class Codec:
    """A `Codec` converts between text and ids for one kind of tokenizer.

    `encode(text, first)` encodes plain text without special tokens; `first` tells whether it is the
    beginning of a text.  `encode_template(text)` encodes a rendered chat with its special tokens;
    it is None if the kind of tokenizer cannot do so.  `write(folder)` writes the tokenizer's file.
    """

    names: dict[str, int]  # name of each token -> id
    texts: list[bytes | None]  # bytes of each id; None for control and unused tokens
    specials: dict[str, int]  # names that are tokens in a rendered chat, but not in plain text
    pattern: str  # regular expression of those names, with the adjacent spaces that they absorb
    encode: Callable[[str, bool], list[int]]
    encode_template: Callable[[str], list[int]] | None
    drops_space: bool  # whether one space at the beginning is no part of the text
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Facts:
    """`Facts` are the settings of a tokenizer, from its own file and the files beside it."""

    source: str  # path of the tokenizer, for error messages
    tokens: dict[str, str]  # eos_token, bos_token, unk_token and pad_token, if they are named
    eos: tuple[int, ...] = ()  # ids that end a response, in addition to eos_token
    add_bos: bool = False
    template: str | None = None
    template_file: str = ""
    files: dict[str, Path] = field(default_factory=dict)  # name in a saved folder -> file to copy


def alternatives(names: Iterable[str]) -> str:
    """Return a regular expression of the names, longest first; without names it never matches.

    Names that begin alike are written as a tree, because Python needs minutes to compile the flat
    list of 30,000 reserved tokens.
    """
    return _tree(sorted({*names} - {""}), 0) or "(?!)"


def _tree(names: list[str], depth: int) -> str:
    """Return alternatives of different sorted names."""
    if depth > _DEPTH:
        return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    parts = []
    for _, group in itertools.groupby(names, key=lambda name: name[:1]):
        alike = list(group)
        shared = os.path.commonprefix([alike[0], alike[-1]])
        rest = [name[len(shared) :] for name in alike if name != shared]
        inner = f"(?:{_tree(rest, depth + 1)})" if rest else ""
        parts.append(re.escape(shared) + inner + ("?" if rest and len(rest) < len(alike) else ""))
    return "|".join(parts)


def check_size(size: int, source: str) -> None:
    """Refuse a tokenizer whose largest id is `size - 1`, with TokenizerError, if that is absurd."""
    if size > _TOKENS:
        raise TokenizerError(
            f"{source} has a token with id {size - 1:,} and may have {_TOKENS:,} tokens: it is no "
            "tokenizer of a language model"
        )


def check_file(path: Path) -> None:
    """Refuse what is no plain file, or too large a one, with TokenizerError, before reading it."""
    if not path.is_file():
        raise TokenizerError(f"{path} is not a readable file: correct the path")
    if path.stat().st_size > _BYTES:
        raise TokenizerError(f"{path} is larger than {_BYTES >> 20} MiB: it is no tokenizer")


def check_controls(count: int, source: str) -> None:
    """Refuse a tokenizer with more control tokens than any has, with TokenizerError."""
    if count > _CONTROLS:
        raise TokenizerError(
            f"{source} has {count:,} control tokens and may have {_CONTROLS:,}: it is no tokenizer "
            "of a language model"
        )
