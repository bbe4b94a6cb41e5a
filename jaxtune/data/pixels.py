"""Pixels: any array a user has becomes `uint8`, and a picture the planes to resize.

Arrays and PIL images go in; `uint8` arrays, or PIL images of one or three bands, come
out. The one rule: an array's numbers are scaled by what their dtype can hold, never by
what happens to be in one picture, so that all of a data set are treated alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image


class ImageError(ValueError):
    """A picture that cannot be read; the message names it and says what is wrong."""


def to_uint8(array: np.ndarray) -> UInt8[np.ndarray, ...]:
    """Returns an array of any shape as 0..255.

    `uint8` stays as it is; `uint16` is divided by 257 and rounded, so that 65535 is
    255; False and True are 0 and 255; floats must lie in 0..1, are multiplied by 255
    and rounded.

    Raises:
        ImageError: If the floats are not finite or leave 0..1, or the dtype is another.

    Example:
        >>> to_uint8(np.array([0.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        check_floats(array)
        return np.round(np.asarray(array, np.float32) * 255).astype(np.uint8)
    raise ImageError(
        "an array must be uint8, uint16, bool or floats in 0..1; got"
        f" {array.dtype}. Convert it with array.astype('uint8') if it holds 0..255."
    )


def check_floats(array: np.ndarray) -> None:
    """Raises an `ImageError` unless all numbers are finite and lie in 0..1."""
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ImageError(
            f"an array of floats must lie in 0..1; got {low} to {high}. Divide by 255,"
            " or pass uint8."
        )


def image_from_array(array: np.ndarray) -> Image.Image:
    """Converts an array of (h, w) or (h, w, 1 | 3 | 4) to an image.

    Raises:
        ImageError: If it has another shape, or values that `to_uint8` refuses.
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            "an array must have shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), none"
            f" of them 0; got {array.shape}. Channels come last; pass one picture at a"
            " time."
        )
    array = np.ascontiguousarray(to_uint8(array))
    if channels == 1:
        return Image.fromarray(array.reshape(array.shape[:2]))
    return Image.fromarray(array)


def image_from_numbers(image: Image.Image) -> Image.Image:
    """Converts greys stored as 16-bit or 32-bit integers, or as floats, to 8 bits.

    Raises:
        ImageError: If the numbers have no known scale.
    """
    values = np.asarray(image)
    if image.mode != "F":
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"its pixels are integers from {values.min()} to {values.max()}, and"
                " only 0 to 65535 has a known scale. Store it with 8 or 16 bits."
            )
        transparent = image.info.get("transparency")
        if transparent is not None:
            values = np.where(values == transparent, 65535, values)
        return image_from_array(values.astype(np.uint16))
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise ImageError(
            f"its pixels are floats from {values.min()} to {values.max()}, and only"
            " 0..1 or 0..255 has a known scale. Store it with 8 or 16 bits."
        )
    return image_from_array(values if values.max() <= 1 else values / np.float32(255))


def array_planes(array: np.ndarray, channels: int) -> list[Image.Image]:
    """Returns the channels of an array as images that Pillow can resize.

    Three channels are one image; of any other number each channel is an image of its
    own, so that none is taken for transparency.

    Raises:
        ImageError: If the array is not (h, w, channels), or (h, w) for one channel, or
            has values that `to_uint8` refuses.
    """
    shape = (*array.shape, 1) if array.ndim == 2 else array.shape
    if len(shape) != 3 or shape[2] != channels or 0 in shape:
        raise ImageError(
            f"an array must have shape (h, w, {channels}) here, as the others have;"
            f" got {array.shape}. Channels come last."
        )
    array = to_uint8(array).reshape(shape)
    if channels == 3:
        return [Image.fromarray(np.ascontiguousarray(array))]
    bands = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return [Image.fromarray(band) for band in bands]


def join_planes(
    planes: Sequence[Image.Image | UInt8[np.ndarray, "h w *c"]],
) -> UInt8[np.ndarray, "h w c"]:
    """Returns images of one size as one new array, their channels last."""
    if len(planes) == 1:
        array = np.array(planes[0])
        return array if array.ndim == 3 else array[..., None]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
