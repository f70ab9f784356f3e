"""Stage `scalar` trains a scalar reward model, which a generative reward model is compared with.

Each response of a preference item is read alone, and a value head gives it a reward; with
`critiques` a GRM first writes a critique of the response, and the model reads it too (semi-scalar).
The vote stage measures both, with `Scorer`.
"""

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rlvr_jax import optim, scalar_rm
from rlvr_jax.config import SampleConfig, ScalarStage, VoteStage
from rlvr_jax.host.problems import dataset, preference
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text.template import left_pad
from rlvr_jax.stages import loop
from rlvr_jax.stages.grm_workspace import GrmWorkspace
from rlvr_jax.stages.programs import Start
from rlvr_jax.stages.workspace import padded
from rlvr_jax.structs import Params, Ranking, Rollout, UpdateResult

SHOWN = {"loss": "loss", "right": "scalar/acc"}  # words on the progress bar


def run(stage: ScalarStage, ws: GrmWorkspace) -> dict:
    """Train a scalar reward model; return the number of items that it learned from."""
    cfg, source = ws.cfg, ws.problems("train")
    encoder = Encoder(ws, source)
    critic = _load_critic(stage, ws)
    tx = optim.make_optimizer(stage.optim, stage.steps)
    base = ws.base(stage.init, cfg.model)
    state = ws.new_state(stage.name, cfg.model, tx, stage.init, start=Start(value_head=True))
    train_step = functools.partial(
        scalar_rm.scalar_step, writer=_writer(stage, ws, stage.sample), cfg=cfg.model, tx=tx
    )
    step = ws.jit_step(train_step, state, UpdateResult)

    def advance(state, records: list[dataset.Record]):
        texts = encoder.encode([preference.parse_item(record) for record in records])
        return *step(state, critic, ws.place(texts), base), []

    work = loop.Work(advance, "scalar_step", SHOWN)
    loop.run(ws, stage, state, source, stage.batch, work)
    return {"items": len(source)}


class Encoder:
    """An Encoder turns items into rows, as wide as the longest ones of a source need."""

    def __init__(self, ws: GrmWorkspace, records: dataset.RandomAccessSource):
        """Measure the records.

        Raises:
          RunError: a query with one response is longer than the prompts of the config.
        """
        self._ws, self._context, self._row = ws, 1, 1
        longest = 0
        for record in dataset.each(records):
            context, rows = self._ids(preference.parse_item(record))
            row = max(map(len, rows))
            longest = max(longest, len(context) + row)
            self._context, self._row = max(self._context, len(context)), max(self._row, row)
        if longest > ws.cfg.data.prompt_columns:
            raise RunError(
                f"a query with one of its responses has {longest} tokens: raise "
                "critique.data.prompt_columns to at least that"
            )

    def encode(self, items: Sequence[preference.Item]) -> scalar_rm.Texts:
        """Encode items as rows, in numpy arrays; an item has `critique.most` rows."""
        most, size = self._ws.critique.most, len(items)
        response_BR: Any = np.zeros((size * most, self._row), np.int32)
        length_B: Any = np.zeros(size * most, np.int32)
        stream_B: Any = np.zeros(size * most, np.uint32)
        contexts = []
        for q, item in enumerate(items):
            context, rows = self._ids(item)
            contexts.append(context)
            for n, row in enumerate(rows, q * most):
                response_BR[n, : len(row)], length_B[n] = row, len(row)
                stream_B[n] = zlib.crc32(np.array(context + row, np.int32).tobytes())
        prompt_QP, mask_QP = left_pad(contexts, self._context, "prompt")
        truncated_B: Any = np.zeros(size * most, bool)
        logprob_BR: Any = np.zeros(response_BR.shape, np.float32)
        count: Any = np.array([len(item.responses) for item in items])
        best_Q: Any = np.array([item.best for item in items], np.int32)
        return scalar_rm.Texts(
            Rollout(prompt_QP, mask_QP, response_BR, length_B, truncated_B, logprob_BR),
            Ranking(np.arange(most) < count[:, None], best_Q, count == 1),
            stream_B,
        )

    def _ids(self, item: preference.Item) -> tuple[list[int], list[list[int]]]:
        """Return the ids of the query, and those of each response in its frame with the tail."""
        prompter = self._ws.prompter
        context, tail = prompter.alone(item)
        shown = [prompter.framed(0, prompter.encode_response(text)) for text in item.responses]
        return context, [ids + tail for ids in shown]


class Scorer:
    """A Scorer lets a scalar reward model score items once."""

    def __init__(self, stage: VoteStage, ws: GrmWorkspace, records: dataset.RandomAccessSource):
        cfg = ws.cfg
        trained = next(s for s in cfg.stages if s.name == stage.scalar)
        assert isinstance(trained, ScalarStage)  # check_config refuses others
        self._ws, self._encoder = ws, Encoder(ws, records)
        self._size = -(-stage.batch // cfg.mesh.row_shards) * cfg.mesh.row_shards
        self._models = ws.load(stage.scalar, cfg.model, value_head=True), _load_critic(trained, ws)

        @functools.partial(jax.jit, static_argnums=3)
        def score(models: tuple[Params, Params], texts, key, sample: SampleConfig):
            params, critic = models
            writer = _writer(trained, ws, sample)
            rows = scalar_rm.write_rows(critic, texts, key, writer, cfg.model)
            return scalar_rm.score(params, rows, cfg.model), rows.length_B - texts.rows.length_B - 1

        self._run = score

    def __call__(self, items: list, key, vote: int, sample: SampleConfig) -> tuple[Any, Any]:
        """Return one value for each response, and the mean length of an item's critiques, [I].

        The values are a ballot of the vote stage: they are added over votes, and a single response
        is right if the sum is above half the number of votes.  A value that is not finite makes its
        vote invalid.
        """
        ws, count = self._ws, len(items)
        texts = self._encoder.encode(padded(items, self._size))
        key = jax.random.fold_in(key, vote)
        value_B, length_B = ws.fetch(self._run(self._models, ws.place(texts), key, sample))
        exists_IN = texts.ranking.exists_BN[:count]
        value_IN = value_B.reshape(self._size, -1)[:count].astype(np.float64)
        length_IN = length_B.reshape(self._size, -1)[:count]
        alone_I: Any = texts.ranking.binary_B[:count]
        valid_I = np.isfinite(value_IN).all(1)
        # Half above 0, so that the sign of a mean decides on a single response.
        score_IN = np.where(valid_I[:, None], value_IN + 0.5 * alone_I[:, None], 0.0)
        length_I = np.where(exists_IN, length_IN, 0).sum(1) / exists_IN.sum(1)
        one_I = np.ones(count)
        return (score_IN[:, None], valid_I[:, None], one_I[:, None], one_I[:, None]), length_I


def _load_critic(stage: ScalarStage, ws: GrmWorkspace) -> Params:
    """Load the GRM that writes critiques for a stage; empty without one."""
    return ws.load(stage.critiques, ws.cfg.model) if stage.critiques else {}


def _writer(stage: ScalarStage, ws: GrmWorkspace, sample: SampleConfig) -> scalar_rm.Writer:
    """Return how critiques are written for a stage."""
    columns = ws.cfg.data.response_columns if stage.critiques else 0
    return scalar_rm.Writer(tuple(ws.tokenizer.eos), columns, sample)
