"""Columns of rows that several devices share: the mesh axis `context`.

Where one device does not hold a row, its columns are split over `context` while it is read and
learned from, each device with adjacent ones.  Everything but attention works on the columns that
are there.  In attention each device has its own queries, and gathers the keys and values of all of
them (Llama 3, arXiv 2407.21783, section 3.3.2); backward, their gradients are summed and scattered.
Token ids, masks and log-probs [B, T] are small, and whole wherever XLA wants them to be.

Columns that the axis does not divide are whole on every device, and computed by each.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rlvr_jax import sharding
from rlvr_jax.structs import Array

AXIS = "context"


def shards() -> int:
    """Return the size of the axis `context` of the ambient mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[AXIS]


def axes(columns: int) -> tuple[str, ...]:
    """Return the mesh axes that split so many columns: none, or the axis `context`."""
    return (AXIS,) if shards() > 1 and columns % shards() == 0 else ()


def split(x_BTD: Array) -> Array:
    """Return an array with its rows split over the data axes and its columns over `context`.

    XLA decides about the other dimensions.
    """
    names = axes(x_BTD.shape[1])
    if not names:
        return sharding.split_rows(x_BTD)
    free = (PartitionSpec.UNCONSTRAINED,) * (x_BTD.ndim - 2)
    return jax.lax.with_sharding_constraint(x_BTD, PartitionSpec(sharding.ROWS, names, *free))


def pad_front(x_BT: Array, beside: int) -> Array:
    """Return token columns with zeros in front, so that the axis divides them and those beside."""
    missing = -(x_BT.shape[1] + beside) % shards()
    return jnp.pad(x_BT, ((0, 0), (missing, 0))) if missing else x_BT


def shift(first_BD: Array, x_BTD: Array) -> Array:
    """Return the columns moved on by one, with a new first column, and without the last."""
    names = axes(x_BTD.shape[1])
    if not names:
        return jnp.concatenate([first_BD[:, None], x_BTD[:, :-1]], axis=1)

    def local(first_BD: Array, x_BTD: Array) -> Array:
        to_next = [(i, i + 1) for i in range(count - 1)]
        before_B1D = jax.lax.ppermute(x_BTD[:, -1:], AXIS, to_next)
        begins = jax.lax.axis_index(AXIS) == 0
        before_B1D = jnp.where(begins, first_BD[:, None], before_B1D)
        return jnp.concatenate([before_B1D, x_BTD[:, :-1]], axis=1)

    rows, count = _rows(x_BTD), shards()
    of_columns = PartitionSpec(rows, names)
    return _per_device(local, (PartitionSpec(rows), of_columns), of_columns)(first_BD, x_BTD)


def attend(op, q_BTNH: Array, pieces, exists_BS: Array, window_BTS: tuple[Array, ...]) -> Array:
    """Return attention [B, T, N, H] of queries whose columns are split over `context`.

    `pieces` are the keys and values [B, columns, K, H] that are read, in their order; the last are
    those of the queries' own columns.  `op(q, k, v, exists, *window, share=...)` gets the queries
    of a device, all keys and values, and which share of the queries these are, of how many.
    """
    count = shards()

    def local(q_BTNH: Array, pieces, exists_BS: Array, window_BTS: tuple[Array, ...]) -> Array:
        gathered = [
            [jax.lax.all_gather(x, AXIS, axis=1, tiled=True) if names else x for x in piece]
            for piece, names in zip(pieces, split_over, strict=True)
        ]
        k_BSKH, v_BSKH = (jnp.concatenate(of, 1) for of in zip(*gathered, strict=True))
        share = (jax.lax.axis_index(AXIS), count)
        return op(q_BTNH, k_BSKH, v_BSKH, exists_BS, *window_BTS, share=share)

    split_over = [axes(k_BSKH.shape[1]) for k_BSKH, _ in pieces]
    rows, kv_heads = _rows(q_BTNH), pieces[0][0].shape[2]
    heads = () if kv_heads % sharding.tensor_shards() else sharding.RULES["N"]
    of_columns = PartitionSpec(rows, AXIS)
    of_pieces = [(PartitionSpec(rows, names, heads),) * 2 for names in split_over]
    whole = PartitionSpec(rows)
    specs = (PartitionSpec(rows, AXIS, heads), of_pieces, whole, (of_columns,) * len(window_BTS))
    run = _per_device(local, specs, specs[0])
    return run(q_BTNH, list(pieces), exists_BS, window_BTS)


def _rows(x: Array) -> tuple[str, ...]:
    """Return the axes that split the rows of an array; none if they do not divide them."""
    return () if x.shape[0] % sharding.data_shards() else sharding.ROWS


def _per_device(op, specs_in, spec_out):
    return jax.shard_map(op, in_specs=specs_in, out_specs=spec_out, check_vma=False)
