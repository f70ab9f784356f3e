"""The tokenizer of a GGUF file: byte-level BPE (model `gpt2`) or sentencepiece (model `llama`).

Byte-level BPE is built from the vocabulary and merges in the file.  The file only names the
pre-tokenizer, which splits text before the merges; this module defines a pre-tokenizer for each
name that it knows.  Sentencepiece is built from the pieces and their scores (see `pieces`).
"""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from rlvr_jax.host.files.gguf_header import GgufError, load_header
from rlvr_jax.host.text.chat import TokenizerError
from rlvr_jax.host.text.tokenizer import fast, spm
from rlvr_jax.host.text.tokenizer.codec import Codec, Facts, check_size
from rlvr_jax.host.text.tokenizer.pieces import INSTEAD

_UNKNOWN, _CONTROL, _USER, _UNUSED = 2, 3, 4, 5
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|"
    r" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUTS = {"llama-bpe": _WORDS.format(digits="{1,3}"), "qwen2": _WORDS.format(digits="")}
_KNOWN = ("default", "gpt-2", "llama-bpe", "qwen2", "smollm")
_NEEDS = {"gpt2": {"tokens", "merges"}, "llama": {"tokens", "scores", "token_type"}}
_TYPES: dict[str, tuple[Any, type | None]] = {
    "tokens": (list, str),
    "merges": (list, str),
    "scores": (list, float),
    "token_type": (list, int),
    "chat_template": (str, None),
    "add_bos_token": (bool, None),
    "add_space_prefix": (bool, None),
    "remove_extra_whitespaces": (bool, None),
}


def load_gguf_tokenizer(path: Path) -> tuple[Codec, Facts]:
    """Load the tokenizer of a GGUF file.

    Raises:
      TokenizerError: the file cannot be read, or its kind of tokenizer is not supported.
    """
    metadata = _load_metadata(path)
    tokens = metadata["tokens"]
    names = {"eos": "eos", "bos": "bos", "unk": "unknown", "pad": "padding"}
    ids = {key: i for key, name in names.items() for i in _ids(metadata, name)}
    ends = _ids(metadata, "eos", "eot", "eom")
    if metadata["model"] == "llama":
        others = {str(i): i for i in ends}
        codec, turn_ends = spm.load_from_gguf(path, metadata, ids | others)
        adds_bos, ends = True, (*ends, *turn_ends)
    else:
        codec, adds_bos = _load_bpe(path, metadata, ids), metadata.get("pre") == "llama-bpe"
    facts = Facts(
        source=str(path),
        tokens={f"{key}_token": tokens[i] for key, i in ids.items()},
        eos=ends,
        add_bos=metadata.get("add_bos_token", adds_bos),
        template=metadata.get("chat_template"),
        template_file=str(path),
    )
    return codec, facts


def _ids(metadata: dict[str, Any], *names: str) -> tuple[int, ...]:
    """Return the ids of special tokens, without those that are missing or out of range."""
    ids = [metadata.get(f"{name}_token_id") for name in names]
    return tuple(i for i in ids if type(i) is int and 0 <= i < len(metadata["tokens"]))


def _load_metadata(path: Path) -> dict[str, Any]:
    """Load the metadata of the tokenizer, with keys without prefixes, and check their types."""
    try:
        header = load_header(path)
    except (GgufError, OSError) as error:
        raise TokenizerError(f"{path} is not a readable GGUF file: {error}") from None
    metadata = {
        key.removeprefix("tokenizer.").removeprefix("ggml."): value
        for key, value in header.metadata.items()
        if key.startswith("tokenizer.")
    }
    kind, cut = metadata.get("model"), metadata.get("pre", "default")
    if kind not in _NEEDS:
        raise TokenizerError(f"{path} has a tokenizer of kind {kind}, not gpt2 or llama: {INSTEAD}")
    known = _KNOWN if kind == "gpt2" else ("default",)
    if cut not in known:
        raise TokenizerError(
            f"{path} cuts text in the way {cut!r}, not one of {', '.join(known)}: {INSTEAD}"
        )
    missing = sorted(_NEEDS[kind] - set(metadata))
    if missing:
        raise TokenizerError(f"{path} has no {' and no '.join(missing)}: {INSTEAD}")
    if kind == "llama" and metadata.get("precompiled_charsmap"):
        raise TokenizerError(f"{path} changes characters by precompiled_charsmap: {INSTEAD}")
    for key, (wanted, inner) in _TYPES.items():
        value: Any = metadata.get(key, wanted())
        if type(value) is not wanted or (inner and any(type(part) is not inner for part in value)):
            raise TokenizerError(f"{path} has {key} of another type than the format: {INSTEAD}")
    check_size(len(metadata["tokens"]), str(path))
    return metadata


def _load_bpe(path: Path, metadata: dict[str, Any], ids: dict[str, int]) -> Codec:
    model, unused = _build(path, metadata)
    starts = metadata.get("add_bos_token", metadata.get("pre") == "llama-bpe")
    if starts and "bos" in ids:
        name = metadata["tokens"][ids["bos"]]
        start = (name, model.token_to_id(name))
        model.post_processor = processors.TemplateProcessing(
            single=[start[0], "$A"], pair=[start[0], "$A", "$B"], special_tokens=[start]
        )
    return fast.codec(model, str(path), unused)


def _build(path: Path, metadata: dict[str, Any]) -> tuple[tokenizers.Tokenizer, frozenset[int]]:
    """Build the tokenizer, and the set of unknown and unused ids, which no text gives."""
    tokens, cut = metadata["tokens"], metadata.get("pre", "default")
    kinds = metadata.get("token_type") or [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise TokenizerError(f"{path} has {len(tokens)} tokens, {len(kinds)} types: {INSTEAD}")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    with fast.refusing(f"{path} has merges that do not fit; {INSTEAD}"):
        bpe = models.BPE(vocab=vocab, merges=merges, ignore_merges=cut == "llama-bpe")
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
