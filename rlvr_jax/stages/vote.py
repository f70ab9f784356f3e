"""Stage `vote` measures a generative reward model (GRM) by the number of its votes.

Every vote sees the responses in an order of its own, and scores are added by response (arXiv
2504.02495, section 4).  The result has the accuracy of a greedy judgement and, for each number of
votes, that of the sum of the votes, with and without the meta RM, or with the probabilities of the
verdicts as weights.  A scalar reward model is measured in the same way: its values are added.
"""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax import box_scores, engine, grm
from rlvr_jax.config import SampleConfig, VoteStage
from rlvr_jax.host.critiques import vote_picture, votes
from rlvr_jax.host.files import whole_file
from rlvr_jax.host.problems import preference
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import Interrupted
from rlvr_jax.stages import scalar
from rlvr_jax.stages.grm_workspace import GrmWorkspace
from rlvr_jax.stages.workspace import chunks, padded

GREEDY = SampleConfig(temperature=0)
# Scores [I, k, N] by response, whether they are a vote [I, k], how sound that is [I, k], and the
# probability of the verdict [I, k], 1 where it is not asked for.
Ballot = tuple[Any, Any, Any, Any]


def run(stage: VoteStage, ws: GrmWorkspace) -> dict:
    """Measure a GRM or a scalar reward model, and return the result.

    It is written to eval/NAME.json, and its picture to eval/NAME.svg.

    Raises:
      Interrupted: a signal asked the run to stop.
    """
    source, key = ws.items(stage.items, "test"), ws.key(stage.name)
    ask = scalar.Scorer(stage, ws, source) if stage.scalar else Voter(stage, ws)
    items, greedy, sampled, lengths = [], [], [], []
    for records in chunks(source, stage.batch):
        of_batch = [preference.parse_item(record) for record in records]
        items += of_batch
        ballot, length = ask(of_batch, key, 0, GREEDY)
        greedy.append(ballot)
        drawn = [ask(of_batch, key, vote + 1, stage.sample) for vote in range(stage.votes[-1])]
        sampled.append(_join([ballot for ballot, _ in drawn], 1))
        lengths += [length, *(length for _, length in drawn)]
        if signum := ws.run.agree_to_stop():
            raise Interrupted(signum)
    domains = [item.domain for item in items]
    count = np.array([len(item.responses) for item in items])
    best = np.array([item.best for item in items])
    result: dict[str, Any] = {
        "name": stage.name,
        "policy": stage.scalar or stage.policy,
        "items": len(items),
        "length": float(np.mean([value for part in lengths for value in part])),
    }
    scores, valid, sound, _ = _join(greedy, 0)
    first = votes.Ballots(scores, valid, sound, count, best)
    result["greedy"] = votes.summarise(votes.outcomes(first, first.valid_Ik), domains)
    scores, valid, sound, chance = _join(sampled, 0)
    every = votes.Ballots(scores, valid, sound, count, best)
    result["invalid"] = float(1 - every.valid_Ik.mean())
    result["votes"] = {
        str(k): _count(stage, every.first(k), chance[:, :k], domains) for k in stage.votes
    }
    path = ws.run.evaluation(stage.name)
    ws.run.write_json(path, result)
    if ws.run.team.first:
        whole_file.write_whole(path.with_suffix(".svg"), vote_picture.draw(result))
    _show(stage, result)
    return result


def _count(
    stage: VoteStage, ballots: votes.Ballots, chance_Ik, domains: list[str]
) -> dict[str, Any]:
    """Count votes in each of the ways that a stage asks for, and return their accuracy."""
    ways = {"plain": (ballots, ballots.valid_Ik)}
    if stage.weighted:
        weighed = dataclasses.replace(ballots, score_IkN=ballots.score_IkN * chance_Ik[:, :, None])
        ways["weighted"] = weighed, ballots.valid_Ik
    for keep in stage.keep if stage.meta else ():
        ways[f"meta {keep:g}"] = ballots, votes.keep_best(ballots, keep)
    return {
        way: votes.summarise(votes.outcomes(counted, kept), domains)
        for way, (counted, kept) in ways.items()
    }


class Voter:
    """A Voter lets a GRM judge items once, and its meta RM the judgements."""

    def __init__(self, stage: VoteStage, ws: GrmWorkspace):
        cfg, form = ws.cfg, ws.critique
        self._ws = ws
        self._size = -(-stage.batch // cfg.mesh.row_shards) * cfg.mesh.row_shards
        meta = ws.load(stage.meta, cfg.model) if stage.meta else {}
        self._judge = grm.Judge(ws.load(stage.policy, cfg.model), ws.critic(), meta)

        @functools.partial(jax.jit, static_argnums=4)
        def judge(judge, prompts, stream, key, sample: SampleConfig):
            sampler = engine.Sampler(
                key, ws.tokenizer.eos, 1, cfg.data.response_columns, sample, stream_B=stream
            )
            asked = grm.Asked(cfg.model, form, sample, ws.tokenizer.eos)
            prompts = grm.with_criteria(judge.params, prompts, key, judge.critic, asked)
            rollout, _ = engine.generate(judge.params, prompts, sampler, cfg.model)
            read = box_scores.read_scores(
                rollout, prompts.ranking, judge.critic.spelling, form.clamp, form.form == "pick"
            )
            sound = read.valid_B * 0.0
            if judge.meta:
                rows = grm.Rows(prompts.prompt_QP, prompts.prompt_mask_QP)
                sound = grm.soundness(judge, rows, rollout, cfg.model)
            chance = jnp.ones_like(sound)
            if stage.weighted:
                chance = box_scores.read_probability(rollout, judge.critic.spelling)
            return read, sound, chance, rollout.length_B

        self._run = judge

    def __call__(self, items: list, key, vote: int, sample: SampleConfig) -> tuple[Ballot, Any]:
        """Return one vote on each item, and the number of tokens of each judgement, [I]."""
        ws = self._ws
        orders = [ws.order(item, vote) for item in items]
        prompts = ws.encode_items(padded(items, self._size), padded(orders, self._size))
        # The random stream of a judgement comes from its prompt, so that no batch changes it.
        ids = np.concatenate([prompts.check_QC, prompts.prompt_QP], 1)
        exists = np.concatenate([prompts.check_mask_QC, prompts.prompt_mask_QP], 1)
        pairs: Any = zip(ids, exists, strict=True)
        stream = np.array([zlib.crc32(row[mask].tobytes()) for row, mask in pairs], np.uint32)
        placed = ws.place((prompts, stream))
        key = jax.random.fold_in(key, vote)
        result = ws.fetch(self._run(self._judge, *placed, key, sample))
        read, sound, chance, length = jax.tree.map(lambda x: x[: len(items)], result)
        score_IN = np.zeros_like(read.score_BN)
        for i, order in enumerate(orders):
            score_IN[i, order] = read.score_BN[i, : len(order)]
        ballot = score_IN, read.valid_B, sound, chance
        return tuple(part[:, None] for part in ballot), length


def _join(parts: list[Ballot], axis: int) -> Ballot:
    """Join ballots along the items (axis 0) or the votes (axis 1)."""
    scores, *others = (np.concatenate(part, axis) for part in zip(*parts, strict=True))
    valid, sound, chance = others
    return scores, valid, sound, chance


def _show(stage: VoteStage, result: dict[str, Any]) -> None:
    """Print the accuracy for each number of votes."""
    ways = list(result["votes"][str(stage.votes[0])])
    head = ["votes", *(f"{way} expected" for way in ways), "strict", "ties"]

    def row(name: str, of_k: dict[str, Any]) -> list[str]:
        plain = of_k["plain"]["all"]
        shown = [of_k[way]["all"] if way in of_k else plain for way in ways]
        cells = [f"{x['expected']:.1%} ± {x['expected_pm']:.1%}" for x in shown]
        return [name, *cells, f"{plain['strict']:.1%}", f"{plain['tied']:.1%}"]

    rows = [row("greedy", {"plain": result["greedy"]})]
    rows += [row(k, of_k) for k, of_k in result["votes"].items()]
    log.table(f"{stage.name}: accuracy on {result['items']} items", head, rows)
