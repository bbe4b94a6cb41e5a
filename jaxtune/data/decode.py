"""Decoding: any picture a user has becomes `uint8` RGB, upright, on white.

A path, bytes, a file object, a PIL image or an array goes in; a `numpy` array of shape
(height, width, 3) comes out, or of as many channels as are asked for. The one rule: a
picture that cannot be read is an `ImageError` that names it, and nothing here changes
the state of the process (Pillow's warnings and limits are avoided or obeyed, never
switched).
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

from jaxtune.arguments import (
    Integer,
    check_choice,
    check_instance,
    check_integer,
    check_path,
    described,
)
from jaxtune.data.fit import RESIZES, PadMode, Resize, check_resize, fit
from jaxtune.data.pixels import (
    ImageError,
    array_planes,
    image_from_array,
    image_from_numbers,
    join_planes,
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


def load_image(source: Any, *, channels: Integer = 3) -> UInt8[np.ndarray, "h w c"]:
    """Returns a picture at its own size, as RGB.

    Pictures are turned upright by their EXIF orientation. Transparent ones are laid
    over white. 16-bit greys are scaled by 257 (not clipped), CMYK and YCCK are
    converted as Adobe writes them, animations give their first frame.

    Args:
        source: A path, bytes, a binary file object, a PIL image, or an array: `uint8`
            or `uint16` at full range, `bool`, or floats in 0..1, of shape (h, w),
            (h, w, 1), (h, w, 3) or (h, w, 4).
        channels: 3 for RGB; 1 for grey, 4 for RGB and opacity. An array must have the
            channels that are asked for, unless that is 3, and may have any number.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: If the picture is empty, damaged, cut short, of an unknown format,
            too large to be decoded safely, or has not the channels asked for.
        TypeError: If the source is none of the above.
    """
    channels = check_integer(channels, "channels", least=1)
    with _naming(source):
        if channels != 3 and _is_array(source):
            return join_planes(array_planes(np.asarray(source), channels))
        image, orientation = _open(source)
        planes = _planes(image, channels)
        return join_planes([_turn(plane, orientation) for plane in planes])


def load_resized(
    source: Any,
    size: Any,
    *,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    resize: Resize = "squish",
    pad_mode: PadMode = "reflection",
    channels: Integer = 3,
) -> tuple[UInt8[np.ndarray, "h w c"], float]:
    """Returns a picture resized to `size`, and the aspect (width / height) it had.

    Resampling is Pillow's, antialiased. "squish" keeps the whole picture, so its shape
    changes unless `size` has the picture's own aspect; "crop" keeps its centre; "pad"
    keeps all of it and fills up at its sides. Of a JPEG that the decoder has brought
    down by a whole factor, the edges of "crop" and "pad" are rounded to its pixels,
    which are at most half as large as those wanted.

    Args:
        source: As for `load_image`.
        size: Height and width to give it, in pixels.
        resample: Pillow's filter.
        resize: "crop", "squish" or "pad".
        pad_mode: What "pad" fills up with: "reflection", "border" or "zeros".
        channels: As for `load_image`.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: As for `load_image`.
        TypeError: If the source is none of those that `load_image` takes.
    """
    size = _two_sides(size)
    check_resample(resample)
    check_resize(check_choice(resize, "resize", RESIZES), pad_mode)
    channels = check_integer(channels, "channels", least=1)
    options = {
        "resize": resize,
        "pad_mode": pad_mode,
        "resample": resample,
        "reducing_gap": REDUCING_GAP,
    }
    with _naming(source):
        if channels != 3 and _is_array(source):
            planes = array_planes(np.asarray(source), channels)
            aspect = planes[0].width / planes[0].height
            return join_planes([fit(p, size, **options) for p in planes]), aspect
        image, orientation = _open(source)
        lying = orientation >= 5
        if isinstance(image, JpegImagePlugin.JpegImageFile) and image is not source:
            aspect = image.width / image.height
            image.draft(None, _draft_size(image, size[::-1] if lying else size, resize))
        else:
            if image.format == "TIFF":
                image.load()  # Pillow turns a TIFF while it loads it.
            aspect = image.width / image.height
        planes = _planes(image, channels)
        if resize == "squish":
            # A picture lying on its side is resized lying and turned when it is small.
            lain = size[::-1] if lying else size
            fitted = [fit(p, lain, **options) for p in planes]
            fitted = [_turn_array(p, orientation) for p in fitted]
        else:
            fitted = [fit(_turn(p, orientation), size, **options) for p in planes]
        return join_planes(fitted), 1 / aspect if lying else aspect


def check_resample(resample: Any) -> None:
    """Raises a TypeError unless it is a filter of Pillow's."""
    wanted = "one of PIL.Image.Resampling, such as Image.Resampling.BILINEAR"
    check_instance(resample, "resample", Image.Resampling, wanted)


def _two_sides(size: Any) -> tuple[int, int]:
    if not isinstance(size, list | tuple) and getattr(size, "ndim", 0) != 1:
        raise TypeError(f"size must be (height, width); received {described(size)}.")
    if len(size) != 2:
        raise ValueError(f"size must be (height, width); received {described(size)}.")
    height, width = (check_integer(side, "size", least=1) for side in size)
    return height, width


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


def check_image(
    path: str | os.PathLike[str] | bytes | bytearray | memoryview,
) -> None:
    """Reads a file's header only, to find what is plainly no picture.

    A file which begins well and is cut short later passes: only decoding tells.

    Args:
        path: Of the file, or what is in it.

    Raises:
        FileNotFoundError: If the path does not exist.
        ImageError: If the file is empty, of an unknown format, has a damaged header,
            or holds more pixels than can be decoded safely.
    """
    in_memory = isinstance(path, bytes | bytearray | memoryview)
    if not in_memory:
        check_path(path, "path")
    with _naming(path), io.BytesIO(path) if in_memory else open(path, "rb") as file:
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
    if _is_array(source):
        return image_from_array(np.asarray(source)), 1
    raise TypeError(
        "source must be a path, bytes, a binary file object, a PIL image or an array;"
        f" received {described(source)} ({type(source).__name__})."
    )


def _is_array(source: Any) -> bool:
    other = isinstance(source, Image.Image | str | bytes | os.PathLike)
    return hasattr(source, "__array__") and not other and not hasattr(source, "read")


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


def begins_as_picture(start: bytes) -> bool:
    """Returns whether a file's first 16 bytes are those of a common format.

    Example:
        >>> begins_as_picture(b"GIF89a.........."), begins_as_picture(b"name,label")
        (True, False)
    """
    if start.startswith(b"BM"):  # so may a text; a bitmap has four reserved zeros
        return start[6:10] == bytes(4)
    return start.startswith(b"\xff\xd8\xff") or _plugin(start) is not _other_plugin


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


def _turn_array(
    pixels: UInt8[np.ndarray, "h w *c"], orientation: int
) -> UInt8[np.ndarray, "h2 w2 *c"]:
    if orientation in _TRANSPOSITIONS:
        return np.asarray(_turn(Image.fromarray(pixels), orientation))
    return pixels


def _planes(image: Image.Image, channels: int) -> list[Image.Image]:
    """Returns an image as images of one or three bands, `channels` bands in all."""
    if channels == 3:
        return [_to_rgb(image)]
    if channels == 1:
        return [_to_rgb(image).convert("L")]
    if channels == 4:
        image.load()
        return list((_to_rgba(image) or _to_rgb(image).convert("RGBA")).split())
    raise ImageError(
        f"a picture has 1 (grey), 3 (RGB) or 4 (RGBA) channels, and {channels} are"
        f" wanted. Pass an array of shape (h, w, {channels})."
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
