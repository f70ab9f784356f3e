"""The tokenizer of a GGUF file: byte-level BPE, built from the vocabulary and merges in the file.

A GGUF file only names the pre-tokenizer, which splits text before the merges.  This module defines
a pre-tokenizer for each name that it knows.
"""

from pathlib import Path
from typing import Any

import gguf
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from rlvr_jax.host.text.chat import TokenizerError
from rlvr_jax.host.text.tokenizer import fast
from rlvr_jax.host.text.tokenizer.codec import Codec, Facts

_UNKNOWN, _CONTROL, _USER, _UNUSED = 2, 3, 4, 5
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|"
    r" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUTS = {"llama-bpe": _WORDS.format(digits="{1,3}"), "qwen2": _WORDS.format(digits="")}
_KNOWN = ("default", "gpt-2", "llama-bpe", "qwen2", "smollm")
_INSTEAD = "put the model's tokenizer.json or tokenizer.model beside it and set `tokenizer` to that"


def load_gguf_tokenizer(path: Path) -> tuple[Codec, Facts]:
    """Load the tokenizer of a GGUF file.

    Raises:
      TokenizerError: the file cannot be read, or its kind of tokenizer is not supported.
    """
    metadata = _load_metadata(path)
    model, unused = _build(path, metadata)
    tokens = metadata["tokens"]
    names = {"eos": "eos", "bos": "bos", "unk": "unknown", "pad": "padding"}
    ids = {key: _ids(metadata, name) for key, name in names.items()}
    named = {f"{key}_token": tokens[i] for key, several in ids.items() for i in several}
    add_bos = bool(metadata.get("add_bos_token", metadata.get("pre") == "llama-bpe"))
    if add_bos and "bos_token" in named:
        start = (named["bos_token"], model.token_to_id(named["bos_token"]))
        model.post_processor = processors.TemplateProcessing(
            single=[start[0], "$A"], pair=[start[0], "$A", "$B"], special_tokens=[start]
        )
    facts = Facts(
        source=str(path),
        tokens=named,
        eos=_ids(metadata, "eos", "eot", "eom"),
        add_bos=add_bos,
        template=metadata.get("chat_template"),
        template_file=str(path),
    )
    return fast.codec(model, str(path), unused), facts


def _ids(metadata: dict[str, Any], *names: str) -> tuple[int, ...]:
    """Return the ids of special tokens, without those that are missing or out of range."""
    ids = [metadata.get(f"{name}_token_id") for name in names]
    return tuple(i for i in ids if isinstance(i, int) and 0 <= i < len(metadata["tokens"]))


def _load_metadata(path: Path) -> dict[str, Any]:
    """Load the metadata of the tokenizer, with keys without prefixes; tensors stay on disk."""
    try:
        fields = gguf.GGUFReader(path).fields
        metadata = {
            key.removeprefix("tokenizer.").removeprefix("ggml."): field.contents()
            for key, field in fields.items()
            if key.startswith("tokenizer.")
        }
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TokenizerError(f"{path} is not a readable GGUF file: {reason}") from None
    kind, cut = metadata.get("model"), metadata.get("pre", "default")
    if kind != "gpt2":
        raise TokenizerError(f"{path} has a tokenizer of kind {kind}, not gpt2: {_INSTEAD}")
    if cut not in _KNOWN:
        raise TokenizerError(
            f"{path} cuts text in the way {cut!r}, not one of {', '.join(_KNOWN)}: {_INSTEAD}"
        )
    missing = sorted({"tokens", "merges"} - set(metadata))
    if missing:
        raise TokenizerError(f"{path} has no {' and no '.join(missing)}: {_INSTEAD}")
    return metadata


def _build(path: Path, metadata: dict[str, Any]) -> tuple[tokenizers.Tokenizer, frozenset[int]]:
    """Build the tokenizer, and the set of unknown and unused ids, which no text gives."""
    tokens, cut = metadata["tokens"], metadata.get("pre", "default")
    kinds = metadata.get("token_type") or [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise TokenizerError(f"{path} has {len(tokens)} tokens, {len(kinds)} types: {_INSTEAD}")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    try:
        bpe = models.BPE(vocab=vocab, merges=merges, ignore_merges=cut == "llama-bpe")
    except Exception as error:  # the package raises no narrower one
        raise TokenizerError(f"{path} has merges that do not fit; {_INSTEAD}: {error}") from None
    model = tokenizers.Tokenizer(bpe)
    model.pre_tokenizer = _pre_tokenizer(cut)
    model.decoder = decoders.ByteLevel()
    if cut == "qwen2":
        model.normalizer = normalizers.NFC()
    for special, kind in ((True, _CONTROL), (False, _USER)):
        names = [token for token, k in zip(tokens, kinds, strict=True) if k == kind]
        add = [tokenizers.AddedToken(name, special=special, normalized=False) for name in names]
        (model.add_special_tokens if special else model.add_tokens)(add)
    return model, frozenset(i for i, k in enumerate(kinds) if k in (_UNKNOWN, _UNUSED))


def _pre_tokenizer(cut: str) -> pre_tokenizers.PreTokenizer:
    steps: list[pre_tokenizers.PreTokenizer] = []
    if cut == "smollm":
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if cut in _CUTS:
        steps.append(pre_tokenizers.Split(tokenizers.Regex(_CUTS[cut]), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut not in _CUTS))
    return pre_tokenizers.Sequence(steps)
