"""The parameters of the transformer: their names, shapes, initial values and layouts.

Parameters are a flat dict.  The name of each ends in its dimension letters (`q_LDNH`), which
give its shape, its sharding and the layout of the tensors that a checkpoint stores for it.
Parameters of the layers are stacked: their first dimension is the layer, L.
"""

from functools import partial

import jax
import jax.numpy as jnp

from rlvr_jax import adapters, int8, sharding
from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array, Params


def names(cfg: ModelConfig) -> list[str]:
    """Return the names of all parameters of the model."""
    has = cfg.has
    # The order decides the random keys of `init`.
    block = ["norm1_LD"] if has.norm_before else []
    block += ["q_LDNH", "k_LDKH", "v_LDKH", "out_LNHD"]
    block += ["norm2_LD"] if has.norm_before else []
    block += ["biasq_LNH", "biask_LKH", "biasv_LKH"] if has.bias else []
    block += ["normq_LH", "normk_LH"] if has.qk_norm else []
    block += ["normq_LNH", "normk_LKH"] if has.qk_norm_wide else []
    block += ["norm1out_LD", "norm2out_LD"] if has.norm_after else []
    dense, sparse = ["gate_LDF", "up_LDF", "down_LFD"], ["gate_LEDF", "up_LEDF", "down_LEFD"]
    block += ["router_LDE", *sparse] if has.experts else dense
    return ["embed_VD", *block, "norm_D", *([] if cfg.tied else ["head_VD"])]


def abstract(cfg: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and dtype of every parameter; all are stored in float32."""
    size = cfg.sizes
    return {
        name: jax.ShapeDtypeStruct([size[x] for x in sharding.letters(name)], jnp.float32)
        for name in names(cfg)
    }


def abstract_learned(cfg: ModelConfig, *, value_head: bool = False):
    """Return shape and dtype of every parameter that training changes: all, or an adapter's.

    With `value_head` the value head is one of them.
    """
    shapes, size = abstract(cfg), cfg.sizes
    if cfg.adapter.rank:
        pairs = [adapters.pair(name) for name in adapters.adapted(names(cfg), cfg)]
        shapes = {
            name: jax.ShapeDtypeStruct([size[x] for x in sharding.letters(name)], jnp.float32)
            for two in pairs
            for name in two
        }
    head = {"value_D": jax.ShapeDtypeStruct([cfg.width], jnp.float32)}
    return shapes | head if value_head else shapes


def abstract_frozen(cfg: ModelConfig, dtype: str, *, value_head: bool = False):
    """Return shape and dtype of every parameter of a model that is only read, with its value head.

    They are held as `hold` does it.
    """
    shapes = jax.eval_shape(partial(hold, dtype=dtype), abstract(cfg))
    head = {"value_D": jax.ShapeDtypeStruct([cfg.width], jnp.float32)}
    return shapes | head if value_head else shapes


def init_learned(key: Array, cfg: ModelConfig) -> Params:
    """Return what training starts from where it starts from nothing: a new adapter, or `init`."""
    if cfg.adapter.rank:
        return adapters.init(key, abstract_learned(cfg))
    return init(key, cfg)


def init(key: Array, cfg: ModelConfig) -> Params:
    """Return random parameters for training from scratch.

    Norms scale by 1 and biases are 0.  A matrix is normal with variance 1 / fan-in; those that
    write into the residual stream are also divided by sqrt(2 L), as in GPT-2.
    """
    params = {}
    for index, (name, shape) in enumerate(abstract(cfg).items()):
        if name.startswith(("norm", "bias")):
            unit = name.startswith("norm") and not cfg.has.from_one
            params[name] = jnp.full(shape.shape, float(unit), shape.dtype)
            continue
        fan_in = {"out": cfg.heads * cfg.head_size, "down": cfg.feedforward}
        kind = name.partition("_")[0]
        scale = fan_in.get(kind, cfg.width) ** -0.5
        if kind in fan_in:
            scale *= (2 * cfg.layers) ** -0.5
        noise = jax.random.normal(jax.random.fold_in(key, index), shape.shape, shape.dtype)
        params[name] = noise * scale
    return params


def with_value(params: Params, cfg: ModelConfig) -> Params:
    """Return the parameters with a value head `value_D` of zeros, which predicts 0 at first."""
    return params | {"value_D": jnp.zeros(cfg.width)}


def is_vector(name: str) -> bool:
    """Return whether the parameter is a norm scale, a bias or a value head, not a matrix."""
    return name.startswith(("norm", "bias", "value"))


def hold(params: Params, dtype: str) -> Params:
    """Return the parameters with their matrices in `dtype`; vectors stay as they are.

    With int8 these are the matrices of the layers, with their scales; others are in bfloat16.
    """
    held: Params = {}
    for name, x in params.items():
        if dtype == "int8" and int8.is_matrix(name):
            held |= int8.quantise(name, x)
        else:
            wide = "bfloat16" if dtype == "int8" else dtype
            held[name] = x if is_vector(name) else x.astype(wide)
    return held


def is_stacked(name: str) -> bool:
    """Return whether the parameter's first dimension is the layer."""
    return sharding.letters(name).startswith("L")


def unrolls(params, cfg: ModelConfig) -> bool:
    """Return whether the layers are unrolled: where `cfg.unroll` is set, but not with int8.

    XLA would widen the matrices of all layers first, and read the layers then.
    """
    return cfg.unroll and not any(map(int8.is_scale, params))


def unstack(params: Params, cfg: ModelConfig):
    """Return the parameters with every stacked one split into a tuple, one entry per layer.

    Only where the layers are unrolled; scanned models keep their stacks.  Call this function once
    in front of a loop: a layer that is taken out of its stack inside the loop is copied each time.
    """
    if not unrolls(params, cfg):
        return params
    layers = range(cfg.layers)
    return {
        name: tuple(x[i] for i in layers) if is_stacked(name) else x for name, x in params.items()
    }


def restack(params) -> Params:
    """Return parameters or gradients in stacked form: the inverse of `unstack`."""
    return {k: jnp.stack(x) if isinstance(x, tuple) else x for k, x in params.items()}


def cast(params, cfg: ModelConfig):
    """Return the parameters in compute dtype, except for norm scales, and for int8 and its scales.

    These stay in float32, and as int8.
    """

    def leaf(x: Array) -> Array:
        return x if x.dtype == jnp.int8 else x.astype(cfg.compute)

    return {
        name: x if name.startswith("norm") or int8.is_scale(name) else jax.tree.map(leaf, x)
        for name, x in params.items()
    }


def output_head(params: Params, cfg: ModelConfig) -> Array:
    """Return the output head [V, D] in compute dtype: the embedding where the two are tied."""
    return params["embed_VD" if cfg.tied else "head_VD"].astype(cfg.compute)


def for_decoding(params: Params, cfg: ModelConfig):
    """Return the parameters in the layout in which `model.decode` and `model.logits` are fastest.

    An adapter is merged.  They are unstacked if `cfg.unroll` is set, in compute dtype, and gathered
    over the mesh axis `fsdp`, so that this is done once and not for every column.  With
    `cfg.decode_tensor`, call this function in that `sharding.decode_view`: the devices of the view
    share the weights, and kv heads that are fewer than the devices are repeated.  The output head
    is added as `head_DV`: on CPU a product of few rows with a [V, D] head first transposes all of
    the head, which takes several times as long as the product.
    """
    place = sharding.share_parameter if cfg.decode_tensor else sharding.gather_parameter
    params = adapters.merge(params, cfg, cfg.compute)
    params = cast(unstack(_repeat_kv_heads(params, cfg), cfg), cfg)
    params = {name: jax.tree.map(partial(place, name), x) for name, x in params.items()}
    return params | {"head_DV": output_head(params, cfg).T}


def _repeat_kv_heads(params: Params, cfg: ModelConfig) -> Params:
    """Return the parameters with one kv head for each device that shares them, if they are fewer.

    Query head n then reads a copy of the kv head that it read before.
    """
    times = sharding.tensor_shards() // cfg.kv_heads if cfg.decode_tensor else 1
    if times <= 1:
        return params

    def repeat(name: str, x: Array) -> Array:
        axis = sharding.letters(name).find("K")
        return x if axis < 0 else jnp.repeat(x, times, axis)

    return {name: repeat(name, x) for name, x in params.items()}
