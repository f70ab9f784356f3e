"""Reading what was written, at the cost of its real tokens.

Rows are sorted by length and read in parts: as many rows at a time as make up `part_tokens`, in the
fewest columns, of a few compiled widths, that hold them.  A prompt is read once for all rows that
continue it, forward and backward.  Policy, reference and verifier read this way, and gradients are
summed this way.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import model, parameters, sharding
from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array, Metrics, Params, Rollout

LEAST = 16  # columns of the narrowest width

Objective = Callable[[Params, model.Prefix, "Part"], tuple[Array, tuple[Metrics, Array, Any]]]


class Gradient(NamedTuple):
    """What is known when every part has been read, forward and backward."""

    grads: Params
    value: Array
    sums: Metrics
    most: Array  # a maximum
    kept: Any  # values of rows
    run: Array  # row-columns


class Part(NamedTuple):
    """Rows of a batch, numbered within each of S data shards, and how many columns hold them."""

    index_SM: Array  # int32; past the shard's end where the part is not full
    columns: int

    def pick(self, x: Array) -> Array:
        """These rows of x, of which the first columns."""
        picked = sharding.take(x, self.index_SM)
        return picked if x.ndim == 1 else picked[:, : self.columns]

    def pick_end(self, x: Array) -> Array:
        """These rows of x, of which the last columns (left-padded prompts)."""
        return sharding.take(x, self.index_SM)[:, -self.columns :]

    def exists(self, x_B: Array) -> Array:
        """[S * M] bool: which rows of the part there are."""
        return (self.index_SM < x_B.shape[0] // self.index_SM.shape[0]).reshape(-1)


def widths(columns: int) -> list[int]:
    """The compiled widths, from the widest down: halves."""
    found = [columns]
    while found[-1] > LEAST:
        found.append(max(LEAST, -(-found[-1] // 2)))
    return found


def each(
    visit: Callable[[Any, Part], Any], carry: Any, length_B: Array, columns: int, tokens: int
) -> tuple[Any, Array]:
    """`carry` after a visit of every part, longest rows first, and the row-columns visited.

    Rows without tokens are not visited.  On a mesh every shard sorts its own rows, and a part is as
    wide as its longest row on any of them.
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

        state = jax.lax.while_loop(more, body, state)
    return state[2], state[1]


def prompts(
    params: Params, token_QP: Array, mask_QP: Array, cfg: ModelConfig
) -> tuple[model.Prefix, Array]:
    """What rows that continue these (left-padded) prompts need of them, and the row-columns run."""
    last_QD, kv = _empty(params, mask_QP, cfg)

    def visit(carry, part):
        last_QD, kv = carry
        _, read = model.prefill(params, part.pick_end(token_QP), part.pick_end(mask_QP), cfg)
        last_QD = sharding.put(last_QD, part.index_SM, read.last_QD)

        def write(whole, new):
            missing = whole.shape[-2] - part.columns
            new = jnp.pad(new, [*[(0, 0)] * (new.ndim - 2), (missing, 0), (0, 0)])
            return sharding.put(whole, part.index_SM, new, model.ROWS)

        return last_QD, jax.tree.map(write, kv, read.kv)

    (last_QD, kv), run = each(
        visit, (last_QD, kv), _span(mask_QP), mask_QP.shape[1], cfg.part_tokens
    )
    return model.Prefix(last_QD, kv, mask_QP), run


def rows(
    of_part: Callable[[Part], Any], out: Any, length_B: Array, columns: int, cfg: ModelConfig
) -> tuple[Any, Array]:
    """Values of rows, computed part by part and put into `out`, and the row-columns run.

    `of_part(part)` gives values [S * M] or [S * M, columns] for the leaves of `out`.
    """

    def visit(out, part):
        return _write(out, of_part(part), part)

    return each(visit, out, length_B, columns, cfg.part_tokens)


def _write(out: Any, values: Any, part: Part) -> Any:
    """`out` with the values of a part's rows."""

    def write(whole, new):
        if whole.ndim > 1:
            new = jnp.pad(new, ((0, 0), (0, whole.shape[1] - part.columns)))
        return sharding.put(whole, part.index_SM, new)

    return jax.tree.map(write, out, values)


def gradient(
    objective: Objective, params: Params, rollout: Rollout, cfg: ModelConfig, out: Any = ()
) -> Gradient:
    """Gradient of `objective(params, prefix, part) -> value, (sums, most, kept)` over all parts.

    Values and sums are added up, of most the maximum is taken, and what is kept of the rows is put
    into `out`, as in `rows`.  A prompt's share of the gradient is collected from the rows that saw
    it and sent back through it once; its forward pass is computed again for that instead of kept.
    """
    token_QP, mask_QP = rollout.prompt_QP, rollout.prompt_mask_QP
    columns = rollout.response_BR.shape[1]
    layers = parameters.unstack(params, cfg)
    prefix, _ = prompts(layers, token_QP, mask_QP, cfg)
    length_Q = _span(mask_QP)

    def of_part(layers, seen, part):
        last_QD, kv = seen
        return objective(layers, model.Prefix(last_QD, kv, mask_QP), part)

    def visit(total, part):
        one = jax.value_and_grad(of_part, (0, 1), has_aux=True)(layers, seen, part)
        (value, (sums, most, kept)), grads = one
        grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
        added = jax.tree.map(jnp.add, total[:3], (grads, value, sums))
        return *added, jnp.maximum(total[3], most), _write(total[4], kept, part)

    seen = (prefix.last_QD, prefix.kv)
    index = jax.ShapeDtypeStruct((sharding.data_shards(), 1), jnp.int32)
    _, (sums, most, _) = jax.eval_shape(
        lambda index: of_part(layers, seen, Part(index, min(LEAST, columns))), index
    )
    # In float32 whatever the compute dtype: these are sums over all parts.
    like = ((layers, seen), jnp.float32(0), sums, most)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), like)
    ((grads, d_seen), value, sums, most, kept), run = each(
        visit, (*zero, out), rollout.length_B, columns, cfg.part_tokens
    )

    def back(grads, part):
        token, mask = part.pick_end(token_QP), part.pick_end(mask_QP)

        def read(layers):
            _, read = model.prefill(layers, token, mask, cfg)
            return read.last_QD, read.kv

        def wanted(x, axis):
            x = sharding.take(x, part.index_SM, axis)
            exists = part.exists(length_Q).reshape(-1, *[1] * (-axis - 1))
            return jnp.where(exists, x, 0).astype(cfg.compute)

        d_kv = jax.tree.map(lambda x: wanted(x, model.ROWS)[..., -part.columns :, :], d_seen[1])
        _, pull = jax.vjp(read, layers)
        return jax.tree.map(jnp.add, grads, pull((wanted(d_seen[0], -2), d_kv))[0])

    grads, again = each(back, grads, length_Q, mask_QP.shape[1], cfg.part_tokens)
    return Gradient(parameters.restack(grads), value, sums, most, kept, run + again)


def _span(mask_QP: Array) -> Array:
    """Columns from the first that exists to the last of all."""
    begun_QP = jnp.cumsum(mask_QP, -1) > 0
    return jnp.sum(begun_QP, -1, dtype=jnp.int32)


def _empty(params: Params, mask_QP: Array, cfg: ModelConfig):
    """Zeros where prompts that have not been read will stand."""
    _, shapes = jax.eval_shape(
        lambda params: model.prefill(params, mask_QP.astype(jnp.int32), mask_QP, cfg), params
    )
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes.last_QD, shapes.kv))
