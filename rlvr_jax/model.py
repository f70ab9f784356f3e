"""The transformer: pure functions on a flat dict of parameters whose names carry their shapes.

A sequence is run in two parts: `prefill` reads a prefix once, `extend` continues it with any number
of rows that share it (the G samples of a prompt, or one answer per verdict).  `decode` is `extend`
for one column against a cache.  All three run the same block on the same numbers, so the sampler
and the trainer agree by construction.

Layers are stacked and scanned, so that compile time does not grow with depth; or they are unrolled,
and whatever there is one of per layer is a tuple.  Unrolled is quicker on CPU, where a scan copies
each layer's weights, gradients and cache out of the stack and back.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import positions, sharding
from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array, Params
from rlvr_kernels import dispatch
from rlvr_kernels.attention import attention
from rlvr_kernels.decode_attention import decode_attention
from rlvr_kernels.token_logprob import token_logprob

# Keys and values [rows, K, columns, H]: a pair for each layer, or one pair with a layer dimension.
Layers = tuple[tuple[Array, Array], ...]
ROWS = -4  # the row dimension of either


class Prefix(NamedTuple):
    """Q prefixes that have been read."""

    last_QD: Array  # hidden state of the last column: what the next token is drawn from
    kv: Layers
    mask_QP: Array  # bool, which columns exist


def names(cfg: ModelConfig) -> list[str]:
    """Every parameter of the model; shape, sharding and checkpoint target follow from the name."""
    has = cfg.has
    block = ["norm1_LD", "q_LDNH", "k_LDKH", "v_LDKH", "out_LNHD", "norm2_LD"]
    block += ["biasq_LNH", "biask_LKH", "biasv_LKH"] if has.bias else []
    block += ["normq_LH", "normk_LH"] if has.qk_norm else []
    block += ["norm1out_LD", "norm2out_LD"] if has.sandwich else []
    dense, sparse = ["gate_LDF", "up_LDF", "down_LFD"], ["gate_LEDF", "up_LEDF", "down_LEFD"]
    block += ["router_LDE", *sparse] if has.experts else dense
    return ["embed_VD", *block, "norm_D", *([] if cfg.tied else ["head_VD"])]


def abstract(cfg: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of all parameters, read off their names; parameters are kept in float32."""
    size = cfg.sizes
    return {
        name: jax.ShapeDtypeStruct([size[x] for x in sharding.letters(name)], jnp.float32)
        for name in names(cfg)
    }


def init(key: Array, cfg: ModelConfig) -> Params:
    """Random parameters: unit norms, fan-in scaled matrices, residual outputs scaled by depth."""
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


def unstack(params: Params, cfg: ModelConfig):
    """Parameters as their layers are run: a tuple under each stacked name if they are unrolled.

    Done once in front of a loop, inside which a layer taken out of its stack would be copied.
    """
    if not cfg.unroll:
        return params
    layers = range(cfg.layers)
    return {
        name: tuple(x[i] for i in layers) if _is_stacked(name) else x for name, x in params.items()
    }


def restack(params) -> Params:
    """The inverse of `unstack`, for gradients."""
    return {k: jnp.stack(x) if isinstance(x, tuple) else x for k, x in params.items()}


def for_decoding(params: Params, cfg: ModelConfig):
    """Parameters as `decode` and `logits` read them quickest: done once for all columns.

    Unstacked, in compute dtype, gathered over data shards, and the output head as [D, V]: on CPU
    the product of few rows with a [V, D] head lays all of it out anew, which takes several times as
    long as the product.
    """
    params = _cast(unstack(params, cfg), cfg)
    params = {name: jax.tree.map(partial(sharding.gathered, name), x) for name, x in params.items()}
    return params | {"head_DV": head(params, cfg).T}


def prefill(
    params: Params, token_QP: Array, mask_QP: Array, cfg: ModelConfig
) -> tuple[Array, Prefix]:
    """Hidden states [Q, P, D] of left-padded (or any masked) columns, and the prefix they make."""
    position_QP = positions.of(mask_QP)
    near_QTS = positions.near(position_QP, position_QP, cfg)
    turn_QP = positions.turns(position_QP, cfg)

    def block(x_QPD, layer):
        w, _, kind = layer

        def attend(q_QTNH, k_QPKH, v_QPKH):
            near = None if near_QTS is None else near_QTS[kind]
            heads = _attention(q_QTNH, k_QPKH, v_QPKH, mask_QP, near, cfg)
            return heads, (k_QPKH.swapaxes(1, 2), v_QPKH.swapaxes(1, 2))

        return _block(x_QPD, w, turn_QP[kind], attend, cfg)

    x_QPD, kv = _layers(block, _embed(params, token_QP, cfg), params, None, cfg)
    hidden_QPD = _norm(x_QPD, params["norm_D"], cfg)
    return hidden_QPD, Prefix(hidden_QPD[:, -1], kv, mask_QP)


def extend(
    params: Params,
    token_BR: Array,
    mask_BR: Array,
    prefix: Prefix,
    owner_SM: Array,
    cfg: ModelConfig,
) -> Array:
    """Hidden states [B, R, D] of rows that continue the prefixes `owner_SM`, numbered by shard."""
    prefix_mask_BP = sharding.take(prefix.mask_QP, owner_SM)
    mask_BS = jnp.concatenate([prefix_mask_BP, mask_BR], 1)
    position_BS = positions.of(mask_BS)
    position_BR = position_BS[:, prefix_mask_BP.shape[1] :]
    near_BTS = positions.near(position_BR, position_BS, cfg)
    turn_BR = positions.turns(position_BR, cfg)

    def block(x_BRD, layer):
        w, shared, kind = layer

        def attend(q_BTNH, *new):
            k_BSKH, v_BSKH = (
                jnp.concatenate([sharding.take(x, owner_SM).swapaxes(1, 2), own], 1)
                for x, own in zip(shared, new, strict=True)
            )
            near = None if near_BTS is None else near_BTS[kind]
            return _attention(q_BTNH, k_BSKH, v_BSKH, mask_BS, near, cfg), None

        return _block(x_BRD, w, turn_BR[kind], attend, cfg)

    x_BRD, _ = _layers(block, _embed(params, token_BR, cfg), params, prefix.kv, cfg)
    return _norm(x_BRD, params["norm_D"], cfg)


def empty_cache(prefix: Prefix, rows: int, columns: int) -> Layers:
    """Room for at least `columns` own columns of `rows` rows: whole chunks of what is read."""
    step = 64 if columns <= 256 else 256
    columns = columns if columns <= 64 else -(-columns // step) * step

    def room(x):
        *layers, _, heads, _, size = x.shape
        return jnp.zeros((*layers, rows, heads, columns, size), x.dtype)

    return jax.tree.map(room, prefix.kv)


def decode(
    params: Params,
    token_B: Array,
    column: Array,
    start_B: Array,
    prefix: Prefix,
    cache: Layers,
    cfg: ModelConfig,
) -> tuple[Array, Layers]:
    """One column for every row: hidden [B, D] of `token_B`, and the cache with that column written.

    The cache is a ring: loop column c stands in ring column c modulo its size, and a row sees its
    columns from `start_B` on.  The rows of a prefix are adjacent.
    """
    rows, ring = token_B.shape[0], cache[0][0].shape[-2]
    groups = rows // prefix.mask_QP.shape[0]
    mask_BP = jnp.repeat(prefix.mask_QP, groups, axis=0)
    own_B1 = (column - start_B)[:, None]
    age_1S = ((column - jnp.arange(ring)) % ring)[None]  # columns since it was written
    position_B1 = mask_BP.sum(-1, keepdims=True) + own_B1
    near_B1S = positions.near(position_B1, position_B1 - age_1S, cfg)
    near_B1P = positions.near(position_B1, positions.of(mask_BP), cfg)
    turn_B1 = positions.turns(position_B1, cfg)

    def block(x_B1D, w, shared, kind, cache, *layer):
        def attend(q_BTNH, *new):
            at = (*layer, 0, 0, column % ring, 0)
            heads_first = (x.swapaxes(1, 2).astype(cache[0].dtype) for x in new)
            kept = tuple(
                jax.lax.dynamic_update_slice(x, own.reshape(*[1] * len(layer), *own.shape), at)
                for x, own in zip(cache, heads_first, strict=True)
            )
            own = (*(x[layer] for x in kept), _within(age_1S <= own_B1, near_B1S, kind))
            prefix = (*shared, _within(mask_BP, near_B1P, kind))
            return _decode_attention(q_BTNH[:, 0], own, prefix, cfg)[:, None], kept

        return _block(x_B1D, w, turn_B1[kind], attend, cfg)

    x_B1D = _embed(params, token_B[:, None], cfg)
    kept = []
    if cfg.unroll:
        block = jax.jit(block)  # traced once
        for (w, shared, kind), own in zip(_unrolled(params, prefix.kv, cfg), cache, strict=True):
            x_B1D, own = block(x_B1D, w, shared, kind, own)
            kept.append(own)
    else:
        # The cache is carried, not scanned over: a scanned output would copy all of it per token.
        def scanned(carry, xs):
            x_B1D, own, layer = carry
            return (*block(x_B1D, *xs, own, layer), layer + 1), None

        carry = (x_B1D, cache[0], jnp.int32(0))
        (x_B1D, own, _), _ = jax.lax.scan(scanned, carry, _stacked(params, prefix.kv, cfg))
        kept.append(own)
    return _norm(x_B1D[:, 0], params["norm_D"], cfg), tuple(kept)


def head(params: Params, cfg: ModelConfig) -> Array:
    """The output head [V, D] in compute dtype."""
    return params["embed_VD" if cfg.tied else "head_VD"].astype(cfg.compute)


def logits(params: Params, hidden_D: Array, cfg: ModelConfig) -> Array:
    """Logits [..., V] in float32 whatever the compute dtype."""
    head_DV = params["head_DV"] if "head_DV" in params else head(params, cfg).T
    raw = jnp.matmul(hidden_D, head_DV, preferred_element_type=jnp.float32)
    return _softcap(raw, cfg.logit_softcap)


def with_value(params: Params) -> Params:
    """The parameters with a value head beside the output head: zeros, as are then its values."""
    return params | {"value_D": jnp.zeros_like(params["norm_D"])}


def value(params: Params, hidden_D: Array) -> Array:
    """V [...] in float32: linear in the hidden state that the next token is drawn from."""
    return jnp.matmul(hidden_D.astype(jnp.float32), params["value_D"])


def logprob(
    params: Params, hidden_BTD: Array, token_BT: Array, temperature: float, cfg: ModelConfig
) -> tuple[Array, Array]:
    """Log-probability and entropy [B, T] of tokens drawn from hidden states, at a temperature."""
    impl = _kernel(cfg, tpu="pallas_tpu", gpu="pallas_gpu")

    def op(hidden_BTD, head_VD, token_BT):
        return token_logprob(
            hidden_BTD, head_VD, token_BT, temperature, cfg.logit_softcap, impl=impl
        )

    op = op if impl == "xla" else sharding.local(op, "BTD XY BT", "BT BT")  # the whole head
    return op(hidden_BTD, head(params, cfg), token_BT)


# ---- parts ---------------------------------------------------------------------------------


def _cast(params, cfg: ModelConfig):
    """Matrices in compute dtype; norm scales stay in float32."""
    return {
        name: x if name.startswith("norm") else jax.tree.map(lambda x: x.astype(cfg.compute), x)
        for name, x in params.items()
    }


def _is_stacked(name: str) -> bool:
    return sharding.letters(name).startswith("L")


def _stacked(params: Params, kv: Layers | None, cfg: ModelConfig):
    """What is scanned over: weights in compute dtype, keys and values, the kind of each layer."""
    stacked = _cast({k: v for k, v in params.items() if _is_stacked(k)}, cfg)
    return stacked, kv and kv[0], jnp.array(positions.kinds(cfg), jnp.int32)


def _unrolled(params: Params, kv: Layers | None, cfg: ModelConfig):
    """The same, of one layer after the other."""
    names = [name for name in params if _is_stacked(name)]
    for i, kind in enumerate(positions.kinds(cfg)):
        yield _cast({k: params[k][i] for k in names}, cfg), kv and kv[i], kind


def _layers(block, x_BTD: Array, params: Params, kv: Layers | None, cfg: ModelConfig):
    """x through all layers, and what their blocks return of each."""
    block = jax.checkpoint(block) if cfg.remat else block
    if not cfg.unroll:
        x_BTD, out = jax.lax.scan(block, x_BTD, _stacked(params, kv, cfg))
        return x_BTD, (out,)
    outs, block = [], jax.jit(block)  # traced once
    for layer in _unrolled(params, kv, cfg):
        x_BTD, out = block(x_BTD, layer)
        outs.append(out)
    return x_BTD, tuple(outs)


def _embed(params: Params, token_BT: Array, cfg: ModelConfig) -> Array:
    table_VD = sharding.whole_rows(params["embed_VD"].astype(cfg.compute))
    x_BTD = sharding.rows(table_VD[token_BT])
    return x_BTD * jnp.asarray(cfg.width**0.5, x_BTD.dtype) if cfg.has.embed_scale else x_BTD


def _block(x_BTD: Array, w: Params, turn_BT: Array, attend, cfg: ModelConfig):
    """Attention, then feed-forward.  `attend` maps q, k, v to heads and what to keep of k, v."""
    has = cfg.has
    h_BTD = _norm(x_BTD, w["norm1_LD"], cfg)
    q_BTNH = jnp.einsum("btd,dnh->btnh", h_BTD, w["q_LDNH"])
    k_BTKH = jnp.einsum("btd,dkh->btkh", h_BTD, w["k_LDKH"])
    v_BTKH = jnp.einsum("btd,dkh->btkh", h_BTD, w["v_LDKH"])
    if has.bias:
        q_BTNH, k_BTKH = q_BTNH + w["biasq_LNH"], k_BTKH + w["biask_LKH"]
        v_BTKH = v_BTKH + w["biasv_LKH"]
    if has.qk_norm:
        q_BTNH, k_BTKH = _norm(q_BTNH, w["normq_LH"], cfg), _norm(k_BTKH, w["normk_LH"], cfg)
    heads_BTNH, kept = attend(
        positions.rotate(q_BTNH, turn_BT), positions.rotate(k_BTKH, turn_BT), v_BTKH
    )
    h_BTD = jnp.einsum("btnh,nhd->btd", heads_BTNH, w["out_LNHD"])
    x_BTD = x_BTD + (_norm(h_BTD, w["norm1out_LD"], cfg) if has.sandwich else h_BTD)
    h_BTD = _norm(x_BTD, w["norm2_LD"], cfg)
    h_BTD = _experts(h_BTD, w, cfg) if has.experts else _feedforward(h_BTD, w, cfg)
    x_BTD = x_BTD + (_norm(h_BTD, w["norm2out_LD"], cfg) if has.sandwich else h_BTD)
    return sharding.rows(x_BTD), kept


def _feedforward(h_BTD: Array, w: Params, cfg: ModelConfig) -> Array:
    gate_BTF = jnp.einsum("btd,df->btf", h_BTD, w["gate_LDF"])
    up_BTF = jnp.einsum("btd,df->btf", h_BTD, w["up_LDF"])
    return jnp.einsum("btf,fd->btd", _gate(gate_BTF, cfg) * up_BTF, w["down_LFD"])


def _experts(h_BTD: Array, w: Params, cfg: ModelConfig) -> Array:
    """Each token through its most probable experts, weighted; none is dropped.

    Tokens are sorted by expert, so that every expert is one block of a ragged product.
    """
    flat_XD = h_BTD.reshape(-1, cfg.width)
    route_XE = jnp.einsum("xd,de->xe", flat_XD, w["router_LDE"], preferred_element_type=jnp.float32)
    weight_Xk, expert_Xk = jax.lax.top_k(jax.nn.softmax(route_XE), cfg.experts_used)
    if cfg.experts_sum_to_one:
        weight_Xk = weight_Xk / jnp.sum(weight_Xk, -1, keepdims=True)
    expert_Y = expert_Xk.reshape(-1)  # Y = X * experts_used
    order_Y = jnp.argsort(expert_Y)
    count_E = jnp.sum(expert_Y[:, None] == jnp.arange(cfg.experts), 0, dtype=jnp.int32)
    sorted_YD = flat_XD[order_Y // cfg.experts_used]
    gate_YF = jax.lax.ragged_dot(sorted_YD, w["gate_LEDF"], count_E)
    up_YF = jax.lax.ragged_dot(sorted_YD, w["up_LEDF"], count_E)
    out_YD = jax.lax.ragged_dot(_gate(gate_YF, cfg) * up_YF, w["down_LEFD"], count_E)
    out_XkD = out_YD[jnp.argsort(order_Y)].reshape(-1, cfg.experts_used, cfg.width)
    return jnp.einsum("xkd,xk->xd", out_XkD, weight_Xk.astype(out_XkD.dtype)).reshape(h_BTD.shape)


def _gate(x_F: Array, cfg: ModelConfig) -> Array:
    return jax.nn.gelu(x_F, approximate=True) if cfg.has.gelu else jax.nn.silu(x_F)


def _norm(x_D: Array, scale_D: Array, cfg: ModelConfig) -> Array:
    """RMSNorm in float32, back in the dtype of its input."""
    x32_D = x_D.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32_D**2, -1, keepdims=True) + cfg.norm_eps)
    scale_D = 1.0 + scale_D if cfg.has.from_one else scale_D
    return (x32_D * inverse * scale_D).astype(x_D.dtype)


def _softcap(x: Array, cap: float) -> Array:
    """Bounded by `cap` on both sides (Gemma 2, arXiv 2408.00118, section 2)."""
    return cap * jnp.tanh(x / cap) if cap else x


def _attention(q_BTNH, k_BSKH, v_BSKH, valid_BS, near_BTS, cfg: ModelConfig):
    impl = _kernel(cfg, tpu="splash", gpu="cudnn") if near_BTS is None else "xla"
    op = partial(attention, scale=_scale(cfg), softcap=cfg.attention_softcap, impl=impl)
    if impl == "xla":
        return op(q_BTNH, k_BSKH, v_BSKH, valid_BS, near_BTS)
    op = sharding.local(op, "BTNH BSKH BSKH BS", "BTNH")
    return op(q_BTNH, k_BSKH, v_BSKH, valid_BS)


def _decode_attention(q_BNH, own, prefix, cfg: ModelConfig):
    impl = _kernel(cfg, tpu="pallas_tpu", gpu="pallas_gpu")
    op = partial(decode_attention, scale=_scale(cfg), softcap=cfg.attention_softcap, impl=impl)
    if impl != "xla":
        op = sharding.local(op, "BNH BKSH BKSH BS QKPH QKPH BP", "BNH")
    return op(q_BNH, *own, *prefix)


def _within(see_BS: Array, near_B1S: Array | None, kind) -> Array:
    """What one query per row sees, in a layer of that kind."""
    return see_BS if near_B1S is None else see_BS & near_B1S[kind][:, 0]


def _kernel(cfg: ModelConfig, **names: str) -> str:
    """The implementation of an op on this platform."""
    if cfg.kernels == "xla":
        return "xla"
    if (platform := dispatch.platform()) not in names:
        raise ValueError(f"there are no kernels for {platform}: set kernels to xla")
    return names[platform]


def _scale(cfg: ModelConfig) -> float:
    return (cfg.query_scale or cfg.head_size) ** -0.5
