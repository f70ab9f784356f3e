"""The forward passes of the transformer: pure functions on a flat dict of parameters.

A sequence is read in two parts.  `prefill` reads a prefix once.  `extend` continues the prefix
with any number of rows that share it, such as the G samples of a prompt.  `decode` is `extend`
for one column, with a cache.  All three call the same layer code, so that sampler and trainer
compute the same function; their results may differ by rounding.

`parameters.py` holds names and layouts of the parameters, `block.py` one layer.

The layers are stacked and scanned, so that compile time does not grow with depth.  With
`cfg.unroll` they are unrolled instead, and per-layer values are tuples with an entry for each
layer.  Unrolled is faster on CPU, where a scan copies the weights and gradients of each layer out
of the stack and back.  A base held as int8 is scanned always (`parameters.unrolls`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import block, kv_cache, parameters, positions, routing, sharding, vocabulary
from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array, Params
from rlvr_kernels.decode_attention import Places
from rlvr_kernels.token_logprob import earned

# Keys and values [rows, K, columns, H], or in decoding what `kv_cache.hold` makes of them.
# Unrolled: one pair for each layer.  Scanned: a single pair with a layer dimension in front.
Layers = tuple[kv_cache.Held, ...]
ROWS = -4  # the row dimension of keys, values and scales, with or without a layer dimension


class Prefix(NamedTuple):
    """A Prefix holds what later columns need of Q prefixes that `prefill` has read."""

    last_QD: Array  # hidden state of the last column; the next token is predicted from it
    kv: Layers  # keys and values [Q, K, P, H], with a layer dimension in front unless unrolled
    mask_QP: Array  # bool, which columns exist
    routed: routing.Routed | None = None  # of the columns that exist; None: no mixture of experts
    places: Places | None = None  # of the rows of `decode`; None: B / Q adjacent rows share one


def prefill(
    params: Params, token_QP: Array, mask_QP: Array, cfg: ModelConfig
) -> tuple[Array, Prefix]:
    """Return the hidden states [Q, P, D] of Q prefixes, and the `Prefix` for `extend` and `decode`.

    `mask_QP` says which columns exist.  Padding may stand anywhere, usually on the left, but not in
    the last column where `Prefix.last_QD` is used: that is the hidden state of the last column.
    """
    position_QP = positions.from_mask(mask_QP)
    window_QTS = positions.windows(position_QP, position_QP, cfg)
    cos_sin_QP = positions.cos_sin(position_QP, cfg)

    def run_layer(x_QPD, inputs):
        w, _, kind = inputs

        def attend(q_QTNH, k_QPKH, v_QPKH):
            window = positions.window_of_kind(window_QTS, kind)
            heads = block.attend_columns(q_QTNH, [(k_QPKH, v_QPKH)], mask_QP, window, cfg)
            return heads, (k_QPKH.swapaxes(1, 2), v_QPKH.swapaxes(1, 2))

        x_QPD, kv, routed = block.layer(x_QPD, w, cos_sin_QP[kind], attend, cfg, mask_QP)
        return x_QPD, (kv, routed)

    nothing = ((),) * cfg.layers
    x_QPD, kept = _run_layers(run_layer, block.embed(params, token_QP, cfg), params, nothing, cfg)
    hidden_QPD = block.rms_norm(x_QPD, params["norm_D"], cfg)
    kv, routed = zip(*kept, strict=True)
    return hidden_QPD, Prefix(hidden_QPD[:, -1], kv, mask_QP, _over_layers(routed, params, cfg))


def extend(
    params: Params,
    token_BR: Array,
    mask_BR: Array,
    prefix: Prefix,
    owner_SM: Array,
    cfg: ModelConfig,
) -> Array:
    """Return the hidden states [B, R, D] of rows that continue prefixes.

    `owner_SM` gives the prefix of each row: its number within the data shard, for S shards of M
    rows each.
    """
    return extend_and_count(params, token_BR, mask_BR, prefix, owner_SM, cfg)[0]


def extend_and_count(
    params: Params,
    token_BR: Array,
    mask_BR: Array,
    prefix: Prefix,
    owner_SM: Array,
    cfg: ModelConfig,
) -> tuple[Array, routing.Routed | None]:
    """Return what `extend` does, and where a mixture of experts sends the tokens of the rows.

    The second result is of the new columns only, without the prefix; None for another model.
    """
    rows = (token_BR, mask_BR)
    hidden_BRD, _, routed = _continue(params, rows, prefix, owner_SM, cfg, keep=False)
    return hidden_BRD, routed


def lengthen(
    params: Params,
    token_BR: Array,
    mask_BR: Array,
    prefix: Prefix,
    owner_SM: Array,
    cfg: ModelConfig,
) -> Prefix:
    """Return the prefixes of B rows that continue prefixes; the arguments are those of `extend`.

    What the rows have in common is read once, in `prefix`; only the new columns are run through the
    model.  The last column must exist.
    """
    rows = (token_BR, mask_BR)
    hidden_BRD, new, _ = _continue(params, rows, prefix, owner_SM, cfg, keep=True)

    def join(old: Array, new: Array) -> Array:
        return jnp.concatenate([sharding.take(old, owner_SM, ROWS), new], -2)

    mask_BS = jnp.concatenate([sharding.take(prefix.mask_QP, owner_SM), mask_BR], 1)
    return Prefix(hidden_BRD[:, -1], jax.tree.map(join, prefix.kv, new), mask_BS)


def _continue(
    params: Params,
    rows: tuple[Array, Array],
    prefix: Prefix,
    owner_SM: Array,
    cfg: ModelConfig,
    *,
    keep: bool,
) -> tuple[Array, Any, routing.Routed | None]:
    """Run rows (tokens and mask, [B, R]) that continue prefixes through the model.

    Returns their hidden states, with `keep` their keys and values in the form of `Layers`, and
    where a mixture of experts sends their tokens.
    """
    token_BR, mask_BR = rows
    prefix_mask_BP = sharding.take(prefix.mask_QP, owner_SM)
    mask_BS = jnp.concatenate([prefix_mask_BP, mask_BR], 1)
    position_BS = positions.from_mask(mask_BS)
    position_BR = position_BS[:, prefix_mask_BP.shape[1] :]
    window_BTS = positions.windows(position_BR, position_BS, cfg)
    cos_sin_BR = positions.cos_sin(position_BR, cfg)

    def run_layer(x_BRD, inputs):
        w, prefix_kv, kind = inputs

        def attend(q_BTNH, *new_kv):
            k_BPKH, v_BPKH = (sharding.take(x, owner_SM).swapaxes(1, 2) for x in prefix_kv)
            pieces = [(k_BPKH, v_BPKH), new_kv]
            window = positions.window_of_kind(window_BTS, kind)
            heads = block.attend_columns(q_BTNH, pieces, mask_BS, window, cfg)
            return heads, tuple(x.swapaxes(1, 2) for x in new_kv) if keep else None

        x_BRD, kept, routed = block.layer(x_BRD, w, cos_sin_BR[kind], attend, cfg, mask_BR)
        return x_BRD, (kept, routed)

    embedded_BRD = block.embed(params, token_BR, cfg)
    x_BRD, kept = _run_layers(run_layer, embedded_BRD, params, prefix.kv, cfg)
    kv, routed = zip(*kept, strict=True)
    return block.rms_norm(x_BRD, params["norm_D"], cfg), kv, _over_layers(routed, params, cfg)


def empty_cache(prefix: Prefix, rows: int, columns: int) -> Layers:
    """Return a zero cache for `decode`, with room for at least `columns` columns of each row.

    More than 64 columns are rounded up to a multiple of 64, and more than 256 to a multiple of 256,
    since `decode_attention` reads the cache in whole chunks.
    """
    step = 64 if columns <= 256 else 256
    columns = columns if columns <= 64 else -(-columns // step) * step
    return tuple(kv_cache.empty(held, rows, columns) for held in prefix.kv)


def decode(
    params: Params,
    token_B: Array,
    column: Array,
    start_B: Array,
    prefix: Prefix,
    cache: Layers,
    cfg: ModelConfig,
) -> tuple[Array, Layers]:
    """Return the hidden states [B, D] of one new token per row, and the cache with that token.

    `column` counts the calls of the decoding loop.  The cache is a ring: the token of loop column c
    is stored in cache column c modulo the size of the cache.  A row sees its prefix and its own
    tokens since loop column `start_B`.  Rows that share a prefix must be adjacent, unless the
    prefix has `places`.  `params` come
    from `parameters.for_decoding`.
    """
    rows, ring = token_B.shape[0], cache[0][0].shape[-2]
    mask_BP = _of_rows(prefix.mask_QP, rows, prefix.places)
    written_B1 = (column - start_B)[:, None]  # tokens of the row before this one
    age_1S = ((column - jnp.arange(ring)) % ring)[None]  # how many columns ago it was written
    position_B1 = mask_BP.sum(-1, keepdims=True) + written_B1
    window_B1S = positions.windows(position_B1, position_B1 - age_1S, cfg)
    window_B1P = positions.windows(position_B1, positions.from_mask(mask_BP), cfg)
    cos_sin_B1 = positions.cos_sin(position_B1, cfg)

    def run_layer(x_B1D, w, kind, prefix_kv, cache_kv, layer):
        """Of prefix and cache all layers are given, or one alone without a layer dimension."""
        alone = cache_kv[0].ndim == 4

        def attend(q_BTNH, *new_kv):
            heads_first = tuple(x.swapaxes(1, 2) for x in new_kv)
            kept = kv_cache.write(cache_kv, heads_first, column % ring, layer)
            held, shared = kept, prefix_kv
            if alone:
                held, shared = jax.tree.map(lambda x: x[None], (held, shared))
            own = (*held[:2], _visible(age_1S <= written_B1, window_B1S, kind))
            prefixes = (*shared[:2], _visible(mask_BP, window_B1P, kind))
            rest = (layer, prefix.places, kv_cache.scales_of(held, shared))
            heads_BNH = block.attend_cache(q_BTNH[:, 0], own, prefixes, rest, cfg)
            return heads_BNH[:, None], kept

        x_B1D, kept, _ = block.layer(x_B1D, w, cos_sin_B1[kind], attend, cfg)
        return x_B1D, kept

    x_B1D = block.embed(params, token_B[:, None], cfg)
    kept = []
    if cfg.unroll:
        run_layer = jax.jit(run_layer)  # traced once for all layers
        layers = _each_layer(params, prefix.kv, cfg)
        for (w, prefix_kv, kind), cache_kv in zip(layers, cache, strict=True):
            x_B1D, cache_kv = run_layer(x_B1D, w, kind, prefix_kv, cache_kv, jnp.int32(0))
            kept.append(cache_kv)
    else:
        # The cache is carried, not scanned over: a scanned output would copy all of it per token.
        # Nor is the prefix scanned over: a kernel would be given a copy of its layer.
        def scanned(carry, inputs):
            x_B1D, cache_kv, layer = carry
            w, _, kind = inputs
            x_B1D, cache_kv = run_layer(x_B1D, w, kind, prefix.kv[0], cache_kv, layer)
            return (x_B1D, cache_kv, layer + 1), None

        carry = (x_B1D, cache[0], jnp.int32(0))
        layers = _stacked_layers(params, ((),), cfg)
        (x_B1D, cache_kv, _), _ = jax.lax.scan(scanned, carry, layers)
        kept.append(cache_kv)
    return block.rms_norm(x_B1D[:, 0], params["norm_D"], cfg), tuple(kept)


def _of_rows(x_QP: Array, rows: int, places: Places | None) -> Array:
    """Return what the prefix of each row has."""
    if places is None:
        return jnp.repeat(x_QP, rows // x_QP.shape[0], axis=0)
    return sharding.take(x_QP, places.place_ZM // places.row_ZQG.shape[2])


def logits(params: Params, hidden_D: Array, cfg: ModelConfig) -> Array:
    """Return the logits [..., V] of hidden states, in float32 whatever the compute dtype.

    `logit_softcap` bounds them to both sides (Gemma 2, arXiv 2408.00118, section 2).
    """
    with jax.named_scope("head"):
        prepared = "head_DV" in params
        head_DV = params["head_DV"] if prepared else parameters.output_head(params, cfg).T
        logits_V = jnp.matmul(hidden_D, head_DV, preferred_element_type=jnp.float32)
        cap = cfg.logit_softcap
        return cap * jnp.tanh(logits_V / cap) if cap else logits_V


def value(params: Params, hidden_D: Array) -> Array:
    """Return the value head's prediction [...] for hidden states [..., D], in float32.

    The value is linear in the hidden state from which the next token is predicted.
    """
    with jax.named_scope("value_head"):
        return jnp.matmul(hidden_D.astype(jnp.float32), params["value_D"])


def logprob(
    params: Params, hidden_BTD: Array, token_BT: Array, temperature: float, cfg: ModelConfig
) -> tuple[Array, Array]:
    """Return log-probs [B, T] of tokens and entropies [B, T], given the hidden states before them.

    Both belong to softmax(logits / temperature) and are float32.
    """
    impl = block.kernel_name(cfg, earned(cfg.width), tpu="pallas_tpu", gpu="pallas_gpu")

    with jax.named_scope("head"):
        head_VD = parameters.output_head(params, cfg)
        return vocabulary.logprob(
            hidden_BTD, head_VD, token_BT, temperature, cfg.logit_softcap, impl
        )


def _run_layers(run_layer, x_BTD: Array, params: Params, given: tuple[Any, ...], cfg: ModelConfig):
    """Return x after all layers, and what `run_layer(x, (weights, given, kind))` kept of each.

    `given` has what a layer takes besides x and its weights, in the form of `Layers`.
    """
    run_layer = jax.checkpoint(run_layer) if cfg.remat else run_layer
    if not parameters.unrolls(params, cfg):
        x_BTD, kept = jax.lax.scan(run_layer, x_BTD, _stacked_layers(params, given, cfg))
        return x_BTD, (kept,)
    all_kept, run_layer = [], jax.jit(run_layer)  # traced once for all layers
    for inputs in _each_layer(params, given, cfg):
        x_BTD, kept = run_layer(x_BTD, inputs)
        all_kept.append(kept)
    return x_BTD, tuple(all_kept)


def _over_layers(routed: tuple[routing.Routed | None, ...], params: Params, cfg: ModelConfig):
    """Return the sum over the layers of what `_run_layers` kept of each."""
    total = jax.tree.map(lambda *layers: sum(layers), *routed)
    unrolled = parameters.unrolls(params, cfg)
    return total if unrolled else jax.tree.map(lambda x: jnp.sum(x, 0), total)


def _stacked_layers(params: Params, given: tuple[Any, ...], cfg: ModelConfig):
    """Return (weights in compute dtype, given, kind), each stacked over the layers for a scan."""
    stacked = {name: x for name, x in params.items() if parameters.is_stacked(name)}
    kinds = jnp.array(positions.layer_kinds(cfg), jnp.int32)
    return parameters.cast(stacked, cfg), given[0], kinds


def _each_layer(params: Params, given: tuple[Any, ...], cfg: ModelConfig):
    """Yield (weights in compute dtype, given, kind) of one layer after the other."""
    stacked = [name for name in params if parameters.is_stacked(name)]
    for i, kind in enumerate(positions.layer_kinds(cfg)):
        yield parameters.cast({name: params[name][i] for name in stacked}, cfg), given[i], kind


def _visible(exists_BS: Array, window_B1S: positions.Windows, kind: Array) -> Array:
    """Return which columns [B, S] the single query of each row sees, in a layer of that kind."""
    for mask_B1S in positions.window_of_kind(window_B1S, kind):
        exists_BS = exists_BS & mask_B1S[:, 0]
    return exists_BS
