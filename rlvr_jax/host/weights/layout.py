"""The layout of weights files: a table of each parameter's tensors, and conversion by that table.

A `Place` says where a parameter lies: a tensor name and the dimensions of the tensor.  If each
layer has a tensor of its own, the name contains `{L}`; if each expert has one, `{E}`.  Dimensions
are strings of this code base's letters: `("NH", "D")` is a matrix whose rows run over heads (N)
and, within a head, over its components (H).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rlvr_jax import sharding
from rlvr_jax.config import ModelConfig


class Place(NamedTuple):
    """A `Place` is the name and the dimensions of the tensor, or tensors, of a parameter."""

    tensor: str
    dims: tuple[str, ...]


Slices = tuple[slice, ...]
Read = Callable[[str, Slices], np.ndarray]  # (tensor name, slices) -> float32 array

SHARED: dict[str, Place] = {
    "embed_VD": Place("model.embed_tokens.weight", ("V", "D")),
    "norm1_LD": Place("model.layers.{L}.input_layernorm.weight", ("D",)),
    "q_LDNH": Place("model.layers.{L}.self_attn.q_proj.weight", ("NH", "D")),
    "k_LDKH": Place("model.layers.{L}.self_attn.k_proj.weight", ("KH", "D")),
    "v_LDKH": Place("model.layers.{L}.self_attn.v_proj.weight", ("KH", "D")),
    "biasq_LNH": Place("model.layers.{L}.self_attn.q_proj.bias", ("NH",)),
    "biask_LKH": Place("model.layers.{L}.self_attn.k_proj.bias", ("KH",)),
    "biasv_LKH": Place("model.layers.{L}.self_attn.v_proj.bias", ("KH",)),
    "normq_LH": Place("model.layers.{L}.self_attn.q_norm.weight", ("H",)),
    "normk_LH": Place("model.layers.{L}.self_attn.k_norm.weight", ("H",)),
    "out_LNHD": Place("model.layers.{L}.self_attn.o_proj.weight", ("D", "NH")),
    "norm2_LD": Place("model.layers.{L}.post_attention_layernorm.weight", ("D",)),
    "gate_LDF": Place("model.layers.{L}.mlp.gate_proj.weight", ("F", "D")),
    "up_LDF": Place("model.layers.{L}.mlp.up_proj.weight", ("F", "D")),
    "down_LFD": Place("model.layers.{L}.mlp.down_proj.weight", ("D", "F")),
    "router_LDE": Place("model.layers.{L}.mlp.gate.weight", ("E", "D")),
    "gate_LEDF": Place("model.layers.{L}.mlp.experts.{E}.gate_proj.weight", ("F", "D")),
    "up_LEDF": Place("model.layers.{L}.mlp.experts.{E}.up_proj.weight", ("F", "D")),
    "down_LEFD": Place("model.layers.{L}.mlp.experts.{E}.down_proj.weight", ("D", "F")),
    "norm_D": Place("model.norm.weight", ("D",)),
    "head_VD": Place("lm_head.weight", ("V", "D")),
}
# In models with norms before and after a block, post_attention_layernorm follows the attention.
SANDWICH = {
    "norm1out_LD": Place("model.layers.{L}.post_attention_layernorm.weight", ("D",)),
    "norm2_LD": Place("model.layers.{L}.pre_feedforward_layernorm.weight", ("D",)),
    "norm2out_LD": Place("model.layers.{L}.post_feedforward_layernorm.weight", ("D",)),
}
MIXTRAL = {
    "router_LDE": Place("model.layers.{L}.block_sparse_moe.gate.weight", ("E", "D")),
    "gate_LEDF": Place("model.layers.{L}.block_sparse_moe.experts.{E}.w1.weight", ("F", "D")),
    "up_LEDF": Place("model.layers.{L}.block_sparse_moe.experts.{E}.w3.weight", ("F", "D")),
    "down_LEFD": Place("model.layers.{L}.block_sparse_moe.experts.{E}.w2.weight", ("D", "F")),
}
GGUF = {
    "embed_VD": Place("token_embd.weight", ("V", "D")),
    "norm1_LD": Place("blk.{L}.attn_norm.weight", ("D",)),
    "q_LDNH": Place("blk.{L}.attn_q.weight", ("NH", "D")),
    "k_LDKH": Place("blk.{L}.attn_k.weight", ("KH", "D")),
    "v_LDKH": Place("blk.{L}.attn_v.weight", ("KH", "D")),
    "biasq_LNH": Place("blk.{L}.attn_q.bias", ("NH",)),
    "biask_LKH": Place("blk.{L}.attn_k.bias", ("KH",)),
    "biasv_LKH": Place("blk.{L}.attn_v.bias", ("KH",)),
    "normq_LH": Place("blk.{L}.attn_q_norm.weight", ("H",)),
    "normk_LH": Place("blk.{L}.attn_k_norm.weight", ("H",)),
    "out_LNHD": Place("blk.{L}.attn_output.weight", ("D", "NH")),
    "norm1out_LD": Place("blk.{L}.post_attention_norm.weight", ("D",)),
    "norm2_LD": Place("blk.{L}.ffn_norm.weight", ("D",)),
    "norm2out_LD": Place("blk.{L}.post_ffw_norm.weight", ("D",)),
    "gate_LDF": Place("blk.{L}.ffn_gate.weight", ("F", "D")),
    "up_LDF": Place("blk.{L}.ffn_up.weight", ("F", "D")),
    "down_LFD": Place("blk.{L}.ffn_down.weight", ("D", "F")),
    "router_LDE": Place("blk.{L}.ffn_gate_inp.weight", ("E", "D")),
    "gate_LEDF": Place("blk.{L}.ffn_gate_exps.weight", ("E", "F", "D")),
    "up_LEDF": Place("blk.{L}.ffn_up_exps.weight", ("E", "F", "D")),
    "down_LEFD": Place("blk.{L}.ffn_down_exps.weight", ("E", "D", "F")),
    "norm_D": Place("output_norm.weight", ("D",)),
    "head_VD": Place("output.weight", ("V", "D")),
}


def hf_places(cfg: ModelConfig) -> dict[str, Place]:
    """Return the place of each parameter in a Hugging Face folder."""
    if cfg.family == "mixtral":
        return SHARED | MIXTRAL
    return SHARED | SANDWICH if cfg.has.sandwich else SHARED


def shape(place: Place, size: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of the tensor in the file; `size` has the size of each dimension letter."""
    return tuple(math.prod(size[x] for x in dim) for dim in place.dims)


def index_letters(name: str, place: Place) -> str:
    """Return the letters of a parameter's dimensions that select a tensor, such as "L" or "LE".

    They are the parameter's first dimensions and no dimensions of the tensor.
    """
    return "".join(x for x in sharding.letters(name) if "{" + x + "}" in place.tensor)


def tensors(
    name: str, place: Place, size: Mapping[str, int]
) -> Iterator[tuple[tuple[int, ...], str]]:
    """Iterate over (index into the parameter, tensor name) of the tensors of a parameter."""
    chosen = index_letters(name, place)
    for at in itertools.product(*(range(size[x]) for x in chosen)):
        yield at, place.tensor.format(**dict(zip(chosen, at, strict=True)))


def load_shard(
    name: str, place: Place, size: Mapping[str, int], index: Slices, read: Read
) -> np.ndarray:
    """Load the part `index` of a parameter in float32, reading only the necessary slices."""
    dims = sharding.letters(name)
    span = {x: range(*part.indices(size[x])) for x, part in zip(dims, index, strict=True)}
    chosen = index_letters(name, place)
    order = "".join(place.dims)
    turn = [order.index(x) for x in dims[len(chosen) :]]
    part = tuple(_slice(dim, span, size) for dim in place.dims)
    out = np.empty([len(span[x]) for x in dims], np.float32)
    for at in itertools.product(*(span[x] for x in chosen)):
        tensor = place.tensor.format(**dict(zip(chosen, at, strict=True)))
        piece = read(tensor, part).reshape([len(span[x]) for x in order])
        here = tuple(i - span[x].start for x, i in zip(chosen, at, strict=True))
        out[here] = piece.transpose(turn)
    return out


def _slice(dim: str, span: Mapping[str, range], size: Mapping[str, int]) -> slice:
    """Return a shard's slice of a file dimension, of which only the first letter may be sharded."""
    inner = math.prod(size[x] for x in dim[1:])
    assert all(len(span[x]) == size[x] for x in dim[1:]), f"{dim} is split inside"
    return slice(span[dim[0]].start * inner, span[dim[0]].stop * inner)


def to_tensor(name: str, place: Place, piece: np.ndarray) -> np.ndarray:
    """Bring one tensor of a parameter into the layout of the file.

    `piece` is the parameter at one index of its `index_letters`.
    """
    dims = sharding.letters(name)[len(index_letters(name, place)) :]
    sized = dict(zip(dims, piece.shape, strict=True))
    turned = piece.transpose([dims.index(x) for x in "".join(place.dims)])
    return turned.reshape([math.prod(sized[x] for x in dim) for dim in place.dims])
