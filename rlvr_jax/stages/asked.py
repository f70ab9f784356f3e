"""A model behind an endpoint answers problems; the answers are graded like those of a policy."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlvr_jax.config import EvaluateStage, RewardConfig
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text import template
from rlvr_jax.host.verdicts.judge.endpoint import Endpoint, Reply
from rlvr_jax.host.workers import pool
from rlvr_jax.stages import host_rewards
from rlvr_jax.stages.answers import GREEDY, Answers, Form, Part, collect, form_of
from rlvr_jax.stages.workspace import Workspace, chunks, padded
from rlvr_jax.structs import Params

MOST_SILENT = 0.01  # share of answers that may be missing; they count as cut off


def answer(
    stage: EvaluateStage,
    ws: Workspace,
    endpoint: Endpoint,
    judge: Params | None,
    problems: dataset.RandomAccessSource,
    system: str = "",
) -> tuple[Answers, Answers]:
    """Let an endpoint answer problems, and grade the answers, as `evaluate.answer` does.

    `system` begins each conversation that has no such message.

    Raises:
      JudgeError: further requests would fail.
      RunError: too many requests failed; what was answered is kept, and asked for no more.
    """
    form = form_of(stage)
    one = form._replace(sample=GREEDY, samples=1, shown=f"{stage.name}, greedy")
    asker = _Asker(ws, endpoint, system)
    with pool.Pool(seconds=stage.seconds) as workers:

        def collected(form: Form, judge: Params | None) -> Answers:
            parts = asker.parts(form, judge, problems)
            return collect(parts, len(problems), form, ws, workers)

        if not stage.samples:
            greedy = collected(one, judge)
            return greedy, greedy
        return collected(form, judge), collected(one, None)


class _Asker:
    def __init__(self, ws: Workspace, endpoint: Endpoint, system: str):
        self._ws, self._endpoint, self._system = ws, endpoint, system
        self._verdict = ws.verdict() if ws.judged else None
        self._judge = host_rewards.text_judge(ws, RewardConfig()) if ws.judged else None

    def parts(
        self, form: Form, judge: Params | None, problems: dataset.RandomAccessSource
    ) -> Iterator[Part]:
        asked, silent = 0, 0
        for records in chunks(problems, form.batch):
            chats = [template.messages_of(record, self._system) for record in records]
            replies = self._endpoint.chat(chats, form.samples, form.sample.temperature)
            rows = [reply for several in replies for reply in several]
            asked, silent = asked + len(rows), silent + sum(row is None for row in rows)
            if silent > MOST_SILENT * len(problems) * form.samples:
                raise RunError(
                    f"the endpoint did not answer {silent} of {asked} requests; run the command "
                    "again: answers so far are kept, and only the missing ones are asked for"
                )
            texts = [row.text if row else "" for row in rows]
            finished = [bool(row and row.finished) for row in rows]
            if silent == len([row for row in rows if row is None]) > 0:  # the first ones
                log.say(f"{form.name}: requests fail; an answer that is missing counts as cut off")
            yield Part(records, texts, finished, self._rewards(form, judge, records, rows))

    def _rewards(
        self, form: Form, judge: Params | None, records: list, rows: Sequence[Reply | None]
    ) -> Any:
        """Return the rewards of a verifier, padded to full batches; None without a verifier."""
        ws = self._ws
        if judge is None or self._judge is None:
            return None
        batch = -(-form.batch // ws.cfg.mesh.row_shards) * ws.cfg.mesh.row_shards
        whole = padded(list(rows), batch * form.samples)
        prompts = ws.place_own(ws.columns(padded(records, batch)))
        cut_B = ws.place_own(np.array([not (row and row.finished) for row in whole]))
        texts = [row.text if row else "" for row in whole]
        reward_B, _ = self._judge(judge, self._verdict, prompts, texts, cut_B)
        return ws.fetch(reward_B)
