"""The choice of an implementation, by name or by the platform of the ambient mesh."""

from pathlib import Path

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


def test_defaults_are_those_of_the_table_of_earned_numbers(pretend) -> None:
    """README.md has a row for each; on GPUs nothing has been measured."""
    text = (Path(attention.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Earned numbers")[2].partition("\n## ")[0]
    taken = {}
    for op in OPS:
        name = op.__name__.rpartition(".")[2]
        with pretend("tpu"):
            taken[name] = dispatch.earned(op.DEFAULT)
        with pretend("cuda"):
            assert dispatch.earned(op.DEFAULT) == "xla"
        assert taken[name] == "xla" or f"| `{name}` | `{taken[name]}` |" in table
    wanted = {"attention": "splash", "decode_attention": "xla", "token_logprob": "pallas_tpu"}
    assert taken == wanted


def test_kernels_are_taken_unasked_only_for_arrays_they_have_earned(pretend) -> None:
    with pretend("tpu"):
        assert [attention.earned(t, near=False) for t in (127, 128)] == ["xla", "splash"]
        assert attention.earned(512, near=True) == "xla"
        assert [token_logprob.earned(d) for d in (8192, 8320)] == ["pallas_tpu", "xla"]
    assert attention.earned(512, near=False) == token_logprob.earned(64) == "xla"
