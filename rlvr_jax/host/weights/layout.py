"""Where each parameter lies in a file of tensors, as data, and how shards are cut from there.

A `Place` is a tensor name, with the layer as `{L}` and the expert as `{E}` where each has a
tensor of its own, and the tensor's dimensions in our letters: `("NH", "D")` is a matrix whose
rows run over heads and, within one, over the head.  Reading and writing follow from that.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rlvr_jax import sharding
from rlvr_jax.config import ModelConfig


class Place(NamedTuple):
    """A tensor name and the tensor's dimensions."""

    tensor: str
    dims: tuple[str, ...]


Slices = tuple[slice, ...]
Read = Callable[[str, Slices], np.ndarray]

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
# With a norm on both sides, post_attention_layernorm is the one behind the attention.
SANDWICH = {
    "norm1out_LD": Place("model.layers.{L}.post_attention_layernorm.weight", ("D",)),
    "norm2_LD": Place("model.layers.{L}.pre_feedforward_layernorm.weight", ("D",)),
    "norm2out_LD": Place("model.layers.{L}.post_feedforward_layernorm.weight", ("D",)),
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
    """The tensors of a Hugging Face folder."""
    return SHARED | SANDWICH if cfg.has.sandwich else SHARED


def shape(place: Place, size: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of the tensor in the file."""
    return tuple(math.prod(size[x] for x in dim) for dim in place.dims)


def counted(name: str, place: Place) -> str:
    """The letters that choose a tensor instead of being a dimension of one; they lead the name."""
    return "".join(x for x in sharding.letters(name) if "{" + x + "}" in place.tensor)


def tensors(
    name: str, place: Place, size: Mapping[str, int]
) -> Iterator[tuple[tuple[int, ...], str]]:
    """(index into our array, tensor name) of every tensor that makes up a parameter."""
    chosen = counted(name, place)
    for at in itertools.product(*(range(size[x]) for x in chosen)):
        yield at, place.tensor.format(**dict(zip(chosen, at, strict=True)))


def cut(name: str, place: Place, size: Mapping[str, int], index: Slices, read: Read) -> np.ndarray:
    """The part `index` of a parameter in float32, read tensor by tensor and only where needed."""
    dims = sharding.letters(name)
    span = {x: range(*part.indices(size[x])) for x, part in zip(dims, index, strict=True)}
    chosen = counted(name, place)
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
    """Where a shard lies in a dimension of the file; only its first letter may be split."""
    inner = math.prod(size[x] for x in dim[1:])
    assert all(len(span[x]) == size[x] for x in dim[1:]), f"{dim} is split inside"
    return slice(span[dim[0]].start * inner, span[dim[0]].stop * inner)


def uncut(name: str, place: Place, piece: np.ndarray) -> np.ndarray:
    """One tensor as the file has it, from our array at one index of `counted`."""
    dims = sharding.letters(name)[len(counted(name, place)) :]
    sized = dict(zip(dims, piece.shape, strict=True))
    turned = piece.transpose([dims.index(x) for x in "".join(place.dims)])
    return turned.reshape([math.prod(sized[x] for x in dim) for dim in place.dims])
