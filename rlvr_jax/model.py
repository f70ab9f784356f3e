"""The transformer: pure functions on a flat dict of parameters whose names carry their shapes.

Blocks are stacked and scanned, so compile time does not grow with depth.  A sequence is run in
two parts: `prefill` reads a prefix once, `extend` continues it with any number of rows that
share it (the G samples of a prompt, or one answer per verdict).  `decode` is `extend` for one
column against a cache.  All three run the same block on the same numbers, so the sampler and the
trainer agree by construction.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import positions, sharding
from rlvr_jax.config import ModelConfig
from rlvr_jax.structs import Array, Params


class Prefix(NamedTuple):
    """Keys and values of Q prefixes, per layer, and which columns exist."""

    k_LQKPH: Array
    v_LQKPH: Array
    mask_QP: Array


class Cache(NamedTuple):
    """Keys and values of the rows' own columns; G rows to each prefix."""

    k_LQKGSH: Array
    v_LQKGSH: Array


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


def prefill(
    params: Params, token_QP: Array, mask_QP: Array, cfg: ModelConfig
) -> tuple[Array, Prefix]:
    """Hidden states [Q, P, D] of left-padded (or any masked) columns, and their keys and values."""
    position_QP = positions.of(mask_QP)
    causal = jnp.tril(jnp.ones((token_QP.shape[1],) * 2, bool))
    see_QTS = positions.windows(causal & mask_QP[:, None], position_QP, position_QP, cfg)

    def block(x_QPD, layer):
        w, _ = layer
        attend = partial(_attend_own, see_BTS=see_QTS[w["kind_L"]], cfg=cfg)
        return _block(x_QPD, w, turn_QP[w["kind_L"]], attend, cfg)

    turn_QP = positions.turns(position_QP, cfg)
    hidden_QPD, (k_LQKGSH, v_LQKGSH) = _scan(block, params, token_QP, None, cfg)
    return hidden_QPD, Prefix(k_LQKGSH[:, :, :, 0], v_LQKGSH[:, :, :, 0], mask_QP)


def extend(
    params: Params, token_BR: Array, mask_BR: Array, prefix: Prefix, cfg: ModelConfig
) -> Array:
    """Hidden states [B, R, D] of columns that continue the prefixes, B // Q rows to each."""
    groups = token_BR.shape[0] // prefix.mask_QP.shape[0]
    start_B1 = jnp.repeat(prefix.mask_QP.sum(-1), groups)[:, None]
    position_BR = start_B1 + positions.of(mask_BR)
    causal = jnp.tril(jnp.ones((token_BR.shape[1],) * 2, bool))
    see_BTS = positions.windows(causal & mask_BR[:, None], position_BR, position_BR, cfg)
    see_BTP = positions.see_prefix(prefix.mask_QP, position_BR, cfg)
    turn_BR = positions.turns(position_BR, cfg)

    def block(x_BRD, layer):
        w, (k_QKPH, v_QKPH) = layer
        kind = w["kind_L"]
        shared = (k_QKPH, v_QKPH, see_BTP[kind])
        attend = partial(_attend_own, see_BTS=see_BTS[kind], cfg=cfg, shared=shared)
        return _block(x_BRD, w, turn_BR[kind], attend, cfg)

    kv = (prefix.k_LQKPH, prefix.v_LQKPH)
    return _scan(block, params, token_BR, kv, cfg)[0]


def empty_cache(prefix: Prefix, rows: int, columns: int) -> Cache:
    """Room for `columns` own columns of `rows` rows."""
    layers, prompts, kv_heads, _, head = prefix.k_LQKPH.shape
    shape = (layers, prompts, kv_heads, rows // prompts, columns, head)
    return Cache(jnp.zeros(shape, prefix.k_LQKPH.dtype), jnp.zeros(shape, prefix.k_LQKPH.dtype))


def decode(
    params: Params, token_B: Array, column: Array, prefix: Prefix, cache: Cache, cfg: ModelConfig
) -> tuple[Array, Cache]:
    """One column for every row: hidden [B, D] of `token_B`, written into `column` of the cache.

    All columns up to `column` exist in every row; rows that have ended compute numbers that
    nobody reads.
    """
    groups = token_B.shape[0] // prefix.mask_QP.shape[0]
    start_B1 = jnp.repeat(prefix.mask_QP.sum(-1), groups)[:, None]
    columns = cache.k_LQKGSH.shape[4]
    position_B1, position_BS = start_B1 + column, start_B1 + jnp.arange(columns)
    see_BTS = jnp.broadcast_to(jnp.arange(columns) <= column, (token_B.shape[0], 1, columns))
    see_BTS = positions.windows(see_BTS, position_B1, position_BS, cfg)
    see_BTP = positions.see_prefix(prefix.mask_QP, position_B1, cfg)
    turn_B1 = positions.turns(position_B1, cfg)

    # The whole cache is carried, not scanned over: a scanned output would copy all of it per token.
    def block(carry, layer):
        x_B1D, k_LQKGSH, v_LQKGSH, index = carry
        w, (k_QKPH, v_QKPH) = layer
        kind = w["kind_L"]

        def attend(q_BTNH, k_BTKH, v_BTKH):
            at = (index, 0, 0, 0, column, 0)
            new_k = jax.lax.dynamic_update_slice(
                k_LQKGSH, _grouped(k_BTKH, groups)[None].astype(k_LQKGSH.dtype), at
            )
            new_v = jax.lax.dynamic_update_slice(
                v_LQKGSH, _grouped(v_BTKH, groups)[None].astype(v_LQKGSH.dtype), at
            )
            own = (new_k[index], new_v[index], see_BTS[kind])
            shared = (k_QKPH, v_QKPH, see_BTP[kind])
            return _attention(q_BTNH, own, shared, cfg), (new_k, new_v)

        x_B1D, (k_LQKGSH, v_LQKGSH) = _block(x_B1D, w, turn_B1[kind], attend, cfg)
        return (x_B1D, k_LQKGSH, v_LQKGSH, index + 1), None

    x_B1D = _embed(params, token_B[:, None], cfg)
    carry = (x_B1D, cache.k_LQKGSH, cache.v_LQKGSH, jnp.int32(0))
    layers = (_stacked(params, cfg), (prefix.k_LQKPH, prefix.v_LQKPH))
    (x_B1D, *kv, _), _ = jax.lax.scan(block, carry, layers, unroll=cfg.layers if cfg.unroll else 1)
    return _norm(x_B1D[:, 0], params["norm_D"], cfg), Cache(*kv)


def head(params: Params, cfg: ModelConfig) -> Array:
    """The output head [V, D] in compute dtype."""
    return params["embed_VD" if cfg.tied else "head_VD"].astype(cfg.compute)


def logits(params: Params, hidden_D: Array, cfg: ModelConfig) -> Array:
    """Logits [..., V] in float32 whatever the compute dtype."""
    raw = jnp.einsum(
        "...d,vd->...v", hidden_D, head(params, cfg), preferred_element_type=jnp.float32
    )
    return _softcap(raw, cfg.logit_softcap)


# ---- parts ---------------------------------------------------------------------------------


def _stacked(params: Params, cfg: ModelConfig) -> Params:
    """The scanned parameters, in compute dtype, and the kind of each layer."""
    stacked = {k: v for k, v in params.items() if sharding.letters(k).startswith("L")}
    cast = {k: v if k.startswith("norm") else v.astype(cfg.compute) for k, v in stacked.items()}
    return cast | {"kind_L": jnp.array(positions.kinds(cfg), jnp.int32)}


def _embed(params: Params, token_BT: Array, cfg: ModelConfig) -> Array:
    table_VD = sharding.whole_rows(params["embed_VD"].astype(cfg.compute))
    x_BTD = sharding.rows(table_VD[token_BT])
    return x_BTD * jnp.asarray(cfg.width**0.5, x_BTD.dtype) if cfg.has.embed_scale else x_BTD


def _scan(block, params: Params, token_BT: Array, kv, cfg: ModelConfig):
    """Embed, run `block` over the layers, norm; also what the blocks return, stacked."""
    body = jax.checkpoint(block) if cfg.remat else block
    x_BTD, out = jax.lax.scan(
        body,
        _embed(params, token_BT, cfg),
        (_stacked(params, cfg), kv),
        unroll=cfg.layers if cfg.unroll else 1,
    )
    return _norm(x_BTD, params["norm_D"], cfg), out


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


# ---- attention -----------------------------------------------------------------------------


def _grouped(x_BTKH: Array, groups: int) -> Array:
    """[B, T, K, H] -> [Q, K, G, T, H]: batch dimensions first, so that a product is one batch."""
    rows, columns, heads, size = x_BTKH.shape
    x = x_BTKH.reshape(rows // groups, groups, columns, heads, size)
    return x.transpose(0, 3, 1, 2, 4)


def _attend_own(q_BTNH, k_BTKH, v_BTKH, *, see_BTS, cfg: ModelConfig, shared=None):
    """Attention of columns to themselves (and to a shared prefix); keeps their keys and values."""
    groups = 1 if shared is None else q_BTNH.shape[0] // shared[0].shape[0]
    k_QKGSH, v_QKGSH = _grouped(k_BTKH, groups), _grouped(v_BTKH, groups)
    return _attention(q_BTNH, (k_QKGSH, v_QKGSH, see_BTS), shared, cfg), (k_QKGSH, v_QKGSH)


def _attention(q_BTNH, own, shared, cfg: ModelConfig):
    """Grouped-query attention of each row to its own columns and to its group's prefix.

    The prefix's keys and values are read once per group: its G rows (and their M query heads)
    are rows of one matrix product.  Softmax over both parts, in float32.
    """
    k_QKGSH, v_QKGSH, see_BTS = own
    rows, columns, heads, size = q_BTNH.shape
    prompts, kv_heads, groups = k_QKGSH.shape[:3]
    per_kv = heads // kv_heads
    split = (prompts, kv_heads, groups, per_kv * columns)

    scale = (cfg.query_scale or size) ** -0.5
    q = q_BTNH.reshape(prompts, groups, columns, kv_heads, per_kv, size) * scale
    q_QKGtH = q.transpose(0, 3, 1, 4, 2, 5).reshape(*split, size)  # t = M * T
    score = jnp.einsum("qkgth,qkgsh->qkgts", q_QKGtH, k_QKGSH, preferred_element_type=jnp.float32)
    score = _masked(score, see_BTS, per_kv, cfg)
    seen = 0
    if shared is not None:
        k_QKPH, v_QKPH, see_BTP = shared
        q_QKxH = q_QKGtH.reshape(prompts, kv_heads, -1, size)
        first = jnp.einsum("qkxh,qkph->qkxp", q_QKxH, k_QKPH, preferred_element_type=jnp.float32)
        first = _masked(first.reshape(*split, -1), see_BTP, per_kv, cfg)
        score = jnp.concatenate([first, score], -1)
        seen = k_QKPH.shape[2]
    weight = jax.nn.softmax(score).astype(v_QKGSH.dtype)
    out_QKGtH = jnp.einsum("qkgts,qkgsh->qkgth", weight[..., seen:], v_QKGSH)
    if shared is not None:
        first_QKxP = weight[..., :seen].reshape(prompts, kv_heads, -1, seen)
        out_QKGtH += jnp.einsum("qkxp,qkph->qkxh", first_QKxP, v_QKPH).reshape(*split, size)
    out = out_QKGtH.reshape(prompts, kv_heads, groups, per_kv, columns, size)
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(rows, columns, heads, size)


def _masked(score_QKGts: Array, see_BTS: Array, per_kv: int, cfg: ModelConfig) -> Array:
    """Scores with unseen columns at a large negative number (finite: a row may see nothing).

    What is seen is told by row, or by prompt for all its rows; by column, or for all of them.
    """
    shape = score_QKGts.shape
    unfolded = _softcap(score_QKGts, cfg.attention_softcap)
    unfolded = unfolded.reshape(*shape[:3], per_kv, -1, shape[-1])
    see = see_BTS.reshape(shape[0], 1, -1, 1, *see_BTS.shape[1:])
    return jnp.where(see, unfolded, -1e30).reshape(shape)
