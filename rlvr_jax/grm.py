r"""A generative reward model (GRM) judges the responses of a policy inside the training step.

"Inference-Time Scaling for Generalist Reward Modeling" (arXiv 2504.02495), sections 3 and 4:

1. Context.  The host writes instructions and query as token ids (`Prompts.check_QC`).  They are
   read once for all responses to a prompt and all votes.  If criteria come from the query alone,
   they are written here, once for each prompt, and belong to the context.
2. Responses.  The ids of a response follow as they are, between the ids of its frame.  Control
   tokens are left out, and text that looks like a frame is hidden, so a response can neither open
   a role nor close its frame.  Several responses to one prompt may be shown together, in an order
   that is drawn anew for each vote.
3. Votes.  The GRM writes `votes` judgements; `box_scores.read_scores` reads their scores.  An
   invalid judgement is no vote.
4. Meta RM.  If the stage has one, it reads each judgement, and only the share `keep` of the votes
   with the greatest probability of being sound counts.
5. Reward.  The mean score of the votes that count, mapped from 1..10 to 0..1.  A response without
   a vote, without text or without an end gets 0.

The random stream of a vote is a hash of what is judged and the number of the vote, so a vote does
not depend on the row where its response stands.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import box_scores, engine, model, parameters, ragged, sharding, verifier
from rlvr_jax import byte_search as search
from rlvr_jax.config import CritiqueConfig, ModelConfig, RewardConfig, SampleConfig
from rlvr_jax.structs import Array, Critic, Params, Prompts, Ranking, Rollout

STREAM = 0x6E3A  # folded into the round's key, for the votes


class Judge(NamedTuple):
    """A Judge holds a GRM, its tables and, if votes are chosen, the meta RM."""

    params: Params
    critic: Critic
    meta: Params  # empty without a meta RM


class Form(NamedTuple):
    """A Form holds what is fixed at compile time: configs and the tokens that end a judgement."""

    model: ModelConfig
    critique: CritiqueConfig
    reward: RewardConfig
    eos: tuple[int, ...]


class Asked(NamedTuple):
    """An Asked holds what is fixed at compile time where a GRM judges preference items."""

    model: ModelConfig
    critique: CritiqueConfig
    sample: SampleConfig
    eos: tuple[int, ...]


class Shown(NamedTuple):
    """Shown holds responses as a GRM sees them, at the front of their rows."""

    token_BR: Array
    length_B: Array


class Judged(NamedTuple):
    """Judged holds the rewards of B responses, and the votes behind them."""

    reward_B: Array  # float32 in [0, 1]
    votes_B: Array  # int32, votes that count
    judgements: Rollout  # [X] rows, one for each vote
    valid_X: Array  # bool, judgements that are votes
    tied_X: Array  # bool, votes that give their top score twice
    decoded: Array  # int32, row-steps of decoding


class Rows(NamedTuple):
    """Rows hold token columns of prompts, with a mask of those that exist."""

    token_YW: Array
    mask_YW: Array


class Context(NamedTuple):
    """A Context is what all judgements of the responses to a prompt have in common."""

    prefix: model.Prefix
    rows: Rows

    def followed_by(self, rows: Rows, owner_SM: Array) -> Rows:
        """Return rows with the columns of their context in front."""
        token_YC, mask_YC = (sharding.take(x, owner_SM) for x in self.rows)
        return _joined(Rows(token_YC, mask_YC), rows)


def show(rollout: Rollout, critic: Critic) -> Shown:
    """Return the responses without control tokens, and with `filler` for what looks like a frame.

    `host.critiques.prompt.hide_marks` does the same to the ids of a text.
    """
    text = search.spell_bytes(rollout, critic.spelling, whole=True)
    hidden_BR = jnp.zeros(rollout.response_BR.shape, bool)
    for mark in critic.marks:
        begins_BN = search.find_word_exactly(text.fold_BN, mark)
        # The number of beginnings before each place tells whether one lies in a token's reach.
        before_BN = jnp.pad(jnp.cumsum(begins_BN, 1), ((0, 0), (1, 0)))
        first_BR = jnp.maximum(text.start_BR - len(mark) + 1, 0)
        count_BR = search.take(before_BN, text.end_BR) - search.take(before_BN, first_BR)
        hidden_BR |= (count_BR > 0) & (text.end_BR > text.start_BR)
    token_BR = jnp.where(hidden_BR, critic.filler, rollout.response_BR)
    kept_BR = rollout.response_mask_BR & ~critic.control_V[rollout.response_BR]
    order_BR = jnp.argsort(~kept_BR, axis=1, stable=True)
    length_B = jnp.sum(kept_BR, -1, dtype=jnp.int32)
    return Shown(jnp.take_along_axis(token_BR, order_BR, 1), length_B)


@jax.named_scope("grm")
def score(judge: Judge, prompts: Prompts, rollout: Rollout, key: Array, form: Form) -> Judged:
    """Return the rewards that a GRM gives to the responses of a rollout.

    No gradient flows into the GRM or through the reward.
    """
    judge = jax.lax.stop_gradient(judge)
    critic, votes, together = judge.critic, form.reward.judgements, form.reward.grm.together
    shown = show(rollout, critic)
    query_Q = _hash(prompts.check_QC, prompts.check_mask_QC)
    content_U = _content(shown, query_Q, together)
    # Lists are shuffled for each vote.  A single response has one prompt for all its votes.
    order_Xm = _orders(content_U, key, votes, together)
    order_Ym = order_Xm if together > 1 else order_Xm[::votes]
    rows = _responses(shown, order_Ym, critic)
    stream_X = _streams(content_U, votes)
    whole, judgements, decoded = _write_judgements(judge, prompts, rows, stream_X, key, form)
    ranking = _compared(judgements.length_B.shape[0], together)
    read = box_scores.read_scores(
        judgements, ranking, critic.spelling, form.critique.clamp, form.critique.form == "pick"
    )
    kept_X = read.valid_B
    if judge.meta:
        sound_X = soundness(judge, whole, judgements, form.model)
        kept_X = keep_best(kept_X, sound_X, votes, form.reward.grm.keep)
    total_B, count_B = sum_votes(read.score_BN, kept_X, order_Xm, votes)
    mean_B = total_B / jnp.maximum(count_B, 1).astype(jnp.float32)
    value_B = mean_B if form.critique.form == "pick" else (mean_B - 1) / 9
    good_B = (count_B > 0) & (shown.length_B > 0) & ~rollout.truncated_B
    return Judged(
        reward_B=jnp.where(good_B, value_B, 0.0),
        votes_B=count_B,
        judgements=judgements,
        valid_X=read.valid_B,
        tied_X=box_scores.is_tied(read, ranking) & (together > 1),
        decoded=decoded,
    )


# ---- votes -------------------------------------------------------------------------------------


def sum_votes(score_XN: Array, kept_X: Array, order_Xm: Array, votes: int) -> tuple[Array, Array]:
    """Return the sum of the kept scores of each response, and how many votes were kept.

    This is S*_i of arXiv 2504.02495, section 4.1, equation 7.  Judgements [X] of one list are
    adjacent, `votes` for each; `order_Xm` holds the index of the response at each place.  Returns
    float32 and int32 [X / votes * m], the responses of a list adjacent.
    """
    together = order_Xm.shape[1]
    place_Xm = jnp.argsort(order_Xm, axis=1)  # the place of each response
    score_Xm = jnp.take_along_axis(score_XN[:, :together], place_Xm, 1)
    score_Ukm = jnp.where(kept_X[:, None], score_Xm, 0).reshape(-1, votes, together)
    count_U = jnp.sum(kept_X.reshape(-1, votes), 1, dtype=jnp.int32)
    return jnp.sum(score_Ukm, 1).reshape(-1), jnp.repeat(count_U, together)


def keep_best(valid_X: Array, sound_X: Array, votes: int, keep: float) -> Array:
    """Return which votes a meta RM keeps: of each list's votes the share `keep`, rounded up.

    The valid votes with the greatest values of `sound_X` are kept (arXiv 2504.02495, section 4.2);
    of equal ones the earlier.
    """
    sound_Uk = jnp.where(valid_X, sound_X, -jnp.inf).reshape(-1, votes)
    rank_Uk = jnp.argsort(jnp.argsort(-sound_Uk, axis=1, stable=True), axis=1)
    return valid_X & (rank_Uk < math.ceil(votes * keep)).reshape(-1)


def soundness(judge: Judge, asked: Rows, judgements: Rollout, cfg: ModelConfig) -> Array:
    """Return the meta RM's probability that each judgement is sound, float32 [X].

    `asked` holds the prompts of the judgements, whole; judgements of one prompt are adjacent.
    """
    verdict = judge.critic.meta
    if verdict is None:
        raise ValueError("a meta RM needs the words with which it is asked")
    empty_Y0 = asked.token_YW[:, :0]
    prompts = Prompts(empty_Y0, asked.mask_YW[:, :0], asked.token_YW, asked.mask_YW)
    # The end-of-sequence token of a judgement belongs to the frame of the next turn.
    length_X = judgements.length_B - jnp.where(judgements.truncated_B, 0, 1)
    answers = verifier.Answers(judgements.response_BR, length_X, judgements.truncated_B)
    return verifier.score_answers(judge.meta, prompts, answers, verdict, RewardConfig(), cfg).p1_B


# ---- prompts -----------------------------------------------------------------------------------


def _write_judgements(
    judge: Judge, prompts: Prompts, rows: Rows, stream_X: Array, key: Array, form: Form
) -> tuple[Rows, Rollout, Array]:
    """Let the GRM write its judgements of the responses in `rows`.

    Returns their prompts, whole, the judgements, and the number of row-steps of decoding.
    """
    with sharding.decode_view(form.model.decode_tensor):
        key, critic = sharding.replicate((key, judge.critic))
        prompts, rows, stream_X = sharding.split_rows((prompts, rows, stream_X))
        params = parameters.for_decoding(judge.params, form.model)
        context, decoded = _read_context(params, prompts, key, critic, form)
        owner_SM = _owners(rows.token_YW.shape[0], prompts.check_QC.shape[0])
        prefix = model.lengthen(
            params, rows.token_YW, rows.mask_YW, context.prefix, owner_SM, form.model
        )
        sampler = engine.Sampler(
            key=jax.random.fold_in(key, STREAM),
            eos=form.eos,
            samples=stream_X.shape[0] // rows.token_YW.shape[0],
            columns=form.critique.data.response_columns,
            cfg=SampleConfig(temperature=form.reward.grm.temperature),
            stream_B=stream_X,
        )
        written = engine.write(params, prefix, sampler, form.model)
        whole = context.followed_by(rows, owner_SM)
    whole, rows = sharding.split_rows((whole, rows))
    decoded, written = sharding.replicate(decoded), engine.leave_view(written)
    judgements = engine.rollout_of(rows.token_YW, rows.mask_YW, written)
    return whole, judgements, decoded + written.decoded


def _read_context(
    params: Params, prompts: Prompts, key: Array, critic: Critic, form: Form
) -> tuple[Context, Array]:
    """Read the contexts, and write criteria where they come from the query alone.

    Returns the number of row-steps of decoding too.
    """
    rows = Rows(prompts.check_QC, prompts.check_mask_QC)
    prefix, _ = ragged.read_prompts(params, *rows, form.model)
    if form.critique.principles != "from_query":
        return Context(prefix, rows), jnp.int32(0)
    sampler = criteria_sampler(key, form, SampleConfig(form.reward.grm.temperature))
    sampler = sampler._replace(stream_B=_hash(*rows))
    written = engine.write(params, prefix, sampler, form.model)
    criteria = _exists(show(engine.rollout_of(*rows, written), critic))
    count = rows.token_YW.shape[0]
    middle_QC = jnp.broadcast_to(critic.middle_C, (count, critic.middle_C.shape[0]))
    more = _joined(criteria, Rows(middle_QC, jnp.ones_like(middle_QC, bool)))
    owner_SM = _owners(count, count)
    prefix = model.lengthen(params, *more, prefix, owner_SM, form.model)
    return Context(prefix, _joined(rows, more)), written.decoded


def criteria_sampler(key: Array, form: Form | Asked, sample: SampleConfig) -> engine.Sampler:
    """Return how criteria are sampled that come from a query alone."""
    key = jax.random.fold_in(key, STREAM + 1)
    return engine.Sampler(key, form.eos, 1, form.critique.criteria_columns, sample)


def with_criteria(
    params: Params, prompts: Prompts, key: Array, critic: Critic, asked: Asked
) -> Prompts:
    """Return the prompts of preference items with criteria that are written from the query alone.

    `check_QC` holds the text up to the criteria, `prompt_QP` what follows them.  In other modes the
    prompts are whole already and are returned as they are.
    """
    if asked.critique.principles != "from_query":
        return prompts
    query = Prompts(
        prompts.check_QC, prompts.check_mask_QC, prompts.check_QC, prompts.check_mask_QC
    )
    sampler = criteria_sampler(key, asked, asked.sample)
    sampler = sampler._replace(stream_B=_hash(prompts.check_QC, prompts.check_mask_QC))
    written, _ = engine.generate(params, query, sampler, asked.model)
    before = _joined(Rows(prompts.check_QC, prompts.check_mask_QC), _exists(show(written, critic)))
    token_QP, mask_QP = _joined(before, Rows(prompts.prompt_QP, prompts.prompt_mask_QP))
    return dataclasses.replace(prompts, prompt_QP=token_QP, prompt_mask_QP=mask_QP)


def _exists(shown: Shown) -> Rows:
    """Return token columns with the mask of those that hold a token."""
    columns = jnp.arange(shown.token_BR.shape[1])
    return Rows(shown.token_BR, columns < shown.length_B[:, None])


def _joined(first: Rows, then: Rows) -> Rows:
    """Return the columns of both, side by side."""
    token_YW = jnp.concatenate([first.token_YW, then.token_YW], 1)
    return Rows(token_YW, jnp.concatenate([first.mask_YW, then.mask_YW], 1))


def _responses(shown: Shown, order_Ym: Array, critic: Critic) -> Rows:
    """Return the columns of responses in their frames, in the given orders, and the tail."""
    count, together = order_Ym.shape
    shards = sharding.data_shards()
    lists = shown.length_B.shape[0] // together
    list_SM = _owners(count, lists)
    response = _exists(shown)
    tokens, masks = [], []

    def add(token_C: Array, mask_C: Array) -> None:
        tokens.append(jnp.broadcast_to(token_C, (count, token_C.shape[0])))
        masks.append(jnp.broadcast_to(mask_C, (count, mask_C.shape[0])))

    for place in range(together):
        row_SM = list_SM * together + order_Ym[:, place].reshape(shards, -1)
        add(critic.before_NC[place], critic.before_mask_NC[place])
        tokens.append(sharding.take(response.token_YW, row_SM))
        masks.append(sharding.take(response.mask_YW, row_SM))
        add(critic.after_NC[place], critic.after_mask_NC[place])
    add(critic.tail_C, jnp.ones_like(critic.tail_C, bool))
    return Rows(jnp.concatenate(tokens, 1), jnp.concatenate(masks, 1))


def _owners(rows: int, owners: int) -> Array:
    """Return each row's owner within its shard, int32 [S, M]; rows of an owner are adjacent."""
    shards = sharding.data_shards()
    owner_M = jnp.arange(rows // shards, dtype=jnp.int32) // (rows // owners)
    return jnp.broadcast_to(owner_M, (shards, rows // shards))


def _compared(rows: int, together: int) -> Ranking:
    """Return the ranking of judgements whose best response is not known."""
    no_B = jnp.zeros(rows, bool)
    return Ranking(jnp.ones((rows, together), bool), jnp.zeros(rows, jnp.int32), no_B)


# ---- random streams ----------------------------------------------------------------------------


def _hash(token_BR: Array, exists: Array) -> Array:
    """Return a hash of the tokens that exist, uint32 [B], whatever columns they stand in.

    `exists` is a mask [B, R] or the number of tokens [B] at the front of each row.
    """
    columns = jnp.arange(token_BR.shape[1])
    mask_BR = columns < exists[:, None] if exists.ndim == 1 else exists
    place_BR = jnp.cumsum(mask_BR, 1, dtype=jnp.uint32)
    mixed_BR = (token_BR.astype(jnp.uint32) + 1) * jnp.uint32(2246822519)
    mixed_BR = (mixed_BR ^ (mixed_BR >> 15)) * (place_BR * jnp.uint32(2654435762) | 1)
    return jnp.sum(jnp.where(mask_BR, mixed_BR ^ (mixed_BR >> 13), 0), 1, dtype=jnp.uint32)


def _content(shown: Shown, query_Q: Array, together: int) -> Array:
    """Return a hash of each list of responses and its query, uint32 [U]."""
    content_Um = _hash(shown.token_BR, shown.length_B).reshape(-1, together)
    weight_m = 2 * jnp.arange(together, dtype=jnp.uint32) * jnp.uint32(2654435761) + 1
    content_U = jnp.sum(content_Um * weight_m, 1, dtype=jnp.uint32)
    query_U = jnp.repeat(query_Q, content_U.shape[0] // query_Q.shape[0])
    return (content_U ^ (content_U >> 16)) * jnp.uint32(2246822519) ^ query_U


def _streams(content_U: Array, votes: int) -> Array:
    """Return the random stream of each vote, uint32 [U * votes]."""
    vote_k = jnp.arange(votes, dtype=jnp.uint32) * jnp.uint32(2654435761)
    return (content_U[:, None] + vote_k).reshape(-1)


def _orders(content_U: Array, key: Array, votes: int, together: int) -> Array:
    """Draw the order of the responses for each vote: int32 [U * votes, m], indices by place."""
    stream_X = _streams(content_U, votes)
    keys_X = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, STREAM + 2), stream_X)
    draw_Xm = jax.vmap(lambda k: jax.random.uniform(k, (together,)))(keys_X)
    return jnp.argsort(draw_Xm, axis=1).astype(jnp.int32)
