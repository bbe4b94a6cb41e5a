"""Convolution and max-pooling in the forms that XLA's CPU backend computes fast.

Arrays in, arrays out; values and derivatives are those of the plain operations, and so
are the transforms they go through (`jit`, `grad`, `jvp`, `vmap`). The one rule of the
file: nothing here knows of parameters or modules.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.custom_derivatives import SymbolicZero
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

from jaxtune.models.convolution import (
    finish,
    onednn_computes,
    onednn_convolve,
    onednn_convolve_affine,
    xla_convolve,
)

#: Maps of so many places at most are convolved by a matrix product.
_FEW_PLACES = 4

#: Images of fewer channels are photos, which the stem convolves.
_FEW_CHANNELS = 16

_IMAGES, _KERNELS = "NHWC", "HWIO"


def convolve(
    x: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Returns the convolved images, as `torch.nn.functional.conv2d`.

    Args:
        x: Images or feature maps.
        weight: Kernels, square; i = c / groups.
        stride: In both directions, in pixels.
        padding: On all four sides, in pixels of zeros.
        groups: Of channels, convolved apart.
    """
    if onednn_computes(x.dtype):
        return onednn_convolve(x, weight, stride=stride, padding=padding, groups=groups)
    if groups > 1:
        return xla_convolve(x, weight, stride=stride, padding=padding, groups=groups)
    if weight.shape[0] == 1 and padding == 0:
        # A 1x1 convolution is a matrix product; XLA on the CPU runs it as one
        # only if it is written as one (0.65 of the time of a ResNet-50 step).
        return x[:, ::stride, ::stride] @ weight[0, 0]
    if x.shape[1] * x.shape[2] <= _FEW_PLACES:
        return _at_few_places(x, weight, stride=stride, padding=padding)
    if jax.default_backend() == "cpu":
        return _cpu_convolution(x, weight, stride, padding)
    return xla_convolve(x, weight, stride=stride, padding=padding)


def convolve_affine(
    x: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    scale: Float[Array, " d"],
    shift: Float[Array, " d"],
    residual: Float[Array, "b h2 w2 d"] | None = None,
    *,
    relu: bool = False,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Returns `convolve(x) * scale + shift + residual`, then max(x, 0) with `relu`.

    A convolution and the batch norm with running statistics which follows it. oneDNN
    computes all of it while an output is at hand; XLA reads and writes the array again.

    Args:
        x: Images or feature maps.
        weight: See `convolve`.
        scale: Of each channel.
        shift: Of each channel.
        residual: Added before the maximum, or None.
        relu: Whether the maximum is taken.
        stride: See `convolve`.
        padding: See `convolve`.
        groups: See `convolve`.
    """
    window = {"stride": stride, "padding": padding, "groups": groups}
    if onednn_computes(x.dtype):
        return onednn_convolve_affine(
            x, weight, scale, shift, residual, relu=relu, **window
        )
    return finish(convolve(x, weight, **window), scale, shift, residual, relu=relu)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _cpu_convolution(x, weight, stride, padding):
    """A convolution whose derivatives are written as XLA's CPU backend wants them.

    For the gradient by the weight it lays both operands out anew, and computes what
    made them (batch norm, residual sum, ReLU) once more on the way, in an order that
    misses the cache. For the gradient by the images of a strided convolution it
    convolves an array that is three quarters zeros.
    """
    return xla_convolve(x, weight, stride=stride, padding=padding)


def _cpu_convolution_jvp(stride, padding, primals, tangents):
    (x, weight), (moved_x, moved_weight) = primals, tangents
    y, moved = _cpu_convolution(x, weight, stride, padding), []
    if not isinstance(moved_x, SymbolicZero):
        moved.append(_by_phases(moved_x, weight, stride, padding))
    if not isinstance(moved_weight, SymbolicZero):
        # The transpose of this convolution is one that XLA takes as it stands. The
        # stem's outputs are its own gradient's alone: there is nothing to read twice.
        is_stem = x.shape[-1] < _FEW_CHANNELS
        by_weight = jax.lax.conv_general_dilated(
            _laid_out(x, (3, 1, 2, 0)),
            moved_weight,
            window_strides=(stride, stride),
            padding=[(padding, padding)] * 2,
            dimension_numbers=("CHWN", _KERNELS, _IMAGES if is_stem else "HWNC"),
        )
        moved.append(by_weight if is_stem else _laid_out(by_weight, (2, 0, 1, 3)))
    return y, sum(moved[1:], moved[0])


_cpu_convolution.defjvp(_cpu_convolution_jvp, symbolic_zeros=True)


@functools.partial(jax.jit, static_argnums=1)
def _transpose(x, axes):
    return x.transpose(axes)


def _laid_out(x, axes):
    """The transposed array, read from the array and not from what made it."""
    with set_xla_metadata(inlineable="false"):
        return _transpose(x, axes)


def _by_phases(x, weight, stride, padding):
    """A strided convolution as a sum of dense ones of every other row and column."""
    if stride == 1:
        return xla_convolve(x, weight, stride=stride, padding=padding)
    size, sides = weight.shape[0], x.shape[1:3]
    outputs = [(side + 2 * padding - size) // stride + 1 for side in sides]
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
            dimension_numbers=(_IMAGES, _KERNELS, _IMAGES),
        )
        parts.append(part)
    return sum(parts[1:], parts[0])


def _at_few_places(
    x: Float[Array, "b h w c"],
    weight: Float[Array, "k k c d"],
    *,
    stride: int,
    padding: int,
) -> Float[Array, "b h2 w2 d"]:
    """A convolution of a map of very few places, as one matrix product.

    XLA on the CPU takes 15 times as long for a 3x3 convolution of 2x2 places, which is
    what the last stage of a ResNet sees of a photo of 64 pixels.
    """
    (batch, *sides, _), size = x.shape, weight.shape[0]
    outputs = [(side + 2 * padding - size) // stride + 1 for side in sides]
    nothing = jnp.zeros(weight.shape[2:], weight.dtype)

    def tap(place, output):
        y, x = (p + padding - o * stride for p, o in zip(place, output, strict=True))
        return weight[y, x] if 0 <= y < size and 0 <= x < size else nothing

    matrix = jnp.concatenate(
        [
            jnp.concatenate([tap(place, o) for o in np.ndindex(*outputs)], axis=1)
            for place in np.ndindex(*sides)
        ]
    )
    return (x.reshape(batch, -1) @ matrix).reshape(batch, *outputs, -1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def max_pool(
    x: Float[Array, "b h w c"], window: int, stride: int, padding: int
) -> Float[Array, "b h2 w2 c"]:
    """Returns the maxima over windows; padding never wins.

    The gradient of a window goes to the first place that has its maximum, row by row,
    as in PyTorch. JAX's own gradient of `reduce_window` looks for each maximum anew and
    scatters, which takes XLA on the CPU four times as long as these selects.

    Args:
        x: Feature maps.
        window: Height and width, in pixels.
        stride: Between two windows, in pixels.
        padding: On all four sides, in pixels.
    """
    sides = ((padding, padding), (padding, padding))
    return nnx.max_pool(x, (window, window), (stride, stride), sides)


@max_pool.defjvp
def _max_pool_jvp(window, stride, padding, primals, tangents):
    slices = functools.partial(
        _window_slices, window=window, stride=stride, padding=padding
    )
    largest, *others = slices(*primals, fill=-jnp.inf)
    where = jnp.zeros(largest.shape, jnp.uint8)
    for number, other in enumerate(others, start=1):
        where = jnp.where(other > largest, jnp.uint8(number), where)
        largest = jnp.maximum(largest, other)
    moved = jnp.zeros_like(largest)
    for number, tangent in enumerate(slices(*tangents, fill=0)):
        moved = moved + jnp.where(where == number, tangent, 0)
    return largest, moved


@jax.custom_jvp
def global_max(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Returns the maxima over height and width.

    The gradient goes to the first place that has the maximum, row by row, as in
    PyTorch. JAX's own gradient of a maximum asks which places are equal to it, and
    divides by how many are: none, where the compiler computes the layer before twice
    and rounds it in two ways.

    Args:
        x: Feature maps.
    """
    return x.max((1, 2))


@global_max.defjvp
def _global_max_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    places = (x.shape[0], -1, x.shape[3])
    where = x.reshape(places).argmax(1, keepdims=True)
    # Taken rather than masked: a mask as large as the maps would be kept until then.
    moved = jnp.take_along_axis(
        tangent.reshape(places), where, axis=1, mode="promise_in_bounds"
    )
    return global_max(x), moved.squeeze(1)


def _window_slices(x, *, window, stride, padding, fill):
    """One array of the outputs' size for each place of a window, row by row."""
    ends = [(side + 2 * padding - window) // stride * stride for side in x.shape[1:3]]
    around = ((0, 0, 0), (padding, padding, 0), (padding, padding, 0), (0, 0, 0))
    x = jax.lax.pad(x, jnp.asarray(fill, x.dtype), around)
    for row, column in np.ndindex(window, window):
        rows = slice(row, row + ends[0] + 1, stride)
        yield x[:, rows, column : column + ends[1] + 1 : stride]
