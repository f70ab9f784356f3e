"""Low-rank adapters (LoRA, arXiv 2106.09685): small matrices that learn beside frozen ones.

A frozen matrix W of a layer gets two matrices A and B of rank U, and stands for

    W + scale * A B        scale = alpha / U, or alpha / sqrt(U) (arXiv 2312.03732)

A and B lie in the same dict of parameters beside W, under its name: `qa_LDU` and `qb_LUNH` belong
to `q_LDNH`.  A starts random and B at 0, so that an adapter changes nothing at first.

Reading computes x W + scale * (x A) B (`project`).  The product A B is not made, so that the
backward pass has no gradient of the shape of W: a third of its arithmetic and all of that memory
are saved, for 2 U (inputs + outputs) more operations per token and matrix.  Writing is different:
a token costs a read of all weights, so the engine adds the product to W once per rollout (`merge`).

The dict of what learns holds the adapters only.  `over` lays it on the base for reading, and
`split` takes it out again, for gradients.
"""

from functools import partial

import jax
import jax.numpy as jnp

from rlvr_jax import hashing, int8
from rlvr_jax.config import ModelConfig
from rlvr_jax.int8 import OUTPUTS
from rlvr_jax.structs import Array, Params

OF_TARGET = {"o": "out"}  # where a target in the config is called otherwise than the parameter


def pair(name: str) -> tuple[str, str]:
    """Return the names of A and B of a matrix: `qa_LDU` and `qb_LUNH` of `q_LDNH`."""
    kind, _, dims = name.partition("_")
    stack = int8.stack(name)  # one pair for each layer and expert
    return f"{kind}a_{dims.removesuffix(OUTPUTS[kind])}U", f"{kind}b_{stack}U{OUTPUTS[kind]}"


def is_part(name: str) -> bool:
    """Return whether a parameter is one of an adapter's matrices."""
    return "U" in name.rpartition("_")[2]


def adapted(names: list[str], cfg: ModelConfig) -> list[str]:
    """Return the matrices among `names` that have an adapter."""
    kinds = {OF_TARGET.get(target, target) for target in cfg.adapter.targets}
    return [name for name in names if cfg.adapter.rank and name.partition("_")[0] in kinds]


def init(key: Array, shapes: dict[str, jax.ShapeDtypeStruct]) -> Params:
    """Return the values of a new adapter: A uniform, with a variance of 1 / (3 inputs), and B 0.

    These are the values of the reference implementation and of PEFT.
    """
    params = {}
    for index, (name, x) in enumerate(shapes.items()):
        kind, _, dims = name.partition("_")
        if kind.endswith("b"):
            params[name] = jnp.zeros(x.shape, x.dtype)
            continue
        inputs = 1
        for letter, size in zip(dims, x.shape, strict=True):
            inputs *= 1 if letter in "LEU" else size
        noise = jax.random.uniform(jax.random.fold_in(key, index), x.shape, x.dtype, -1, 1)
        params[name] = noise * inputs**-0.5
    return params


def over(base: Params | None, params: Params) -> Params:
    """Return parameters laid on a base, or the parameters alone if they are whole themselves."""
    return base | params if base and "embed_VD" not in params else params


def apart(params: Params, base: Params) -> Params:
    """Return the parameters whose arrays are not those of the base: the inverse of `over`."""
    return {name: x for name, x in params.items() if base.get(name) is not x}


def split(params, cfg: ModelConfig):
    """Return the parameters that learn, and the frozen ones: an adapter with a value head, or all.

    The layers may be unstacked.
    """
    if not cfg.adapter.rank:
        return params, {}
    learn = {name for name in params if is_part(name) or name.startswith("value")}
    return (
        {name: x for name, x in params.items() if name in learn},
        {name: x for name, x in params.items() if name not in learn},
    )


def project(x_BTX: Array, w: Params, name: str, cfg: ModelConfig) -> Array:
    """Return x W [B, T, outputs] of a layer's matrix, with its adapter if it has one.

    `w` holds the parameters of one layer, without their dimension L.
    """
    dims = name.rpartition("_")[2].removeprefix("L")
    product = partial(jnp.einsum, _product("BT", dims, name))
    y = int8.multiply(product, x_BTX, w, name)
    a, b = pair(name)
    if a not in w:
        return y
    low_BTU = jnp.einsum(_product("BT", a.rpartition("_")[2][1:], a), x_BTX, w[a])
    return y + cfg.adapter.scale * jnp.einsum(
        _product("BT", b.rpartition("_")[2][1:], b), low_BTU, w[b]
    )


def _product(rows: str, dims: str, name: str) -> str:
    """Return the einsum of rows x with a matrix: `btd,dnh->btnh`."""
    kind = name.partition("_")[0]
    out = "U" if dims.endswith("U") else OUTPUTS[kind if kind in OUTPUTS else kind[:-1]]
    into = dims.removesuffix(out)
    return f"{rows}{into},{dims}->{rows}{out}".lower()


def project_experts(x_YD: Array, w: Params, name: str, count_E: Array, cfg: ModelConfig) -> Array:
    """Return the product of rows, sorted by expert, with their expert's matrix and its adapter."""
    product = partial(jax.lax.ragged_dot, group_sizes=count_E)
    of_rows = partial(jnp.repeat, repeats=count_E, axis=0, total_repeat_length=x_YD.shape[0])
    y = int8.multiply(product, x_YD, w, name, of_rows)
    a, b = pair(name)
    if a not in w:
        return y
    low_YU = jax.lax.ragged_dot(x_YD, w[a], count_E)
    return y + cfg.adapter.scale * jax.lax.ragged_dot(low_YU, w[b], count_E)


def merge(params: Params, cfg: ModelConfig, dtype) -> Params:
    """Return whole parameters in `dtype`: W + scale * A B, and what is held as int8.

    Other parameters stay as they are.  The layers must be stacked.
    """
    beside = {name for name in params if is_part(name) or int8.is_scale(name)}
    merged = {name: x for name, x in params.items() if name not in beside}
    for name in filter(int8.is_matrix, list(merged)):
        parts = pair(name)
        if not beside.isdisjoint((*parts, int8.scale_of(name))):
            whole = int8.widen(name, params)
            if parts[0] in params:
                whole += cfg.adapter.scale * _low_rank(name, params, dtype)
            merged[name] = whole.astype(dtype)
    return merged


def _low_rank(name: str, params: Params, dtype) -> Array:
    """Return the product A B of the adapter of a matrix, of all layers, in float32."""
    parts = pair(name)
    a, b = (params[part].astype(dtype) for part in parts)
    dims = [x.rpartition("_")[2].lower() for x in (*parts, name)]
    return jnp.einsum(f"{dims[0]},{dims[1]}->{dims[2]}", a, b, preferred_element_type=jnp.float32)


def is_equal(policy: Params, reference: Params) -> Array:
    """Return whether a policy's parameters are those of the reference, bit by bit (bool).

    A reference without the adapter that the policy has is equal to it while each B of it is 0.
    What else only the policy has, a value head, plays no part.
    """
    same = [jnp.all(policy[name] == reference[name]) for name in reference]
    alone = [name for name in policy if is_part(name) and name not in reference]
    zero = [jnp.all(policy[name] == 0) for name in alone if name.partition("_")[0].endswith("b")]
    return jnp.all(jnp.stack(same + zero))


def digest(params: Params) -> Array:
    """Return 64 bits, as uint32 [2], that tell the values of parameters from other ones.

    They depend neither on the mesh nor on whether bfloat16 values are held as float32: each value
    is mixed with its place, and integers are added modulo 2^32.  Of a matrix that is int8 the
    scales stand for all (`int8.quantise`), as `convert` may run on another backend.
    """
    lanes = []
    for lane in (hashing.LANE, 0x85EBCA6B):
        total = jnp.uint32(0)
        for name in sorted(name for name, x in params.items() if x.dtype != jnp.int8):
            bits = jax.lax.bitcast_convert_type(params[name].astype(jnp.float32), jnp.uint32)
            place = hashing.of_places(bits.shape, hashing.of_name(name), lane)
            total += jnp.sum(hashing.mix(bits ^ place), dtype=jnp.uint32)
        lanes.append(total)
    return jnp.stack(lanes)
