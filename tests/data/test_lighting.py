"""The numbers are fastai 2.8.12's: brightness, then contrast, as its transforms do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.data.augment import draw_lighting, relight

# (brightness, contrast): what becomes of 0, 1/8, 2/8, ... 1.
RECORDED = {
    (0.55, 1.0): [0, 0.14865, 0.28947, 0.42308, 0.55, 0.67073, 0.78571, 0.89535, 1],
    (0.4, 1.25): [0, 0.05025, 0.13238, 0.24134, 0.37594, 0.53288, 0.704, 0.87276, 1],
    (0.6, 0.8): [0, 0.22577, 0.36482, 0.47894, 0.58039, 0.67547, 0.7691, 0.86774, 1],
    (0.5, 1.0): [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1],
}


@pytest.mark.parametrize("drawn", RECORDED)
def test_light_is_that_of_fastai(drawn):
    image = jnp.linspace(0, 1, 9).reshape(1, 9, 1)
    got = relight(image, *map(jnp.float32, drawn))
    np.testing.assert_allclose(got.ravel(), RECORDED[drawn], atol=1e-5)


def draws(max_lighting=0.2, p_lighting=0.75, number=4000):
    draw = jax.jit(
        jax.vmap(
            lambda key: draw_lighting(
                key, max_lighting=max_lighting, p_lighting=p_lighting
            )
        )
    )
    return map(np.asarray, draw(jax.random.split(jax.random.key(0), number)))


def test_draws_are_those_of_fastai():
    brightness, contrast = draws()
    logs = np.log(contrast)
    for values, neutral, bound in ((brightness, 0.5, 0.1), (logs, 0, np.log(1.25))):
        moved = values[values != neutral]
        assert len(moved) / len(values) == pytest.approx(0.75, abs=0.03)
        assert np.abs(moved - neutral).max() <= bound * 1.0001
        assert moved.mean() == pytest.approx(neutral, abs=0.06 * bound)
        assert moved.std() == pytest.approx(bound / 3**0.5, rel=0.04)
    left = (brightness == 0.5), (logs == 0)
    both = (left[0] & left[1]).mean()
    assert both == pytest.approx(0.0625, abs=0.015), "each is left alone by itself"
    assert abs(np.corrcoef(brightness, logs)[0, 1]) < 0.06


@pytest.mark.parametrize("p_lighting", [0, 1])
def test_never_and_always(p_lighting):
    brightness, contrast = draws(p_lighting=p_lighting, number=300)
    assert (brightness != 0.5).mean() == p_lighting
    assert (contrast != 1).mean() == p_lighting


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_each_image_has_its_own_light_whatever_its_channels(channels):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((3, 4, 5, channels)), jnp.float32)
    brightness = jnp.asarray([0.5, 0.6, 0.4])
    contrast = jnp.asarray([1.0, 1.2, 0.8])
    got = relight(images, brightness, contrast)
    for i in range(3):
        alone = relight(images[i], brightness[i], contrast[i])
        np.testing.assert_allclose(got[i], alone, atol=1e-6)
    np.testing.assert_allclose(got[0], images[0], atol=1e-6)
    assert (np.asarray(got[1]) > images[1]).mean() > 0.5


def test_black_and_white_have_finite_slopes():
    image = jnp.asarray([0.0, 0.5, 1.0]).reshape(1, 3, 1)
    slope = jax.grad(lambda x, b, c: relight(x, b, c).sum(), argnums=(0, 1, 2))
    parts = slope(image, jnp.float32(0.55), jnp.float32(0.9))
    assert all(np.isfinite(part).all() for part in parts)
