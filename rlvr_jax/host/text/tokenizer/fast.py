"""Tokenizers of the package `tokenizers`: from a tokenizer.json, or built by another module."""

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tokenizers

from rlvr_jax.host.text.chat import TokenizerError
from rlvr_jax.host.text.tokenizer import folder, patterns
from rlvr_jax.host.text.tokenizer.codec import (
    Codec,
    Facts,
    alternatives,
    check_controls,
    check_file,
    check_size,
)
from rlvr_jax.markers import THINK_CLOSE, THINK_OPEN

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_DECODERS = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


def load_tokenizer_json(path: Path) -> tuple[Codec, Facts]:
    """Load a tokenizer.json and the settings in the files beside it.

    Raises:
      TokenizerError: the file, or a file beside it, cannot be read or used.
    """
    check_file(path)
    with refusing(f"{path} is not a readable tokenizer.json"):
        model = tokenizers.Tokenizer.from_file(str(path))
    _check_patterns(model, str(path))
    for i, token in folder.load_added_tokens(path.parent).items():
        if model.id_to_token(i) != token["content"]:
            raise TokenizerError(
                f"tokenizer_config.json beside {path} has {token['content']!r} for id {i} and "
                f"it has {model.id_to_token(i)!r}: save both again with transformers"
            )
    new = codec(model, str(path))
    with refusing(f"{path} cannot encode 'a'"):
        starts = model.encode("a", add_special_tokens=True).ids[:1]
    bos = [name for name, i in new.specials.items() if [i] == starts]
    own = {"bos_token": bos[0]} if bos else {}
    return new, folder.load_facts(path, "tokenizer.json", own, add_bos=bool(bos))


def codec(model: tokenizers.Tokenizer, source: str, unused: frozenset[int] = frozenset()) -> Codec:
    """Make a codec from a tokenizer of the package `tokenizers`.

    `source` is the path of the tokenizer, for error messages.  `unused` are ids that stand for
    no text.

    Raises:
      TokenizerError: the tokenizer has a decoder of a type that is not supported, or an id that no
        vocabulary has.
    """
    model.no_padding()
    model.no_truncation()
    model.encode_special_tokens = True
    added = model.get_added_tokens_decoder()
    special = {i: token for i, token in added.items() if token.special}
    check_controls(len(special), source)
    names = model.get_vocab(with_added_tokens=True)
    parts = _decoders(model, source)
    size = max(names.values(), default=-1) + 1
    check_size(size, source)
    texts: list[bytes | None] = [None] * size
    spell = _byte_level if "ByteLevel" in parts else functools.partial(_plain, parts)
    unknown = getattr(model.model, "unk_token", None)
    for name, i in names.items():
        is_text = i not in special and i not in unused and name != unknown
        if name in (THINK_OPEN, THINK_CLOSE):  # special or not: rules read where thoughts end
            is_text = i not in unused
        texts[i] = spell(name, i in added) if is_text else None
    within, whole = _variants(model)
    return Codec(
        names=names,
        texts=texts,
        specials={token.content: i for i, token in special.items()},
        pattern=_pattern(special),
        encode=lambda text, first: _encode(model if first else within(), text, source),
        encode_template=lambda text: _encode(whole(), text, source),
        drops_space=_drops_space(parts),
        write=lambda target: model.save(str(target / "tokenizer.json")),
    )


def _encode(model: tokenizers.Tokenizer, text: str, source: str) -> list[int]:
    """Encode a text; raise TokenizerError where a pattern reaches its limit of steps."""
    with refusing(f"{source} cannot encode {text[:40]!r}"):
        return model.encode(text, add_special_tokens=False).ids


@contextlib.contextmanager
def refusing(problem: str) -> Iterator[None]:
    """Raise TokenizerError with the problem and its reason for any error of `tokenizers`.

    A panic of that package is no Exception, and its type has no public name.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{problem}: {' '.join(str(error).split())}") from None


def _check_patterns(model: tokenizers.Tokenizer, source: str) -> None:
    """Refuse regular expressions that may take exponential time."""
    for part in (model.normalizer, model.pre_tokenizer, model.decoder):
        state = json.loads(part.__getstate__()) if part is not None else None
        for pattern in patterns.list_patterns(state):
            if reason := patterns.explain(pattern):
                raise TokenizerError(
                    f"{source} has a pattern that may take forever, by {reason}: {pattern[:80]!r}"
                )


def _variants(
    model: tokenizers.Tokenizer,
) -> tuple[Callable[[], tokenizers.Tokenizer], Callable[[], tokenizers.Tokenizer]]:
    """Return two functions that make copies of a tokenizer on first use.

    The first copy encodes text that follows a special token; the second one recognises special
    tokens in text.
    """

    @functools.cache
    def within() -> tokenizers.Tokenizer:
        text = model.to_str()
        if '"prepend_scheme":"first"' not in text:
            return model
        state = json.loads(text)
        for part in _steps(state["pre_tokenizer"], "pretokenizers"):
            part |= {"prepend_scheme": "never"} if part.get("prepend_scheme") == "first" else {}
        copy = tokenizers.Tokenizer.from_str(json.dumps(state))
        copy.encode_special_tokens = True
        return copy

    @functools.cache
    def whole() -> tokenizers.Tokenizer:
        copy = tokenizers.Tokenizer.from_str(model.to_str())
        copy.encode_special_tokens = False
        return copy

    return within, whole


def _steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """List the steps of a pre-tokenizer or decoder, with nested sequences flattened."""
    if part is None:
        return []
    inner = part[key] if part["type"] == "Sequence" else None
    return [part] if inner is None else [step for sub in inner for step in _steps(sub, key)]


def _decoders(model: tokenizers.Tokenizer, source: str) -> dict[str, dict[str, Any]]:
    """Return the steps of the decoder by type, by which `codec` spells each token."""
    state = json.loads(model.decoder.__getstate__()) if model.decoder is not None else None
    parts = {step["type"]: step for step in _steps(state, "decoders")}
    unknown = sorted(set(parts) - _DECODERS) or ([] if parts else ["none"])
    if unknown:
        raise TokenizerError(
            f"{source} has a decoder of type {', '.join(unknown)} and must have one of "
            f"{', '.join(sorted(_DECODERS))}: use the tokenizer of a model that writes text"
        )
    return parts


def _byte_level(name: str, added: bool) -> bytes:
    """Spell a token whose name has one letter per byte; the name of an added token is its text."""
    try:
        return name.encode() if added else name.translate(_letters()).encode("latin-1")
    except UnicodeEncodeError:
        return name.encode()


def letters() -> list[str]:
    """Return the letters that stand for the 256 bytes in byte-level names.

    A byte that is a visible Latin-1 character stands for itself.
    """
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


@functools.cache
def _letters() -> dict[int, int]:
    return {ord(letter): byte for byte, letter in enumerate(letters())}


def _plain(parts: dict[str, dict[str, Any]], name: str, added: bool) -> bytes:
    """Spell a token whose name is text, except for a sign for the space and names of bytes."""
    match = _BYTE.fullmatch(name) if "ByteFallback" in parts and not added else None
    if match:
        return bytes([int(match.group(1), 16)])
    if "Metaspace" in parts:
        name = name.replace(parts["Metaspace"]["replacement"], " ")
    sign = parts.get("Replace", {}).get("pattern", {}).get("String")
    return (name.replace(sign, parts["Replace"]["content"]) if sign else name).encode()


def _drops_space(parts: dict[str, dict[str, Any]]) -> bool:
    strip = parts.get("Strip", {})
    strips = strip.get("content") == " " and strip.get("start", 0) > 0
    return strips or parts.get("Metaspace", {}).get("prepend_scheme", "never") != "never"


def _pattern(special: dict[int, tokenizers.AddedToken]) -> str:
    if not any(token.lstrip or token.rstrip for token in special.values()):
        return alternatives(token.content for token in special.values())
    longest = sorted(special.values(), key=lambda token: len(token.content), reverse=True)
    names = [
        ("\\s*" if token.lstrip else "")
        + re.escape(token.content)
        + ("\\s*" if token.rstrip else "")
        for token in longest
    ]
    return "|".join(names) or "(?!)"
