"""Sentencepiece tokenizers: training one, and loading those of .model and GGUF files."""

import functools
import io
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import sentencepiece

from rlvr_jax.host.files import whole_file
from rlvr_jax.host.text.chat import TokenizerError
from rlvr_jax.host.text.tokenizer import folder, pieces
from rlvr_jax.host.text.tokenizer.codec import (
    Codec,
    Facts,
    alternatives,
    check_controls,
    check_file,
    check_size,
)


def train(texts: Iterable[str], vocab: int, path: Path) -> None:
    """Train a byte-pair encoding of exactly `vocab` pieces and write it to `path` atomically.

    Each new line is a piece of its own, and bytes without a piece have byte tokens.  The encoding
    normalises nothing, so decoding gives back the text, except that U+2581 becomes a space.

    Raises:
      TokenizerError: the text is too small for that many pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab,
            byte_fallback=True,
            user_defined_symbols=["\n"],
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise TokenizerError(
            f"cannot train a tokenizer of {vocab} pieces on this text; change model.vocab "
            f"(at least 300 for the bytes) or give it more text: {reason}"
        ) from None
    part = path.with_suffix(".part")
    part.write_bytes(model.getvalue())
    whole_file.put_in_place(part, path)


def load_sentencepiece(path: Path) -> tuple[Codec, Facts]:
    """Load a sentencepiece model and the settings in the files beside it.

    Raises:
      TokenizerError: the file, or a file beside it, cannot be read or used.
    """
    check_file(path)
    damaged = f"{path} is not a readable sentencepiece model"
    model = pieces.parse_model(path.read_bytes())
    if model is None:
        raise TokenizerError(damaged)
    check_size(len(model.pieces), str(path))
    added = folder.load_added_tokens(path.parent)
    _check_added(path, added, {piece.piece: i for i, piece in enumerate(model.pieces)})
    special = {token["content"]: i for i, token in added.items() if token.get("special")}
    pieces.mark_controls(model, {i for i in special.values() if i < len(model.pieces)})
    processor = _processor(model, damaged)
    write = functools.partial(_copy, path)
    own = _own_tokens(processor)
    facts = folder.load_facts(path, "tokenizer.model", own, add_bos="bos_token" in own)
    facts = replace(facts, eos=facts.eos + pieces.turn_ends(model))
    return _codec(processor, str(path), special, write), facts


def load_from_gguf(
    path: Path, metadata: dict[str, Any], ids: dict[str, int]
) -> tuple[Codec, tuple[int, ...]]:
    """Load the sentencepiece model in the metadata of a GGUF file, and the ids that end a turn.

    `metadata` has the keys behind `tokenizer.ggml.`, and `ids` those of bos, eos, unk and pad, and
    of other tokens that are no text.

    Raises:
      TokenizerError: the metadata are no sentencepiece model.
    """
    model = pieces.build_model(str(path), metadata, ids)
    pieces.mark_controls(model, ids.values())
    data = model.SerializeToString(deterministic=True)
    processor = _processor(
        model, f"{path} has tokens that are no sentencepiece model: {pieces.INSTEAD}"
    )
    codec = _codec(processor, str(path), {}, lambda target: _write(data, target))
    return codec, pieces.turn_ends(model)


def _processor(model: Any, problem: str) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model.SerializeToString())
    except (RuntimeError, UnicodeDecodeError):
        raise TokenizerError(problem) from None
    return processor


def _codec(
    model: sentencepiece.SentencePieceProcessor,
    source: str,
    special: dict[str, int],
    write: Callable[[Path], None],
) -> Codec:
    """Make a codec; `special` are control tokens of other files than the model.

    `source` is the path of the tokenizer, for error messages.
    """
    size = model.vocab_size()
    names = {model.id_to_piece(i): i for i in range(size)}
    specials = {name: i for name, i in names.items() if model.is_control(i)} | special
    check_controls(len(specials), source)
    names |= specials
    control = set(specials.values())
    texts = [None if i in control else _text(model, i) for i in range(size)]
    texts += [None] * (max(control, default=0) + 1 - size)
    return Codec(
        names=names,
        texts=texts,
        specials=specials,
        pattern=alternatives(specials),
        encode=lambda text, first: model.encode(text),
        encode_template=None,
        drops_space=(model.encode("a", out_type=str) or [""])[0].startswith(pieces.SPACE),
        write=write,
    )


def _copy(path: Path, target: Path) -> None:
    shutil.copyfile(path, target / "tokenizer.model")


def _write(data: bytes, target: Path) -> None:
    (target / "tokenizer.model").write_bytes(data)


def _own_tokens(model: sentencepiece.SentencePieceProcessor) -> dict[str, str]:
    ids = {"eos_token": model.eos_id(), "bos_token": model.bos_id(), "unk_token": model.unk_id()}
    return {key: model.id_to_piece(i) for key, i in ids.items() if i >= 0}


def _text(model: sentencepiece.SentencePieceProcessor, i: int) -> bytes | None:
    if model.is_unknown(i) or model.is_unused(i):
        return None
    piece = model.id_to_piece(i)
    if model.is_byte(i):
        return bytes([int(piece[3:-1], 16)])
    return piece.replace(pieces.SPACE, " ").encode()


def _check_added(path: Path, added: dict[int, dict], names: dict[str, int]) -> None:
    """Refuse an added token that sentencepiece would not encode as that token."""
    for i, token in added.items():
        name = token["content"]
        if name in names and names[name] != i:
            problem = f"has id {names[name]} there and {i} in tokenizer_config.json"
        elif name not in names and not token.get("special"):
            problem = "is not special and not a piece of it"
        else:
            continue
        raise TokenizerError(
            f"the added token {name!r} of {path} {problem}: put the model's tokenizer.json there"
        )
