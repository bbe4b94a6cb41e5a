"""Fitting: a picture of any shape becomes one of a fixed size, by one of three methods.

A PIL image goes in; an array of the wanted size comes out. The one rule: what is kept
is centred, and is decided by the picture's own shape, so that the same picture always
gives the same pixels.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxtune.arguments import check_instance
from jaxtune.data.resizing import resized

Resize = Literal["crop", "squish", "pad"]
RESIZES = get_args(Resize)
#: What lies beyond the photo: itself mirrored, its outermost pixels, or black.
PadMode = Literal["reflection", "border", "zeros"]

# NumPy's names for what fastai and PyTorch call them.
_PAD_MODES = {"reflection": "reflect", "border": "edge", "zeros": "constant"}


def check_resize(resize: Any, pad_mode: Any) -> None:
    """Raises an error unless both name something there is."""
    check_instance(
        resize, "resize", (str, type(None)), "'crop', 'squish', 'pad' or None"
    )
    if resize is not None and resize not in RESIZES:
        raise ValueError(
            "resize is 'crop' (keep the centre), 'squish' (change the shape), 'pad'"
            " (keep all, fill up) or None (squish to 14% more, keep the centre); got"
            f" {resize!r}."
        )
    check_instance(pad_mode, "pad_mode", str, "'reflection', 'border' or 'zeros'")
    if pad_mode not in _PAD_MODES:
        raise ValueError(
            f"pad_mode is 'reflection', 'border' or 'zeros'; got {pad_mode!r}."
        )


def fitting_box(
    shape: tuple[int, int], size: tuple[int, int], resize: Resize
) -> tuple[int, int, int, int]:
    """Returns what of a picture fills `size`: top, left, height and width in pixels.

    The box has the shape of `size`. With "crop" it is the largest that lies inside the
    picture, with "pad" the smallest around it, so that top or left may be negative;
    with "squish" it is the picture, whatever its shape.

    Args:
        shape: Height and width of the picture.
        size: Height and width wanted.
        resize: The method.

    References:
        fastai 2.8.12, vision/augment.py `Resize.encodes`, on validation photos.

    Example:
        >>> fitting_box((100, 160), (32, 32), "crop")
        (0, 30, 100, 100)
        >>> fitting_box((100, 160), (32, 32), "pad")
        (-30, 0, 160, 160)
    """
    if resize == "squish":
        return 0, 0, *shape
    choose = min if resize == "crop" else max
    factor = choose(shape[0] / size[0], shape[1] / size[1])
    # A line of a thousand pixels has a height of none, times 224 / 1000.
    # 1e-6: dividing and multiplying may fall short of a whole number.
    height, width = (max(int(factor * side + 1e-6), 1) for side in size)
    return int((shape[0] - height) / 2), int((shape[1] - width) / 2), height, width


def fit(
    image: Image.Image,
    size: tuple[int, int],
    *,
    resize: Resize,
    pad_mode: PadMode = "reflection",
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    reducing_gap: float | None = None,
) -> UInt8[np.ndarray, "h w *c"]:
    """Returns a picture resized to `size` by a method; see `fitting_box`.

    Args:
        image: Of one or three 8-bit bands.
        size: Height and width wanted, in pixels.
        resize: "crop", "squish" or "pad".
        pad_mode: What fills up with "pad": "reflection" of the picture, its "border"
            pixels repeated, or "zeros".
        resample: Pillow's filter, antialiased.
        reducing_gap: See `resized`.

    References:
        fastai 2.8.12, vision/augment.py `Resize` and `_do_crop_pad`.
    """
    height, width = image.height, image.width
    top, left, tall, wide = fitting_box((height, width), size, resize)
    bottom, right = top + tall, left + wide
    inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    if inside != (0, 0, width, height):
        image = image.crop(inside)
    margins = (
        (max(-top, 0), max(bottom - height, 0)),
        (max(-left, 0), max(right - width, 0)),
    )
    if any(margins[0] + margins[1]):
        pixels = np.asarray(image)
        margins += ((0, 0),) * (pixels.ndim - 2)
        image = Image.fromarray(np.pad(pixels, margins, _PAD_MODES[pad_mode]))
    if image.size == (size[1], size[0]):
        return np.asarray(image)
    return resized(image, size, resample, reducing_gap=reducing_gap)
