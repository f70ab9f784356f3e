"""The verifier's prompt as token ids: what stands before and after the place of an answer.

The verifier reads the question, the reference and the final answer, and predicts one token, by
default `1` or `0` (arXiv 2503.23829, appendix A).  How it is asked is a file (`wording`).  Our own
wordings are short, because the tokenizer of a small model needs several tokens for a long word.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlvr_jax.config import DataConfig
from rlvr_jax.host.text import answers
from rlvr_jax.host.text.accepted import accepted
from rlvr_jax.host.text.template import HOLE, Record, left_pad
from rlvr_jax.host.text.tokenizer import Tokenizer
from rlvr_jax.host.text.wording import Wording, load_wording
from rlvr_jax.structs import Prompts, Spelling, Verdict

Ids = list[int]
EMPTY = {"question": "", "reference": ""}


class VerifierPrompt:
    """A VerifierPrompt writes the ids around answers, in each wording of `check_templates`.

    `tok` is the tokenizer through which the verifier speaks; with `cfg.chat` it needs a chat
    template.  `words_J` are the words for right and wrong, and `accept_J` and `reject_J` their ids.
    """

    def __init__(self, tok: Tokenizer, cfg: DataConfig):
        """Raise ValueError if a wording is not valid, or TokenizerError if a word is no token."""
        self.tok, self._cfg = tok, cfg
        self._wordings = [load_wording(name) for name in cfg.check_templates]
        self.words_J = [wording.words or cfg.verdict_words for wording in self._wordings]
        ids = [tok.verdicts(words) for words in self.words_J]
        self.accept_J, self.reject_J = map(list, zip(*ids, strict=True))

    def around(self, record: Record) -> list[tuple[Ids, Ids]]:
        """Return the ids before and after the place of the answer, for each wording.

        Raises:
          TokenizerError: the chat template refuses the messages.
        """
        words = zip(self._wordings, self.words_J, strict=True)
        return [self._around(record, wording, pair) for wording, pair in words]

    def lengths(self, record: Record) -> tuple[int, int]:
        """Return the number of ids before and after the answer, the largest of all wordings."""
        around = self.around(record)
        return max(len(x) for x, _ in around), max(len(x) for _, x in around)

    @property
    def tail_columns(self) -> int:
        """Return the width of what follows an answer."""
        return self._cfg.tail_columns or self.lengths(EMPTY)[1]

    def _around(self, record: Record, wording: Wording, words: Sequence[str]) -> tuple[Ids, Ids]:
        tok, cfg = self.tok, self._cfg
        values = {"reference": " or ".join(accepted(record)), "answer": HOLE}
        values |= {"accept": words[0], "reject": words[1]}
        if cfg.check_question:
            values |= {"question": record["question"]}
        if cfg.chat:
            before, after = tok.chat_around(wording.messages(values), HOLE, **cfg.chat_variables)
            return before, after
        head, _, tail = wording.plain(values).partition(HOLE)
        return tok.raw_prompt(head), tok.encode(tail)

    def asking(self, prompts: Prompts, records: Sequence[Record]) -> Prompts:
        """Return the prompts with the verifier's contexts, one row per record and wording.

        Where the text after an answer depends on the problem, they hold that text too.

        Raises:
          ValueError: a context or the text after an answer is longer than its columns.
        """
        cfg = self._cfg
        around = [pair for record in records for pair in self.around(record)]
        check_QC, mask_QC = left_pad([x for x, _ in around], cfg.check_columns, "check")
        prompts = dataclasses.replace(prompts, check_QC=check_QC, check_mask_QC=mask_QC)
        if not cfg.tail_columns:
            self._refuse_other_tails(around)
            return prompts
        tail_QC, tail_mask_QC = left_pad([x for _, x in around], cfg.tail_columns, "tail")
        return dataclasses.replace(prompts, tail_QC=tail_QC, tail_mask_QC=tail_mask_QC)

    def _refuse_other_tails(self, around: Sequence[tuple[Ids, Ids]]) -> None:
        always = [tail for _, tail in self.around(EMPTY)]
        for number, (_, tail) in enumerate(around):
            if tail != always[number % len(always)]:
                name = self._cfg.check_templates[number % len(always)]
                raise ValueError(
                    f"the template {name} shows the reference or the question after the answer, so "
                    f"that text needs columns of its own: set data.tail_columns, for one problem "
                    f"to {len(tail)}"
                )


def build_verdict(
    asked: VerifierPrompt, cfg: DataConfig, vocab: int, written_by: Tokenizer
) -> Verdict:
    """Build the tables from which device code makes and reads verdicts.

    They are the ends of the verifier's prompts, the tokens of the verdict words, and tables over a
    vocabulary of `vocab` tokens.  `written_by` is the tokenizer of the answers' ids; a token that
    is no text for one of the two tokenizers is never shown.
    """
    newline_V, blank_V, control_V = written_by.tables(vocab)
    control_V = control_V | asked.tok.tables(vocab)[2]
    tails = [tail for _, tail in asked.around(EMPTY)]
    tail_JC, mask_JC = left_pad(tails, max(map(len, tails)), "tail")
    accept_J: Any = np.array(asked.accept_J, np.int32)
    reject_J: Any = np.array(asked.reject_J, np.int32)
    spelling = None
    if cfg.answer != "line":
        last_line: Any = np.bool_(cfg.answer == "final")
        kind_U: Any = np.frombuffer(answers.character_kinds(), np.uint8)
        spelling = Spelling(*written_by.spelling(vocab), kind_U, last_line)
    return Verdict(tail_JC, mask_JC, accept_J, reject_J, newline_V, blank_V, control_V, spelling)
