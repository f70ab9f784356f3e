"""The policy: writes responses, and scores them as the trainer does."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import model, parameters, ragged, sampling, sharding
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.structs import Array, Params, Prompts, Rollout

FEWEST = 2  # slots per data shard: shrinking further saves nothing


class Slots(NamedTuple):
    """Where responses are written, all at one column, each from a start of its own."""

    column: Array  # int32, at which the keys and values of `token_B` will stand
    row_SM: Array  # int32, the response it writes, numbered by shard; past the end: it is free
    start_B: Array  # int32, column of that response's first token; past `column`: not drawn yet
    token_B: Array  # int32, its last token
    prefix: model.Prefix  # of each prompt, or, once slots have been moved about, of each slot
    cache: model.Layers


class Written(NamedTuple):
    """Responses so far."""

    response_BR: Array
    logprob_BR: Array
    length_B: Array
    done_B: Array  # bool, ended by EOS
    next_S: Array  # int32, the response that takes the next free slot of a shard
    decoded: Array  # int32, rows run through the model so far, those of free slots too


class Sampler(NamedTuple):
    """How tokens are drawn, and how many."""

    key: Array
    eos: tuple[int, ...]
    columns: int
    cfg: SampleConfig
    limit_B: Array | None = None


def generate(
    params: Params,
    prompts: Prompts,
    key: Array,
    eos: tuple[int, ...],
    samples: int,
    columns: int,
    sample_cfg: SampleConfig,
    cfg: ModelConfig,
    limit_B: Array | None = None,
) -> tuple[Rollout, Array]:
    """`samples` responses of at most `columns` tokens to each prompt, and the rows decoded for it.

    Each distinct prompt is read once.  A token is drawn with the key folded by row, then by its
    place in the row: it depends neither on other rows nor on the slot it is written in.  A row ends
    with any of the `eos` tokens, or after `limit_B` tokens where that is given.  Of `cfg.slots`
    slots one that becomes free takes the next row; when none is waiting, the live ones are moved
    together into half as many slots, again and again.
    """
    params = parameters.for_decoding(params, cfg)
    prefix, _ = ragged.prompts(params, prompts.prompt_QP, prompts.prompt_mask_QP, cfg)
    of_shard = prompts.prompt_QP.shape[0] * samples // sharding.data_shards()
    count = min(cfg.slots or of_shard, of_shard)
    sampler = Sampler(key, eos, columns, sample_cfg, limit_B)

    def waiting(state):
        return jnp.any(state[1].next_S < of_shard)

    def refill_and_write(state):
        slots, written = state
        slots, written = refill(slots, written, prefix)
        return write_column(params, slots, written, prefix, sampler, cfg)

    def write(state):
        slots, written = state
        return write_column(params, slots, written, None, sampler, cfg)

    state = begin(params, prefix, samples, count, sampler, cfg)
    if count < of_shard:
        state = jax.lax.while_loop(waiting, refill_and_write, state)
    while count:
        fewer = count // 2 if count > FEWEST else 0

        def busy(state, fewer=fewer):
            return jnp.max(jnp.sum(state[0].row_SM < of_shard, -1)) > fewer

        slots, written = jax.lax.while_loop(busy, write, state)
        state = (shrink(slots, fewer, samples, of_shard) if fewer else slots), written
        count = fewer
    written = state[1]
    return Rollout(
        prompt_QP=prompts.prompt_QP,
        prompt_mask_QP=prompts.prompt_mask_QP,
        response_BR=written.response_BR,
        length_B=written.length_B,
        truncated_B=~written.done_B,
        logprob_BR=written.logprob_BR,
    ), written.decoded


def begin(
    params, prefix: model.Prefix, samples: int, count: int, sampler: Sampler, cfg: ModelConfig
) -> tuple[Slots, Written]:
    """The first token of the first `count` responses of each shard."""
    shards = sharding.data_shards()
    rows = prefix.mask_QP.shape[0] * samples
    row_SM = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (shards, count))
    owner_SM = row_SM // samples
    shared = prefix if shards * count == rows else _take(prefix, owner_SM)
    slots = Slots(
        column=jnp.int32(-1),
        row_SM=row_SM,
        start_B=jnp.zeros(shards * count, jnp.int32),
        token_B=jnp.zeros(shards * count, jnp.int32),
        prefix=shared,
        cache=model.empty_cache(prefix, shards * count, sampler.columns),
    )
    written = Written(
        response_BR=jnp.zeros((rows, sampler.columns), jnp.int32),
        logprob_BR=jnp.zeros((rows, sampler.columns), jnp.float32),
        length_B=jnp.zeros(rows, jnp.int32),
        done_B=jnp.zeros(rows, bool),
        next_S=jnp.full(shards, count, jnp.int32),
        decoded=jnp.int32(0),
    )
    return draw(params, sharding.take(prefix.last_QD, owner_SM), slots, written, sampler, cfg)


def write_column(
    params,
    slots: Slots,
    written: Written,
    first: model.Prefix | None,
    sampler: Sampler,
    cfg: ModelConfig,
) -> tuple[Slots, Written]:
    """One more token of every response; `first`, the prompts, where some were just refilled."""
    hidden_BD, cache = model.decode(
        params, slots.token_B, slots.column, slots.start_B, slots.prefix, slots.cache, cfg
    )
    if first is not None:
        samples = written.length_B.shape[0] // first.mask_QP.shape[0]
        begun_BD = sharding.take(first.last_QD, slots.row_SM // samples)
        hidden_BD = jnp.where((slots.start_B > slots.column)[:, None], begun_BD, hidden_BD)
    written = written._replace(decoded=written.decoded + slots.token_B.shape[0])
    return draw(params, hidden_BD, slots._replace(cache=cache), written, sampler, cfg)


def draw(
    params, hidden_BD: Array, slots: Slots, written: Written, sampler: Sampler, cfg: ModelConfig
) -> tuple[Slots, Written]:
    """Draw the next token of every slot, write it down, and free the slots that have ended."""
    shards = slots.row_SM.shape[0]
    of_shard = written.length_B.shape[0] // shards
    column = slots.column + 1
    place_B = column - slots.start_B
    row_B = (slots.row_SM + of_shard * jnp.arange(shards)[:, None]).reshape(-1)
    key_B = jax.vmap(jax.random.fold_in, (None, 0))(sampler.key, row_B)
    key_B = jax.vmap(jax.random.fold_in)(key_B, place_B)
    logits_BV = model.logits(params, sharding.split_rows(hidden_BD), cfg)
    token_B, logprob_B = sampling.sample(logits_BV, key_B, sampler.cfg)
    done_B = jnp.isin(token_B, jnp.asarray(sampler.eos, jnp.int32))
    ended_B = done_B | (place_B + 1 == sampler.columns)
    if sampler.limit_B is not None:
        ended_B |= place_B + 1 >= sharding.take(sampler.limit_B, slots.row_SM)
    ended_SM = ended_B.reshape(shards, -1)

    def record(x_BR, value_B):
        x, place, value = (x.reshape(shards, -1, *x.shape[1:]) for x in (x_BR, place_B, value_B))
        write = jax.vmap(lambda x, row, place, value: x.at[row, place].set(value, mode="drop"))
        return write(x, slots.row_SM, place, value).reshape(x_BR.shape)

    written = written._replace(
        response_BR=record(written.response_BR, token_B),
        logprob_BR=record(written.logprob_BR, logprob_B),
        length_B=sharding.put(written.length_B, slots.row_SM, place_B + 1),
        done_B=sharding.put(written.done_B, slots.row_SM, done_B),
    )
    row_SM = jnp.where(ended_SM, of_shard, slots.row_SM)
    return slots._replace(column=column, row_SM=row_SM, token_B=token_B), written


def refill(slots: Slots, written: Written, first: model.Prefix) -> tuple[Slots, Written]:
    """Free slots take the responses that are waiting."""
    shards, count = slots.row_SM.shape
    of_shard = written.length_B.shape[0] // shards
    free_SM = slots.row_SM >= of_shard
    waiting_SM = written.next_S[:, None] + jnp.cumsum(free_SM, 1, dtype=jnp.int32) - 1
    taken_SM = free_SM & (waiting_SM < of_shard)
    row_SM = jnp.where(taken_SM, waiting_SM, slots.row_SM)
    start_B = jnp.where(taken_SM.reshape(-1), slots.column + 1, slots.start_B)
    taken_S = jnp.sum(taken_SM, 1, dtype=jnp.int32)
    order_SM = jnp.argsort(~taken_SM, axis=1, stable=True).astype(jnp.int32)
    samples = written.length_B.shape[0] // first.mask_QP.shape[0]

    def move(i, prefix):
        slot_S1 = jax.lax.dynamic_slice_in_dim(order_SM, i, 1, 1)
        owner_S1 = jnp.take_along_axis(row_SM, slot_S1, 1) // samples
        slot_S1 = jnp.where(i < taken_S[:, None], slot_S1, count)
        new = _take(first, owner_S1)
        kv = jax.tree.map(lambda x, y: sharding.put(x, slot_S1, y, model.ROWS), prefix.kv, new.kv)
        mask = sharding.put(prefix.mask_QP, slot_S1, new.mask_QP)
        return prefix._replace(kv=kv, mask_QP=mask)

    prefix = jax.lax.fori_loop(0, jnp.max(taken_S), move, slots.prefix)
    slots = slots._replace(row_SM=row_SM, start_B=start_B, prefix=prefix)
    return slots, written._replace(next_S=written.next_S + taken_S)


def shrink(slots: Slots, count: int, samples: int, of_shard: int) -> Slots:
    """The live slots, of which there are no more, moved together into `count` per shard."""
    rows = slots.token_B.shape[0]
    free_SM = slots.row_SM >= of_shard
    index_SM = jnp.argsort(free_SM, axis=1, stable=True)[:, :count].astype(jnp.int32)
    row_SM = jnp.take_along_axis(slots.row_SM, index_SM, 1)
    by_slot = slots.prefix.mask_QP.shape[0] == rows
    return Slots(
        column=slots.column,
        row_SM=row_SM,
        start_B=sharding.take(slots.start_B, index_SM),
        token_B=sharding.take(slots.token_B, index_SM),
        prefix=_take(slots.prefix, index_SM if by_slot else index_SM // samples),
        cache=jax.tree.map(lambda x: sharding.take(x, index_SM, model.ROWS), slots.cache),
    )


def logprobs(
    params: Params, rollout: Rollout, sample_cfg: SampleConfig, cfg: ModelConfig
) -> tuple[Array, Array]:
    """Log-probability and entropy [B, R] of the responses; 0 where there is no token.

    Same distribution as the sampler's (temperature, top-k, top-p).
    """
    params = parameters.unstack(params, cfg)
    prefix, _ = ragged.prompts(params, rollout.prompt_QP, rollout.prompt_mask_QP, cfg)

    def of_part(part):
        logprob, entropy, _ = read(params, prefix, part, rollout, sample_cfg, cfg)
        return logprob, entropy

    out = (jnp.zeros_like(rollout.logprob_BR), jnp.zeros_like(rollout.logprob_BR))
    return ragged.rows(of_part, out, rollout.length_B, rollout.response_BR.shape[1], cfg)[0]


def values(
    params: Params, rollout: Rollout, sample_cfg: SampleConfig | None, cfg: ModelConfig
) -> tuple[Array, Array | None]:
    """V [B, R] of what stands before each token, by the value head; 0 where there is no token.

    With a `sample_cfg` also `logprobs` of the same pass.
    """
    params = parameters.unstack(params, cfg)
    prefix, _ = ragged.prompts(params, rollout.prompt_QP, rollout.prompt_mask_QP, cfg)

    def of_part(part):
        before_BRD, mask_BR = before(params, prefix, part, rollout, cfg)
        value_BR = jnp.where(mask_BR, model.value(params, before_BRD), 0.0)
        if sample_cfg is None:
            return value_BR, None
        token_BR = part.pick(rollout.response_BR)
        return value_BR, said(params, before_BRD, token_BR, mask_BR, sample_cfg, cfg)[0]

    zero_BR = jnp.zeros_like(rollout.logprob_BR)
    out = (zero_BR, None if sample_cfg is None else zero_BR)
    return ragged.rows(of_part, out, rollout.length_B, rollout.response_BR.shape[1], cfg)[0]


def read(
    params: Params,
    prefix: model.Prefix,
    part: ragged.Part,
    rollout: Rollout,
    sample_cfg: SampleConfig,
    cfg: ModelConfig,
) -> tuple[Array, Array, Array]:
    """Log-probability, entropy and mask [rows, columns] of a part; differentiable."""
    before_BRD, mask_BR = before(params, prefix, part, rollout, cfg)
    token_BR = part.pick(rollout.response_BR)
    return *said(params, before_BRD, token_BR, mask_BR, sample_cfg, cfg), mask_BR


def before(
    params: Params, prefix: model.Prefix, part: ragged.Part, rollout: Rollout, cfg: ModelConfig
) -> tuple[Array, Array]:
    """What each token of a part is drawn from, hidden states [rows, columns, D], and the mask."""
    samples = rollout.length_B.shape[0] // prefix.mask_QP.shape[0]
    owner_SM = part.index_SM // samples
    token_BR = part.pick(rollout.response_BR)
    mask_BR = part.pick(rollout.response_mask_BR) & part.exists(rollout.length_B)[:, None]
    hidden_BRD = model.extend(params, token_BR, mask_BR, prefix, owner_SM, cfg)
    first_BD = sharding.take(prefix.last_QD, owner_SM)
    return jnp.concatenate([first_BD[:, None], hidden_BRD[:, :-1]], axis=1), mask_BR


def said(
    params: Params,
    before_BRD: Array,
    token_BR: Array,
    mask_BR: Array,
    sample_cfg: SampleConfig,
    cfg: ModelConfig,
) -> tuple[Array, Array]:
    """Log-probability and entropy [rows, columns] of tokens drawn from those hidden states."""
    if sample_cfg.temperature == 0 or sample_cfg.top_k or sample_cfg.top_p < 1:
        logits_BRV = model.logits(params, before_BRD, cfg)
        logprob_BRV = sampling.log_distribution(logits_BRV, sample_cfg)
        logprob_BR = jnp.take_along_axis(logprob_BRV, token_BR[..., None], -1)[..., 0]
        entropy_BR = -jnp.sum(jnp.exp(logprob_BRV) * logprob_BRV, -1)
    else:
        logprob_BR, entropy_BR = model.logprob(
            params, before_BRD, token_BR, sample_cfg.temperature, cfg
        )
    return jnp.where(mask_BR, logprob_BR, 0.0), jnp.where(mask_BR, entropy_BR, 0.0)


def _take(prefix: model.Prefix, owner_SM: Array) -> model.Prefix:
    """The prefixes of those owners, one for each."""
    return model.Prefix(
        sharding.take(prefix.last_QD, owner_SM),
        jax.tree.map(lambda x: sharding.take(x, owner_SM, model.ROWS), prefix.kv),
        sharding.take(prefix.mask_QP, owner_SM),
    )
