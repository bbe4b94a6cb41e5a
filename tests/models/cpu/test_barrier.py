"""The barrier: an identity in every transform, there on a CPU alone."""

import jax
import jax.numpy as jnp
import numpy as np
from convolutions import counts_by_platform

from jaxtune.models.cpu.barrier import cpu_barrier


def loss(x):
    return (cpu_barrier(jnp.sin(x)) ** 2).sum()


def plain(x):
    return (jnp.sin(x) ** 2).sum()


def test_it_changes_no_value_and_no_derivative():
    x = jnp.arange(6.0).reshape(2, 3)
    for wrap in (jax.jit, jax.grad, jax.vmap, lambda f: jax.hessian(f)):
        np.testing.assert_array_equal(wrap(loss)(x), wrap(plain)(x))
    np.testing.assert_array_equal(jax.jvp(loss, (x,), (x,)), jax.jvp(plain, (x,), (x,)))
    assert (cpu_barrier(x) == x).all()


def test_only_a_program_for_a_cpu_has_it():
    traced = jax.jit(jax.grad(loss)).trace(jnp.ones(3))
    count = counts_by_platform(traced, "optimization_barrier")
    assert count == {"cpu": 2, "cuda": 0, "tpu": 0}
