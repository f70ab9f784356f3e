"""The judge of a label stage, by its config; the larger model that judges on the run's devices."""

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
from rlvr_jax.host.verdicts.agreement import Vote
from rlvr_jax.host.verdicts.judge import Judge, Record, Rule, Votes, words
from rlvr_jax.host.verdicts.judge import endpoint as http
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Prompts

BUCKET = 64  # prompts are padded to a multiple of this: one compile serves many


def check(cfg: JudgeConfig) -> None:
    """Refuse, before any work, a judge that cannot be asked: ValueError."""
    if cfg.kind == "endpoint":
        http.check_endpoint_config(cfg)
    elif cfg.kind == "model":
        weights.find_model(cfg.weights)
    elif cfg.rule:
        rules.check_rule(cfg.rule)


def make(stage: LabelStage, ws: Workspace) -> Judge:
    """The judge of a stage; `close` it."""
    cfg = stage.judge
    if cfg.kind == "rule":
        return Rule(cfg.rule)
    if cfg.kind == "model":
        return Model(cfg, ws, stage.name)
    path = Path(cfg.cache) if cfg.cache else ws.run.replies(stage.name)
    return http.Endpoint(cfg, path, ws.run.check_signal)


class Model:
    """A language model with a tokenizer of its own; reads answers as text, as an endpoint does."""

    def __init__(self, cfg: JudgeConfig, ws: Workspace, name: str):
        """Loads it onto the mesh.

        Raises WeightsError, TokenizerError or RunError where it cannot be used.
        """
        path = weights.find_model(cfg.weights)
        self._cfg, self._ws = cfg, ws
        self._model = ModelConfig(**weights.load_architecture(path), compute=cfg.compute)
        self._tok = open_tokenizer(cfg.tokenizer or path)
        if self._tok.vocab > self._model.vocab:
            raise RunError(
                f"the judge's tokenizer has {self._tok.vocab} tokens and the judge "
                f"{self._model.vocab}: correct judge.tokenizer"
            )
        mesh = ws.cfg.mesh
        sharding.check_divides(self._model.sizes, parameters.names(self._model), mesh, "the judge")
        self._params = weights.load(
            path, self._model, ws.shardings(parameters.abstract(self._model))
        )
        self._words = [words.ACCEPT, words.REJECT] if cfg.read == "logit" else []
        self._ids = [self._tok.single(word) for word in self._words]
        self._key, self._calls = jax.random.fold_in(ws.key(name), 1), 0
        shards = mesh.data * mesh.fsdp
        self._rows = -(-cfg.batch // shards) * shards
        self._read = jax.jit(self._gap if self._ids else self._write)

    def __call__(self, answers: Sequence[str], records: Sequence[Record]) -> list[Votes]:
        shown = [words.visible_answer(answer) for answer in answers]
        votes: list[Votes] = [[0] * self._cfg.votes for _ in answers]  # wrong without asking
        asked = {i: self._prompt(records[i], said) for i, said in enumerate(shown) if said}
        longest = (self._model.context or 1 << 30) - self._cfg.tokens
        short = [i for i, ids in asked.items() if len(ids) <= longest]
        for i in asked.keys() - short:  # what it was not made to read it cannot judge
            votes[i] = [None] * self._cfg.votes
        short.sort(key=lambda i: len(asked[i]))  # rows of a call are padded to its longest
        for start in range(0, len(short), self._rows):
            part = short[start : start + self._rows]
            for i, found in zip(part, self._ask([asked[i] for i in part]), strict=True):
                votes[i] = found
        return votes

    def close(self) -> None:
        del self._params

    def _prompt(self, record: Record, answer: str) -> list[int]:
        said = words.build_messages(record, answer, self._cfg.question)
        if self._tok.has_chat:
            return self._tok.chat(said)
        return self._tok.raw_prompt(said[0]["content"] + "\nVerdict:")

    def _ask(self, asked: list[list[int]]) -> list[Votes]:
        columns = -(-max(map(len, asked)) // BUCKET) * BUCKET
        rows = asked + [asked[-1]] * (self._rows - len(asked))
        ids, mask = template.left_pad(rows, columns, "judge's prompt")
        prompts = self._ws.place(Prompts(ids, mask, ids[:, :0], mask[:, :0]))
        self._calls += 1
        key = jax.random.fold_in(self._key, self._calls)
        said = jax.device_get(self._read(self._params, prompts, key))[: len(asked)]
        if self._ids:
            return [[_sign(gap)] for gap in said]
        return [
            [words.parse_vote(self._tok.decode(reply)) for reply in replies] for replies in said
        ]

    def _write(self, params, prompts: Prompts, key):
        """[Q, m, tokens] ids of replies, filled up with an end of text."""
        cfg, end = self._cfg, self._tok.eos
        sample = SampleConfig(temperature=cfg.temperature)
        sampler = engine.Sampler(key, end, cfg.votes, cfg.tokens, sample)
        rollout, _ = engine.generate(params, prompts, sampler, self._model)
        ids_BR = jnp.where(rollout.response_mask_BR, rollout.response_BR, end[0])
        return ids_BR.reshape(-1, cfg.votes, cfg.tokens)

    def _gap(self, params, prompts: Prompts, key):
        """[Q] log p(YES) - log p(NO) of the next token; nan where they hold too little mass."""
        hidden, _ = model.prefill(params, prompts.prompt_QP, prompts.prompt_mask_QP, self._model)
        logits_QV = model.logits(params, hidden[:, -1], self._model).astype(jnp.float32)
        yes_Q, no_Q = jax.nn.log_softmax(logits_QV)[:, jnp.array(self._ids)].T
        enough_Q = jnp.exp(yes_Q) + jnp.exp(no_Q) >= self._cfg.min_mass
        return jnp.where(enough_Q, yes_Q - no_Q, jnp.nan)


def _sign(gap: float) -> Vote:
    return int(gap > 0) if np.isfinite(gap) else None
