"""The choice of an implementation, by name or by the platform of the ambient mesh."""

import jax
import pytest

from rlvr_kernels import attention, decode_attention, dispatch, token_logprob

TABLE = {"xla": lambda: "x", "fast": lambda: "f"}
OPS = (attention, decode_attention, token_logprob)


@pytest.mark.parametrize("name, want", [("tpu", "tpu"), ("cuda", "gpu"), ("rocm", "gpu")])
def test_platform_is_that_of_the_ambient_mesh(pretend, name, want) -> None:
    with pretend(name):
        assert dispatch.platform() == want
        assert jax.jit(lambda: len(dispatch.platform() + want))() == 2 * len(want)  # in a trace


def test_without_a_mesh_or_a_device_in_it_platform_is_the_backend() -> None:
    assert dispatch.platform() == jax.default_backend() == "cpu"
    with jax.set_mesh(jax.make_mesh((1,), ("x",))):
        assert dispatch.platform() == "cpu"


def test_no_name_is_the_default_of_the_platform_and_xla_without_one(pretend) -> None:
    assert dispatch.choose_implementation(None, TABLE, {"tpu": "fast"})() == "x"
    with pretend("tpu"):
        assert dispatch.choose_implementation(None, TABLE, {"tpu": "fast"})() == "f"
        assert dispatch.choose_implementation(None, TABLE, {"gpu": "fast"})() == "x"
    with pretend("rocm"):
        assert dispatch.choose_implementation(None, TABLE, {"gpu": "fast"})() == "f"


def test_a_name_is_that_implementation_or_an_error_that_lists_them() -> None:
    assert dispatch.choose_implementation("fast", TABLE, {"cpu": "xla"})() == "f"
    with pytest.raises(ValueError, match="'slow'; there are fast, xla"):
        dispatch.choose_implementation("slow", TABLE, {})


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_nothing_unmeasured_is_a_default(pretend, op, platform) -> None:
    with pretend(platform):
        run = dispatch.choose_implementation(None, op.IMPLEMENTATIONS, op.DEFAULT)
    assert run is op.IMPLEMENTATIONS["xla"]
