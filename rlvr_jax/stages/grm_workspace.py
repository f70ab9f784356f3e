"""The workspace of stages that work on generative reward models (GRM), whose problems are items.

To these stages the GRM is the model, and preference items are the problems.
"""

import dataclasses
import functools
import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlvr_jax import markers
from rlvr_jax.config import CritiqueConfig, SftStage
from rlvr_jax.host.critiques import reader
from rlvr_jax.host.critiques.prompt import Prompter
from rlvr_jax.host.critiques.template import load_template
from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text.conversation import Lesson, is_conversation
from rlvr_jax.host.text.template import left_pad
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Critic, Prompts, Ranking

CRITERIA = "Criteria:"  # begins the first line of a demonstration with criteria
HELD_OUT = 4  # one query of a compare stage in so many is held out
# Further keys of records.
PART = "part"  # of a demonstration: the criteria that are written from the query alone
PROMPT_IDS = "prompt_ids"  # of a judgement: the prompt that it was written to, as ids
IDS = "response_ids"  # of a judgement: its own ids


class GrmWorkspace(Workspace):
    """A GrmWorkspace is the run's workspace with the GRM as model and items as problems."""

    def __init__(self, ws: Workspace):
        super().__init__(ws.run, ws.mesh, ws.models)
        cfg = ws.run.cfg
        self.critique: CritiqueConfig = cfg.critique
        self.cfg = dataclasses.replace(cfg, model=cfg.grm, data=cfg.critique.data)
        self.dropped = ws.dropped
        self.policy = ws

    @property
    def data(self) -> Path:
        """Return the folder of the preference items."""
        return self.run.preferences

    @functools.cached_property
    def prompter(self) -> Prompter:
        """Return what writes the prompts of the GRM."""
        template = load_template(self.critique.template, self.critique.form)
        return Prompter(self.tokenizer, template, self.critique)

    @functools.cached_property
    def judged(self) -> bool:
        """Return False: no verifier reads preference items."""
        return False

    def critic(self, together: int = 1) -> Critic:
        """Build the tables with which a GRM is asked and read, on every device.

        `together` is the number of responses in a judgement of a policy's responses.
        """
        return self.replicate(self.prompter.critic(self.cfg.model.vocab, together))

    def record_check(
        self, source: dataset.RandomAccessSource, split: str
    ) -> Callable[[Record], None]:
        """Return a function that raises ValueError for a record that is no usable item."""
        return lambda record: self.prompter.check(preference.parse_item(record))

    def encode_prompt(self, record: Record) -> list[int]:
        """Return the ids of an item's prompt, with its responses in the order of the record.

        A judgement of an rft stage has the prompt that it was written to, and a demonstration of
        criteria from the query has the text before them.
        """
        if record["task"] != preference.TASK:  # general instructions
            return self.policy.encode_prompt(record)
        if PROMPT_IDS in record:
            ids: list[int] = json.loads(record[PROMPT_IDS])
            return ids
        item = preference.parse_item(record)
        if PART in record:
            return self.prompter.context(item)
        return self.prompter.prompt(item, range(len(item.responses)))

    def encode_demonstration(self, record: Record) -> list[int]:
        """Return the ids of a judgement; ids that a model wrote are taken as they are."""
        if record["task"] != preference.TASK:
            return super().encode_demonstration(record)
        if IDS in record:
            ids: list[int] = json.loads(record[IDS])
            return ids
        item = preference.parse_item(record)
        if PART in record:  # the same ids that stand in the prompt of a judgement
            ids = self.tokenizer.encode_inside(" " + item.criteria)
        else:
            ids = self.tokenizer.encode(demonstration(item, self.critique))
        return [*ids, self.tokenizer.eos[0]]

    def encode_lesson(self, record: Record) -> Lesson:
        """Return what an sft stage learns of a record; conversations are read as the policy's."""
        if is_conversation(record):
            return self.policy.encode_lesson(record)
        return super().encode_lesson(record)

    def order(self, item: preference.Item, step: int) -> list[int]:
        """Draw the order in which an item shows its responses in a step."""
        seed = f"{self.cfg.seed}/{step}/{dataset.problem_key(item.query, *item.responses)}"
        order = list(range(len(item.responses)))
        random.Random(seed).shuffle(order)
        return order

    def columns(self, records: list[Record], step: int = 0) -> Prompts:
        """Encode items as prompts and rankings, their responses in the order of the step."""
        items = [preference.parse_item(record) for record in records]
        orders = [self.order(item, step) for item in items]
        return self.encode_items(items, orders)

    def encode_items(
        self,
        items: Sequence[preference.Item],
        orders: Sequence[Sequence[int]],
        *,
        hinted: bool = False,
    ) -> Prompts:
        """Encode items as prompts and rankings, their responses in the given orders."""
        pairs = list(zip(items, orders, strict=True))
        parts = [self.prompter.parts(item, order, hinted=hinted) for item, order in pairs]
        queries, asked = zip(*parts, strict=True)
        data, from_query = self.cfg.data, self.critique.principles == "from_query"
        prompt_QP, mask_QP = left_pad(asked, data.prompt_columns, "prompt")
        query_QC, query_mask_QC = left_pad(queries, data.check_columns * from_query, "check")
        best: Any = [
            item.best if len(order) == 1 else list(order).index(item.best) for item, order in pairs
        ]
        count: Any = np.array([len(order) for _, order in pairs])
        ranking = Ranking(
            np.arange(self.critique.most) < count[:, None],
            np.array(best, np.int32),  # type: ignore[arg-type]
            count == 1,
        )
        return Prompts(prompt_QP, mask_QP, query_QC, query_mask_QC, ranking)

    def encode_context(self, record: Record) -> list[int]:
        """Return the ids of the GRM's prompt about a policy's problem, before the responses."""
        messages = tuple(json.loads(record["messages"] or "[]"))
        item = preference.Item(
            record["question"], ("?",), 0, reference=record["reference"], messages=messages
        )
        return self.prompter.context(item)

    def encode_contexts(self, records: list[Record]) -> tuple[Any, Any]:
        """Return the contexts of a policy's problems as ids and mask, [Q, C]."""
        ids = [self.encode_context(record) for record in records]
        return left_pad(ids, self.cfg.data.check_columns, "check")

    def demonstrations(self, stage: SftStage) -> dataset.RandomAccessSource:
        """Return the judgements that a stage learns: demonstrations, and those of its rft stage.

        Raises:
          RunError: the rft stage left no judgement to learn from.
        """
        if not stage.judgements:
            return self._shown(stage)
        rows = [row for row in self.load_judgements(stage.judgements) if row["learn"] == "1"]
        if not rows:
            raise RunError(
                f"stage {stage.judgements} left no right judgement: take more samples or items"
            )
        others = round(len(rows) * (1 - stage.share) / stage.share)
        shown = self._shown(stage) if others else []
        return rows + [shown[i % len(shown)] for i in range(others)]

    def _shown(self, stage: SftStage) -> dataset.RandomAccessSource:
        """Return the demonstrations that a stage learns beside judgements."""
        if stage.others == "problems":
            return self.policy.problems("sft")
        items = self.problems("sft")
        if self.critique.principles != "from_query":
            return items
        records = list(dataset.each(items))
        return records + [record | {PART: "criteria"} for record in records]

    def load_judgements(self, stage: str) -> list[Record]:
        """Load the judgements of an rft stage: records of items, in the order that was shown.

        Beside the fields of a record each has the ids of the judgement (`response_ids`, JSON), and
        as "1" or "0" whether it is `right`, `hinted`, cut off (`truncated`) and to be learned
        (`learn`).

        Raises:
          RunError: the file is missing or damaged.
        """
        return load_rows(self, "judgements", stage)

    def load_items(self, stage: str) -> list[Record]:
        """Load the preference items of a compare stage; raise RunError as `load_judgements`."""
        return load_rows(self, "items", stage)

    def items(self, stage: str, split: str) -> dataset.RandomAccessSource:
        """Return the items of a compare stage or, if its name is empty, those of a split.

        One in HELD_OUT of the queries of a compare stage is held out: vote stages get their items
        (`split` test), and rl stages all others.
        """
        if not stage:
            return self.problems(split)
        rows = [
            row
            for row in self.load_items(stage)
            if (zlib.crc32(row["question"].encode()) % HELD_OUT == 0) == (split == "test")
        ]
        return self._fitting(rows, stage)

    def _fitting(self, rows: list[Record], stage: str) -> list[Record]:
        """Return the items that fit their columns.

        Raises:
          RunError: none fits.
        """
        widest = self.cfg.data.prompt_columns
        kept = [row for row in rows if len(self.encode_prompt(row)) <= widest]
        if not kept:
            raise RunError(
                f"none of the {len(rows)} items of stage {stage} is at most {widest} tokens long: "
                "collect more answers, or raise critique.data.prompt_columns"
            )
        return kept


def demonstration(item: preference.Item, cfg: CritiqueConfig) -> str:
    """Return the judgement that an item demonstrates, in the form of the config.

    A judgement that begins with criteria keeps that line only if the GRM writes it there, and for
    the form `pick` its scores become the number of the best response.
    """
    first, _, rest = item.demonstration.partition("\n")
    if first.startswith(CRITERIA) and cfg.principles != "with_responses":
        text = rest
    else:
        text = item.demonstration
    scores = reader.read_scores(text, len(item.responses))
    if cfg.form == "pick" and scores:
        before, box, after = text.rpartition(markers.SCORE_BOX)
        picked = scores.index(max(scores)) + 1
        text = f"{before}{box}{picked}{after[after.index('}') :]}"
    return text


def load_rows(ws: Workspace, kind: str, stage: str) -> list[Record]:
    """Load the records that a stage wrote to a file of the kind `judgements` or `items`.

    Raises:
      RunError: the file is missing or damaged.
    """
    path = ws.run.judgements(stage) if kind == "judgements" else ws.run.items(stage)
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            preference.parse_item(row)
    except FileNotFoundError:
        raise RunError(f"there is no {path}: stage {stage} has not been run") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise RunError(f"{path} is damaged: remove it and its marker in stages/") from None
    return rows
