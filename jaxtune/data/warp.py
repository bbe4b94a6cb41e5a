"""Rotation, zoom, perspective and flips: projective maps, and one resampling by them.

A 3 x 3 matrix takes places of the result to places of the photo, both in -1..1 from one
outer edge to the other, x to the right and y down.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from jaxtune.data.resize import PadMode
from jaxtune.data.transforms import Augmentation

# The least depth a pixel is looked at in; one behind the viewer has none.
_LEAST_DEPTH = 0.05


def symmetry(index: Int[Array, ""] | int) -> Float[Array, "3 3"]:
    """Returns one of the square's eight symmetries: 0 is none, 1 the mirror image.

    References:
        fastai 2.8.12, vision/augment.py `dihedral_mat`, in its order.
    """
    index = jnp.asarray(index)
    x = jnp.asarray([1, -1, 1, -1, -1, 1, 1, -1], jnp.float32)[index]
    y = jnp.asarray([1, 1, -1, 1, -1, -1, 1, -1], jnp.float32)[index]
    upright = jnp.asarray([True, True, True, False, True, False, False, False])[index]
    return _matrix(
        [
            [jnp.where(upright, x, 0), jnp.where(upright, 0, x), 0],
            [jnp.where(upright, 0, y), jnp.where(upright, y, 0), 0],
            [0, 0, 1],
        ]
    )


def rotation(degrees: Float[Array, ""] | float) -> Float[Array, "3 3"]:
    """Returns the matrix that turns the picture clockwise, as fastai's does."""
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _matrix([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def zoom(
    magnification: Float[Array, ""] | float,
    column: Float[Array, ""] | float,
    row: Float[Array, ""] | float,
) -> Float[Array, "3 3"]:
    """Returns the matrix that magnifies about a point.

    Args:
        magnification: 2 shows half of each side.
        column: Where the point is from left to right, in 0..1.
        row: Where it is from top to bottom, in 0..1.
    """
    share = 1 / jnp.asarray(magnification, jnp.float32)
    across, down = ((1 - share) * (2 * place - 1) for place in (column, row))
    return _matrix([[share, 0, across], [0, share, down], [0, 0, 1]])


def perspective(
    x: Float[Array, ""] | float, y: Float[Array, ""] | float
) -> Float[Array, "3 3"]:
    """Returns the matrix of a photo seen tilted.

    It takes the corners (u, v), in -1..1, moved to (u - y u v, v - x u v), back to the
    corners: fastai's `find_coeffs` solves eight equations for this, but the points are
    so symmetric that the answer can be written down.

    Args:
        x: Tilt that makes the left and right sides differ, less than 1 / sqrt(2).
        y: Tilt that makes the upper and lower sides differ, less than 1 / sqrt(2).

    References:
        fastai 2.8.12, vision/augment.py `Warp`.
    """
    size = 1 - x * x - y * y
    mixed = 2 * x * y / size
    across = -x * (1 - x * x + y * y) / size
    down = -y * (1 + x * x - y * y) / size
    return _matrix([[1, mixed, across], [mixed, 1, down], [across, down, 1]])


def frame(crop: Float[Array, " 4"]) -> Float[Array, "3 3"]:
    """Returns the matrix that shows a crop: top, left, height, width in fractions."""
    top, left, tall, wide = crop
    return _matrix([[wide, 0, 2 * left + wide - 1], [0, tall, 2 * top + tall - 1],
                    [0, 0, 1]])  # fmt: skip


def in_shape(matrix: Float[Array, "3 3"], size: tuple[int, int]) -> Float[Array, "3 3"]:
    """Returns a map that is meant for a square as it is in a frame of another shape.

    Args:
        matrix: An affine map of -1..1, one unit as long in x as in y.
        size: Height and width of the frame, where it is not.

    References:
        fastai 2.8.12, vision/augment.py `_prepare_mat`.
    """
    height, width = size
    scale = [[1, height / width, 1], [width / height, 1, 1], [1, 1, 1]]
    return matrix * jnp.asarray(scale, jnp.float32)


def compose(*matrices: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Returns the product of matrices: the map of the last is applied first."""
    product = matrices[0]
    for matrix in matrices[1:]:
        # As a sum, for a device may multiply matrices in half precision.
        product = sum(product[:, [k]] * matrix[k] for k in range(3))
    return product


def draw_matrix(
    key: Key[Array, ""],
    flip: Bool[Array, ""] | bool,
    size: tuple[int, int],
    augmentation: Augmentation,
) -> Float[Array, "3 3"]:
    """Returns one image's flip, rotation, zoom and perspective, as one matrix.

    Args:
        key: Typed key, used up here.
        flip: Whether anything is flipped.
        size: Height and width of the result.
        augmentation: Bounds and probabilities.

    References:
        fastai 2.8.12, vision/augment.py `aug_transforms`, in its order.
    """
    number = iter(jax.random.uniform(key, (11,), jnp.float32))
    bound, chance = augmentation, augmentation.p_affine

    def some(low, high, neutral):
        value = low + next(number) * (high - low)
        return jnp.where(next(number) < chance, value, neutral)

    eighth = jnp.minimum((next(number) * 8).astype(jnp.int32), 7)
    angle = some(-bound.max_rotate, bound.max_rotate, 0.0)
    magnification = some(bound.min_zoom, bound.max_zoom, 1.0)
    column, row = next(number), next(number)
    tilts = [some(-bound.max_warp, bound.max_warp, 0.0) for _ in range(2)]
    flipped = symmetry(jnp.where(flip, eighth if bound.flip_vert else 1, 0))
    affine = compose(flipped, rotation(angle), zoom(magnification, column, row))
    return compose(perspective(*tilts), in_shape(affine, size))


def resample(
    image: UInt8[Array, "h w c"],
    matrix: Float[Array, "3 3"],
    *,
    size: tuple[int, int],
    pad_mode: PadMode = "reflection",
    shrink: float | int = 1.0,
) -> Float[Array, "height width c"]:
    """Returns an image seen through a projective map, as floats in 0..1.

    The filter is a triangle along rows and columns of the photo, as wide as two pixels
    of the result are there (in the middle of the picture), at least two of the photo's:
    bilinear with antialiasing. Without rotation and perspective this is Pillow's
    BILINEAR resize. Weights are rounded to steps, so there is no gradient for `matrix`.

    Args:
        image: Pixels of 0..255, of any number of channels.
        matrix: From places of the result to places of the photo.
        size: Height and width of the result in pixels.
        pad_mode: What lies beyond the photo: its mirror image, its outermost pixels, or
            black ("reflection", "border", "zeros").
        shrink: By how much more than from the whole photo the map may shrink.
    """
    height, width = image.shape[:2]
    matrix = matrix / matrix[2, 2]
    # One gather of a whole pixel at a time, from floats: of the formulations tried
    # (gathers by row and column, packed channels, an image half the size for what
    # shrinks, samples between pixels averaged) the fastest on a CPU, and the sharpest.
    pixels = image.reshape(height * width, -1).astype(jnp.float32)
    (x, y), reach, inside = _places(matrix, (height, width), size, pad_mode)
    most = max(height / size[0], width / size[1]) * shrink
    taps = math.ceil(2 * max(most, 1))
    reach = jnp.clip(reach, 1, taps / 2)
    columns = _weighted(x, reach[0], width, taps)
    rows = _weighted(y, reach[1], height, taps)
    # XLA rounds a product and a sum once or twice, as it fuses loops, and that depends
    # on the number of devices too. So weights are one product, made a whole number by a
    # power of two, and all sums are of less than 24 bits, which nothing has to round.
    steps = jnp.ldexp(jnp.float32(2**15), -jnp.frexp((reach[0] * reach[1]) ** 2)[1])
    total, whole = 0.0, 0.0
    for row, row_weight in rows:
        for column, column_weight in columns:
            weight = jnp.round(row_weight * column_weight * steps)
            pixel = pixels.at[row * width + column].get(mode="promise_in_bounds")
            total = total + pixel * weight[..., None]
            whole = whole + weight
    total = total / whole[..., None]
    return jnp.clip(jnp.where(inside[..., None], total, 0) / 255, 0, 1)


def _places(matrix, size_in, size_out, pad_mode):
    """Where each new pixel is in the photo, how wide it is there, and if it is in it.

    Places are in pixels from the photo's left and upper edge.
    """
    lines = (jnp.arange(side, dtype=jnp.float32) for side in size_out)
    y, x = ((line + 0.5) * (2 / len(line)) - 1 for line in lines)
    x, y = x[None, :], y[:, None]
    across, down, depth = (row[0] * x + row[1] * y + row[2] for row in matrix)
    depth = jnp.maximum(depth, _LEAST_DEPTH)
    sides = size_in[1], size_in[0]
    places = [
        (place / depth + 1) * (side / 2)
        for place, side in zip((across, down), sides, strict=True)
    ]
    inside = [(0 <= p) & (p <= side) for p, side in zip(places, sides, strict=True)]
    beyond = inside[0] & inside[1] if pad_mode == "zeros" else jnp.asarray(True)
    if pad_mode == "reflection":
        places = [
            side - jnp.abs(side - jnp.mod(place, 2 * side))
            for place, side in zip(places, sides, strict=True)
        ]
    places = [jnp.clip(p, 0, side) for p, side in zip(places, sides, strict=True)]
    # The middle's derivative: of (a x + b y + c) / (g x + h y + 1), pixel by pixel.
    pixel = jnp.asarray([2 / size_out[1], 2 / size_out[0]], jnp.float32)
    slope = matrix[:2, :2] - matrix[:2, 2:] * matrix[2:, :2]
    slope = slope * pixel * (jnp.asarray(sides, jnp.float32)[:, None] / 2)
    return places, jnp.sqrt((slope**2).sum(axis=1)), beyond


def _weighted(centre, reach, side, taps):
    """Which pixels of a line make each new one, and their weights, tap by tap."""
    first = jnp.floor(centre - reach + 0.5).astype(jnp.int32)
    weighted = []
    for tap in range(taps):
        pixel = first + tap
        weight = jnp.maximum(
            reach - jnp.abs(pixel.astype(jnp.float32) + 0.5 - centre), 0
        )
        weight = weight * ((pixel >= 0) & (pixel < side))
        weighted.append((jnp.clip(pixel, 0, side - 1), weight))
    return weighted


def _matrix(rows) -> Float[Array, "3 3"]:
    return jnp.stack([jnp.stack([jnp.float32(x) for x in row]) for row in rows])
