"""The engine writes responses in slots, the rows of the decoding batch.

All slots write to the same column of the cache, so that a cache write is one
`dynamic_update_slice`.  Each slot remembers the column at which its response starts, and the
columns of the cache form a ring.  While some responses have not begun, a slot whose response
has ended takes the next of them inside the compiled loop, without reading its prompt again.
When all have begun, the slots that still write are moved into fewer slots each time this is
possible, half as many on CPU, so that the batch shrinks.

    prompts -> begin -> (refill -> decode a column -> draw tokens)* -> (shrink)* -> Rollout
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import block, kv_cache, model, parameters, ragged, sampling, sharding
from rlvr_jax.config import ModelConfig, SampleConfig
from rlvr_jax.structs import Array, Params, Prompts, Rollout
from rlvr_kernels import dispatch
from rlvr_kernels.decode_attention import Places

FEWEST = 2  # slots per data shard: shrinking further saves nothing


class Sampler(NamedTuple):
    """A Sampler says how tokens are drawn, and how many tokens and responses."""

    key: Array
    eos: tuple[int, ...]  # ids of the tokens that end a response
    samples: int  # responses to each prompt, G
    columns: int  # token budget of a response, R
    cfg: SampleConfig
    limit_B: Array | None = None  # int32, a shorter budget for each response; None: R for all
    stream_B: Array | None = None  # int32, each response's random stream; None: the row's number


class Slots(NamedTuple):
    """Slots are the rows of the decoding batch: S data shards with M slots each.

    Columns are counted by the decoding loop: column c is stored in column c modulo the cache size.
    """

    column: Array  # int32, the column in which `token_B` will be stored
    row_SM: Array  # int32, each slot's response, numbered within its shard; too large: free slot
    start_B: Array  # int32, column of that response's first token; `column` + 1: not drawn yet
    token_B: Array  # int32, the last token of that response
    prefix: model.Prefix  # of each prompt or, if there are more prompts than slots, of each slot
    cache: model.Layers


class Written(NamedTuple):
    """Written holds the responses as far as they have been written."""

    response_BR: Array
    logprob_BR: Array
    length_B: Array
    done_B: Array  # bool, ended by an end-of-sequence token
    next_S: Array  # int32, the response that takes the next free slot of each shard
    decoded: Array  # int32, row-steps so far, free slots included


def generate(
    params: Params, prompts: Prompts, sampler: Sampler, cfg: ModelConfig
) -> tuple[Rollout, Array]:
    """Write `sampler.samples` responses of at most `sampler.columns` tokens to each prompt.

    Each prompt is read once for all its responses.  The key of a token is `sampler.key` with the
    row and then the token's position in the response folded in, so that a response depends neither
    on other rows nor on its slot.  A response ends with any of the `sampler.eos` tokens, or at its
    limit.  With `cfg.slots` above 0 at most that many responses per data shard are written at the
    same time.

    Returns the rollout, and the number of row-steps (int32): slots that were run through the model,
    free ones included, summed over the columns.
    """
    with sharding.decode_view(cfg.decode_tensor):
        params = parameters.for_decoding(params, cfg)
        token_QP, mask_QP = sharding.split_rows((prompts.prompt_QP, prompts.prompt_mask_QP))
        prefix, _ = ragged.read_prompts(params, token_QP, mask_QP, cfg)
        written = write(params, prefix, sampler, cfg)
    written = leave_view(written)
    return rollout_of(prompts.prompt_QP, prompts.prompt_mask_QP, written), written.decoded


def write(params: Params, prefix: model.Prefix, sampler: Sampler, cfg: ModelConfig) -> Written:
    """Write responses that continue prefixes; `params` come from `parameters.for_decoding`."""
    prefix = hold(prefix, cfg)
    sampler = sampler._replace(
        key=sharding.replicate(sampler.key),
        limit_B=sharding.split_rows(sampler.limit_B),
        stream_B=sharding.split_rows(sampler.stream_B),
    )
    waiting = prefix.mask_QP.shape[0] * sampler.samples // sharding.data_shards()
    count = min(cfg.slots or waiting, waiting)
    state = begin(params, prefix, count, sampler, cfg)
    if count < waiting:
        state = _write_and_refill(params, prefix, state, waiting, sampler, cfg)
    return _write_and_shrink(params, state, count, waiting, sampler, cfg)


def hold(prefix: model.Prefix, cfg: ModelConfig) -> model.Prefix:
    """Return prefixes as decoding reads them, with keys and values as `cfg.cache_dtype` says."""
    kv = tuple(kv_cache.hold(pair, cfg) for pair in prefix.kv)
    return prefix._replace(kv=kv, routed=None)  # decoding does not count where tokens are sent


def leave_view(written: Written) -> Written:
    """Return what was written, laid out for the ambient mesh; call it behind a `decode_view`."""
    *rows, next_S, decoded = written
    return Written(*sharding.split_rows(rows), *sharding.replicate((next_S, decoded)))


def rollout_of(prompt_QP: Array, prompt_mask_QP: Array, written: Written) -> Rollout:
    """Return the responses that have been written to prompts."""
    return Rollout(
        prompt_QP=prompt_QP,
        prompt_mask_QP=prompt_mask_QP,
        response_BR=written.response_BR,
        length_B=written.length_B,
        truncated_B=~written.done_B,
        logprob_BR=written.logprob_BR,
    )


def begin(
    params: Params, prefix: model.Prefix, count: int, sampler: Sampler, cfg: ModelConfig
) -> tuple[Slots, Written]:
    """Draw the first token of the first `count` responses of each shard, one in each slot.

    `prefix` comes from `hold`.
    """
    shards = sharding.data_shards()
    rows = prefix.mask_QP.shape[0] * sampler.samples
    row_SM = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (shards, count))
    owner_SM = row_SM // sampler.samples
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
    first_BD = sharding.take(prefix.last_QD, owner_SM)
    return _draw(params, first_BD, slots, written, sampler, cfg)


def _write_and_refill(
    params: Params,
    prefix: model.Prefix,
    state: tuple[Slots, Written],
    waiting: int,
    sampler: Sampler,
    cfg: ModelConfig,
) -> tuple[Slots, Written]:
    """Write column by column, and refill free slots, until no response waits."""

    def responses_wait(state: tuple[Slots, Written]) -> Array:
        return jnp.any(state[1].next_S < waiting)

    def refill_and_write(state: tuple[Slots, Written]) -> tuple[Slots, Written]:
        slots, written = refill(*state, prefix)
        hidden_BD, slots, written = _decode(params, slots, written, cfg)
        # A slot that was just refilled continues its prompt instead of its last response.
        begun_BD = sharding.take(prefix.last_QD, slots.row_SM // sampler.samples)
        begins_B = slots.start_B > slots.column
        hidden_BD = jnp.where(begins_B[:, None], begun_BD, hidden_BD)
        return _draw(params, hidden_BD, slots, written, sampler, cfg)

    # Passes of a batch of full responses; `plan` reads them from the scope.
    earlier = -(-waiting // state[0].row_SM.shape[1]) - 1
    with jax.named_scope(f"passes_{earlier * sampler.columns}"):
        return jax.lax.while_loop(responses_wait, refill_and_write, state)


def _write_and_shrink(
    params: Params,
    state: tuple[Slots, Written],
    count: int,
    waiting: int,
    sampler: Sampler,
    cfg: ModelConfig,
) -> Written:
    """Write the responses that are in slots to their ends, in fewer and fewer slots."""

    def write(state: tuple[Slots, Written]) -> tuple[Slots, Written]:
        return write_column(params, *state, sampler, cfg)

    passes = sampler.columns  # of a batch of full responses: it never shrinks
    for fewer in [*slot_counts(count)[1:], 0]:

        def more_are_live(state: tuple[Slots, Written], fewer=fewer) -> Array:
            return jnp.max(jnp.sum(state[0].row_SM < waiting, -1)) > fewer

        with jax.named_scope(f"passes_{passes}"):
            slots, written = jax.lax.while_loop(more_are_live, write, state)
        if fewer:
            slots = shrink(slots, fewer, sampler.samples, waiting, share=block.takes_places(cfg))
        state, passes = (slots, written), 0
    return state[1]


def slot_counts(count: int) -> list[int]:
    """Return how many slots per data shard there are from one move of slots to the next.

    On CPU each number is half of the one before, down to FEWEST.  On an accelerator they are the
    `ragged.coarse` ones: free slots cost less there, and compiling costs more.
    """
    if dispatch.platform() != "cpu":
        return ragged.coarse(count, FEWEST)
    counts = [count]
    while counts[-1] > FEWEST:
        counts.append(counts[-1] // 2)
    return counts


def write_column(
    params: Params, slots: Slots, written: Written, sampler: Sampler, cfg: ModelConfig
) -> tuple[Slots, Written]:
    """Write one more token of every response that is in a slot."""
    hidden_BD, slots, written = _decode(params, slots, written, cfg)
    return _draw(params, hidden_BD, slots, written, sampler, cfg)


def _decode(
    params: Params, slots: Slots, written: Written, cfg: ModelConfig
) -> tuple[Array, Slots, Written]:
    """Run the last token of every slot through the model: hidden states [B, D] and a new cache."""
    hidden_BD, cache = model.decode(
        params, slots.token_B, slots.column, slots.start_B, slots.prefix, slots.cache, cfg
    )
    written = written._replace(decoded=written.decoded + slots.token_B.shape[0])
    return hidden_BD, slots._replace(cache=cache), written


def _draw(
    params: Params,
    hidden_BD: Array,
    slots: Slots,
    written: Written,
    sampler: Sampler,
    cfg: ModelConfig,
) -> tuple[Slots, Written]:
    """Draw the next token of every slot, record it, and free the slots whose response has ended."""
    shards = slots.row_SM.shape[0]
    of_shard = written.length_B.shape[0] // shards
    column = slots.column + 1
    position_B = column - slots.start_B
    row_B = (slots.row_SM + of_shard * jnp.arange(shards)[:, None]).reshape(-1)
    stream_B = row_B
    if sampler.stream_B is not None:
        stream_B = sharding.take(sampler.stream_B, slots.row_SM)
    key_B = jax.vmap(jax.random.fold_in, (None, 0))(sampler.key, stream_B)
    key_B = jax.vmap(jax.random.fold_in)(key_B, position_B)
    logits_BV = model.logits(params, sharding.split_rows(hidden_BD), cfg)
    token_B, logprob_B = sampling.sample(logits_BV, key_B, sampler.cfg)
    done_B = jnp.isin(token_B, jnp.asarray(sampler.eos, jnp.int32))
    ended_B = done_B | (position_B + 1 == sampler.columns)
    if sampler.limit_B is not None:
        ended_B |= position_B + 1 >= sharding.take(sampler.limit_B, slots.row_SM)

    def record(x_BR: Array, value_B: Array) -> Array:
        x, position, value = (
            x.reshape(shards, -1, *x.shape[1:]) for x in (x_BR, position_B, value_B)
        )
        write = jax.vmap(
            lambda x, row, position, value: x.at[row, position].set(value, mode="drop")
        )
        return write(x, slots.row_SM, position, value).reshape(x_BR.shape)

    written = written._replace(
        response_BR=record(written.response_BR, token_B),
        logprob_BR=record(written.logprob_BR, logprob_B),
        length_B=sharding.put(written.length_B, slots.row_SM, position_B + 1),
        done_B=sharding.put(written.done_B, slots.row_SM, done_B),
    )
    row_SM = jnp.where(ended_B.reshape(shards, -1), of_shard, slots.row_SM)
    return slots._replace(column=column, row_SM=row_SM, token_B=token_B), written


def refill(slots: Slots, written: Written, prefix: model.Prefix) -> tuple[Slots, Written]:
    """Give waiting responses to free slots, each with the prefix of its prompt."""
    shards, count = slots.row_SM.shape
    of_shard = written.length_B.shape[0] // shards
    free_SM = slots.row_SM >= of_shard
    waiting_SM = written.next_S[:, None] + jnp.cumsum(free_SM, 1, dtype=jnp.int32) - 1
    taken_SM = free_SM & (waiting_SM < of_shard)
    row_SM = jnp.where(taken_SM, waiting_SM, slots.row_SM)
    start_B = jnp.where(taken_SM.reshape(-1), slots.column + 1, slots.start_B)
    taken_S = jnp.sum(taken_SM, 1, dtype=jnp.int32)
    order_SM = jnp.argsort(~taken_SM, axis=1, stable=True).astype(jnp.int32)
    samples = written.length_B.shape[0] // prefix.mask_QP.shape[0]

    def move(i: Array, moved: model.Prefix) -> model.Prefix:
        slot_S1 = jax.lax.dynamic_slice_in_dim(order_SM, i, 1, 1)
        owner_S1 = jnp.take_along_axis(row_SM, slot_S1, 1) // samples
        slot_S1 = jnp.where(i < taken_S[:, None], slot_S1, count)
        new = _take(prefix, owner_S1)
        kv = jax.tree.map(lambda x, y: sharding.put(x, slot_S1, y, model.ROWS), moved.kv, new.kv)
        mask = sharding.put(moved.mask_QP, slot_S1, new.mask_QP)
        return moved._replace(kv=kv, mask_QP=mask)

    moved = jax.lax.fori_loop(0, jnp.max(taken_S), move, slots.prefix)
    slots = slots._replace(row_SM=row_SM, start_B=start_B, prefix=moved)
    return slots, written._replace(next_S=written.next_S + taken_S)


def shrink(slots: Slots, count: int, samples: int, of_shard: int, *, share: bool) -> Slots:
    """Move the slots of each shard that still write into its first `count` slots.

    Each shard must have at most `count` such slots.  `samples` is the number of responses to a
    prompt and `of_shard` the number of responses of a shard.  Prefixes stay where they are and are
    shared, as long as they are fewer than the slots; then, or without `share`, each slot gets its
    own.
    """
    rows = slots.token_B.shape[0]
    free_SM = slots.row_SM >= of_shard
    index_SM = jnp.argsort(free_SM, axis=1, stable=True)[:, :count].astype(jnp.int32)
    row_SM = jnp.take_along_axis(slots.row_SM, index_SM, 1)
    prompts = slots.prefix.mask_QP.shape[0] // len(row_SM)  # of a shard
    if share and prompts < count:
        prefix = slots.prefix._replace(places=_places(row_SM, of_shard, samples))
    else:
        by_slot = prompts == rows // len(row_SM)
        prefix = _take(slots.prefix, index_SM if by_slot else row_SM // samples)
    return Slots(
        column=slots.column,
        row_SM=row_SM,
        start_B=sharding.take(slots.start_B, index_SM),
        token_B=sharding.take(slots.token_B, index_SM),
        prefix=prefix,
        cache=jax.tree.map(lambda x: sharding.take(x, index_SM, model.ROWS), slots.cache),
    )


def _places(row_SM: Array, of_shard: int, samples: int) -> Places:
    """Return the places of responses among all responses of their prompts."""
    shards, count = row_SM.shape
    slot_SM = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (shards, count))
    nobody_B = jnp.full(shards * of_shard, count, jnp.int32)
    slot_B = sharding.put(nobody_B, row_SM, slot_SM.reshape(-1))
    return Places(slot_B.reshape(shards, -1, samples), row_SM)


def _take(prefix: model.Prefix, owner_SM: Array) -> model.Prefix:
    """Return the prefix of each prompt in `owner_SM`, numbered within its shard."""
    return model.Prefix(
        sharding.take(prefix.last_QD, owner_SM),
        jax.tree.map(lambda x: sharding.take(x, owner_SM, model.ROWS), prefix.kv),
        sharding.take(prefix.mask_QP, owner_SM),
    )
