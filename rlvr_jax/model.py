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

from rlvr_jax import sharding
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


def sizes(cfg: ModelConfig) -> dict[str, int]:
    """Letter -> size."""
    return dict(
        L=cfg.layers,
        D=cfg.width,
        N=cfg.heads,
        K=cfg.kv_heads,
        H=cfg.head_size,
        F=cfg.feedforward,
        V=cfg.vocab,
    )


def names(cfg: ModelConfig) -> list[str]:
    """Every parameter of the model; shape, sharding and checkpoint target follow from the name."""
    block = ["norm1_LD", "q_LDNH", "k_LDKH", "v_LDKH", "out_LNHD"]
    block += ["norm2_LD", "gate_LDF", "up_LDF", "down_LFD"]
    return ["embed_VD", *block, "norm_D", *([] if cfg.tied else ["head_VD"])]


def abstract(cfg: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of all parameters, read off their names; parameters are kept in float32."""
    size = sizes(cfg)
    return {
        name: jax.ShapeDtypeStruct([size[x] for x in sharding.letters(name)], jnp.float32)
        for name in names(cfg)
    }


def init(key: Array, cfg: ModelConfig) -> Params:
    """Random parameters: unit norms, fan-in scaled matrices, residual outputs scaled by depth."""
    params = {}
    for index, (name, shape) in enumerate(abstract(cfg).items()):
        if name.startswith("norm"):
            params[name] = jnp.ones(shape.shape, shape.dtype)
            continue
        fan_in = {"out_LNHD": cfg.heads * cfg.head_size, "down_LFD": cfg.feedforward}
        scale = fan_in.get(name, cfg.width) ** -0.5
        if name in fan_in:
            scale *= (2 * cfg.layers) ** -0.5
        noise = jax.random.normal(jax.random.fold_in(key, index), shape.shape, shape.dtype)
        params[name] = noise * scale
    return params


def prefill(
    params: Params, token_QP: Array, mask_QP: Array, cfg: ModelConfig
) -> tuple[Array, Prefix]:
    """Hidden states [Q, P, D] of left-padded (or any masked) columns, and their keys and values."""
    position_QP = jnp.maximum(jnp.cumsum(mask_QP, -1) - 1, 0)
    causal = jnp.tril(jnp.ones((token_QP.shape[1],) * 2, bool))
    see_QTS = causal & mask_QP[:, None]

    def block(x_QPD, layer):
        w, _ = layer
        return _block(x_QPD, w, position_QP, partial(_attend_own, mask_BTS=see_QTS), cfg)

    hidden_QPD, (k_LQKGSH, v_LQKGSH) = _scan(block, params, token_QP, None, cfg)
    return hidden_QPD, Prefix(k_LQKGSH[:, :, :, 0], v_LQKGSH[:, :, :, 0], mask_QP)


def extend(
    params: Params, token_BR: Array, mask_BR: Array, prefix: Prefix, cfg: ModelConfig
) -> Array:
    """Hidden states [B, R, D] of columns that continue the prefixes, B // Q rows to each."""
    groups = token_BR.shape[0] // prefix.mask_QP.shape[0]
    start_B1 = jnp.repeat(prefix.mask_QP.sum(-1), groups)[:, None]
    position_BR = jnp.maximum(start_B1 + jnp.cumsum(mask_BR, -1) - 1, 0)
    causal = jnp.tril(jnp.ones((token_BR.shape[1],) * 2, bool))
    see_BTS = causal & mask_BR[:, None]

    def block(x_BRD, layer):
        w, (k_QKPH, v_QKPH) = layer
        shared = (k_QKPH, v_QKPH, prefix.mask_QP)
        attend = partial(_attend_own, mask_BTS=see_BTS, shared=shared)
        return _block(x_BRD, w, position_BR, attend, cfg)

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
    position_B1 = (jnp.repeat(prefix.mask_QP.sum(-1), groups) + column)[:, None]
    columns = cache.k_LQKGSH.shape[4]
    see_BTS = jnp.broadcast_to(jnp.arange(columns) <= column, (token_B.shape[0], 1, columns))

    # The whole cache is carried, not scanned over: a scanned output would copy all of it per token.
    def block(carry, layer):
        x_B1D, k_LQKGSH, v_LQKGSH, index = carry
        w, (k_QKPH, v_QKPH) = layer
        shared = (k_QKPH, v_QKPH, prefix.mask_QP)

        def attend(q_BTNH, k_BTKH, v_BTKH):
            at = (index, 0, 0, 0, column, 0)
            new_k = jax.lax.dynamic_update_slice(
                k_LQKGSH, _grouped(k_BTKH, groups)[None].astype(k_LQKGSH.dtype), at
            )
            new_v = jax.lax.dynamic_update_slice(
                v_LQKGSH, _grouped(v_BTKH, groups)[None].astype(v_LQKGSH.dtype), at
            )
            own = (new_k[index], new_v[index], see_BTS)
            return _attention(q_BTNH, own, shared), (new_k, new_v)

        x_B1D, (k_LQKGSH, v_LQKGSH) = _block(x_B1D, w, position_B1, attend, cfg)
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
    return jnp.einsum(
        "...d,vd->...v", hidden_D, head(params, cfg), preferred_element_type=jnp.float32
    )


# ---- parts ---------------------------------------------------------------------------------


def _stacked(params: Params, cfg: ModelConfig) -> Params:
    """The scanned parameters, in compute dtype."""
    stacked = {k: v for k, v in params.items() if sharding.letters(k).startswith("L")}
    return {k: v if k.startswith("norm") else v.astype(cfg.compute) for k, v in stacked.items()}


def _embed(params: Params, token_BT: Array, cfg: ModelConfig) -> Array:
    table_VD = sharding.whole_rows(params["embed_VD"].astype(cfg.compute))
    return sharding.rows(table_VD[token_BT])


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


def _block(x_BTD: Array, w: Params, position_BT: Array, attend, cfg: ModelConfig):
    """Pre-norm attention and SwiGLU.  `attend` maps q, k, v to heads and what to keep of k, v."""
    h_BTD = _norm(x_BTD, w["norm1_LD"], cfg)
    q_BTNH = _rotate(jnp.einsum("btd,dnh->btnh", h_BTD, w["q_LDNH"]), position_BT, cfg)
    k_BTKH = _rotate(jnp.einsum("btd,dkh->btkh", h_BTD, w["k_LDKH"]), position_BT, cfg)
    v_BTKH = jnp.einsum("btd,dkh->btkh", h_BTD, w["v_LDKH"])
    heads_BTNH, kept = attend(q_BTNH, k_BTKH, v_BTKH)
    x_BTD = x_BTD + jnp.einsum("btnh,nhd->btd", heads_BTNH, w["out_LNHD"])
    h_BTD = _norm(x_BTD, w["norm2_LD"], cfg)
    gate_BTF = jax.nn.silu(jnp.einsum("btd,df->btf", h_BTD, w["gate_LDF"]))
    up_BTF = jnp.einsum("btd,df->btf", h_BTD, w["up_LDF"])
    x_BTD = x_BTD + jnp.einsum("btf,fd->btd", gate_BTF * up_BTF, w["down_LFD"])
    return sharding.rows(x_BTD), kept


def _norm(x_D: Array, scale_D: Array, cfg: ModelConfig) -> Array:
    """RMSNorm in float32, back in the dtype of its input."""
    x32_D = x_D.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32_D**2, -1, keepdims=True) + cfg.norm_eps)
    return (x32_D * inverse * scale_D).astype(x_D.dtype)


def _rotate(x_BTNH: Array, position_BT: Array, cfg: ModelConfig) -> Array:
    """Rotary positions, halves convention (RoFormer eq. 34 as Llama lays it out)."""
    half = x_BTNH.shape[-1] // 2
    frequency = cfg.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position_BT[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x1, x2 = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x_BTNH.dtype)


def _grouped(x_BTKH: Array, groups: int) -> Array:
    """[B, T, K, H] -> [Q, K, G, T, H]: batch dimensions first, so that a product is one batch."""
    rows, columns, heads, size = x_BTKH.shape
    x = x_BTKH.reshape(rows // groups, groups, columns, heads, size)
    return x.transpose(0, 3, 1, 2, 4)


def _attend_own(q_BTNH, k_BTKH, v_BTKH, *, mask_BTS, shared=None):
    """Attention of columns to themselves (and to a shared prefix); keeps their keys and values."""
    groups = 1 if shared is None else q_BTNH.shape[0] // shared[2].shape[0]
    k_QKGSH, v_QKGSH = _grouped(k_BTKH, groups), _grouped(v_BTKH, groups)
    return _attention(q_BTNH, (k_QKGSH, v_QKGSH, mask_BTS), shared), (k_QKGSH, v_QKGSH)


def _attention(q_BTNH, own, shared):
    """Grouped-query attention of each row to its own columns and to its group's prefix.

    The prefix's keys and values are read once per group: its G rows (and their M query heads)
    are rows of one matrix product.  Softmax over both parts, in float32.
    """
    k_QKGSH, v_QKGSH, mask_BTS = own
    rows, columns, heads, size = q_BTNH.shape
    prompts, kv_heads, groups = k_QKGSH.shape[:3]
    per_kv = heads // kv_heads
    split = (prompts, kv_heads, groups, per_kv * columns)

    q = q_BTNH.reshape(prompts, groups, columns, kv_heads, per_kv, size) * size**-0.5
    q_QKGtH = q.transpose(0, 3, 1, 4, 2, 5).reshape(*split, size)  # t = M * T
    score = jnp.einsum("qkgth,qkgsh->qkgts", q_QKGtH, k_QKGSH, preferred_element_type=jnp.float32)
    mask = mask_BTS.reshape(prompts, 1, groups, 1, columns, -1)
    score = _masked(score, mask, per_kv)
    if shared is not None:
        k_QKPH, v_QKPH, mask_QP = shared
        q_QKxH = q_QKGtH.reshape(prompts, kv_heads, -1, size)
        first = jnp.einsum("qkxh,qkph->qkxp", q_QKxH, k_QKPH, preferred_element_type=jnp.float32)
        first = _masked(first.reshape(*split, -1), mask_QP[:, None, None, None, None], per_kv)
        score = jnp.concatenate([first, score], -1)
    weight = jax.nn.softmax(score).astype(v_QKGSH.dtype)
    seen = 0 if shared is None else mask_QP.shape[1]
    out_QKGtH = jnp.einsum("qkgts,qkgsh->qkgth", weight[..., seen:], v_QKGSH)
    if shared is not None:
        first_QKxP = weight[..., :seen].reshape(prompts, kv_heads, -1, seen)
        out_QKGtH += jnp.einsum("qkxp,qkph->qkxh", first_QKxP, v_QKPH).reshape(*split, size)
    out = out_QKGtH.reshape(prompts, kv_heads, groups, per_kv, columns, size)
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(rows, columns, heads, size)


def _masked(score_QKGts: Array, mask: Array, per_kv: int) -> Array:
    """Scores with unseen columns at a large negative number (finite: a row may see nothing)."""
    shape = score_QKGts.shape
    unfolded = score_QKGts.reshape(*shape[:3], per_kv, -1, shape[-1])
    return jnp.where(mask, unfolded, -1e30).reshape(shape)
