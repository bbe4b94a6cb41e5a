"""Decoding: any picture a user has becomes `uint8` RGB, upright, on white.

A path, bytes, a file object, a PIL image or an array goes in; a `numpy` array of shape
(height, width, 3) comes out. The one rule: a picture that cannot be read is an
`ImageError` that names it, and nothing here changes the state of the process (Pillow's
warnings and limits are avoided or obeyed, never switched).
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
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

# How far above the wanted size a picture is first brought down by whole factors (by the
# JPEG decoder, then by box averaging) before the exact resampling. At 2 a photo of 12
# megapixels takes half the time, and its pixels change by less than half a grey level
# on average; at 1 by up to two.
REDUCING_GAP = 2.0

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
    """A picture that cannot be read; the message names it and says what is wrong."""


def load_image(source: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a picture at its own size, as RGB.

    Pictures are turned upright by their EXIF orientation. Transparent ones are laid
    over white. 16-bit greys are scaled by 257 (not clipped), CMYK and YCCK are
    converted as Adobe writes them, animations give their first frame.

    Args:
        source: A path, bytes, a binary file object, a PIL image, or an array: `uint8`
            or `uint16` at full range, `bool`, or floats in 0..1, of shape (h, w),
            (h, w, 1), (h, w, 3) or (h, w, 4).

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: If the picture is empty, damaged, cut short, of an unknown format,
            or too large to be decoded safely.
        TypeError: If the source is none of the above.
    """
    with _naming(source):
        image, orientation = _open(source)
        return np.array(_turn(_to_rgb(image), orientation))


def load_resized(
    source: Any,
    size: tuple[int, int],
    *,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """Returns a picture squashed to `size`, and the aspect (width / height) it had.

    Resampling is Pillow's, antialiased. The whole picture is kept: nothing is cropped,
    so its shape changes unless `size` has the picture's own aspect.

    Args:
        source: As for `load_image`.
        size: Height and width to give it, in pixels.
        resample: Pillow's filter.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: As for `load_image`.
        TypeError: If the source is none of those that `load_image` takes.
    """
    height, width = size
    with _naming(source):
        image, orientation = _open(source)
        # A picture lying on its side is resized lying and turned when it is small.
        lying = orientation >= 5
        target = (height, width) if lying else (width, height)
        aspect = image.width / image.height
        if isinstance(image, JpegImagePlugin.JpegImageFile) and image is not source:
            image.draft(None, tuple(int(REDUCING_GAP * side) for side in target))
        if image.format == "TIFF":
            image.load()  # Pillow turns a TIFF while it loads it.
            aspect = image.width / image.height
        rgb = _to_rgb(image)
        if rgb.size != target:
            rgb = rgb.resize(target, resample, reducing_gap=REDUCING_GAP)
        return np.array(_turn(rgb, orientation)), 1 / aspect if lying else aspect


def check_image(path: str | os.PathLike[str]) -> None:
    """Reads a file's header only, to find what is plainly no picture.

    A file which begins well and is cut short later passes: only decoding tells.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: If the file is empty, of an unknown format, has a damaged header,
            or holds more pixels than can be decoded safely.
    """
    with _naming(path), open(path, "rb") as file:
        _open_file(file, header_only=True)


@contextmanager
def _naming(source: Any) -> Iterator[None]:
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
    except (
        Exception
    ) as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error…
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"Cannot read {_name(source)}: it is damaged or cut short ({reason})."
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
        return (
            f"a picture given as a file object ({getattr(source, 'name', 'unnamed')})"
        )
    return f"an array of shape {np.shape(source)}"


def _open(source: Any) -> tuple[Image.Image, int]:
    """Returns an image that is not decoded yet, and its EXIF orientation (1 to 8)."""
    if isinstance(source, str | os.PathLike):
        if os.path.isdir(source):
            raise ImageError("it is a folder. Name a file inside it.")
        with open(source, "rb") as file:
            return _open_file(file)
    if isinstance(source, bytes | bytearray | memoryview):
        return _open_file(io.BytesIO(source))
    if isinstance(source, Image.Image):
        exif = source.info.get("exif", b"") if source.format != "TIFF" else b""
        return source, _orientation(exif)
    if hasattr(source, "read"):
        return _open_file(io.BytesIO(source.read()))
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source)), 1
    raise TypeError(
        "A picture is a path, bytes, a binary file object, a PIL image or an array;"
        f" got {type(source).__name__}: {source!r:.80}"
    )


def _open_file(
    file: io.BufferedIOBase, header_only: bool = False
) -> tuple[Image.Image, int]:
    """Opens a file by its first bytes, with the plugin rather than `Image.open`.

    `Image.open` warns (about odd EXIF data, about large photos), and a warning cannot
    be silenced in one thread alone. So the plugin is called directly, and a JPEG
    reaches it without the metadata that the plugin would stumble over.
    """
    start = file.read(16)
    if not start:
        raise ImageError("the file is empty (0 bytes). Replace the file or remove it.")
    file.seek(0)
    if start.startswith(b"\xff\xd8"):
        header, exif = _jpeg_header(file)
        rest = b"" if header_only else file.read()
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(header + rest))
        return _limited(image), _orientation(exif)
    stream = file if header_only else io.BytesIO(file.read())
    image = _limited(_plugin(start)(stream))
    # Pillow applies the orientation of a TIFF itself, when it loads the pixels.
    exif = image.info.get("exif", b"") if image.format != "TIFF" else b""
    return image, _orientation(exif)


def _plugin(start: bytes) -> Any:
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
            f" {stream.read(8)!r}). JPEG, PNG, GIF, BMP, WebP and TIFF are read, and"
            " what the installed Pillow adds: convert the file, or remove it."
        ) from None


def _limited(image: Image.Image) -> Image.Image:
    # Pillow's own limit, which users know how to raise: it refuses at twice the value.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > 2 * limit:
        raise ImageError(
            f"it holds {image.width} x {image.height} pixels, and more than"
            f" {2 * limit} are refused, for decoding them could exhaust the memory."
            " Shrink the picture, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        )
    return image


def _jpeg_header(file: io.BufferedIOBase) -> tuple[bytes, bytes]:
    """Returns what precedes the scan, without metadata, and the EXIF block if any.

    Only APP0 (JFIF) and APP14 (Adobe) say how colours are stored. The other
    application segments hold EXIF, colour profiles, previews: nothing that we use.
    """
    kept = [file.read(2)]
    exif = b""
    while True:
        marker = file.read(2)
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in (0x00, 0xFF, 0xDA):
            return b"".join([*kept, marker]) + _to_scan(file, marker), exif
        if marker[1] in (0x01, *range(0xD0, 0xDA)):  # these have no length
            kept.append(marker)
            continue
        length = file.read(2)
        content = file.read(max(int.from_bytes(length, "big") - 2, 0))
        if 0xE0 <= marker[1] <= 0xEF and marker[1] not in (0xE0, 0xEE):
            if marker[1] == 0xE1 and content.startswith(b"Exif\0") and not exif:
                exif = content
        else:
            kept += [marker, length, content]


def _to_scan(file: io.BufferedIOBase, marker: bytes) -> bytes:
    # The plugin reads the scan's own header. Where the markers are not as they should
    # be, all of the rest goes to the plugin, which knows how to step over junk.
    return file.read(256) if marker[1:] == b"\xda" else file.read()


def _orientation(exif: bytes) -> int:
    """Returns EXIF tag 0x0112 of the first directory; 1 (upright) where unreadable."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "L", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, offset)
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHLH", exif, entry)
            if tag == 0x0112:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    if orientation in _TRANSPOSITIONS:
        return image.transpose(_TRANSPOSITIONS[orientation])
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Returns the decoded image as 8-bit RGB, laid over white where transparent."""
    image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_numbers(image).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or (
        "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    ):
        mode = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        rgba = image.convert(mode).convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_numbers(image: Image.Image) -> Image.Image:
    """Converts greys stored as 16-bit or 32-bit integers, or as floats."""
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
        return _from_array(values.astype(np.uint16))
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise ImageError(
            f"its pixels are floats from {values.min()} to {values.max()}, and only"
            " 0..1 or 0..255 has a known scale. Store it with 8 or 16 bits."
        )
    return _from_array(values if values.max() <= 1 else values / np.float32(255))


def _from_array(array: np.ndarray) -> Image.Image:
    """Converts an array of (h, w) or (h, w, 1 | 3 | 4) to an image."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            "an array must have shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), none"
            f" of them 0; got {array.shape}. Channels come last; pass one picture at a"
            " time."
        )
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) + 128) // 257
    elif array.dtype == bool:
        array = array * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError(
                f"an array of floats must lie in 0..1; got {array.min()} to"
                f" {array.max()}. Divide by 255, or pass uint8."
            )
        array = np.round(np.asarray(array, np.float32) * 255)
    elif array.dtype != np.uint8:
        raise ImageError(
            "an array must be uint8, uint16, bool or floats in 0..1; got"
            f" {array.dtype}. Convert it with array.astype('uint8') if it holds 0..255."
        )
    array = np.ascontiguousarray(array.astype(np.uint8))
    if channels == 1:
        return Image.fromarray(array.reshape(array.shape[:2]))
    return Image.fromarray(array)
