"""This module makes the judges of label stages, and has the judge that is a larger model."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax import engine, model, parameters, sharding
from rlvr_jax.config import JudgeConfig, LabelStage, ModelConfig, SampleConfig
from rlvr_jax.host import rules, weights
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.text import template
from rlvr_jax.host.text.tokenizer import open_tokenizer
from rlvr_jax.host.text.wording import load_wording
from rlvr_jax.host.verdicts.agreement import Vote
from rlvr_jax.host.verdicts.judge import Judge, Record, Rule, Votes, words
from rlvr_jax.host.verdicts.judge import endpoint as http
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Prompts

BUCKET = 64  # prompts are padded to a multiple of this: one compile serves many


def check_judge(cfg: JudgeConfig) -> None:
    """Refuse a judge that cannot be asked, before any work.

    Raises:
      ValueError: the endpoint, the model or the rule of the judge cannot be used.
    """
    if cfg.kind != "rule":
        load_wording(cfg.template)
    if cfg.kind == "endpoint":
        http.check_endpoint_config(cfg)
    elif cfg.kind == "model":
        weights.find_model(cfg.weights)
    elif cfg.rule:
        rules.check_rule(cfg.rule)


def make_judge(stage: LabelStage, ws: Workspace) -> Judge:
    """Make the judge of a stage; the caller closes it."""
    cfg = stage.judge
    if cfg.kind == "rule":
        return Divided(Rule(cfg.rule), ws)
    if cfg.kind == "model":
        return ModelJudge(cfg, ws, stage.name)
    path = Path(cfg.cache) if cfg.cache else ws.run.replies(stage.name)
    if not ws.run.team.first:
        return Told(ws)
    return Told(ws, http.Endpoint(cfg, path, ws.run.check_signal))


class Divided:
    """A Divided judge lets each process judge a share of the answers."""

    def __init__(self, judge: Judge, ws: Workspace):
        self._judge, self._ws = judge, ws

    def __call__(self, answers: Sequence[str], records: Sequence[Record]) -> list[Votes]:
        """Return the votes on each answer."""

        def judge(numbers: list[int]) -> list[Votes]:
            return self._judge([answers[i] for i in numbers], [records[i] for i in numbers])

        return self._ws.divide(judge, len(answers))

    def close(self) -> None:
        """Free what the judge holds."""
        self._judge.close()


class Told:
    """A Told judge asks in the first process only, which tells the others.

    One process keeps to the budget of an endpoint and writes the file of its replies.
    """

    def __init__(self, ws: Workspace, judge: http.Endpoint | None = None):
        self._judge, self._team = judge, ws.run.team

    @property
    def counts(self) -> dict[str, int]:
        """Return the counts of the judge."""
        return self._judge.counts if self._judge else {}

    def __call__(self, answers: Sequence[str], records: Sequence[Record]) -> list[Votes]:
        """Return the votes on each answer."""
        judge = self._judge
        return self._team.share("votes", lambda: judge(answers, records) if judge else None)

    def close(self) -> None:
        """Free what the judge holds."""
        if self._judge:
            self._judge.close()


class ModelJudge:
    """A ModelJudge is a language model on the run's devices that gives verdicts on answers.

    It has a tokenizer of its own and reads answers as text, like a judge behind an endpoint.
    """

    def __init__(self, cfg: JudgeConfig, ws: Workspace, name: str):
        """Load the model onto the mesh.

        Raises:
          WeightsError, TokenizerError or RunError: the model cannot be used.
        """
        path = weights.find_model(cfg.weights)
        self._cfg, self._ws = cfg, ws
        self._model = ModelConfig(**weights.load_architecture(path), compute=cfg.compute)
        self._tok = open_tokenizer(cfg.tokenizer or path, ws.run.began)
        if self._tok.vocab > self._model.vocab:
            raise RunError(
                f"the judge's tokenizer has {self._tok.vocab} tokens and the judge "
                f"{self._model.vocab}: correct judge.tokenizer"
            )
        mesh = ws.cfg.mesh
        sharding.check_divides(self._model.sizes, parameters.names(self._model), mesh, "the judge")
        self._params = weights.load(
            path, self._model, ws.layout.shardings(parameters.abstract(self._model))
        )
        self._wording, self._words = load_wording(cfg.template), words.judge_words(cfg)
        self._ids = self._tok.verdicts(self._words) if cfg.read == "logit" else []
        self._key, self._calls = jax.random.fold_in(ws.key(name), 1), 0
        self._rows = -(-cfg.batch // mesh.row_shards) * mesh.row_shards
        self._read = jax.jit(self._gap if self._ids else self._write)

    def __call__(self, answers: Sequence[str], records: Sequence[Record]) -> list[Votes]:
        """Return the votes on each answer; an answer that is empty or disguised is wrong."""
        texts = [words.visible_answer(answer) for answer in answers]
        votes: list[Votes] = [[0] * self._cfg.votes for _ in answers]
        prompts = {i: self._prompt(records[i], text) for i, text in enumerate(texts) if text}
        longest = (self._model.longest or 1 << 30) - self._cfg.tokens
        short = [i for i, ids in prompts.items() if len(ids) <= longest]
        for i in prompts.keys() - short:  # the model was not made for prompts of this length
            votes[i] = [None] * self._cfg.votes
        short.sort(key=lambda i: len(prompts[i]))  # rows of a call are padded to its longest
        for start in range(0, len(short), self._rows):
            part = short[start : start + self._rows]
            replies = self._ask([prompts[i] for i in part])
            for i, several in zip(part, replies, strict=True):
                votes[i] = several
        return votes

    def close(self) -> None:
        """Free the memory of the model."""
        del self._params

    def _prompt(self, record: Record, answer: str) -> list[int]:
        values = words.values(record, answer, self._cfg)
        if self._tok.has_chat:
            return self._tok.chat(self._wording.messages(values))
        return self._tok.raw_prompt(self._wording.plain(values))

    def _ask(self, prompt_ids: list[list[int]]) -> list[Votes]:
        columns = -(-max(map(len, prompt_ids)) // BUCKET) * BUCKET
        rows = prompt_ids + [prompt_ids[-1]] * (self._rows - len(prompt_ids))
        ids, mask = template.left_pad(rows, columns, "judge's prompt")
        prompts = self._ws.place(Prompts(ids, mask, ids[:, :0], mask[:, :0]))
        self._calls += 1
        key = jax.random.fold_in(self._key, self._calls)
        results = self._ws.fetch(self._read(self._params, prompts, key))[: len(prompt_ids)]
        if self._ids:
            return [[_sign(gap)] for gap in results]
        return [
            [words.parse_vote(self._tok.decode(reply), self._words) for reply in replies]
            for replies in results
        ]

    def _write(self, params, prompts: Prompts, key):
        """Return token ids [Q, m, tokens] of m replies to each prompt, padded with end of text."""
        cfg, end = self._cfg, self._tok.eos
        sample = SampleConfig(temperature=cfg.temperature)
        sampler = engine.Sampler(key, end, cfg.votes, cfg.tokens, sample)
        rollout, _ = engine.generate(params, prompts, sampler, self._model)
        ids_BR = jnp.where(rollout.response_mask_BR, rollout.response_BR, end[0])
        return ids_BR.reshape(-1, cfg.votes, cfg.tokens)

    def _gap(self, params, prompts: Prompts, key):
        """Return log p(right) - log p(wrong) [Q] of the next token; nan below the least mass."""
        hidden, _ = model.prefill(params, prompts.prompt_QP, prompts.prompt_mask_QP, self._model)
        logits_QV = model.logits(params, hidden[:, -1], self._model).astype(jnp.float32)
        yes_Q, no_Q = jax.nn.log_softmax(logits_QV)[:, jnp.array(self._ids)].T
        enough_Q = jnp.exp(yes_Q) + jnp.exp(no_Q) >= self._cfg.min_mass
        return jnp.where(enough_Q, yes_Q - no_Q, jnp.nan)


def _sign(gap: float) -> Vote:
    return int(gap > 0) if np.isfinite(gap) else None
