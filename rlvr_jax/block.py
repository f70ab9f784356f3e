"""One layer of the transformer, the embedding in front of the layers, and RMSNorm.

All families share this code; `ModelConfig.has` names what sets a family apart from Llama.
Attention calls the operations of `rlvr_kernels` with the implementation that the config asks for.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from rlvr_jax import adapters, context, positions, routing, sharding, vocabulary
from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array, Params
from rlvr_kernels import dispatch
from rlvr_kernels.attention import BLOCK, attention
from rlvr_kernels.attention import earned as earned_attention
from rlvr_kernels.decode_attention import DEFAULT, Places, Scales, decode_attention


def embed(params: Params, token_BT: Array, cfg: ModelConfig) -> Array:
    """Return the embeddings [B, T, D] of token ids, in compute dtype."""
    with jax.named_scope("embedding"):
        if "head_DV" in params:  # prepared for decoding: every device has the whole width
            x_BTD = sharding.split_rows(params["embed_VD"][token_BT])
        else:
            x_BTD = vocabulary.look_up(params["embed_VD"], token_BT, cfg.compute)
        if cfg.has.embed_scale:
            x_BTD = x_BTD * jnp.asarray(cfg.width**0.5, x_BTD.dtype)
        return x_BTD


def layer(
    x_BTD: Array,
    w: Params,
    cos_sin: Array,
    attend,
    cfg: ModelConfig,
    exists_BT: Array | None = None,
):
    """Return the hidden states [B, T, D] behind one layer, what `attend` keeps, and a `Routed`.

    `w` holds the parameters of this layer, without their dimension L.  `cos_sin` is the entry of
    `positions.cos_sin` for the kind of this layer.  `attend(q, k, v)` takes q [B, T, N, H] and k
    [B, T, K, H], both rotated by their positions, and v [B, T, K, H].  It returns the attention
    output [B, T, N, H] and the keys and values that the caller wants to keep.  With `exists_BT`
    (bool) a mixture of experts counts where it sends these tokens; the third result is else None.
    """
    has = cfg.has
    with jax.named_scope("attention"):
        h_BTD = rms_norm(x_BTD, w["norm1_LD"], cfg) if has.norm_before else x_BTD
        q_BTNH = adapters.project(h_BTD, w, "q_LDNH", cfg)
        k_BTKH = adapters.project(h_BTD, w, "k_LDKH", cfg)
        v_BTKH = adapters.project(h_BTD, w, "v_LDKH", cfg)
        if has.bias:
            q_BTNH, k_BTKH = q_BTNH + w["biasq_LNH"], k_BTKH + w["biask_LKH"]
            v_BTKH = v_BTKH + w["biasv_LKH"]
        if has.qk_norm:
            q_BTNH = rms_norm(q_BTNH, w["normq_LH"], cfg)
            k_BTKH = rms_norm(k_BTKH, w["normk_LH"], cfg)
        if has.qk_norm_wide:
            q_BTNH = rms_norm(q_BTNH, w["normq_LNH"], cfg, axis=(-2, -1))
            k_BTKH = rms_norm(k_BTKH, w["normk_LKH"], cfg, axis=(-2, -1))
        heads_BTNH, kept = attend(
            positions.rotate(q_BTNH, cos_sin), positions.rotate(k_BTKH, cos_sin), v_BTKH
        )
        h_BTD = adapters.project(heads_BTNH, w, "out_LNHD", cfg)
        x_BTD = x_BTD + (rms_norm(h_BTD, w["norm1out_LD"], cfg) if has.norm_after else h_BTD)
    with jax.named_scope("feed_forward"):
        h_BTD = rms_norm(x_BTD, w["norm2_LD"], cfg) if has.norm_before else x_BTD
        routed = None
        if has.experts:
            h_BTD, routed = _experts(h_BTD, w, cfg, exists_BT)
        else:
            h_BTD = _feedforward(h_BTD, w, cfg)
        x_BTD = x_BTD + (rms_norm(h_BTD, w["norm2out_LD"], cfg) if has.norm_after else h_BTD)
    return context.split(x_BTD), kept, routed


def rms_norm(
    x_D: Array, scale_D: Array, cfg: ModelConfig, axis: int | tuple[int, ...] = -1
) -> Array:
    """Return RMSNorm over the last dimension (arXiv 1910.07467), in the dtype of the input.

    `axis` names the dimensions to take it over, if it is more than the last one.  The arithmetic
    is float32.
    """
    x32_D = x_D.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32_D**2, axis, keepdims=True) + cfg.norm_eps)
    scale_D = 1.0 + scale_D if cfg.has.from_one else scale_D
    return (x32_D * inverse * scale_D).astype(x_D.dtype)


def attend_columns(
    q_BTNH: Array,
    pieces: Sequence[tuple[Array, Array]],
    exists_BS: Array,
    window_BTS: tuple[Array, ...],
    cfg: ModelConfig,
) -> Array:
    """Return causal attention [B, T, N, H] of the last T of S columns.

    `pieces` are keys and values [B, columns, K, H]: those of the T columns last, and before them
    those of earlier columns, if there are any.  A query sees the columns up to its own that exist
    and, where `window_BTS` holds a mask, that the mask allows.  `window_BTS` is what
    `positions.window_of_kind` returns: one mask, or empty.
    """
    rows, queries = q_BTNH.shape[:2]
    shared = bool(context.axes(queries))
    own = queries // context.shards() if shared else queries  # of a device
    if window_BTS:  # only the plain implementation takes a window
        impl = "xla"
    else:
        uneven = _uneven(rows, pieces[0][0].shape[2])
        if shared and own % BLOCK and dispatch.platform() == "tpu":  # splash
            uneven = f"{queries} columns in shares of {own}, which is no multiple of {BLOCK}"
        earned = earned_attention(own, near=False)
        impl = kernel_name(cfg, earned, uneven, tpu="splash", gpu="cudnn")
    op = partial(attention, scale=_scale(cfg), softcap=cfg.attention_softcap, impl=impl)
    if shared:
        return context.attend(op, q_BTNH, pieces, exists_BS, window_BTS)
    if impl != "xla":
        op = sharding.on_each_device(op, "BTNH BSKH BSKH BS", "BTNH")
    k_BSKH, v_BSKH = (jnp.concatenate(of, 1) for of in zip(*pieces, strict=True))
    return op(q_BTNH, k_BSKH, v_BSKH, exists_BS, *window_BTS)


def attend_cache(
    q_BNH: Array,
    own: tuple[Array, ...],
    prefix: tuple[Array, ...],
    rest: tuple[Array, Places | None, Scales | None],
    cfg: ModelConfig,
) -> Array:
    """Return the attention output [B, N, H] of one query per row.

    `own` is (k, v, mask) of the rows' caches and `prefix` is (k, v, mask) of their prompts, as
    `rlvr_kernels.decode_attention` takes them.  `rest` are its arguments behind them: the number of
    the layer to read, at which places of the prompts the rows are if they are not all there, and
    the scales of keys and values that are int8.
    """
    earned, uneven = dispatch.earned(DEFAULT), _uneven(q_BNH.shape[0], own[0].shape[2])
    impl = kernel_name(cfg, earned, uneven, tpu="pallas_tpu", gpu="pallas_gpu")
    op = partial(decode_attention, scale=_scale(cfg), softcap=cfg.attention_softcap, impl=impl)
    if impl != "xla":
        op = sharding.on_each_device(op, "BNH LBKSH LBKSH BS LQKPH LQKPH BP - B LBK1S", "BNH")
    return op(q_BNH, *own, *prefix, *rest)


def takes_places(cfg: ModelConfig) -> bool:
    """Return whether rows that are left of a group should share its prefix, at places.

    Not on CPU, where empty places cost as much time as a prefix for each row; and the kernel for
    TPUs takes no places.
    """
    if dispatch.platform() == "cpu":
        return False
    earned = dispatch.earned(DEFAULT)
    return kernel_name(cfg, earned, tpu="pallas_tpu", gpu="pallas_gpu") != "pallas_tpu"


def kernel_name(cfg: ModelConfig, earned: str, uneven: str = "", **names: str) -> str:
    """Return the name of the implementation of an operation that `cfg.kernels` asks for.

    With `cfg.kernels` "xla" it is "xla".  With "pallas" it is the name that `names` gives for the
    current platform, as in `names` = {"tpu": "splash", "gpu": "cudnn"}.  With "auto" it is
    `earned`, the name that the operation says has earned its place, in bfloat16 only, which is
    what was measured.  `uneven` says why arrays cannot be split for a kernel, if they cannot: then
    "auto" is "xla".

    Raises:
      ValueError: the config asks for kernels, and there are none for this platform or these arrays.
    """
    if cfg.kernels == "xla":
        return "xla"
    if cfg.kernels == "auto":
        return "xla" if uneven or cfg.compute != "bfloat16" else earned
    if (platform := dispatch.platform()) not in names:
        raise ValueError(f"there are no kernels for {platform}: set kernels to xla")
    if uneven:
        raise ValueError(f"kernels need whole shards: {uneven}; set kernels to auto")
    return names[platform]


def _uneven(rows: int, kv_heads: int) -> str:
    """Say which dimension of the arrays of attention the ambient mesh does not divide, if any."""
    mesh = jax.sharding.get_abstract_mesh()
    tensor = 1 if mesh.empty else mesh.shape["tensor"]
    if rows % (shards := sharding.data_shards()):
        return f"{rows} rows in {shards} shards"
    return f"{kv_heads} kv heads in {tensor} shards" if kv_heads % tensor else ""


def _feedforward(h_BTD: Array, w: Params, cfg: ModelConfig) -> Array:
    gate_BTF = adapters.project(h_BTD, w, "gate_LDF", cfg)
    up_BTF = adapters.project(h_BTD, w, "up_LDF", cfg)
    return adapters.project(_gate(gate_BTF, cfg) * up_BTF, w, "down_LFD", cfg)


def _experts(
    h_BTD: Array, w: Params, cfg: ModelConfig, exists_BT: Array | None
) -> tuple[Array, routing.Routed | None]:
    """Return a mixture of experts: each token goes to its most probable experts; none is dropped.

    Tokens are sorted by expert, so that each expert is one block of a ragged product.
    """
    flat_XD = h_BTD.reshape(-1, cfg.width)
    route_XE = jnp.einsum("xd,de->xe", flat_XD, w["router_LDE"], preferred_element_type=jnp.float32)
    probability_XE = jax.nn.softmax(route_XE)
    weight_Xk, expert_Xk = jax.lax.top_k(probability_XE, cfg.experts_used)
    routed = None
    if exists_BT is not None:
        routed = routing.of_layer(probability_XE, expert_Xk, exists_BT)
    if cfg.experts_sum_to_one:
        weight_Xk = weight_Xk / jnp.sum(weight_Xk, -1, keepdims=True)
    expert_Y = expert_Xk.reshape(-1)  # Y = X * experts_used
    order_Y = jnp.argsort(expert_Y)
    count_E = jnp.sum(expert_Y[:, None] == jnp.arange(cfg.experts), 0, dtype=jnp.int32)
    sorted_YD = flat_XD[order_Y // cfg.experts_used]
    gate_YF = adapters.project_experts(sorted_YD, w, "gate_LEDF", count_E, cfg)
    up_YF = adapters.project_experts(sorted_YD, w, "up_LEDF", count_E, cfg)
    out_YD = adapters.project_experts(_gate(gate_YF, cfg) * up_YF, w, "down_LEFD", count_E, cfg)
    out_XkD = out_YD[jnp.argsort(order_Y)].reshape(-1, cfg.experts_used, cfg.width)
    out_XD = jnp.einsum("xkd,xk->xd", out_XkD, weight_Xk.astype(out_XkD.dtype))
    return out_XD.reshape(h_BTD.shape), routed


def _gate(x_F: Array, cfg: ModelConfig) -> Array:
    return jax.nn.gelu(x_F, approximate=True) if cfg.has.gelu else jax.nn.silu(x_F)


def _scale(cfg: ModelConfig) -> float:
    return (cfg.query_scale or cfg.head_size) ** -0.5
