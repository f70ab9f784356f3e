"""Kernels are lowered for devices that this machine lacks, and compiled for TPUs by libtpu."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from rlvr_kernels import attention, decode_attention, token_logprob
from rlvr_kernels.attention import cases as attention_cases
from rlvr_kernels.decode_attention import cases as decode_cases
from rlvr_kernels.token_logprob import cases as logprob_cases


def logprob(case, impl):
    """Both outputs and both gradients."""

    def run(args, cotangent_BT):
        def op(x, w):
            options = logprob_cases.options(case)
            return token_logprob.token_logprob(x, w, args["token_BT"], **options, impl=impl)

        out, back = jax.vjp(op, args["hidden_BTD"], args["head_VD"])
        return out, back((cotangent_BT, cotangent_BT))

    args = logprob_cases.abstract(case)
    return run, (args, jax.ShapeDtypeStruct(args["token_BT"].shape, jnp.float32))


def decode(case, impl):
    def run(args):
        return decode_attention.decode_attention(**args, **decode_cases.options(case), impl=impl)

    return run, (decode_cases.abstract(case),)


def attend(case, impl):
    """The output and three gradients."""

    def run(args, cotangent_BTNH):
        def op(q, k, v):
            options = attention_cases.options(case)
            return attention.attention(q, k, v, args["valid_BS"], **options, impl=impl)

        out, back = jax.vjp(op, args["q_BTNH"], args["k_BSKH"], args["v_BSKH"])
        return out, back(cotangent_BTNH)

    args = attention_cases.abstract(case)
    return run, (args, args["q_BTNH"])


OPS = {
    "token_logprob": (logprob, logprob_cases, "pallas_tpu", "pallas_gpu", 3),
    "decode_attention": (decode, decode_cases, "pallas_tpu", "pallas_gpu", None),
    "attention": (attend, attention_cases, "splash", None, 3),
}
ALL = [(op, case) for op in OPS for case in [*OPS[op][1].SMALL, *OPS[op][1].LARGE]]
OURS = [(op, case) for op, case in ALL if OPS[op][3]]
# A case with places is refused by the kernel for TPUs.
ON_TPU = [(op, case) for op, case in ALL if case not in ("places", "smollm2_135m_half")]


def traced(op, name, impl):
    make, cases = OPS[op][:2]
    return make({**cases.SMALL, **cases.LARGE}[name], impl)


@pytest.mark.parametrize("op, name", ON_TPU)
def test_kernels_lower_for_tpu(pretend, op, name) -> None:
    run, args = traced(op, name, OPS[op][2])
    with pretend("tpu"):
        text = jax.jit(run).trace(*args).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call(") == (OPS[op][4] or 1)


def test_the_share_of_a_device_lowers_for_tpu(pretend) -> None:
    """Which share it is, is known on the device only: one program for all of them."""
    case = attention_cases.Case(1, 64, 512, heads=2, kv_heads=1, size=64, dtype="bfloat16")
    args = attention_cases.abstract(case)
    quarter = jax.ShapeDtypeStruct((1, 128, 2, 64), jnp.bfloat16)

    def run(q, k, v, valid, number):
        def op(q, k, v):
            share = (number, 4)
            return attention.attention(q, k, v, valid, scale=1.0, share=share, impl="splash")

        out, back = jax.vjp(op, q, k, v)
        return out, back(out)

    given = (quarter, *(args[name] for name in ("k_BSKH", "v_BSKH", "valid_BS")))
    with pretend("tpu"):
        traced = jax.jit(run).trace(*given, jax.ShapeDtypeStruct((), jnp.int32))
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call(") == 3


@pytest.mark.parametrize("op, name", OURS)
def test_kernels_lower_for_cuda(pretend, op, name) -> None:
    run, args = traced(op, name, OPS[op][3])
    with pretend("cuda"):
        text = jax.jit(run).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__gpu$xla.gpu.triton(") == (OPS[op][4] or 2)


@pytest.mark.tpu_aot
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("op, name", ON_TPU)
def test_kernels_compile_for_tpu(pretend, op, name, topology) -> None:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs a package: pip install libtpu")
    from jax.experimental import topologies

    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    place = jax.sharding.SingleDeviceSharding(device)
    run, args = traced(op, name, OPS[op][2])
    args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args)
    with pretend("tpu", device.device_kind, device.num_cores):
        compiled = jax.jit(run).trace(*args).lower().compile()
    assert "tpu_custom_call" in compiled.as_text()
