"""Decoding: paths, bytes, files, PIL images and arrays become `uint8` pixels.

Pictures come out as (height, width, 3), upright and with white behind transparent
pixels, or with as many channels as asked for. A picture that cannot be read raises an
`ImageError` that names it. The state of the process never changes: Pillow's limits are
obeyed, and its warnings are avoided rather than silenced, which would affect every
thread.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from jaxtune.arguments import Integer, check_integer, check_path, described

_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A picture that cannot be read; the message names it and gives the reason."""


def load_image(source: Any, *, channels: Integer = 3) -> UInt8[np.ndarray, "h w c"]:
    """Returns a picture at its own size, as RGB.

    The EXIF orientation is applied. Transparent pictures are laid over white. 16-bit
    greys are divided by 257 (not clipped), CMYK and YCCK are converted as Adobe writes
    them, and of an animation the first frame is taken.

    Args:
        source: A path, bytes, a binary file object, a PIL image, or an array: `uint8`
            or `uint16` at full range, `bool`, or floats in 0..1, of shape (h, w),
            (h, w, 1), (h, w, 3) or (h, w, 4).
        channels: 3 for RGB, 1 for grey, 4 for RGB and alpha. With any number other than
            3, an array must have exactly that many channels.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: If the picture is empty, damaged, truncated, of an unknown format,
            too large to be decoded safely, or does not have the channels asked for.
        TypeError: If the source is none of the above.
    """
    channels = check_integer(channels, "channels", least=1)
    with naming_errors(source):
        if channels != 3 and is_array(source):
            return join_bands(array_bands(np.asarray(source), channels))
        image, orientation = open_image(source)
        bands = to_bands(image, channels)
        return join_bands([transposed(band, orientation) for band in bands])


def check_image(
    path: str | os.PathLike[str] | bytes | bytearray | memoryview,
) -> None:
    """Reads the header of a file to find out whether it can be a picture.

    A file with a good header that is truncated further on passes; only decoding it
    would show that.

    Args:
        path: Of the file, or its content as bytes.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: If the file is empty, of an unknown format, has a damaged header,
            or holds more pixels than can be decoded safely.
    """
    in_memory = isinstance(path, bytes | bytearray | memoryview)
    if not in_memory:
        check_path(path, "path")
    with naming_errors(path):
        with io.BytesIO(path) if in_memory else open(path, "rb") as file:
            _open_file(file, header_only=True)


@contextmanager
def naming_errors(source: Any) -> Iterator[None]:
    """Turns whatever Pillow raises into an `ImageError` that names the source."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no picture at {_name(source)}. Check the path"
            f" (the working directory is {os.getcwd()})."
        ) from None
    except ImageError as error:
        raise ImageError(f"Cannot read {_name(source)}: {error}") from None
    except (TypeError, MemoryError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, …
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"Cannot read {_name(source)}: it is damaged or truncated ({reason})."
            " Replace the file, or leave it out."
        ) from error


def _name(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return f"a picture given as {len(source)} bytes"
    if isinstance(source, Image.Image):
        return f"a PIL image (mode {source.mode}, size {source.size})"
    if hasattr(source, "read"):
        name = getattr(source, "name", "unnamed")
        return f"a picture given as a file object ({name})"
    return f"an array of shape {np.shape(source)}"


def is_array(source: Any) -> bool:
    """Returns whether a source is an array, not a picture that converts to one."""
    other = isinstance(source, Image.Image | str | bytes | os.PathLike)
    return hasattr(source, "__array__") and not other and not hasattr(source, "read")


def open_image(source: Any) -> tuple[Image.Image, int]:
    """Returns an image whose pixels are not decoded yet, and its EXIF orientation.

    Args:
        source: As for `load_image`.

    Returns:
        The image, and 1 to 8 for `transposed`; 1 is upright.
    """
    if isinstance(source, str | os.PathLike):
        if os.path.isdir(source):
            raise ImageError("it is a folder. Name a file inside it.")
        with open(source, "rb") as file:
            return _open_file(file)
    if isinstance(source, bytes | bytearray | memoryview):
        return _open_file(io.BytesIO(source))
    if isinstance(source, Image.Image):
        return source, _orientation(source)
    if hasattr(source, "read"):
        return _open_file(io.BytesIO(source.read()))
    if is_array(source):
        return image_from_array(np.asarray(source)), 1
    raise TypeError(
        "source must be a path, bytes, a binary file object, a PIL image or an array;"
        f" received {described(source)} ({type(source).__name__})."
    )


def _open_file(
    file: io.BufferedIOBase, header_only: bool = False
) -> tuple[Image.Image, int]:
    # `Image.open` warns of large photos, so the plugin is called directly.
    start = file.read(16)
    if not start:
        raise ImageError("the file is empty (0 bytes). Replace the file or remove it.")
    file.seek(0)
    image = _plugin(start)(file if header_only else io.BytesIO(file.read()))
    # Pillow's own limit, which users know how to raise: it refuses at twice the value.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > 2 * limit:
        raise ImageError(
            f"it has {image.width} x {image.height} pixels, and more than {2 * limit}"
            " are refused, because decoding them could exhaust the memory. Shrink the"
            " picture, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        )
    return image, _orientation(image)


class _Jpeg(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Does nothing: Pillow warns here of damaged EXIF data."""


def begins_as_picture(start: bytes) -> bool:
    """Returns whether the first 16 bytes of a file are those of a common format.

    Example:
        >>> begins_as_picture(b"GIF89a.........."), begins_as_picture(b"name,label")
        (True, False)
    """
    if start.startswith(b"BM"):  # as a text may; a bitmap has four reserved zeros
        return start[6:10] == bytes(4)
    if start.startswith(b"\xff\xd8"):
        return start.startswith(b"\xff\xd8\xff")
    return _plugin(start) is not _other_plugin


def _plugin(start: bytes) -> Any:
    if start.startswith(b"\xff\xd8"):
        return _Jpeg
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if start.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    if start.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile
    return _other_plugin


def _other_plugin(stream: io.BufferedIOBase) -> Image.Image:
    try:
        return Image.open(stream)
    except Image.UnidentifiedImageError:
        stream.seek(0)
        raise ImageError(
            "it is not a picture in a known format (it begins with"
            f" {stream.read(8)!r}). Supported are JPEG, PNG, GIF, BMP, WebP, TIFF and"
            " whatever else the installed Pillow reads: convert the file, or remove it."
        ) from None


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation; 1 (upright) where there is none that can be read.

    Not by `image.getexif()`, which warns of damage anywhere in the EXIF data.
    """
    if image.format == "TIFF":  # Pillow turns a TIFF itself while it loads the pixels.
        return 1
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "L", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, offset)
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHLH", exif, entry)
            if tag == _ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def transposed(image: Image.Image, orientation: int) -> Image.Image:
    """Returns an image turned upright from its EXIF orientation."""
    if orientation in _TRANSPOSITIONS:
        return image.transpose(_TRANSPOSITIONS[orientation])
    return image


def to_bands(image: Image.Image, channels: int) -> list[Image.Image]:
    """Decodes an image, and returns it as images of one or three 8-bit bands.

    Raises:
        ImageError: If pictures cannot have that many channels.
    """
    if channels == 3:
        return [_to_rgb(image)]
    if channels == 1:
        return [_to_rgb(image).convert("L")]
    if channels == 4:
        image.load()
        return list((_to_rgba(image) or _to_rgb(image).convert("RGBA")).split())
    raise ImageError(
        f"a picture has 1 (grey), 3 (RGB) or 4 (RGBA) channels, and {channels} are"
        f" asked for. Pass an array of shape (h, w, {channels})."
    )


def _to_rgba(image: Image.Image) -> Image.Image | None:
    """Returns a decoded image that may be transparent as RGBA; None for others."""
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or (
        "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    ):
        mode = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        return image.convert(mode).convert("RGBA")
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Returns the decoded image as 8-bit RGB, laid over white where transparent."""
    image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return image_from_numbers(image).convert("RGB")
    rgba = _to_rgba(image)
    if rgba is not None:
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def to_uint8(array: np.ndarray) -> UInt8[np.ndarray, ...]:
    """Returns an array of any shape as 0..255, scaled by its dtype's range.

    The scale never depends on the values, so that all pictures of a data set are
    treated alike: `uint8` stays as it is, `uint16` is divided by 257 and rounded, False
    and True become 0 and 255, floats in 0..1 are multiplied by 255 and rounded.

    Raises:
        ImageError: If floats are not finite or outside 0..1, or for any other dtype.

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
    """Returns an array (h, w), or (h, w, c) of 1, 3 or 4 channels, as a PIL image.

    Raises:
        ImageError: If it has another shape, or values that `to_uint8` refuses.
    """
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else None
    if channels not in (1, 3, 4) or 0 in array.shape:
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


def array_bands(array: np.ndarray, channels: int) -> list[Image.Image]:
    """Returns the channels of an array as images that Pillow can resize.

    Three channels are one image. Otherwise each channel is an image of its own, so that
    none is taken for transparency.

    Raises:
        ImageError: If the array is not (h, w, channels), or (h, w) for one channel, or
            has values that `to_uint8` refuses.
    """
    shape = (*array.shape, 1) if array.ndim == 2 else array.shape
    if len(shape) != 3 or shape[2] != channels or 0 in shape:
        raise ImageError(
            f"an array must have shape (h, w, {channels}) here, like the others; got"
            f" {array.shape}. Channels come last."
        )
    array = to_uint8(array).reshape(shape)
    if channels == 3:
        return [Image.fromarray(np.ascontiguousarray(array))]
    bands = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return [Image.fromarray(band) for band in bands]


def join_bands(
    bands: Sequence[Image.Image | UInt8[np.ndarray, "h w *c"]],
) -> UInt8[np.ndarray, "h w c"]:
    """Returns images of one size as one new array, channels last."""
    if len(bands) == 1:
        array = np.array(bands[0])
        return array if array.ndim == 3 else array[..., None]
    return np.stack([np.asarray(band) for band in bands], axis=-1)
