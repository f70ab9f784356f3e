"""What a kind of tokenizer gives to the part that all kinds share."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Codec:
    """The bare text <-> ids of one kind."""

    names: dict[str, int]  # every token, by its own name
    texts: list[bytes | None]  # what each id shows; None where it shows nothing: control, unused
    specials: dict[str, int]  # the names that mean an id in a template, and nothing in text
    pattern: str  # a regular expression of them, with the spaces that they swallow
    encode: Callable[[str, bool], list[int]]  # text without specials, whether it comes first
    encode_template: Callable[[str], list[int]] | None  # with specials, where the kind can do so
    drops_space: bool  # one space at the beginning belongs to the encoding, not to the text
    write: Callable[[Path], None]  # the file of the tokenizer itself, into a folder


@dataclass(frozen=True)
class Facts:
    """What the files around a tokenizer say about its use."""

    source: str  # for messages
    tokens: dict[str, str]  # eos_token, bos_token, unk_token, pad_token: those that are named
    eos: tuple[int, ...] = ()  # ids that end a response besides eos_token
    add_bos: bool = False
    template: str | None = None
    template_file: str = ""
    files: dict[str, Path] = field(default_factory=dict)  # what saving copies, by its name there


def alternatives(names: Iterable[str]) -> str:
    """A regular expression of the names, longest first; one that never matches if there is none."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)"
