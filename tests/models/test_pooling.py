"""Pooling: values, derivatives, and what happens to equal places and to NaN."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import close, counts_by_platform

from jaxtune.models import pooling
from jaxtune.models.pooling import global_max, max_pool


def arrays(side, channels):
    keys = jax.random.split(jax.random.key(0))
    return [jax.random.normal(key, (2, side, side, channels)) for key in keys]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("side", "window", "stride", "padding"),
    [
        (8, 3, 2, 1),
        (9, 3, 2, 1),
        (7, 2, 2, 0),
        (9, 5, 3, 2),
        (6, 3, 1, 1),
        (7, 2, 3, 0),
        (8, 2, 2, 1),
        (20, 16, 3, 1),
    ],
)
def test_max_pools_values_and_gradient_are_jaxs(side, window, stride, padding, dtype):
    x, moved = arrays(side, 4)
    if dtype == "bfloat16":
        # No two are the same: of equal places JAX's derivative takes not the first.
        numbers = jax.random.permutation(jax.random.key(1), x.size).reshape(x.shape)
        x = jax.lax.bitcast_convert_type((numbers + 0x3F80).astype("int16"), dtype)
        x, moved = x * jnp.sign(moved).astype(dtype), jnp.round(4 * moved).astype(dtype)
    sizes = ((window, window), (stride, stride), ((padding, padding),) * 2)

    def ours(x):
        return max_pool(x, window, stride, padding)

    def theirs(x):
        return jax.lax.reduce_window(
            x,
            -jnp.inf,
            jax.lax.max,
            (1, *sizes[0], 1),
            (1, *sizes[1], 1),
            ((0, 0), *sizes[2], (0, 0)),
        )

    def value_and_derivatives(pool):
        slope = jax.grad(lambda x: (pool(x) ** 2).sum())
        return jax.jit(lambda x: (pool(x), slope(x), jax.jvp(pool, (x,), (moved,))))(x)

    # Sums of overlapping windows in bfloat16 are rounded once here.
    tolerance = {"rtol": 2**-6, "atol": 2**-6} if dtype == "bfloat16" else {}
    close(value_and_derivatives(ours), value_and_derivatives(theirs), **tolerance)


def test_a_tpu_is_given_its_own_gradient_and_others_selects():
    x = jnp.ones((1, 8, 8, 4))
    traced = jax.jit(jax.grad(lambda x: (max_pool(x, 3, 2, 1) ** 2).sum())).trace(x)
    count = counts_by_platform(traced, "stablehlo.select_and_scatter")
    assert count == {"cpu": 0, "cuda": 0, "tpu": 1}


def test_all_gradients_are_the_same():
    x, cotangent = arrays(9, 4)
    cotangent = cotangent[:, :5, :5]
    sizes = {"window": 3, "stride": 2, "padding": 1}
    found = []
    kinds = (pooling._moved_by_jax, pooling._moved_by_selects, pooling._moved_by_phases)
    for moved in kinds:
        for values in (x, jnp.round(x)):  # Rounded, there are equal places.
            transposed = jax.linear_transpose(
                functools.partial(moved, values, **sizes), x
            )
            found.append(transposed(cotangent)[0])
    for ours, theirs in zip(found[2:], found[:2] * 2, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_of_equal_places_the_first_gets_the_gradient_and_padding_none():
    gradient = jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())(jnp.zeros((1, 4, 4, 1)))
    first = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[0, :, :, 0], first)
    below = jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())(jnp.full((1, 4, 4, 1), -5.0))
    np.testing.assert_array_equal(below, gradient)


def test_the_maximum_of_a_map_and_its_derivatives_are_jaxs():
    x, moved = arrays(5, 4)
    x, moved = x[:, :3], moved[:, :3]

    def theirs(x):
        return x.max((1, 2))

    for f in (global_max, jax.vmap(lambda x: global_max(x[None])[0])):
        np.testing.assert_array_equal(f(x), theirs(x))
        close(
            jax.grad(lambda x, f=f: (f(x) ** 3).sum())(x),
            jax.grad(lambda x: (theirs(x) ** 3).sum())(x),
        )
        close(jax.jvp(f, (x,), (moved,)), jax.jvp(theirs, (x,), (moved,)))
    ties = jax.grad(lambda x: global_max(x).sum())(jnp.zeros((1, 2, 2, 1)))
    assert ties.ravel().tolist() == [1, 0, 0, 0]
    assert jnp.isnan(global_max(x.at[1, 2, 2, 3].set(jnp.nan))[1, 3])


def test_a_maximum_has_a_gradient_where_the_layer_before_is_rounded_in_two_ways():
    x, _ = arrays(7, 8)

    def loss(scale):
        # A batch norm, which XLA computes for the maximum and for its gradient again.
        y = (x - x.mean((0, 1, 2))) * (jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * scale)
        return (global_max(y + 0.1 * scale) ** 2).sum()

    # Without LLVM's passes the two are not the same to the last bit.
    plain = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
    gradients = [
        jax.jit(jax.grad(loss), compiler_options=options)(jnp.ones(8))
        for options in (plain, {})
    ]
    close(*gradients)


def test_pooling_a_value_that_is_no_number_is_no_number():
    for dtype, sign in itertools.product(("float32", "bfloat16"), (1, -1)):
        number = np.copysign(np.float32("nan"), sign)
        x = jnp.ones((1, 4, 4, 1)).at[0, 0, 0, 0].set(number).astype(dtype)
        value, _ = jax.value_and_grad(lambda x: max_pool(x, 3, 2, 1)[0, 0, 0, 0])(x)
        assert jnp.isnan(value)
        assert jnp.isnan(max_pool(x, 3, 2, 1)[0, 0, 0, 0])


def test_infinities_and_both_zeros_are_pooled_as_numbers():
    x = jnp.full((1, 2, 2, 1), -jnp.inf).at[0, 0, 1, 0].set(jnp.inf)
    assert max_pool(x, 2, 2, 0).item() == jnp.inf
    assert max_pool(-jnp.abs(x), 2, 2, 0).item() == -jnp.inf
    zeros = jnp.array([-0.0, 0.0, -2.0, -0.0]).reshape(1, 2, 2, 1)
    assert max_pool(zeros, 2, 2, 0) == 0
    slope = jax.grad(lambda x: max_pool(x, 2, 2, 0).sum())(zeros)
    assert slope.ravel().tolist() == [1, 0, 0, 0]
