"""Resizing on the host: a picture of any shape becomes `uint8` pixels of a fixed size.

`Preparation` is what loaders and predictions apply to each photo; validation and
prediction use the same one. The same picture always gives the same pixels, whatever
batch or thread it is in.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin

from jaxtune.arguments import (
    Integer,
    Number,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    described,
)
from jaxtune.data.decode import (
    array_bands,
    is_array,
    join_bands,
    naming_errors,
    open_image,
    to_bands,
    transposed,
)

try:
    import cykooz_resizer
except ImportError:
    cykooz_resizer = None

#: Height and width in pixels; one whole number for a square.
Size = Integer | Sequence[Integer] | np.ndarray
#: How a picture of another shape is resized: cut, distorted, or padded.
Resize = Literal["crop", "squish", "pad"]
#: What padding consists of: the picture mirrored, its outermost pixels, or black.
PadMode = Literal["reflection", "border", "zeros"]

# NumPy's names for fastai's and PyTorch's.
_PAD_MODES = {"reflection": "reflect", "border": "edge", "zeros": "constant"}

# How far above the wanted size a picture is first brought down by whole factors (by the
# JPEG decoder, then by box averaging) before the exact resampling. At 2 a photo of 12
# megapixels takes half the time, and its pixels change by less than half a grey level
# on average; at 1 by up to two.
REDUCING_GAP = 2.0

# fastai's `RandomResizedCrop(val_xtra=0.14)`.
VALIDATION_MARGIN = 0.14

# A resizer has its own buffers, so each thread needs one.
_local = threading.local()


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
    wanted = f"{name} must be a whole number of pixels, or (height, width)"
    several = isinstance(size, list | tuple) or getattr(size, "ndim", 0) == 1
    try:
        sides = [check_integer(s, name) for s in (size if several else (size, size))]
    except TypeError:
        way_out = ""
        if type(size) is float and size.is_integer():
            way_out = f" Write {int(size)}."
        raise TypeError(f"{wanted}; received {described(size)}.{way_out}") from None
    if len(sides) != 2:
        raise ValueError(f"{wanted}; received {described(size)}.")
    if min(sides) < 1:
        raise ValueError(
            f"{name} must be at least 1 pixel a side; received {described(size)}."
        )
    return sides[0], sides[1]


def check_resize(resize: Any, pad_mode: Any) -> None:
    """Raises an error unless both are known names, or `resize` is None."""
    check_instance(
        resize, "resize", (str, type(None)), "'crop', 'squish', 'pad' or None"
    )
    if resize is not None and resize not in get_args(Resize):
        raise ValueError(
            "resize is 'crop' (keep the centre), 'squish' (distort), 'pad' (keep all,"
            " add borders) or None (squish to 14% more, keep the centre); got"
            f" {resize!r}."
        )
    check_instance(pad_mode, "pad_mode", str, "'reflection', 'border' or 'zeros'")
    if pad_mode not in _PAD_MODES:
        raise ValueError(
            f"pad_mode is 'reflection', 'border' or 'zeros'; got {pad_mode!r}."
        )


def _check_method(resample: Any, resize: Any, pad_mode: Any) -> None:
    wanted = "one of PIL.Image.Resampling, such as Image.Resampling.BILINEAR"
    check_instance(resample, "resample", Image.Resampling, wanted)
    check_resize(check_choice(resize, "resize", get_args(Resize)), pad_mode)


def load_resized(
    source: Any,
    size: Size,
    *,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    resize: Resize = "squish",
    pad_mode: PadMode = "reflection",
    channels: Integer = 3,
) -> tuple[UInt8[np.ndarray, "h w c"], float]:
    """Returns a picture resized to `size`, and its original width / height.

    Resampling is antialiased, with Pillow's filters. A large JPEG is decoded at 1/2,
    1/4 or 1/8 of its size first, never below twice the wanted size; the edges of "crop"
    and "pad" are then rounded to pixels of the smaller picture.

    Args:
        source: As for `load_image`.
        size: Height and width of the result, in pixels; an int means a square.
        resample: Pillow's filter.
        resize: "squish" keeps the whole picture and distorts it; "crop" keeps its
            centre; "pad" keeps all of it and adds borders.
        pad_mode: What "pad" adds: "reflection", "border" or "zeros".
        channels: As for `load_image`.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: As for `load_image`.
        TypeError: If the source is none of those that `load_image` takes.
    """
    size = as_size(size)
    _check_method(resample, resize, pad_mode)
    channels = check_integer(channels, "channels", least=1)

    def fitted(band: Image.Image, size: tuple[int, int]) -> np.ndarray:
        return fit_image(
            band,
            size,
            resize=resize,
            pad_mode=pad_mode,
            resample=resample,
            reducing_gap=REDUCING_GAP,
        )

    with naming_errors(source):
        if channels != 3 and is_array(source):
            bands, orientation = array_bands(np.asarray(source), channels), 1
            aspect = bands[0].width / bands[0].height
        else:
            image, orientation = open_image(source)
            if image.format == "TIFF":
                image.load()  # Pillow turns a TIFF while it loads it.
            aspect = image.width / image.height
            if isinstance(image, JpegImagePlugin.JpegImageFile) and image is not source:
                stored_size = size[::-1] if orientation >= 5 else size
                image.draft(None, _draft_size(image, stored_size, resize))
            bands = to_bands(image, channels)
        sideways = orientation >= 5
        if resize == "squish" and orientation != 1:
            # Turning the small picture is faster than turning the large one.
            stored_size = size[::-1] if sideways else size
            small = [Image.fromarray(fitted(band, stored_size)) for band in bands]
            pixels = [np.asarray(transposed(band, orientation)) for band in small]
        else:
            pixels = [fitted(transposed(band, orientation), size) for band in bands]
        return join_bands(pixels), 1 / aspect if sideways else aspect


def _draft_size(
    image: Image.Image, size: tuple[int, int], resize: Resize
) -> tuple[int, int]:
    """Returns the width and height below which the JPEG decoder must not go."""
    height, width = size
    if resize != "squish":
        choose = min if resize == "crop" else max
        factor = choose(image.height / height, image.width / width)
        height, width = image.height / factor, image.width / factor
    return int(REDUCING_GAP * width), int(REDUCING_GAP * height)


def fitting_box(
    shape: tuple[int, int], size: tuple[int, int], resize: Resize
) -> tuple[int, int, int, int]:
    """Returns the part of a picture that fills `size`: top, left, height, width.

    The box has the aspect of `size`. With "crop" it is the largest that lies inside the
    picture, with "pad" the smallest around it, so that top or left may be negative;
    with "squish" it is the whole picture, whatever its aspect.

    Args:
        shape: Height and width of the picture, in pixels.
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
    # At least 1: a picture of 1 x 1000 pixels would have no height left.
    # 1e-6: dividing and multiplying may fall short of a whole number.
    height, width = (max(int(factor * side + 1e-6), 1) for side in size)
    return int((shape[0] - height) / 2), int((shape[1] - width) / 2), height, width


def fit_image(
    image: Image.Image,
    size: tuple[int, int],
    *,
    resize: Resize,
    pad_mode: PadMode = "reflection",
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    reducing_gap: float | None = None,
) -> UInt8[np.ndarray, "h w *c"]:
    """Returns an image of one or three 8-bit bands resized to (height, width) `size`.

    The arguments are those of `load_resized` and `resampled`.

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
    return resampled(image, size, resample, reducing_gap=reducing_gap)


def resampled(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    *,
    reducing_gap: float | None = None,
) -> UInt8[np.ndarray, "h w *c"]:
    """Returns an image at another size, as an array that may be read-only.

    Bilinear pixels are exactly Pillow's, as fastai's validation photos are. Lanczos
    uses `cykooz-resizer`, where it is installed: four times as fast, and within a fifth
    of a grey level of Pillow on average. The choice never depends on the picture.

    Args:
        image: Of one or three 8-bit bands.
        size: Height and width wanted, in pixels.
        resample: Pillow's filter.
        reducing_gap: As in `PIL.Image.Image.resize`: images larger than this many times
            the size are first reduced near it by averaging boxes of whole pixels.
    """
    height, width = size
    fast = cykooz_resizer is not None and image.mode in ("RGB", "L")
    if resample != Image.Resampling.LANCZOS or not fast:
        small = image.resize((width, height), resample, reducing_gap=reducing_gap)
        return np.asarray(small)
    factors = (1, 1)
    if reducing_gap is not None:
        factors = (
            max(int(image.width / width / reducing_gap), 1),
            max(int(image.height / height / reducing_gap), 1),
        )
    # The last averaged box may reach beyond the picture's edge.
    box = (image.width / factors[0], image.height / factors[1])
    image = image.reduce(factors) if factors != (1, 1) else image
    return _lanczos(image, box, (width, height))


def _lanczos(
    image: Image.Image, box: tuple[float, float], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w *c"]:
    library = cykooz_resizer
    if not hasattr(_local, "resizer"):
        _local.resizer = library.Resizer()
    kind, bands = library.PixelType.U8, ()
    if image.mode == "RGB":
        kind, bands = library.PixelType.U8x3, (3,)
    lanczos = library.ResizeAlg.convolution(library.FilterType.lanczos3)
    options = library.ResizeOptions(
        resize_alg=lanczos, crop_box=library.CropBox(0, 0, *box), use_alpha=False
    )
    pixels = library.ImageData(*size, kind)
    _local.resizer.resize(
        library.ImageData(*image.size, kind, image.tobytes()), pixels, options
    )
    # Converting through Pillow would copy, which takes half as long as the resizing.
    array = np.frombuffer(pixels.get_buffer(), np.uint8)
    return array.reshape(*size[::-1], *bands)


def presize(size: Size, min_scale: Number) -> tuple[int, int]:
    """Returns the size photos are stored at for random crops, a multiple of 8.

    A crop that keeps `min_scale` of the area keeps sqrt(min_scale) of each side, so
    this is `size / sqrt(min_scale)`: even the smallest crop has at least one pixel for
    each pixel of the result.

    Args:
        size: Final size in pixels.
        min_scale: Smallest fraction of the photo's area that a crop keeps, in (0, 1].

    Example:
        >>> presize(224, 0.35)
        (384, 384)
    """
    min_scale = check_number(min_scale, "min_scale", above=0, most=1)
    factor = 1 / math.sqrt(min_scale)
    height, width = (math.ceil(side * factor / 8) * 8 for side in as_size(size))
    return height, width


def validation_presize(size: Size) -> tuple[int, int]:
    """Returns the size a photo is squished to before validation's centre crop.

    Both sides grow by 14% of the larger side, rounded up to a multiple of 8 pixels.

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
        resize: "crop", "squish" or "pad"; see `load_resized`.
        pad_mode: What "pad" adds: "reflection", "border" or "zeros".
        channels: Of the result; see `load_image`.
    """

    squash: tuple[int, int]
    crop: tuple[int, int]
    resample: Image.Resampling = Image.Resampling.BILINEAR
    resize: Resize = "squish"
    pad_mode: PadMode = "reflection"
    channels: int = 3

    def __post_init__(self) -> None:
        """Refuses a crop larger than the resized photo, and unknown methods."""
        for name in ("squash", "crop"):
            object.__setattr__(self, name, as_size(getattr(self, name), name))
        channels = check_integer(self.channels, "channels", least=1)
        object.__setattr__(self, "channels", channels)
        _check_method(self.resample, self.resize, self.pad_mode)
        if self.crop[0] > self.squash[0] or self.crop[1] > self.squash[1]:
            raise ValueError(
                f"A crop of {self.crop} does not fit in photos of squash={self.squash}."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a prepared photo."""
        return (*self.crop, self.channels)

    def __call__(self, source: Any) -> tuple[UInt8[np.ndarray, "h w c"], float]:
        """Returns the prepared pixels and the photo's original width / height.

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
        size: Height and width of the network's input, in pixels.
        min_scale: Smallest fraction of the photo's area that a crop keeps, in (0, 1].
        squash: Height and width the whole photo is squished to on the host; `presize`
            if None.
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
            f" on the device. {presize(size, min_scale)} has enough pixels for the"
            " smallest crop."
        )
    # The device resamples once more. A second bilinear filter would make training
    # photos a fifth blurrier than validation's; Lanczos keeps them as sharp.
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
        pad_mode: What "pad" adds: "reflection", "border" or "zeros".
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
        resize: As for `validation_preparation`.
        pad_mode: As for `validation_preparation`.
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
