"""Every kind of picture becomes what a person would see; the rest is named."""

import io
import struct
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from jaxtune.data import ImageError, check_image, load_image, load_resized

SIZE = (40, 60)  # height, width


def scene(height=SIZE[0], width=SIZE[1]):
    """A smooth picture whose four corners differ, which JPEG keeps well."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y / max(height - 1, 1), x / max(width - 1, 1)
    channels = [40 + 180 * x, 220 - 150 * y, 60 + 90 * x * y]
    return np.stack(channels, -1).astype(np.uint8)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def near(image, wanted, most=6):
    assert image.dtype == np.uint8
    assert image.shape == wanted.shape
    assert np.abs(image.astype(int) - wanted.astype(int)).max() <= most


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg", "quality": 98}),
        ("JPEG", {"quality": 98, "subsampling": 0}),
        ("JPEG", {"quality": 98, "subsampling": 0, "progressive": True}),
    ],
)
def test_colour_in_every_format(tmp_path, kind, options):
    data = encode(Image.fromarray(scene()), kind, **options)
    path = tmp_path / "picture"
    path.write_bytes(data)
    most = 0 if "quality" not in options else 6
    for source in (path, str(path), data, bytearray(data), io.BytesIO(data)):
        near(load_image(source), scene(), most)
    check_image(path)


def test_a_name_does_not_decide_the_format(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(Image.fromarray(scene()), "PNG"))
    near(load_image(path), scene(), 0)


def test_formats_that_only_pillow_knows(tmp_path):
    path = tmp_path / "photo.ppm"
    Image.fromarray(scene()).save(path)
    near(load_image(path), scene(), 0)
    check_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF"])
def test_grey(kind):
    grey = scene()[..., 0]
    options = {"quality": 98} if kind == "JPEG" else {}
    image = load_image(encode(Image.fromarray(grey), kind, **options))
    near(image, np.repeat(grey[..., None], 3, axis=-1), 3)


def test_one_bit():
    bits = scene()[..., 0] > 128
    image = load_image(encode(Image.fromarray(bits), "PNG"))
    near(image, np.repeat(bits[..., None], 3, -1).astype(np.uint8) * 255, 0)


def test_one_bit_is_resized_with_greys_between():
    bits = (np.indices((64, 64)).sum(0) % 2).astype(bool)
    image, _ = load_resized(encode(Image.fromarray(bits), "PNG"), (8, 8))
    assert 100 < image[2:-2, 2:-2].min() <= image[2:-2, 2:-2].max() < 156


def test_palette():
    palette = Image.fromarray(scene()).quantize(64)
    near(load_image(encode(palette, "PNG")), np.asarray(palette.convert("RGB")), 0)
    near(load_image(encode(palette, "GIF")), np.asarray(palette.convert("RGB")), 0)


def test_transparent_palette_is_laid_over_white():
    image = Image.new("P", (4, 2))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((3, 1), 1)
    one_index = load_image(encode(image, "PNG", transparency=0))
    assert one_index[0, 0].tolist() == [255, 255, 255]
    assert one_index[1, 3].tolist() == [0, 0, 255]
    # A table of alphas makes Pillow warn unless it is converted with care.
    table = load_image(encode(image, "PNG", transparency=bytes([128, 255])))
    assert table[0, 0].tolist() == [255, 127, 127]
    assert table[1, 3].tolist() == [0, 0, 255]
    gif = load_image(encode(image, "GIF", transparency=0))
    assert gif[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(kind):
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., :3] = (200, 0, 0)
    pixels[:, 0, 3], pixels[:, 1, 3], pixels[:, 2, 3] = 0, 51, 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = load_image(encode(Image.fromarray(pixels), kind, **options))
    wanted = np.array([[255, 255, 255], [244, 204, 204], [200, 0, 0]])
    near(image, np.stack([wanted, wanted]).astype(np.uint8), 1)


def test_grey_with_alpha():
    pixels = np.array([[[0, 0], [0, 255], [100, 128]]], np.uint8)
    image = load_image(encode(Image.fromarray(pixels, "LA"), "PNG"))
    assert image[0, :, 0].tolist() == pytest.approx([255, 0, 177], abs=1)


@pytest.mark.parametrize(
    ("mode", "transparency", "hidden"),
    [("L", 7, 7), ("RGB", (1, 2, 3), (1, 2, 3)), ("1", 0, 0), ("I;16", 7, 7)],
)
def test_a_transparent_colour_in_a_png(mode, transparency, hidden):
    image = Image.new(mode, (3, 2), 0 if mode == "I;16" else "black")
    if mode == "1":
        image.putpixel((2, 1), 1)
    image.putpixel((0, 0), hidden)
    loaded = load_image(encode(image, "PNG", transparency=transparency))
    assert loaded[0, 0].tolist() == [255, 255, 255]
    if mode != "1":
        assert loaded[1, 1].tolist() == [0, 0, 0]


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        image = load_image(encode(Image.fromarray(values), kind))
        assert image[0, :, 0].tolist() == [0, 1, 128, 255]
    image, _ = load_resized(encode(Image.fromarray(values), "PNG"), (1, 4))
    assert image[0, :, 0].tolist() == [0, 1, 128, 255]


def test_big_endian_sixteen_bit_tiff():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = Image.fromarray(values.astype(">u2"))
    assert image.mode == "I;16B"
    loaded = load_image(encode(image, "TIFF"))
    assert loaded[0, :, 0].tolist() == [0, 1, 128, 255]


def test_numbers_of_thirty_two_bits():
    values = np.array([[0, 257, 65535]], np.int32)
    image = load_image(encode(Image.fromarray(values), "TIFF"))
    assert image[0, :, 0].tolist() == [0, 1, 255]
    for low, high in ((0, 65536), (-1, 5)):
        odd = encode(Image.fromarray(np.array([[low, high]], np.int32)), "TIFF")
        with pytest.raises(ImageError, match=f"from {low} to {high}.*0 to 65535"):
            load_image(odd)


def test_floats_in_a_tiff():
    unit = np.array([[0, 0.5, 1]], np.float32)
    assert load_image(Image.fromarray(unit))[0, :, 0].tolist() == [0, 128, 255]
    whole = encode(Image.fromarray(unit * 255), "TIFF")
    assert load_image(whole)[0, :, 0].tolist() == [0, 128, 255]
    for odd in (np.nan, -1, 256):
        with pytest.raises(ImageError, match="pixels are floats from"):
            load_image(Image.fromarray(np.array([[0, odd]], np.float32)))


def cmyk_pixels():
    pixels = np.zeros((16, 32, 4), np.uint8)
    pixels[:, :16] = (0, 255, 255, 0)  # red
    pixels[:, 16:] = (255, 0, 255, 64)  # a darker green
    return pixels


CMYK_WANTED = np.concatenate(
    [np.full((16, 16, 3), (255, 0, 0)), np.full((16, 16, 3), (0, 191, 0))], 1
).astype(np.uint8)


def test_cmyk_as_adobe_writes_it():
    data = encode(Image.fromarray(cmyk_pixels(), "CMYK"), "JPEG", quality=98)
    assert b"Adobe" in data  # inverted, as Photoshop does
    near(load_image(data), CMYK_WANTED)
    near(load_resized(data, (16, 32))[0], CMYK_WANTED)


def test_ycck():
    cmyk = cmyk_pixels()
    # In a YCCK file the first three are the YCbCr of what a CMYK file holds, and
    # Pillow's writer stores 255 less what it is given.
    ycc = np.asarray(Image.fromarray(cmyk[..., :3]).convert("YCbCr"))
    given = np.concatenate([255 - ycc, cmyk[..., 3:]], -1)
    data = encode(Image.fromarray(given, "CMYK"), "JPEG", quality=98)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data = data[:at] + b"\x02" + data[at + 1 :]
    near(load_image(data), CMYK_WANTED)


def test_cmyk_tiff():
    data = encode(Image.fromarray(cmyk_pixels(), "CMYK"), "TIFF")
    near(load_image(data), CMYK_WANTED, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind, orientation):
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(kind, {})
    exif = exif_of(orientation)
    data = encode(Image.fromarray(scene()), kind, exif=exif, **options)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (wanted.shape[0] == SIZE[1]) == (orientation >= 5)
    near(load_image(data), wanted, 0)
    # Squashing before turning is squashing after turning.
    small, aspect = load_resized(data, (20, 16))
    assert aspect == pytest.approx(wanted.shape[1] / wanted.shape[0])
    resized = Image.fromarray(wanted).resize((16, 20), Image.Resampling.BILINEAR)
    near(small, np.asarray(resized), 8)


def test_orientation_of_a_pil_image():
    data = encode(Image.fromarray(scene()), "PNG", exif=exif_of(6))
    with Image.open(io.BytesIO(data)) as image:
        assert load_image(image).shape == (SIZE[1], SIZE[0], 3)
        upright = ImageOps.exif_transpose(image)
    assert load_image(upright).shape == (SIZE[1], SIZE[0], 3)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage that is no directory",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12" * 40,
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0",  # 99
        # An entry whose data lie outside the block: Pillow warns about this one.
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0\0\0\0\0",
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_corrupt_exif_neither_fails_nor_warns(tmp_path, kind, exif):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(Image.fromarray(scene()), kind, exif=exif))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_image(path).shape == (*SIZE, 3)
        check_image(path)
    assert caught == []


def test_a_malformed_mpo_segment_does_not_warn():
    data = encode(Image.fromarray(scene()), "JPEG")
    segment = b"MPF\0II*\0\xff\xff\xff\x7f"
    segment = b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment
    near(load_image(data[:2] + segment + data[2:]), load_image(data), 0)


def test_junk_between_jpeg_segments():
    data = encode(Image.fromarray(scene()), "JPEG")
    near(load_image(data[:20] + b"\xff" * 5 + data[20:]), load_image(data), 0)


def test_a_jpeg_with_a_profile_and_comments():
    image = Image.fromarray(scene())
    plain = load_image(encode(image, "JPEG"))
    rich = encode(image, "JPEG", icc_profile=b"x" * 200_000, comment=b"hello")
    near(load_image(rich), plain, 0)


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (8, 6), c) for c in ("red", "blue", "lime")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(
            frames[0], kind, save_all=True, append_images=frames[1:], **options
        )
        with Image.open(io.BytesIO(data)) as image:
            assert image.n_frames == 3
        image = load_image(data)
        assert image.shape == (6, 8, 3)
        assert (image == (255, 0, 0)).all(), kind


def test_arrays():
    colour = scene()
    near(load_image(colour), colour, 0)
    grey = colour[..., :1]
    near(load_image(grey), np.repeat(grey, 3, -1), 0)
    near(load_image(grey[..., 0]), np.repeat(grey, 3, -1), 0)
    near(load_image(colour / 255), colour, 0)
    near(load_image((colour / 255).astype(np.float32)), colour, 0)
    near(load_image(colour.astype(np.uint16) * 257), colour, 0)
    near(load_image(colour[::-1, ::-1]), colour[::-1, ::-1], 0)
    assert (load_image(grey[..., 0] > 99) == 255 * (grey > 99)).all()
    clear = np.dstack([colour, np.zeros(SIZE, np.uint8)])
    assert (load_image(clear) == 255).all()


def test_jax_arrays():
    import jax.numpy as jnp

    near(load_image(jnp.asarray(scene())), scene(), 0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 4, 3), np.uint8), r"\(3, 4, 4, 3\).*one picture at a"),
        (np.zeros((3, 8, 8), np.uint8), "Channels come last"),
        (np.zeros((0, 8, 3), np.uint8), "none of them 0"),
        (np.zeros((8, 8, 3), np.int64), "int64.*astype"),
        (np.full((8, 8, 3), 2.0), "0..1; got 2.0.*Divide by 255"),
        (np.full((8, 8, 3), np.nan), "0..1; got nan"),
    ],
)
def test_arrays_that_are_no_picture(array, message):
    with pytest.raises(ImageError, match=message):
        load_image(array)


def test_other_things_are_no_picture():
    with pytest.raises(TypeError, match="path, bytes.*received 7"):
        load_image(7)


def test_the_callers_image_is_left_as_it_was():
    data = encode(Image.fromarray(scene(400, 600)), "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        load_resized(image, (16, 16))
        assert image.size == (600, 400)


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"this is a text file, renamed", "not a picture in a known format"),
    "html": (b"<html>404 not found</html>", "not a picture in a known format"),
    "signature": (b"\x89PNG\r\n\x1a\n", "damaged or truncated"),
    "soi": (b"\xff\xd8\xff", "damaged or truncated"),
    "gif": (b"GIF89a\x01", "damaged or truncated"),
    "bmp": (b"BM", "damaged or truncated"),
    "tiff": (b"II*\0\x08\0\0\0", "damaged or truncated"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 ", "damaged or truncated"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_picture_is_named(tmp_path, name):
    content, message = BROKEN[name]
    path = tmp_path / f"{name}.jpg"
    path.write_bytes(content)
    for read in (load_image, check_image, lambda p: load_resized(p, (8, 8))):
        with pytest.raises(ImageError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)
    with pytest.raises(ImageError, match=f"given as {len(content)} bytes"):
        load_image(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_cut_short(tmp_path, kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    for read in (load_image, lambda p: load_resized(p, (8, 8))):
        with pytest.raises(ImageError, match="damaged or truncated") as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "Replace the file" in str(caught.value)


def test_any_single_damage_gives_a_picture_or_an_image_error():
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        data = encode(Image.fromarray(scene()), kind)
        for _ in range(60):
            broken = bytearray(data)
            at = rng.integers(0, len(data), 3)
            broken[at[0]], broken[at[1]] = rng.integers(0, 256, 2).tolist()
            try:
                assert load_image(broken).shape[2] == 3
            except ImageError as error:
                assert "bytes" in str(error)


def test_missing_files_and_folders(tmp_path):
    for read in (load_image, check_image):
        with pytest.raises(FileNotFoundError, match="no picture at .*cat.jpg"):
            read(tmp_path / "cat.jpg")
        with pytest.raises(ImageError, match="folder"):
            read(tmp_path)


def test_bombs_are_refused(tmp_path):
    header = encode(Image.new("1", (1, 1)), "PNG")
    at = header.index(b"IHDR") + 4
    chunk = b"IHDR" + struct.pack(">II", 30_000, 30_000) + header[at + 8 : at + 13]
    import zlib

    bomb = header[: at - 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb + header[at + 17 :])
    for read in (load_image, check_image):
        with pytest.raises(ImageError, match="30000 x 30000.*MAX_IMAGE_PIXELS"):
            read(path)


def test_large_photos_pass_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # warns above, refuses at 4000
    for kind in ("JPEG", "PNG"):
        data = encode(Image.fromarray(scene()), kind)
        assert load_image(data).shape == (*SIZE, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="60 x 40 pixels, and more than 2000"):
        load_image(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(data).shape == (*SIZE, 3)


@pytest.mark.parametrize("shape", [(480, 640), (1200, 300), (37, 53), (1, 500)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_resizing_agrees_with_pillow(shape, kind):
    data = encode(Image.fromarray(scene(*shape)), kind)
    image, aspect = load_resized(data, (64, 96))
    assert aspect == pytest.approx(shape[1] / shape[0])
    with Image.open(io.BytesIO(data)) as whole:
        wanted = whole.convert("RGB").resize((96, 64), Image.Resampling.BILINEAR)
    difference = np.abs(image.astype(int) - np.asarray(wanted))
    assert difference.mean() < 1
    assert difference.max() <= 8


def test_real_photos_shrink_as_pillow_shrinks_them(photos):
    for path in sorted((photos / "hymenoptera" / "val" / "ants").glob("*.jpg"))[:8]:
        image, aspect = load_resized(path, (256, 256))
        with Image.open(path) as whole:
            assert aspect == pytest.approx(whole.width / whole.height)
            wanted = whole.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        difference = np.abs(image.astype(int) - np.asarray(wanted))
        assert difference.mean() < 1.5, path


def test_threads_leave_the_process_alone():
    data = [encode(Image.fromarray(scene(80 + n, 90)), "JPEG") for n in range(8)]
    wanted = [load_resized(item, (16, 16))[0] for item in data]
    filters = list(warnings.filters)
    results = [None] * len(data)

    def work(n):
        results[n] = load_resized(data[n], (16, 16))[0]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(data))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == filters
    for result, one in zip(results, wanted, strict=True):
        np.testing.assert_array_equal(result, one)


def test_a_tiff_with_too_many_entries_does_not_fail():
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270] = "a description"
    data = encode(Image.fromarray(scene()), "TIFF", tiffinfo=info)
    near(load_image(data), scene(), 0)


def test_photos_of_one_and_four_channels(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(rgba).save(path)
    np.testing.assert_array_equal(load_image(path, channels=4), rgba)
    grey = load_image(path, channels=1)
    assert grey.shape == (6, 8, 1)
    over_white = Image.fromarray(load_image(path)).convert("L")
    np.testing.assert_array_equal(grey[..., 0], np.asarray(over_white))
    opaque = load_image(Image.fromarray(rgba[..., :3]), channels=4)
    np.testing.assert_array_equal(opaque[..., :3], rgba[..., :3])
    assert (opaque[..., 3] == 255).all()
    with pytest.raises(ImageError, match=r"a.png'.*1 \(grey\).*13 are.*\(h, w, 13\)"):
        load_image(path, channels=13)


def test_arrays_of_any_number_of_channels():
    array = np.random.default_rng(0).integers(0, 256, (6, 8, 13), np.uint8)
    np.testing.assert_array_equal(load_image(array, channels=13), array)
    resized, aspect = load_resized(array, (3, 4), channels=13)
    assert resized.shape == (3, 4, 13) and aspect == 8 / 6
    for channel in (0, 7, 12):
        alone, _ = load_resized(array[..., channel], (3, 4))
        np.testing.assert_array_equal(resized[..., channel], alone[..., 0])


@pytest.mark.parametrize("resize", ["crop", "squish", "pad"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_large_jpegs_are_fitted_as_their_whole_pixels_are(resize, orientation):
    y, x = np.mgrid[:900, :700] / 200
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)
    picture = Image.fromarray(np.uint8(127 + 120 * waves))
    exif = picture.getexif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=95, exif=exif)
    fitted, aspect = load_resized(stream.getvalue(), (40, 64), resize=resize)
    upright = load_image(stream.getvalue())  # decoded at full size
    whole, wanted = load_resized(upright, (40, 64), resize=resize)
    assert fitted.shape == (40, 64, 3) and aspect == pytest.approx(wanted)
    assert np.abs(fitted.astype(int) - whole).mean() < 2
