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
    maximum again and scatters, which takes XLA four times as long on a CPU. There,
    maxima are of integers in the floats' order, which XLA compares many at a time.

    Args:
        x: Feature maps.
        window: Height and width, in pixels.
        stride: Between adjacent windows, in pixels.
        padding: On all four sides, in pixels.
    """
    sizes = {"window": window, "stride": stride, "padding": padding}
    return jax.lax.platform_dependent(
        x,
        cpu=functools.partial(_pooled_as_integers, **sizes),
        default=functools.partial(_pooled_by_jax, **sizes),
    )


@max_pool.defjvp
def _max_pool_jvp(window, stride, padding, primals, tangents):
    sizes = {"window": window, "stride": stride, "padding": padding}
    moved = jax.lax.platform_dependent(
        *primals,
        *tangents,
        cpu=functools.partial(_moved_by_phases, **sizes),
        tpu=functools.partial(_moved_by_jax, **sizes),
        default=functools.partial(_moved_by_selects, **sizes),
    )
    return max_pool(*primals, window, stride, padding), moved


def _pooled_by_jax(x, *, window, stride, padding):
    sides = ((padding, padding), (padding, padding))
    return nnx.max_pool(x, (window, window), (stride, stride), sides)


def _pooled_as_integers(x, **sizes):
    keys = _ordered_integers(x)
    slices = _window_phases(keys, fill=jnp.iinfo(keys.dtype).min, **sizes)
    return _floats_of(functools.reduce(jnp.maximum, slices), x.dtype)


def _moved_by_jax(x, tangent, **sizes):
    plain = functools.partial(_pooled_by_jax, **sizes)
    return jax.jvp(plain, (x,), (tangent,))[1]


def _moved_by_selects(x, tangent, **sizes):
    where = _position_of_maximum(x, -jnp.inf, **sizes)
    moved = jnp.zeros(where.shape, tangent.dtype)
    for number, part in enumerate(_window_slices(tangent, fill=0, **sizes)):
        moved = moved + jnp.where(where == number, part, 0)
    return moved


def _moved_by_phases(x, tangent, *, window, stride, padding):
    """`_moved_by_selects` for CPUs: its gradient is a sum for each phase of positions.

    A phase's positions have the same remainder by the stride, so they lie at the same
    places in the windows. Sums are in float32 at least.
    """
    sizes = {"window": window, "stride": stride, "padding": padding}
    keys = _ordered_integers(x)
    where = _position_of_maximum(keys, jnp.iinfo(keys.dtype).min, **sizes)
    wide = jnp.promote_types(tangent.dtype, jnp.float32)
    phases = [
        [part.astype(wide) for part in _phases(rows, 2, stride)]
        for rows in _phases(tangent, 1, stride)
    ]
    outputs, places = where.shape[1:3], phases[0][0].shape[1:3]
    # Windows before the first and after the last one, which phases reach into.
    before, after = (window - 1 - padding) // stride, -(-padding // stride)
    ends = np.maximum(outputs, np.add(places, after)) + before
    chosen = _placed(where, ends, (before, before), fill=window**2)
    moved = jnp.zeros(chosen.shape, wide)
    for number, position in enumerate(np.ndindex(window, window)):
        shift, (row, column) = np.divmod(np.subtract(position, padding), stride)
        rows, columns = map(slice, before - shift, before - shift + places)
        here = chosen[:, rows, columns] == number
        part = jnp.where(here, phases[row][column], 0)
        moved += _placed(part, ends, before - shift, fill=0)
    rows, columns = (slice(before, before + size) for size in outputs)
    return moved[:, rows, columns].astype(tangent.dtype)


def _placed(x, ends, corner, *, fill):
    """Puts maps at a place in larger ones."""
    sizes = zip(corner, ends, x.shape[1:3], strict=True)
    around = [(first, end - first - size) for first, end, size in sizes]
    return jnp.pad(x, ((0, 0), *around, (0, 0)), constant_values=fill)


def _position_of_maximum(x, fill, **sizes):
    """Returns the number of each window's first maximum, counted row by row."""
    largest, *others = _window_slices(x, fill=fill, **sizes)
    # One number more, for no position at all.
    number_type = jnp.uint8 if len(others) < 255 else jnp.uint16
    where = jnp.zeros(largest.shape, number_type)
    for number, other in enumerate(others, start=1):
        where = jnp.where(other > largest, number_type(number), where)
        largest = jnp.maximum(largest, other)
    return where


def _ordered_integers(x):
    """Returns integers of the floats' width and order.

    Both zeros are 0, and NaN of either sign comes last.
    """
    integer = jnp.dtype(f"int{8 * x.dtype.itemsize}")
    last = jnp.iinfo(integer).max
    bits = jax.lax.bitcast_convert_type(x, integer)
    infinity = jax.lax.bitcast_convert_type(x.dtype.type(jnp.inf), integer)
    ordered = jnp.where(bits < 0, -(bits & last), bits)
    return jnp.where(bits & last > infinity, last, ordered)


def _floats_of(ordered, dtype):
    """Returns the floats of `_ordered_integers`."""
    sign = jnp.iinfo(ordered.dtype).min
    bits = jnp.where(ordered < 0, -ordered | sign, ordered)
    return jax.lax.bitcast_convert_type(bits, dtype)


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


def _window_phases(x, *, window, stride, padding, fill):
    """`_window_slices` of phases: contiguous, where XLA on a CPU is faster forward."""
    for rows in _windows_along(x, 1, window, stride, padding, fill):
        yield from _windows_along(rows, 2, window, stride, padding, fill)


def _windows_along(x, axis, window, stride, padding, fill):
    outputs = (x.shape[axis] + 2 * padding - window) // stride + 1
    phases = _phases(x, axis, stride, fill)
    around = [(0, 0, 0)] * x.ndim
    for place in range(window):
        first, phase = divmod(place - padding, stride)
        around[axis] = (-first, first + outputs - phases[phase].shape[axis], 0)
        yield jax.lax.pad(phases[phase], x.dtype.type(fill), around)


def _phases(x, axis, stride, fill=0):
    """Returns, for each remainder by the stride, the positions that have it."""
    around = [(0, 0, 0)] * x.ndim
    around[axis] = (0, -x.shape[axis] % stride, 0)
    x = jax.lax.pad(x, x.dtype.type(fill), around)
    shape = (*x.shape[:axis], -1, stride, *x.shape[axis + 1 :])
    parts = jax.lax.split(x.reshape(shape), (1,) * stride, axis + 1)
    return [part.squeeze(axis + 1) for part in parts]
