"""JAX's own operations: what a GPU or a TPU is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models.plain import affine, plain_convolution, plain_convolve

WINDOW = {"stride": 2, "padding": 1, "groups": 2}


@pytest.fixture
def arrays():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"images": (2, 7, 6, 8), "weight": (3, 3, 4, 6), "outputs": (2, 4, 3, 6)}
    return {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def test_each_array_is_what_jaxs_derivatives_make_of_the_two_others(arrays):
    images, weight, cotangent = arrays.values()
    outputs, gradient = jax.vjp(
        lambda x, w: plain_convolve(x, w, **WINDOW), images, weight
    )
    by_images, by_weight = gradient(cotangent)
    found = [
        plain_convolution(
            images, weight, result="outputs", shape=outputs.shape, **WINDOW
        ),
        plain_convolution(
            cotangent, weight, result="images", shape=images.shape, **WINDOW
        ),
        plain_convolution(
            images, cotangent, result="weight", shape=weight.shape, **WINDOW
        ),
    ]
    for ours, theirs in zip(found, (outputs, by_images, by_weight), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_follows_keeps_the_dtype_and_what_is_no_number():
    y = jnp.array([[[[1.0, -2.0, jnp.nan]]]], "bfloat16")
    scale, shift = jnp.full(3, 2.0), jnp.ones(3)
    found = affine(y, scale, shift, None, relu=True)
    assert found.dtype == y.dtype
    assert found[..., :2].ravel().tolist() == [3, 0] and jnp.isnan(found[..., 2])
    assert affine(y, scale, shift, y, relu=False)[..., :2].ravel().tolist() == [4, -5]
