"""Preparation on the host: how large a photo is made before it goes to the device.

A picture goes in; `uint8` pixels of one fixed size come out, with the aspect the
picture had. The one rule: validation and prediction prepare a photo in the same way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxtune.arguments import (
    Integer,
    Number,
    check_choice,
    check_integer,
    check_number,
    described,
)
from jaxtune.data.decode import check_resample, load_resized
from jaxtune.data.fit import RESIZES, PadMode, Resize, check_resize

#: Height and width in pixels; one whole number for a square.
Size = Integer | Sequence[Integer] | np.ndarray

# fastai's `RandomResizedCrop(val_xtra=0.14)`.
VALIDATION_MARGIN = 0.14


def as_size(size: Any, name: str = "size") -> tuple[int, int]:
    """Returns (height, width) in pixels; an int means a square.

    Args:
        size: A whole number, or two in a tuple, list or array.
        name: Of the argument, for errors.

    Raises:
        TypeError: If it is neither an int nor two ints.
        ValueError: If a side is less than 1.

    Example:
        >>> as_size(224), as_size((128, 256))
        ((224, 224), (128, 256))
    """
    several = isinstance(size, list | tuple) or getattr(size, "ndim", 0) == 1
    try:
        sides = [check_integer(s, name) for s in (size if several else (size, size))]
    except TypeError:
        way_out = ""
        if type(size) is float and size.is_integer():
            way_out = f" Write {int(size)}."
        raise TypeError(
            f"{name} must be a whole number of pixels, or (height, width); received"
            f" {described(size)}.{way_out}"
        ) from None
    if len(sides) != 2:
        raise ValueError(
            f"{name} must be a whole number of pixels, or (height, width); received"
            f" {described(size)}."
        )
    if min(sides) < 1:
        raise ValueError(
            f"{name} must be at least 1 pixel a side; received {described(size)}."
        )
    return sides[0], sides[1]


def presize(size: Size, min_scale: Number) -> tuple[int, int]:
    """Returns the size photos have on the way to a random crop, a multiple of 8.

    A crop that keeps `min_scale` of the area keeps sqrt(min_scale) of each side, so
    this is `size / sqrt(min_scale)`: the smallest crop still has a pixel for each one
    that is wanted.

    Args:
        size: Final size in pixels.
        min_scale: Smallest share of the photo's area a crop keeps, in (0, 1].

    Example:
        >>> presize(224, 0.35)
        (384, 384)
    """
    min_scale = check_number(min_scale, "min_scale", above=0, most=1)
    factor = 1 / math.sqrt(min_scale)
    height, width = (math.ceil(side * factor / 8) * 8 for side in as_size(size))
    return height, width


def validation_presize(size: Size) -> tuple[int, int]:
    """Returns the size a photo is squashed to before validation's centre crop.

    The larger side and 14% more, in steps of 8 pixels, are added to both sides alike.

    Example:
        >>> validation_presize(224)
        (256, 256)

    References:
        fastai 2.8.12, vision/augment.py `RandomResizedCrop.before_call`.
    """
    height, width = as_size(size)
    margin = math.ceil(max(height, width) * VALIDATION_MARGIN / 8) * 8
    return height + margin, width + margin


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Resizes a photo to `squash`, then takes the centre of size `crop`.

    Attributes:
        squash: Height and width the photo is resized to, in pixels.
        crop: Height and width kept from its centre, in pixels; at most `squash`.
        resample: Pillow's filter for the resize.
        resize: How a photo of another shape is resized: "squish" keeps all of it and
            changes its shape, "crop" keeps its centre, "pad" keeps all and fills up.
        pad_mode: What "pad" fills up with: "reflection", "border" or "zeros".
        channels: Of the result; see `load_image`.
    """

    squash: tuple[int, int]
    crop: tuple[int, int]
    resample: Image.Resampling = Image.Resampling.BILINEAR
    resize: Resize = "squish"
    pad_mode: PadMode = "reflection"
    channels: int = 3

    def __post_init__(self) -> None:
        """Refuses a crop larger than what it is cut from, and unknown methods."""
        for name in ("squash", "crop"):
            object.__setattr__(self, name, as_size(getattr(self, name), name))
        check_resample(self.resample)
        channels = check_integer(self.channels, "channels", least=1)
        object.__setattr__(self, "channels", channels)
        if self.crop[0] > self.squash[0] or self.crop[1] > self.squash[1]:
            raise ValueError(
                f"A crop of {self.crop} does not fit in photos of squash={self.squash}."
            )
        check_resize(check_choice(self.resize, "resize", RESIZES), self.pad_mode)

    def __call__(self, source: Any) -> tuple[UInt8[np.ndarray, "h w c"], float]:
        """Returns the prepared pixels and the photo's own aspect, width / height.

        Raises:
            FileNotFoundError: If the path does not exist.
            jaxtune.data.ImageError: If the picture cannot be read.
        """
        image, aspect = load_resized(
            source,
            self.squash,
            resample=self.resample,
            resize=self.resize,
            pad_mode=self.pad_mode,
            channels=self.channels,
        )
        height, width = self.crop
        top = (self.squash[0] - height) // 2
        left = (self.squash[1] - width) // 2
        return image[top : top + height, left : left + width], aspect


def train_preparation(
    size: Size,
    min_scale: Number,
    *,
    squash: Size | None = None,
    channels: Integer = 3,
) -> Preparation:
    """Returns the preparation of photos that are cropped at random on the device.

    Args:
        size: Height and width of what the network sees, in pixels.
        min_scale: Smallest share of the photo's area a crop keeps, in (0, 1].
        squash: Height and width the whole photo is squashed to on the host; that of
            `presize` if None.
        channels: Of the photos.

    Raises:
        ValueError: If `squash` is smaller than `size`.
    """
    size = as_size(size)
    check_number(min_scale, "min_scale", above=0, most=1)
    squash = presize(size, min_scale) if squash is None else as_size(squash, "squash")
    if squash[0] < size[0] or squash[1] < size[1]:
        raise ValueError(
            f"presize={squash} is smaller than size={size}: photos would be enlarged"
            f" on the device. {presize(size, min_scale)} keeps a pixel for each one"
            " wanted in the smallest crop."
        )
    # The device resamples once more. A second bilinear filter would make training
    # photos a fifth blurrier than validation's; Lanczos keeps what the size can hold.
    lanczos = Image.Resampling.LANCZOS
    return Preparation(squash, crop=squash, resample=lanczos, channels=channels)


def validation_preparation(
    size: Size,
    *,
    resize: Resize | None = None,
    pad_mode: PadMode = "reflection",
    channels: Integer = 3,
) -> Preparation:
    """Returns the preparation of photos for validation and prediction.

    Args:
        size: Height and width of the result in pixels.
        resize: "crop", "squish" or "pad", as in fastai's `Resize`; if None, the whole
            photo is squished to 14% more (`validation_presize`) and its centre kept,
            as in fastai's `RandomResizedCrop`.
        pad_mode: What "pad" fills up with: "reflection", "border" or "zeros".
        channels: Of the photos.
    """
    size = as_size(size)
    check_resize(resize, pad_mode)
    if resize is None:
        return Preparation(validation_presize(size), crop=size, channels=channels)
    return Preparation(
        size, crop=size, resize=resize, pad_mode=pad_mode, channels=channels
    )


def prepare_image(
    source: Any,
    size: Size,
    *,
    resize: Resize | None = None,
    pad_mode: PadMode = "reflection",
    channels: Integer = 3,
) -> UInt8[np.ndarray, "h w c"]:
    """Returns a picture exactly as validation sees it, for prediction.

    Args:
        source: A path, bytes, a file object, a PIL image or an array; see `load_image`.
        size: Height and width of the result in pixels; an int means a square.
        resize: As for `validation_preparation`, like those that follow.
        pad_mode: What "pad" fills up with.
        channels: Of the result.

    Raises:
        FileNotFoundError: If the path does not exist.
        jaxtune.data.ImageError: If the picture cannot be read.

    Example:
        >>> prepare_image(np.zeros((480, 640, 3), np.uint8), 224).shape
        (224, 224, 3)
    """
    preparation = validation_preparation(
        size, resize=resize, pad_mode=pad_mode, channels=channels
    )
    return np.ascontiguousarray(preparation(source)[0])
