"""Stage `rft` samples judgements of preference items, and keeps those that agree with the truth.

This is rejective fine-tuning (arXiv 2504.02495, section 3.2).  Each item is judged several times.
Judgements that are wrong are not learned, and neither are those of items that are always judged
right.  An item that is never judged right is asked once more with its best response named.  The
file has all judgements, because the meta RM learns from wrong ones too.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlvr_jax import box_scores, engine, grm
from rlvr_jax.config import RftStage
from rlvr_jax.host.critiques import reader
from rlvr_jax.host.files import whole_file
from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import Interrupted
from rlvr_jax.host.verdicts.judge import endpoint as http
from rlvr_jax.stages.grm_workspace import IDS, GrmWorkspace
from rlvr_jax.stages.workspace import chunks, padded


class Judged(NamedTuple):
    """A Judged holds the judgements of a batch of items, numpy arrays with a row for each."""

    prompts: list[list[int]]  # the ids of what was asked, without padding
    ids: list[list[int]]  # without padding, with the token that ends them
    right: np.ndarray
    truncated: np.ndarray


def run(stage: RftStage, ws: GrmWorkspace) -> dict:
    """Write the judgements of a stage, and return their counts for the stage's marker file.

    Raises:
      Interrupted: a signal asked the run to stop; the file of a stage that is cut off is not used.
    """
    source = ws.problems(stage.split)
    count = min(stage.limit or len(source), len(source))
    path = ws.run.judgements(stage.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    totals = dict.fromkeys(("items", "easy", "hinted", "unsolved", "learned", "valid"), 0)
    picked = dataset.keep(source, range(count))
    writer: Sampler | EndpointWriter
    writer = EndpointWriter(stage, ws) if stage.by_endpoint else Sampler(stage, ws)
    kept = part if ws.run.team.first else Path(os.devnull)  # one process writes
    with contextlib.closing(writer) as judge, kept.open("w", encoding="utf-8") as file:
        for number, records in enumerate(chunks(picked, stage.batch)):
            for rows in _judge_items(stage, ws, judge, records, number):
                _count(totals, rows)
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if signum := ws.run.agree_to_stop():
                raise Interrupted(signum)
            log.say(f"{stage.name}: {min((number + 1) * stage.batch, count)} of {count} items")
    if ws.run.team.first:
        whole_file.put_in_place(part, path)
    learned = max(totals["learned"], 1)
    log.say(
        f"{stage.name}: {totals['learned']} judgements to learn, {totals['hinted'] / learned:.1%} "
        f"of them hinted; {totals['easy']} of {count} items were always right and "
        f"{totals['unsolved']} never"
    )
    return {name: int(total) for name, total in totals.items()}


class Sampler:
    """A Sampler lets the GRM of a stage judge batches of items."""

    def __init__(self, stage: RftStage, ws: GrmWorkspace):
        cfg = ws.cfg
        self._ws, self._stage = ws, stage
        self._params = ws.load(stage.policy, cfg.model)
        self._critic = ws.critic()
        form = ws.critique
        asked = grm.Asked(cfg.model, form, stage.sample, ws.tokenizer.eos)
        read = functools.partial(box_scores.read_scores, clamp=form.clamp, pick=form.form == "pick")

        @functools.partial(jax.jit, static_argnums=4)
        def judge(params, critic, prompts, key, samples: int):
            sampler = engine.Sampler(
                key, ws.tokenizer.eos, samples, cfg.data.response_columns, stage.sample
            )
            prompts = grm.with_criteria(params, prompts, key, critic, asked)
            rollout, _ = engine.generate(params, prompts, sampler, cfg.model)
            ranking = jax.tree.map(lambda x: x.repeat(samples, 0), prompts.ranking)
            votes = read(rollout, ranking, critic.spelling)
            return rollout, box_scores.is_right(votes, ranking)

        self._judge = judge

    def __call__(self, items, orders, key, samples: int, hinted: bool) -> Judged:
        """Judge items, each `samples` times; `orders` are the orders of their responses."""
        size = self._stage.batch
        prompts = self._ws.encode_items(
            padded(list(items), size), padded(list(orders), size), hinted=hinted
        )
        result = self._judge(self._params, self._critic, self._ws.place(prompts), key, samples)
        rollout, right = self._ws.fetch(result)
        rows = range(len(items) * samples)
        ids = [rollout.response_BR[i, : rollout.length_B[i]].tolist() for i in rows]
        exists = rollout.prompt_mask_QP
        asked = [rollout.prompt_QP[i][exists[i]].tolist() for i in range(len(items))]
        of_rows = [asked[i // samples] for i in rows]
        return Judged(of_rows, ids, right[: len(ids)], rollout.truncated_B[: len(ids)])

    def close(self) -> None:
        """Free the memory of the GRM."""
        del self._params


class EndpointWriter:
    """An EndpointWriter lets the model behind a chat endpoint judge items, from their text."""

    def __init__(self, stage: RftStage, ws: GrmWorkspace):
        path, self._ws = ws.run.replies(stage.name), ws
        self._endpoint: http.Endpoint | None = None
        if ws.run.team.first:  # one process keeps to the budget, and tells the others
            self._endpoint = http.Endpoint(stage.endpoint, path, ws.run.check_signal)

    def __call__(self, items, orders, key, samples: int, hinted: bool) -> Judged:
        """Judge items as `Sampler` does; a missing reply is an invalid judgement."""
        ws, pick = self._ws, self._ws.critique.form == "pick"
        pairs = [pair for pair in zip(items, orders, strict=True) for _ in range(samples)]
        texts = [
            ws.prompter.text(item, order, hinted=hinted)
            for item, order in zip(items, orders, strict=True)
        ]
        endpoint = self._endpoint
        answers = ws.run.team.share(
            "replies", lambda: endpoint.complete(texts, samples) if endpoint else None
        )
        replies = [reply or "" for several in answers for reply in several]
        ids = [[*ws.tokenizer.encode(reply), ws.tokenizer.eos[0]] for reply in replies]
        longest = ws.cfg.data.response_columns
        truncated = np.array([len(row) > longest for row in ids])
        right = [
            reader.agrees(reply, len(order), _best(item, order), pick, ws.critique.clamp)
            for reply, (item, order) in zip(replies, pairs, strict=True)
        ]
        prompts: list[list[int]] = [[] for _ in ids]
        return Judged(prompts, ids, np.array(right) & ~truncated, truncated)

    def close(self) -> None:
        """Close the file of replies."""
        if self._endpoint:
            self._endpoint.close()


def _best(item: preference.Item, order: Sequence[int]) -> int:
    """Return the place of the best response; of a single one whether it is right."""
    return item.best if len(order) == 1 else list(order).index(item.best)


def _judge_items(
    stage: RftStage, ws: GrmWorkspace, judge: Sampler | EndpointWriter, records: list, number: int
) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of each item of a batch: its samples and, if it was asked, the hinted one."""
    items = [preference.parse_item(record) for record in records]
    orders = [ws.order(item, number) for item in items]
    key = jax.random.fold_in(ws.key(stage.name), number)
    judged = judge(items, orders, key, stage.samples, hinted=False)
    right = judged.right.reshape(-1, stage.samples)
    failed = [i for i in range(len(items)) if not right[i].any()] if stage.hinted else []
    failed = [i for i in failed if hint_fits(ws, items[i], orders[i])]
    again: dict[int, int] = {}
    if failed:
        hinted = judge(
            [items[i] for i in failed],
            [orders[i] for i in failed],
            jax.random.fold_in(key, 2**31 - 1),
            samples=1,
            hinted=True,
        )
        again = {i: place for place, i in enumerate(failed)}
    for i, (item, order) in enumerate(zip(items, orders, strict=True)):
        shown = preference.reorder(item, order)
        drop = stage.easy == "drop" and bool(right[i].all())
        rows = [
            _row(shown, judged, i * stage.samples + k, learn=not drop) for k in range(stage.samples)
        ]
        if i in again:
            rows.append(_row(shown, hinted, again[i], learn=True, hinted=True))
        yield rows


def hint_fits(ws: GrmWorkspace, item: preference.Item, order: Sequence[int]) -> bool:
    """Return whether an item's prompt still fits its columns with the hint in it."""
    return len(ws.prompter.prompt(item, order, hinted=True)) <= ws.cfg.data.prompt_columns


def _row(
    item: preference.Item, judged: Judged, row: int, *, learn: bool, hinted: bool = False
) -> dict[str, str]:
    """Return a judgement as the record of its item, with the fields of `load_judgements`."""
    right = bool(judged.right[row])
    facts: dict[str, Any] = {
        "right": right,
        "hinted": hinted,
        "truncated": bool(judged.truncated[row]),
        "learn": right and learn,
    }
    flags = {name: str(int(value)) for name, value in facts.items()}
    return preference.build_record(item) | {IDS: json.dumps(judged.ids[row])} | flags


def _count(totals: dict[str, int], rows: list[dict[str, str]]) -> None:
    """Add the rows of one item to the totals of a stage."""
    plain = [row["right"] == "1" for row in rows if row["hinted"] == "0"]
    totals["items"] += 1
    totals["easy"] += all(plain)
    totals["unsolved"] += not any(row["right"] == "1" for row in rows)
    totals["learned"] += sum(row["learn"] == "1" for row in rows)
    totals["hinted"] += sum(row["learn"] == "1" and row["hinted"] == "1" for row in rows)
    totals["valid"] += sum(row["truncated"] == "0" for row in rows)
