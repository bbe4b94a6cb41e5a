from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxtune.train import compile as module
from jaxtune.train import compile_step, compiler_options


@pytest.fixture(autouse=True)
def fresh():
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


def test_the_option_is_known_to_this_jaxlib():
    """If this fails, steps on the CPU are twice as slow as they could be."""
    assert compiler_options("cpu")


def test_other_backends_get_none():
    assert compiler_options("gpu") is None and compiler_options("tpu") is None


def test_a_jaxlib_that_does_not_know_it_goes_without(monkeypatch):
    monkeypatch.setattr(module, "_CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert compiler_options("cpu") is None
    assert compile_step(lambda x: x + 1)(jnp.ones(())) == 2


def test_a_donated_state_is_given_up():
    x = jnp.ones(3)
    y = compile_step(lambda x: x + 1, donate=True)(x)
    assert x.is_deleted() and (y == 2).all()


def test_what_is_compiled_last_can_be_anything():
    def step(x, y):
        return x + y, x * y

    xs = jnp.arange(4.0)
    total, products = compile_step(lambda x: jax.lax.scan(step, x, xs))(1.0)
    assert total == 7 and products.tolist() == [0, 1, 4, 12]
    slope = compile_step(jax.grad(lambda x: jax.lax.scan(step, x, xs)[1].sum()))
    assert slope(1.0) == 6


def test_the_users_compilation_cache_is_kept(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    module.enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before is not None


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        ("", "programs"),
        ("--xla_gpu_deterministic_ops=false", "programs"),
        ("--xla_gpu_deterministic_ops=true", "programs-deterministic"),
    ],
)
def test_kernels_kept_as_the_fastest_are_not_taken_for_deterministic_ones(
    monkeypatch, flags, folder
):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv("XLA_FLAGS", flags)
        module.enable_compilation_cache()
        assert Path(jax.config.jax_compilation_cache_dir).name == folder
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_small_programs_are_kept_too_unless_the_user_chose():
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    try:
        jax.config.update(name, 1.0)
        module.enable_compilation_cache()
        assert getattr(jax.config, name) == 0.0
        jax.config.update(name, 0.5)
        module.enable_compilation_cache()
        assert getattr(jax.config, name) == 0.5
    finally:
        jax.config.update(name, before)
