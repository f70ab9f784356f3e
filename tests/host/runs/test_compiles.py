"""The compile counter: real compilations by name, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import pytest

from rlvr_jax.host.runs import compiles as kept
from rlvr_jax.host.runs.compiles import Compiles


def test_a_compilation_is_counted_once_and_a_call_is_not():
    compiles = Compiles()

    @jax.jit
    def counted_a(x):
        return x * 2 + 1

    assert compiles.count("counted_a") == 0
    for _ in range(3):
        counted_a(jnp.ones(3))
    assert compiles.count("counted_a") == 1
    counted_a(jnp.ones(4))  # another shape is another program
    assert compiles.count("counted_a") == 2


def test_functions_are_told_apart_by_their_whole_name():
    def counted_b(x):
        return x - 1

    def counted_b_longer(x):
        return x - 2

    compiles = Compiles()
    jax.jit(counted_b_longer)(jnp.ones(3))
    assert compiles.count("counted_b") == 0
    jax.jit(counted_b)(jnp.ones(3))
    assert compiles.count("counted_b") == compiles.count("counted_b_longer") == 1
    assert compiles.count("never") == 0


def test_a_partial_has_the_name_of_its_function():
    """The steps are jitted as partials; the loop asks for them by the function's name."""

    def counted_c(x, *, by):
        return x * by

    compiles = Compiles()
    jax.jit(functools.partial(counted_c, by=3))(jnp.ones(3))
    assert compiles.count("counted_c") == 1


def test_counting_starts_when_the_counter_is_made():
    @jax.jit
    def counted_d(x):
        return x / 3

    early = Compiles()
    counted_d(jnp.ones(3))
    late = Compiles()
    counted_d(jnp.ones(3))
    assert (early.count("counted_d"), late.count("counted_d")) == (1, 0)
    assert early.seconds > 0 and late.seconds == 0


def test_ahead_of_time_compilation_counts_too():
    def counted_e(x):
        return x**3

    compiles = Compiles()
    jax.jit(counted_e).lower(jnp.ones(3)).compile()
    assert compiles.count("counted_e") == 1


@pytest.fixture
def cache_setting():
    before = jax.config.values["jax_compilation_cache_dir"]
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_users_cache_folder(tmp_path, monkeypatch, cache_setting) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    kept.enable_disk_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "rlvr_jax" / "xla")


def test_a_folder_that_was_named_stays(tmp_path, cache_setting) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    kept.enable_disk_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path)
