"""Random light: brightness and contrast of images, on the device.

Floats in 0..1 go in, and come out. The one rule: both act on the logits of the pixels,
so nothing is clipped, and black and white stay what they are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

# fastai's bound, which keeps the logits of black and white finite.
_LEAST = 1e-7


def draw_lighting(
    key: Key[Array, ""], *, max_lighting: float | int, p_lighting: float | int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns a brightness and a contrast as `relight` takes them.

    Brightness is uniform in 0.5 (1 -+ max_lighting); contrast is uniform in its
    logarithm, between 1 - max_lighting and its inverse. Each is left alone (0.5, and 1)
    with probability 1 - p_lighting.

    Args:
        key: Typed key, used up here.
        max_lighting: Largest change, in [0, 1).
        p_lighting: Probability of each of the two.

    References:
        fastai 2.8.12, vision/augment.py `Brightness`, `Contrast`.
    """
    bright, contrast, *chances = 2 * jax.random.uniform(key, (4,), jnp.float32) - 1
    some = [(chance + 1) / 2 < p_lighting for chance in chances]
    bright = jnp.where(some[0], 0.5 * (1 + max_lighting * bright), 0.5)
    contrast = jnp.exp(contrast * -jnp.log1p(-jnp.float32(max_lighting)))
    return bright, jnp.where(some[1], contrast, 1.0)


def relight(
    images: Float[Array, "*batch h w c"],
    brightness: Float[Array, "*batch"],
    contrast: Float[Array, "*batch"],
) -> Float[Array, "*batch h w c"]:
    """Returns images in other light: sigmoid(contrast (logit(x) + logit(brightness))).

    Args:
        images: Floats in 0..1, of any number of channels.
        brightness: Of each image; what middle grey becomes at contrast 1, 0.5 for no
            change.
        contrast: Of each image, a factor of the logits; 1 for no change.

    References:
        fastai 2.8.12, vision/augment.py `LightingTfm`.
    """

    def logit(x):
        x = jnp.clip(x, _LEAST, 1 - _LEAST)
        return jnp.log(x / (1 - x))

    def spread(x):
        return x[..., None, None, None]

    shifted = logit(images) + spread(logit(brightness))
    return jax.nn.sigmoid(spread(contrast) * shifted)
