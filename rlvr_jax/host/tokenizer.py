"""The sentencepiece tokenizer: trained by a stage, with bytes to fall back on.

Text never becomes a control token: sentencepiece encodes `</s>` in a question as plain pieces.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

EOS = "</s>"
VERDICTS = ("1", "0")  # accept, reject


class TokenizerError(ValueError):
    """A tokenizer that cannot be trained, read, or used with this config."""


def train(texts: Iterable[str], vocab: int, path: Path) -> None:
    """Byte-pair encoding of exactly `vocab` pieces; new lines are pieces of their own.

    Nothing is normalised away, so decoding gives back the text; except that U+2581, sentencepiece's
    own sign for a space, comes back as a space.  Written atomically.
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
    part.rename(path)


class Tokenizer:
    """Text <-> ids, and the vocabulary tables that device code reads."""

    def __init__(self, path: Path):
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError):
            raise TokenizerError(f"{path} is not a readable sentencepiece model") from None
        self.vocab: int = self._model.vocab_size()
        self.eos: int = self._model.eos_id()
        self.verdict_ids: list[Any] = [self._single(word) for word in VERDICTS]

    def encode(self, text: str) -> list[int]:
        """Half of a surrogate pair, which JSON can carry and UTF-8 cannot, becomes `?`."""
        return self._model.encode(text.encode("utf-8", "replace").decode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; EOS and everything after it is left out."""
        ids = [int(i) for i in ids]
        return self._model.decode(ids[: ids.index(self.eos)] if self.eos in ids else ids)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id looks like, for people."""
        return [self._model.id_to_piece(int(i)).replace("\u2581", " ") for i in ids]

    def tables(self) -> tuple[Any, Any]:
        """`newline_V`, `blank_V`: bool tables of the tokens that end a line, or show nothing."""
        newline, blank = np.zeros(self.vocab, bool), np.zeros(self.vocab, bool)
        for i in range(self.vocab):
            piece = self._model.id_to_piece(i).replace("\u2581", " ")
            if self._model.is_byte(i):  # a byte from 0x80 on is a part of some character
                code = int(piece[3:-1], 16)
                piece = chr(code) if code < 0x80 else "?"
            newline[i] = "\n" in piece
            blank[i] = self._model.is_control(i) or self._model.is_unknown(i) or not piece.strip()
        return newline, blank

    def _single(self, word: str) -> int:
        ids = self._model.encode(word)
        if len(ids) != 1:
            raise TokenizerError(
                f"the verdict {word!r} is {len(ids)} tokens in this tokenizer and must be one"
            )
        return ids[0]
