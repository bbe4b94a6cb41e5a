"""Preparation on the host: how large a photo is made before it goes to the device.

A picture goes in; `uint8` pixels of one fixed size come out, with the aspect the
picture had. The one rule: validation and prediction prepare a photo in the same way.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxtune.data.decode import load_resized

# fastai's `RandomResizedCrop(val_xtra=0.14)`.
VALIDATION_MARGIN = 0.14


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) in pixels; an int means a square.

    Raises:
        TypeError: If it is neither an int nor two ints.
        ValueError: If a side is less than 1.

    Example:
        >>> as_size(224), as_size((128, 256))
        ((224, 224), (128, 256))
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(type(side) is not int for side in sides):
        raise TypeError(
            f"size must be an int or (height, width) of ints; got {size!r}."
        )
    if min(sides) < 1:
        raise ValueError(f"size must be at least 1 pixel a side; got {size!r}.")
    return sides


def presize(size: int | tuple[int, int], min_scale: float | int) -> tuple[int, int]:
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
    factor = 1 / math.sqrt(min_scale)
    height, width = (math.ceil(side * factor / 8) * 8 for side in as_size(size))
    return height, width


def validation_presize(size: int | tuple[int, int]) -> tuple[int, int]:
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
    """Squashes a whole photo to `squash`, then takes the centre of size `crop`.

    Attributes:
        squash: Height and width the whole photo is resized to, in pixels.
        crop: Height and width kept from its centre, in pixels; at most `squash`.
        resample: Pillow's filter for the resize.
    """

    squash: tuple[int, int]
    crop: tuple[int, int]
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def __post_init__(self) -> None:
        """Refuses a crop larger than what it is cut from."""
        if self.crop[0] > self.squash[0] or self.crop[1] > self.squash[1]:
            raise ValueError(
                f"A crop of {self.crop} does not fit in photos of {self.squash}."
            )

    def __call__(self, source: Any) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
        """Returns the prepared pixels and the photo's own aspect, width / height.

        Raises:
            FileNotFoundError: If the path does not exist.
            jaxtune.data.ImageError: If the picture cannot be read.
        """
        image, aspect = load_resized(source, self.squash, resample=self.resample)
        height, width = self.crop
        top = (self.squash[0] - height) // 2
        left = (self.squash[1] - width) // 2
        return image[top : top + height, left : left + width], aspect


def train_preparation(
    size: int | tuple[int, int], min_scale: float | int
) -> Preparation:
    """Returns the preparation of photos that are cropped at random on the device."""
    squash = presize(size, min_scale)
    # The device resamples once more. A second bilinear filter would make training
    # photos a fifth blurrier than validation's; Lanczos keeps what the size can hold.
    return Preparation(squash=squash, crop=squash, resample=Image.Resampling.LANCZOS)


def validation_preparation(size: int | tuple[int, int]) -> Preparation:
    """Returns the preparation of photos for validation and prediction."""
    return Preparation(squash=validation_presize(size), crop=as_size(size))


def prepare_image(
    source: Any, size: int | tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a picture exactly as validation sees it, for prediction.

    Args:
        source: A path, bytes, a file object, a PIL image or an array; see `load_image`.
        size: Height and width of the result in pixels; an int means a square.

    Raises:
        FileNotFoundError: If the path does not exist.
        jaxtune.data.ImageError: If the picture cannot be read.

    Example:
        >>> prepare_image(np.zeros((480, 640, 3), np.uint8), 224).shape
        (224, 224, 3)
    """
    image, _ = validation_preparation(size)(source)
    return np.ascontiguousarray(image)
