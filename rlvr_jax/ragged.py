"""The length-adaptive reader: it runs a model over ragged rows at the cost of their real tokens.

Rows are sorted by length and read in parts: as many rows at a time as make up `part_tokens`, padded
to the smallest of a few compiled widths that holds them.  A prompt is read once for all responses
that continue it, forward and backward.  Everything that reads goes through here:

    read_prompts    keys and values of prompts, once for each prompt
    map_rows        values of rows, forward only: reference, PRM, verifier, value head
    gradient        the gradient of a loss, summed over the parts: policy, PRM, supervised training
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import adapters, context, model, parameters, sharding
from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array, Metrics, Params, Rollout
from rlvr_kernels import dispatch

LEAST = 16  # columns of the narrowest width
COARSE_LEAST = 64  # the same on an accelerator
COARSE = (2, 4, 16, 64)  # what the longest is divided by on an accelerator

Objective = Callable[[Params, model.Prefix, "Part"], tuple[Array, tuple[Metrics, Array, Any]]]


class Gradient(NamedTuple):
    """A Gradient holds a loss and its gradient, summed over all parts, and other results."""

    grads: Params
    value: Array  # the loss
    sums: Metrics  # sums over all parts, by name
    most: Array  # the maximum over all parts of a number that the objective returned
    kept: Any  # values of rows that the objective returned
    run: Array  # int32, token positions that were run through the model, padding included


class Part(NamedTuple):
    """A Part is some rows of a batch, numbered within each of S data shards, and their width."""

    index_SM: Array  # int32; past the shard's end where the part is not full
    columns: int  # width that all rows of the part are padded to

    def pick(self, x: Array) -> Array:
        """Return the rows of this part of x, [B] or [B, R].

        Of [B, R] only the first `self.columns` columns are returned.
        """
        picked = sharding.take(x, self.index_SM)
        return picked if x.ndim == 1 else picked[:, : self.columns]

    def pick_end(self, x: Array) -> Array:
        """Return the rows of this part of left-padded prompts x [Q, P].

        Only the last `self.columns` columns are returned.
        """
        return sharding.take(x, self.index_SM)[:, -self.columns :]

    def exists(self, x_B: Array) -> Array:
        """Return [S * M] bool: the rows that exist; the last part may be partly empty."""
        return (self.index_SM < x_B.shape[0] // self.index_SM.shape[0]).reshape(-1)


def widths(whole: int) -> list[int]:
    """Return the compiled widths, widest first.

    On CPU each is half of the one before, rounded up, and none but the first is below LEAST.  On an
    accelerator they are the `coarse` ones: padding costs less there, and compiling costs more.
    Devices that share the columns divide each but the first, which is as long as it is.
    """
    if dispatch.platform() != "cpu":
        found = coarse(whole, COARSE_LEAST)
    else:
        found = [whole]
        while found[-1] > LEAST:
            found.append(max(LEAST, -(-found[-1] // 2)))
    shards = context.shards()
    even = [-(-width // shards) * shards for width in found[1:]]
    return [whole, *(width for width in dict.fromkeys(even) if width < whole)]


def coarse(whole: int, least: int) -> list[int]:
    """Return a number and its shares by COARSE, rounded up, without those below `least`."""
    shares = [-(-whole // share) for share in COARSE]
    return [whole, *(share for share in shares if least <= share < whole)]


def visit_parts(
    visit: Callable[[Any, Part], Any], carry: Any, length_B: Array, columns: int, tokens: int
) -> tuple[Any, Array]:
    """Fold `visit(carry, part) -> carry` over all parts of a batch, longest rows first.

    Rows without tokens are not visited.  On a mesh every shard sorts its own rows.  The width of a
    part is the smallest one of `widths(columns)` that holds its longest row on any shard.  A part
    has as many rows per shard as fit into `tokens` token positions, and at least one.

    Returns the last carry and the number of token positions that were visited, padding included
    (int32).
    """
    shards = sharding.data_shards()
    length_SN = length_B.reshape(shards, -1)
    rows = length_SN.shape[1]
    order_SN = jnp.argsort(-length_SN, axis=1, stable=True).astype(jnp.int32)
    sorted_SN = jnp.take_along_axis(length_SN, order_SN, 1)
    order_SN = jnp.where(sorted_SN > 0, order_SN, rows)
    longest_N = jnp.append(jnp.max(sorted_SN, 0), 0)
    state = (jnp.int32(0), jnp.int32(0), carry)
    for width, narrower in pairwise([*widths(columns), 0]):
        picked = min(rows, max(1, tokens // width))
        padded_SN = jnp.pad(order_SN, ((0, 0), (0, picked)), constant_values=rows)

        def more(state, narrower=narrower):
            return longest_N[jnp.minimum(state[0], rows)] > narrower

        def body(state, width=width, picked=picked, padded_SN=padded_SN):
            start, visited, carry = state
            index_SM = jax.lax.dynamic_slice_in_dim(padded_SN, start, picked, 1)
            carry = visit(carry, Part(index_SM, width))
            return start + picked, visited + shards * picked * width, carry

        # Passes of a batch of full rows, all at the widest width; `plan` reads the scope.
        passes = -(-rows // picked) if width == columns else 0
        with jax.named_scope(f"passes_{passes}"):
            state = jax.lax.while_loop(more, body, state)
    return state[2], state[1]


def read_prompts(
    params: Params, token_QP: Array, mask_QP: Array, cfg: ModelConfig
) -> tuple[model.Prefix, Array]:
    """Run left-padded prompts through the model, once each.

    Returns the prefixes that responses continue, and the number of token positions that were run
    through the model, padding included (int32).
    """

    def visit(carry, part):
        last_QD, kv, routed = carry
        _, read = model.prefill(params, part.pick_end(token_QP), part.pick_end(mask_QP), cfg)
        last_QD = sharding.put(last_QD, part.index_SM, read.last_QD)
        routed = jax.tree.map(
            lambda whole, new: sharding.put(whole, part.index_SM, new), routed, read.routed
        )

        def write(whole, new):
            missing = whole.shape[-2] - part.columns
            new = jnp.pad(new, [*[(0, 0)] * (new.ndim - 2), (missing, 0), (0, 0)])
            return sharding.put(whole, part.index_SM, new, model.ROWS)

        return last_QD, jax.tree.map(write, kv, read.kv), routed

    (last_QD, kv, routed), run = visit_parts(
        visit, _empty(params, mask_QP, cfg), _span(mask_QP), mask_QP.shape[1], cfg.part_tokens
    )
    return model.Prefix(last_QD, kv, mask_QP, routed), run


def map_rows(
    of_part: Callable[[Part], Any], out: Any, length_B: Array, columns: int, cfg: ModelConfig
) -> Any:
    """Compute values of rows part by part, and return `out` with these values written into it.

    Each leaf of `out` is [B] or [B, `columns`].  For it `of_part(part)` returns the values of the
    part's rows, [S * M] or [S * M, part.columns].
    """

    def visit(out, part):
        return _write(out, of_part(part), part)

    return visit_parts(visit, out, length_B, columns, cfg.part_tokens)[0]


def _write(out: Any, values: Any, part: Part) -> Any:
    """Return `out` with the values of a part's rows written into it."""

    def write(whole, new):
        if whole.ndim > 1:
            new = jnp.pad(new, ((0, 0), (0, whole.shape[1] - part.columns)))
        return sharding.put(whole, part.index_SM, new)

    return jax.tree.map(write, out, values)


def gradient(
    objective: Objective, params: Params, rollout: Rollout, cfg: ModelConfig, out: Any = ()
) -> Gradient:
    """Compute the gradient of `objective(params, prefix, part) -> value, (sums, most, kept)`.

    Over the parts, `value` and `sums` are added up and the maximum of `most` is taken; `kept` holds
    values of rows that are written into `out`, as in `map_rows`.  The gradient that reaches a
    prompt's keys and values is collected from all rows that attend to that prompt, and sent back
    through the prompt once; the prompt's forward pass is computed again for that, to save memory.

    The gradient is that of the parameters that learn (`adapters.split`).
    """
    token_QP, mask_QP = rollout.prompt_QP, rollout.prompt_mask_QP
    columns = rollout.response_BR.shape[1]
    layers = parameters.unstack(params, cfg)
    learned, frozen = adapters.split(layers, cfg)
    prefix, _ = read_prompts(layers, token_QP, mask_QP, cfg)
    length_Q = _span(mask_QP)

    def of_part(learned, seen, part):
        last_QD, kv, routed = seen
        return objective(frozen | learned, model.Prefix(last_QD, kv, mask_QP, routed), part)

    def visit(total, part):
        one = jax.value_and_grad(of_part, (0, 1), has_aux=True)(learned, seen, part)
        (value, (sums, most, kept)), grads = one
        grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
        added = jax.tree.map(jnp.add, total[:3], (grads, value, sums))
        return *added, jnp.maximum(total[3], most), _write(total[4], kept, part)

    seen = (prefix.last_QD, prefix.kv, prefix.routed)
    index = jax.ShapeDtypeStruct((sharding.data_shards(), 1), jnp.int32)
    _, (sums, most, _) = jax.eval_shape(
        lambda index: of_part(learned, seen, Part(index, min(LEAST, columns))), index
    )
    # In float32 whatever the compute dtype: these are sums over all parts.
    like = ((learned, seen), jnp.float32(0), sums, most)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), like)
    ((grads, d_seen), value, sums, most, kept), run = visit_parts(
        visit, (*zero, out), rollout.length_B, columns, cfg.part_tokens
    )

    def back(grads, part):
        token, mask = part.pick_end(token_QP), part.pick_end(mask_QP)

        def read(learned):
            _, read = model.prefill(frozen | learned, token, mask, cfg)
            return read.last_QD, read.kv, read.routed

        def wanted(x, axis):
            x = sharding.take(x, part.index_SM, axis)
            exists = part.exists(length_Q).reshape(-1, *[1] * (-axis - 1))
            return jnp.where(exists, x, 0)

        d_last, d_kv, d_routed = d_seen
        d_kv = jax.tree.map(lambda x: wanted(x, model.ROWS)[..., -part.columns :, :], d_kv)
        d_last, d_kv = jax.tree.map(lambda x: x.astype(cfg.compute), (wanted(d_last, -2), d_kv))
        d_routed = jax.tree.map(lambda x: wanted(x, -2), d_routed)
        _, pull = jax.vjp(read, learned)
        return jax.tree.map(jnp.add, grads, pull((d_last, d_kv, d_routed))[0])

    grads, again = visit_parts(back, grads, length_Q, mask_QP.shape[1], cfg.part_tokens)
    return Gradient(parameters.restack(grads), value, sums, most, kept, run + again)


def _span(mask_QP: Array) -> Array:
    """Columns from the first token of each prompt to the last column."""
    begun_QP = jnp.cumsum(mask_QP, -1) > 0
    return jnp.sum(begun_QP, -1, dtype=jnp.int32)


def _empty(params: Params, mask_QP: Array, cfg: ModelConfig):
    """Zeros of the shape of the prompts' hidden states, keys and values, and `Routed`."""
    _, shapes = jax.eval_shape(
        lambda params: model.prefill(params, mask_QP.astype(jnp.int32), mask_QP, cfg), params
    )
    seen = (shapes.last_QD, shapes.kv, shapes.routed)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), seen)
