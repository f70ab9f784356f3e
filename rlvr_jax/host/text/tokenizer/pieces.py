"""Sentencepiece models as lists of pieces: which are control pieces, and building one from GGUF.

The message `ModelProto` and its types of pieces are those of sentencepiece_model.proto; GGUF's
`token_type` has the same numbers.
"""

import math
import re
from collections.abc import Collection
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from rlvr_jax.host.text.chat import TokenizerError

INSTEAD = "put the model's tokenizer.json or tokenizer.model beside it and set `tokenizer` to that"
SPACE = "\u2581"  # sentencepiece's sign for a space
_MESSAGE: Any = sentencepiece_model_pb2  # made at import: a type checker sees no names in it
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
# Names that models use for what no text is, though sentencepiece models have them as user-defined
# pieces and llama.cpp's converter then as normal ones: Gemma's turns and images, the first pieces
# of its vocabulary, and what other models write between <| and |>.
_MARK = re.compile(
    r"<(?:start|end)_of_\w+>|<image_soft_token>|<unused\d+>|<mask>|<2mass>|\[@BOS@\]|\[multimodal\]"
    r"|<(?:pad|bos|eos|s)>|</s>|<\|[^<>]*\|>|<\uff5c[^<>]*\uff5c>|<reserved_\d+>|<extra_id_\d+>"
)
_TURN_ENDS = ("<end_of_turn>",)


def parse_model(data: bytes) -> Any:
    """Parse the `ModelProto` of a .model file; return None if it is damaged."""
    try:
        model = _MESSAGE.ModelProto.FromString(data)
    except DecodeError:
        return None
    # The package gives a text that is not UTF-8 as bytes.
    return model if all(type(piece.piece) is str for piece in model.pieces) else None


def mark_controls(model: Any, ids: Collection[int] = ()) -> None:
    """Make control pieces of the pieces `ids`, and of all whose names say that they are no text.

    Sentencepiece then encodes such a name in a text as the characters that it is made of.
    """
    for i, piece in enumerate(model.pieces):
        is_text = piece.type in (_NORMAL, _USER)
        if (is_text and _MARK.fullmatch(piece.piece)) or (i in ids and piece.type != _UNKNOWN):
            piece.type = _CONTROL


def turn_ends(model: Any) -> tuple[int, ...]:
    """Return the ids of control pieces that end a turn in every model that has them."""
    pieces = enumerate(model.pieces)
    return tuple(i for i, p in pieces if p.type == _CONTROL and p.piece in _TURN_ENDS)


def build_model(source: str, metadata: dict[str, Any], ids: dict[str, int]) -> Any:
    """Build the sentencepiece model that a GGUF file was made of, which is a byte-pair encoding.

    `metadata` has the keys of the file behind `tokenizer.ggml.`; `ids` are those of bos, eos, pad
    and unk, as far as the file names them.

    Raises:
      TokenizerError: tokens, scores and types do not fit together, or the scores give no order.
    """
    tokens, scores = metadata["tokens"], metadata["scores"]
    kinds = list(metadata["token_type"])
    if not len(tokens) == len(scores) == len(kinds):
        raise TokenizerError(
            f"{source} has {len(tokens)} tokens, {len(scores)} scores and {len(kinds)} types: "
            f"{INSTEAD}"
        )
    _mark_defined(tokens, scores, kinds)
    trained = [s for t, s, k in zip(tokens, scores, kinds, strict=True) if k == _NORMAL and t[1:]]
    if len(trained) > 1 == len(set(trained)) or not all(map(math.isfinite, trained)):
        raise TokenizerError(f"{source} has scores that give no order of merges: {INSTEAD}")
    model = _MESSAGE.ModelProto()
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        if not _NORMAL <= kind <= _BYTE:
            raise TokenizerError(f"{source} has token {token!r} of unknown type {kind}: {INSTEAD}")
        name = token.replace(" ", SPACE) if kind == _USER else token  # the converter undoes them
        model.pieces.add(piece=name, score=score, type=kind)
    if "unk" in ids:
        model.pieces[ids["unk"]].type = _UNKNOWN
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = _MESSAGE.TrainerSpec.BPE
    trainer.vocab_size, trainer.byte_fallback = len(tokens), _BYTE in kinds
    for name in ("unk", "bos", "eos", "pad"):
        setattr(trainer, f"{name}_id", ids.get(name, -1))
        setattr(trainer, f"{name}_piece", tokens[ids[name]] if name in ids else f"<no {name}>")
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = metadata.get("add_space_prefix", True)
    normalizer.remove_extra_whitespaces = metadata.get("remove_extra_whitespaces", False)
    return model


def _mark_defined(tokens: list[str], scores: list[float], kinds: list[int]) -> None:
    """Give user-defined pieces their type, where the file has them as normal ones.

    llama.cpp's converter cannot see the type.  Sentencepiece's trainer puts the pieces that it did
    not learn in front of the bytes and scores them 0.
    """
    first_byte = kinds.index(_BYTE) if _BYTE in kinds else 0
    for i in range(first_byte):
        if kinds[i] == _NORMAL and scores[i] == 0:
            kinds[i] = _USER
