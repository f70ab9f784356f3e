"""The two ends of the model on a mesh: tokens are looked up, and tokens are scored.

Both tables, the embedding and the output head, are [V, D].  On a mesh they are split by vocabulary
over `tensor` and by width over `fsdp`, as `sharding.RULES` says, and rows are split over `data` and
`fsdp`.  Where `context` splits the columns, it splits the width too.  The functions here work on
what each device holds and say themselves what is exchanged.  Left to XLA, both tables and their
gradients would be exchanged whole, in every part of an update.

    look_up     exchanges activations: no table, and of the table's gradient its sum over `data`
    logprob     gathers the head over `fsdp` once, and sums its gradient over these devices once

A dimension that its axes do not divide is whole on every device.  Without a mesh, and where the
axes do not divide the rows, both are the plain operations.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rlvr_jax import context, sharding
from rlvr_jax.structs import Array
from rlvr_kernels.token_logprob import Piece, piece, token_logprob


class Split(NamedTuple):
    """A Split holds the mesh axes over which the dimensions of the arrays are split.

    Axes of size 1 are left out.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    vocab: tuple[str, ...]
    width: tuple[str, ...]

    @property
    def table_VD(self) -> PartitionSpec:
        """Return the spec of a table [V, D], and of its gradient."""
        return PartitionSpec(self.vocab, self.width)

    @property
    def rest(self) -> tuple[str, ...]:
        """Return the axes that split the tokens and not the width."""
        return tuple(axis for axis in self.rows + self.columns if axis not in self.width)


class Scoring(NamedTuple):
    """A Scoring says how tokens are scored: the distribution, the kernel and the layout."""

    temperature: float
    softcap: float
    impl: str
    split: Split


def look_up(table_VD: Array, token_BT: Array, dtype) -> Array:
    """Return the rows [B, T, D] of a table that belong to tokens, cast to `dtype`."""
    split = _split(table_VD, token_BT)
    token_BT = jnp.clip(token_BT, 0, table_VD.shape[0] - 1)
    return _look_up(table_VD, token_BT, jnp.dtype(dtype), split)


def logprob(
    hidden_BTD: Array,
    head_VD: Array,
    token_BT: Array,
    temperature: float,
    softcap: float,
    impl: str,
) -> tuple[Array, Array]:
    """Return log-probs and entropies as `rlvr_kernels.token_logprob` does, whatever the mesh.

    Each device scores the tokens of its own rows against its own piece of the vocabulary.  The
    pieces are put together by a maximum and sums over the devices that share the rows.  No array
    holds the logits of all columns, and a backward pass computes them again.
    """
    split = _split(head_VD, token_BT)
    if split is None:
        return token_logprob(hidden_BTD, head_VD, token_BT, temperature, softcap, impl=impl)
    return _logprob(hidden_BTD, head_VD, token_BT, Scoring(temperature, softcap, impl, split))


def _split(table_VD: Array, token_BT: Array) -> Split | None:
    """Return how the ambient mesh splits these arrays; None where they are not to be split."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or token_BT.shape[0] % sharding.data_shards():
        return None

    def divided(letter: str, size: int, more: tuple[str, ...] = ()) -> tuple[str, ...]:
        axes = tuple(axis for axis in sharding.RULES[letter] + more if mesh.shape[axis] > 1)
        return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()

    (rows, length), (vocab, width) = token_BT.shape, table_VD.shape
    over = context.axes(length)
    return Split(divided("B", rows), over, divided("V", vocab), divided("D", width, over))


def _per_device(op, split: Split, dims_in: str, dims_out: str):
    """Return `op` as a function that runs on each device, on the part of the arrays that is there.

    Of an array, B is split as rows, T as columns, V as vocabulary and W as width; D is whole.
    """
    axes = {"B": split.rows, "T": split.columns, "V": split.vocab, "W": split.width}

    def specs(dims: str):
        return tuple(PartitionSpec(*(axes.get(x) for x in word)) for word in dims.split())

    outs = specs(dims_out)
    return jax.shard_map(
        op,
        in_specs=specs(dims_in),
        out_specs=outs if len(outs) > 1 else outs[0],
        check_vma=False,
    )


def _own_words(table_VD: Array, token_BT: Array, split: Split) -> Array:
    """Return tokens as numbers of rows of this device's piece of a table.

    A token of another piece is negative or not below the number of rows.
    """
    return token_BT - jax.lax.axis_index(split.vocab) * table_VD.shape[0]


# -- looking up ------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _look_up(table_VD: Array, token_BT: Array, dtype, split: Split | None) -> Array:
    """Look up; the width of the table's rows is put together by an exchange of activations.

    Each device looks up the tokens of all devices with which it shares a row of the table, in the
    width that it holds, and gives each of them its own.
    """
    if split is None:
        return context.split(table_VD[token_BT].astype(dtype))

    def local(table_VW: Array, token_BT: Array) -> Array:
        own_BT = _own_words(table_VW, _rows_of_all(token_BT, split), split)
        here_BT = (own_BT >= 0) & (own_BT < table_VW.shape[0])
        x_BTW = table_VW.at[own_BT].get(mode="clip").astype(dtype)
        x_BTW = jax.lax.psum(jnp.where(here_BT[..., None], x_BTW, 0), split.vocab)
        if not split.width:
            return x_BTW
        return jax.lax.all_to_all(x_BTW, split.width, 0, 2, tiled=True)

    return _per_device(local, split, "VW BT", "BTD")(table_VD, token_BT)


def _look_up_forward(table_VD: Array, token_BT: Array, dtype, split: Split | None):
    return _look_up(table_VD, token_BT, dtype, split), (table_VD, token_BT)


def _look_up_backward(dtype, split: Split | None, saved, d_BTD: Array):
    """Return the gradient of the table, in the dtype of the table; sums are float32.

    A sum in bfloat16 stops at 256 times its terms, which a frequent token soon reaches.
    """
    table_VD, token_BT = saved

    def add_up(table_VW: Array, own_BT: Array, d_BTW: Array) -> Array:
        zero_VW = jnp.zeros(table_VW.shape, jnp.float32)
        return zero_VW.at[own_BT].add(d_BTW.astype(jnp.float32), mode="drop")

    if split is None:
        d_VD = add_up(table_VD, token_BT, context.split(d_BTD))
        return d_VD.astype(table_VD.dtype), None

    def local(table_VW: Array, token_BT: Array, d_BTD: Array) -> Array:
        d_BTW = d_BTD
        if split.width:
            d_BTW = jax.lax.all_to_all(d_BTD, split.width, 2, 0, tiled=True)
        own_BT = _own_words(table_VW, _rows_of_all(token_BT, split), split)
        # A negative number would count from the end.
        own_BT = jnp.where(own_BT < 0, table_VW.shape[0], own_BT)
        d_VW = jax.lax.psum(add_up(table_VW, own_BT, d_BTW), split.rest)
        return d_VW.astype(table_VW.dtype)

    return _per_device(local, split, "VW BT BTD", "VW")(table_VD, token_BT, d_BTD), None


_look_up.defvjp(_look_up_forward, _look_up_backward)


def _rows_of_all(token_BT: Array, split: Split) -> Array:
    """Return the tokens of all devices that hold another width of the same rows of the table."""
    if not split.width:
        return token_BT
    return jax.lax.all_gather(token_BT, split.width, tiled=True)


# -- scoring ---------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _logprob(hidden_BTD: Array, head_VD: Array, token_BT: Array, how: Scoring):
    return _logprob_forward(hidden_BTD, head_VD, token_BT, how)[0]


def _logprob_forward(hidden_BTD: Array, head_VD: Array, token_BT: Array, how: Scoring):
    """Return log-probs and entropies, and what the backward pass needs.

    With L the log-sum-exp over a piece of the vocabulary, E the entropy within it and w = exp(L -
    log-sum-exp over all pieces) its share of the probability, the entropy over all pieces is
    sum(w (E - log w)), and the log-prob of a token is that within its piece plus log w.
    """
    split = how.split

    def local(hidden_BTD: Array, head_VW: Array, token_BT: Array):
        head_VD = _whole_width(head_VW, split)
        own_BT = _own_words(head_VD, token_BT, split)
        of_piece: Piece = piece(how.impl)
        logprob_BT, total_BT, entropy_BT = of_piece.measure(
            hidden_BTD, head_VD, own_BT, how.temperature, how.softcap
        )
        high_BT = jax.lax.pmax(total_BT, split.vocab)
        sum_BT = jax.lax.psum(jnp.exp(total_BT - high_BT), split.vocab)
        all_BT = high_BT + jnp.log(sum_BT)
        share_BT = total_BT - all_BT  # log w
        here_BT = (own_BT >= 0) & (own_BT < head_VD.shape[0])
        logprob_BT, entropy_BT = jax.lax.psum(
            (
                jnp.where(here_BT, logprob_BT + share_BT, 0.0),
                jnp.exp(share_BT) * (entropy_BT - share_BT),
            ),
            split.vocab,
        )
        return logprob_BT, entropy_BT, all_BT, head_VD

    run = _per_device(local, split, "BTD VW BT", "BT BT BT VD")
    logprob_BT, entropy_BT, all_BT, whole_VD = run(hidden_BTD, head_VD, token_BT)
    saved = (hidden_BTD, whole_VD, token_BT, all_BT, entropy_BT)
    return (logprob_BT, entropy_BT), saved


def _logprob_backward(how: Scoring, saved, cotangent: tuple[Array, Array]):
    """Return the gradients of hidden states and head; that of the head is summed once."""
    split = how.split

    def local(hidden_BTD, head_VD, token_BT, all_BT, entropy_BT, *cotangent):
        own_BT = _own_words(head_VD, token_BT, split)
        of_piece: Piece = piece(how.impl)
        args = (hidden_BTD, head_VD, own_BT, all_BT, entropy_BT, *cotangent)
        d_hidden_BTD, d_head_VD = of_piece.pull(*args, how.temperature, how.softcap)
        if split.width:
            d_head_VD = jax.lax.psum_scatter(
                d_head_VD, split.width, scatter_dimension=1, tiled=True
            )
        return jax.lax.psum(d_hidden_BTD, split.vocab), jax.lax.psum(d_head_VD, split.rest)

    run = _per_device(local, split, "BTD VD BT BT BT BT BT", "BTD VW")
    return *run(*saved, *cotangent), None


_logprob.defvjp(_logprob_forward, _logprob_backward)


def _whole_width(head_VW: Array, split: Split) -> Array:
    """Return the head with its width gathered from the devices that hold another part of it."""
    if not split.width:
        return head_VW
    return jax.lax.all_gather(head_VW, split.width, axis=1, tiled=True)
