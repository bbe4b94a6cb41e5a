"""Convolutions in forms that XLA's CPU backend computes fast.

The values are those of the plain convolution up to rounding; only the time differs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

from jaxtune.models.plain import LAYOUTS, plain_convolution, plain_convolve

#: Feature maps of at most this many pixels are convolved by one matrix product.
_FEW_PLACES = 4

#: Inputs with fewer channels are taken for photos, convolved by a network's stem.
_FEW_CHANNELS = 16

_IMAGES, _KERNELS, _ = LAYOUTS


def cpu_convolution(
    left: Float[Array, "..."],
    right: Float[Array, "..."],
    *,
    result: str,
    shape: tuple[int, ...],
    stride: int,
    padding: int,
    groups: int,
    precision: str | None,
) -> Float[Array, "..."]:
    """Returns one of a convolution's three arrays; see `plain_convolution`.

    - A 1x1 convolution is written as a matrix product: XLA on a CPU does not do that by
      itself. A training step of a ResNet-50 then takes 0.65 times as long.
    - Convolutions of maps of very few pixels, and their gradients, are written as one
      matrix product.
    - For the weights' gradient XLA transposes both operands, and recomputes on the way
      what produced them (batch norm, residual sum, ReLU), in an order that misses the
      cache. Here they are transposed before.
    - For the images' gradient of a strided convolution XLA convolves an array of which
      three quarters are zeros. Here it is a sum of dense convolutions.

    Args:
        left: See `plain_convolution`.
        right: See `plain_convolution`.
        result: See `plain_convolution`.
        shape: Of the result.
        stride: In pixels.
        padding: In pixels.
        groups: Number of channel groups.
        precision: Of the products.
    """
    images = shape if result == "images" else left.shape
    weight = shape if result == "weight" else right.shape
    forward = plain_convolve
    if groups == 1 and weight[:2] == (1, 1) and padding == 0:
        forward = _as_product
    elif groups == 1 and images[1] * images[2] <= _FEW_PLACES:
        forward = _at_few_places
    elif groups == 1 and result == "images" and stride > 1:
        forward = _by_phases
    elif groups == 1 and result == "weight":
        forward = _laid_out_before
    window = {"stride": stride, "padding": padding, "groups": groups}
    return plain_convolution(
        left,
        right,
        result=result,
        shape=shape,
        forward=forward,
        precision=precision,
        **window,
    )


def _as_product(x, weight, *, stride, precision, **_):
    """A 1x1 convolution."""
    return jnp.matmul(x[:, ::stride, ::stride], weight[0, 0], precision=precision)


def _at_few_places(x, weight, *, stride, padding, precision, **_):
    """A convolution of a map of very few pixels, as one matrix product.

    XLA on a CPU takes 15 times as long for a 3x3 convolution of a 2x2 map, which is
    what the last stage of a ResNet gets for a photo of 64 pixels.
    """
    (batch, *sides, _), sizes = x.shape, weight.shape[:2]
    outputs = [
        (side + 2 * padding - size) // stride + 1
        for side, size in zip(sides, sizes, strict=True)
    ]
    nothing = jnp.zeros(weight.shape[2:], weight.dtype)

    def tap(place, output):
        y, x = (p + padding - o * stride for p, o in zip(place, output, strict=True))
        return weight[y, x] if 0 <= y < sizes[0] and 0 <= x < sizes[1] else nothing

    matrix = jnp.concatenate(
        [
            jnp.concatenate([tap(place, o) for o in np.ndindex(*outputs)], axis=1)
            for place in np.ndindex(*sides)
        ]
    )
    y = jnp.matmul(x.reshape(batch, -1), matrix, precision=precision)
    return y.reshape(batch, *outputs, -1)


def _laid_out_before(x, weight, *, stride, padding, precision, **_):
    """A convolution whose operands have the layout that its weights' gradient reads.

    The stem's outputs are left as they are: their gradient is not read a second time,
    as the photos need no gradient.
    """
    is_stem = x.shape[-1] < _FEW_CHANNELS
    y = jax.lax.conv_general_dilated(
        _laid_out(x, (3, 1, 2, 0)),
        weight,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("CHWN", _KERNELS, _IMAGES if is_stem else "HWNC"),
        precision=precision,
    )
    return y if is_stem else _laid_out(y, (2, 0, 1, 3))


def _laid_out(x, axes):
    """The transposed array, computed from the array itself, not fused into it."""
    with set_xla_metadata(inlineable="false"):
        return _transpose(x, axes)


@jax.jit(static_argnums=1)
def _transpose(x, axes):
    return x.transpose(axes)


def _by_phases(x, weight, *, stride, padding, precision, **_):
    """A strided convolution as a sum of dense ones of every n-th row and column."""
    sizes, sides = weight.shape[:2], x.shape[1:3]
    outputs = [
        (side + 2 * padding - size) // stride + 1
        for side, size in zip(sides, sizes, strict=True)
    ]
    parts = []
    for taps in np.ndindex(stride, stride):
        kernel = weight[taps[0] :: stride, taps[1] :: stride]
        if not kernel.size:
            continue
        starts, paddings = [], []
        for tap, side, output, length in zip(
            taps, sides, outputs, kernel.shape[:2], strict=True
        ):
            ahead, start = divmod(tap - padding, stride)
            starts.append(start)
            last = output + length - 1 + ahead - len(range(start, side, stride))
            paddings.append((-ahead, last))
        part = jax.lax.conv_general_dilated(
            x[:, starts[0] :: stride, starts[1] :: stride],
            kernel,
            window_strides=(1, 1),
            padding=paddings,
            dimension_numbers=LAYOUTS,
            precision=precision,
        )
        parts.append(part)
    return sum(parts[1:], parts[0])
