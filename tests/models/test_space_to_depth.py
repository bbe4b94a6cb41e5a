"""Convolutions of few channels, whose squares of pixels become channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models.convolution import convolve
from jaxtune.models.plain import plain_convolve
from jaxtune.models.space_to_depth import space_to_depth_convolve

CASES = [(side, padding) for side in (2, 3, 5, 7) for padding in range(4)]


def operands(side, *, channels=3, height=12, dtype="float16"):
    rng = np.random.default_rng(0)
    images = rng.integers(-3, 4, size=(2, height, 10, channels))
    weight = rng.integers(-2, 3, size=(side, side, channels, 5))
    # Small whole numbers: sums in any order are the same, to the last bit.
    return jnp.asarray(images, dtype), jnp.asarray(weight, dtype)


@pytest.mark.parametrize(("side", "padding"), CASES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_values_are_the_plain_convolutions(side, padding, channels):
    arrays = operands(side, channels=channels)
    window = {"stride": 2, "padding": padding}
    expected = plain_convolve(*arrays, **window)
    np.testing.assert_array_equal(space_to_depth_convolve(*arrays, **window), expected)


@pytest.mark.parametrize(("side", "padding"), [(3, 1), (7, 3)])
def test_the_gradients_are_the_plain_convolutions(side, padding):
    arrays = operands(side, dtype="float16")

    def gradients(form):
        outputs, back = jax.vjp(lambda *a: form(*a, stride=2, padding=padding), *arrays)
        return back(jnp.ones_like(outputs))

    for found, expected in zip(
        gradients(space_to_depth_convolve), gradients(plain_convolve), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float32"}, {"channels": 8}, {"height": 11}],
    ids=["float32", "many channels", "an odd number of rows"],
)
def test_others_are_left_as_they_are(changes):
    arrays = operands(3, **changes)
    window = {"stride": 2, "padding": 1}
    left = str(
        jax.make_jaxpr(lambda *a: space_to_depth_convolve(*a, **window))(*arrays)
    )
    assert left == str(jax.make_jaxpr(lambda *a: plain_convolve(*a, **window))(*arrays))


@pytest.mark.parametrize("platform", ["cuda", "tpu", "rocm"])
def test_only_programs_for_cuda_have_it(platform):
    def run(images, weight):
        return convolve(images, weight, stride=2, padding=1)

    arrays = operands(3, dtype="bfloat16")
    text = jax.jit(run).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    # Two by two pixels of three channels, and four zeros.
    assert ("tensor<2x6x5x16xbf16>" in text) == (platform == "cuda")
