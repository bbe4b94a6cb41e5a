"""A convolution of few channels and stride 2, as one of many channels and stride 1.

Kernels for matrix units read many channels of half precision at once: cuDNN takes older
ones for the three of a photo, and oneDNN fills up with zeros. So each 2x2 square of
pixels becomes one pixel of four times as many channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtune.models.plain import LAYOUTS, plain_convolve

#: Channels that a kernel reads at once, and what counts as few.
_TOGETHER, _FEW = 8, 4


def space_to_depth_convolve(
    images: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    precision: str | None = None,
) -> Float[Array, "b h2 w2 d"]:
    """Returns the convolved images; the values are `plain_convolve`'s up to rounding.

    Convolutions with another stride than 2, more than four channels, an odd number of
    rows or columns, or in float32 are left as they are.

    Args:
        images: See `plain_convolve`, whose signature it has.
        weight: See `plain_convolve`.
        stride: See `plain_convolve`.
        padding: See `plain_convolve`.
        groups: See `plain_convolve`.
        precision: See `plain_convolve`.

    References:
        Ying et al., "Image Classification at Supercomputer Scale",
        https://arxiv.org/abs/1811.06992 (space to depth of the first convolution).
    """
    window = {"stride": stride, "padding": padding, "groups": groups}
    if not becomes_squares(images, weight, **window):
        return plain_convolve(images, weight, precision=precision, **window)
    images, weight, padded = as_squares(images, weight, padding=padding)
    return jax.lax.conv_general_dilated(
        images,
        weight,
        window_strides=(1, 1),
        padding=padded,
        dimension_numbers=LAYOUTS,
        precision=precision,
    )


def becomes_squares(
    images: Any, weight: Any, *, stride: int, padding: int, groups: int
) -> bool:
    """Returns whether a convolution is one of those that `as_squares` is for.

    Args:
        images: Array, or anything with a shape and a dtype.
        weight: Likewise.
        stride: See `plain_convolve`.
        padding: See `plain_convolve`.
        groups: See `plain_convolve`.
    """
    height, width, channels = images.shape[1:]
    few = channels <= _FEW and images.dtype.itemsize == 2
    even = not (height % 2 or width % 2)
    return few and even and stride == 2 and groups == 1 and weight.shape[0] > 1


def as_squares(
    images: Float[Array, "b h w c"], weight: Float[Array, "k k c d"], *, padding: int
) -> tuple[Float[Array, "b h2 w2 e"], Float[Array, "l l e d"], list[tuple[int, int]]]:
    """Returns images, weight and padding of the convolution of stride 1.

    Args:
        images: Of an even height and width.
        weight: Of the convolution of stride 2.
        padding: Likewise, in pixels.

    Returns:
        Images and weight with four times as many channels, filled up to a multiple of
        eight, and squares of padding before and after, for both directions.
    """
    height, width, channels = images.shape[1:]
    outputs = [(size + 2 * padding - len(weight)) // 2 + 1 for size in (height, width)]
    # Zeros around the kernel, so that it begins and ends with a whole square.
    before = padding % 2
    around = before, (before + len(weight)) % 2
    weight = jnp.pad(weight, (around, around, (0, 0), (0, 0)))
    squares, first = len(weight) // 2, (padding + before) // 2
    padded = [
        (first, count - 1 + squares - size // 2 - first)
        for count, size in zip(outputs, (height, width), strict=True)
    ]
    images = images.reshape(-1, height // 2, 2, width // 2, 2, channels)
    images = _as_channels(images.transpose(0, 1, 3, 2, 4, 5), axis=3)
    weight = weight.reshape(squares, 2, squares, 2, channels, -1)
    weight = _as_channels(weight.transpose(0, 2, 1, 3, 4, 5), axis=2)
    return images, weight, padded


def _as_channels(x: Float[Array, "..."], *, axis: int) -> Float[Array, "..."]:
    """Joins three dimensions from `axis` on, and fills up with zeros."""
    shape = *x.shape[:axis], -1, *x.shape[axis + 3 :]
    x = x.reshape(shape)
    missing = -x.shape[axis] % _TOGETHER
    widths = [(0, missing if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, widths)
