"""Maxima over windows and over whole feature maps, with PyTorch's gradients.

The gradient of a maximum goes to the first position that attains it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def max_pool(
    x: Float[Array, "b h w c"], window: int, stride: int, padding: int
) -> Float[Array, "b h2 w2 c"]:
    """Returns the maxima over windows; padding is -inf, so it is never one.

    The gradient of a window goes to the first position of its maximum, in row-major
    order, as in PyTorch. A TPU has an instruction for that. Elsewhere it is a chain of
    selects over slices, since JAX's own gradient of `reduce_window` searches for each
    maximum again and scatters, which takes XLA four times as long on a CPU.

    Args:
        x: Feature maps.
        window: Height and width, in pixels.
        stride: Between adjacent windows, in pixels.
        padding: On all four sides, in pixels.
    """
    sides = ((padding, padding), (padding, padding))
    return nnx.max_pool(x, (window, window), (stride, stride), sides)


@max_pool.defjvp
def _max_pool_jvp(window, stride, padding, primals, tangents):
    sizes = {"window": window, "stride": stride, "padding": padding}
    moved = jax.lax.platform_dependent(
        *primals,
        *tangents,
        tpu=functools.partial(_moved_by_jax, **sizes),
        default=functools.partial(_moved_by_selects, **sizes),
    )
    return max_pool(*primals, window, stride, padding), moved


def _moved_by_jax(x, tangent, *, window, stride, padding):
    plain = functools.partial(
        nnx.max_pool,
        window_shape=(window, window),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
    )
    return jax.jvp(plain, (x,), (tangent,))[1]


def _moved_by_selects(x, tangent, **sizes):
    largest, *others = _window_slices(x, fill=-jnp.inf, **sizes)
    where = jnp.zeros(largest.shape, jnp.uint8)
    for number, other in enumerate(others, start=1):
        where = jnp.where(other > largest, jnp.uint8(number), where)
        largest = jnp.maximum(largest, other)
    moved = jnp.zeros_like(largest)
    for number, part in enumerate(_window_slices(tangent, fill=0, **sizes)):
        moved = moved + jnp.where(where == number, part, 0)
    return moved


@jax.custom_jvp
def global_max(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Returns the maxima over height and width.

    The gradient goes to the first position of the maximum, in row-major order, as in
    PyTorch. JAX's own gradient compares all positions with the maximum and divides by
    the number of equal ones. That can be 0, if the compiler computes the layer before
    twice and rounds differently: the gradient is then NaN.

    Args:
        x: Feature maps.
    """
    return x.max((1, 2))


@global_max.defjvp
def _global_max_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    places = (x.shape[0], -1, x.shape[3])
    where = x.reshape(places).argmax(1, keepdims=True)
    # Indexed rather than masked: a mask would keep an array as large as the maps.
    moved = jnp.take_along_axis(
        tangent.reshape(places), where, axis=1, mode="promise_in_bounds"
    )
    return global_max(x), moved.squeeze(1)


def _window_slices(x, *, window, stride, padding, fill):
    """Yields an array of the outputs' size for each position in a window, in order."""
    ends = [(side + 2 * padding - window) // stride * stride for side in x.shape[1:3]]
    around = ((0, 0, 0), (padding, padding, 0), (padding, padding, 0), (0, 0, 0))
    x = jax.lax.pad(x, jnp.asarray(fill, x.dtype), around)
    for row, column in np.ndindex(window, window):
        rows = slice(row, row + ends[0] + 1, stride)
        yield x[:, rows, column : column + ends[1] + 1 : stride]
