"""Crop, squish and pad give what fastai's `Resize` gives for validation photos."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxtune.data.resize import check_resize, fit_image, fitting_box

sides = st.integers(1, 300)


def photo(height, width, channels=3):
    rng = np.random.default_rng(height * 1000 + width)
    shape = (height, width, 3) if channels == 3 else (height, width)
    return Image.fromarray(rng.integers(0, 256, shape, np.uint8))


def by_index(image, size, resize, pad_mode):
    """The same by looking each pixel up: no crop, no np.pad."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    top, left, tall, wide = fitting_box((height, width), size, resize)

    def looked_up(start, length, side):
        place = np.arange(start, start + length)
        outside = (place < 0) | (place >= side)
        if pad_mode == "reflection":
            period = max(2 * side - 2, 1)
            place = np.minimum(place % period, -place % period)
        return np.clip(place, 0, side - 1), outside

    rows, above = looked_up(top, tall, height)
    columns, beside = looked_up(left, wide, width)
    box = pixels[rows][:, columns].copy()
    if pad_mode == "zeros":
        box[above] = 0
        box[:, beside] = 0
    box = Image.fromarray(box)
    return np.asarray(box.resize(size[::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize("pad_mode", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("resize", ["crop", "squish", "pad"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((40, 64), (16, 16)),
        ((64, 41), (16, 16)),
        ((50, 50), (16, 24)),
        ((33, 90), (24, 8)),
        ((90, 3), (20, 20)),  # reflected many times
        ((5, 8), (16, 16)),
        ((16, 16), (16, 16)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_fit(shape, size, resize, pad_mode, channels):
    image = photo(*shape, channels)
    fitted = fit_image(image, size, resize=resize, pad_mode=pad_mode)
    wanted = by_index(image, size, resize, pad_mode)
    np.testing.assert_array_equal(np.asarray(fitted), wanted)


@pytest.mark.parametrize(
    ("shape", "size", "resize", "box"),
    [
        # fastai 2.8.12, Resize(size, method)(image, split_idx=1).
        ((100, 160), (32, 32), "crop", (0, 30, 100, 100)),
        ((100, 160), (32, 32), "pad", (-30, 0, 160, 160)),
        ((101, 160), (32, 64), "crop", (10, 0, 80, 160)),
        ((101, 160), (32, 64), "pad", (0, -21, 101, 202)),
        ((100, 160), (32, 64), "squish", (0, 0, 100, 160)),
        # 127 / 23 * 23 falls short of 127 in floating point, and fastai loses a line.
        ((170, 127), (36, 23), "pad", (-14, 0, 198, 127)),
    ],
)
def test_boxes(shape, size, resize, box):
    assert fitting_box(shape, size, resize) == box


@given(sides, sides, sides, sides)
def test_a_crop_is_inside_and_a_pad_around(height, width, tall, wide):
    top, left, h, w = fitting_box((height, width), (tall, wide), "crop")
    assert 0 <= top <= top + h <= height and 0 <= left <= left + w <= width
    assert h == height or w == width
    top, left, h, w = fitting_box((height, width), (tall, wide), "pad")
    assert top <= 0 and left <= 0 and top + h >= height and left + w >= width
    assert h == height or w == width


def test_names_that_are_not_known():
    check_resize(None, "zeros")
    with pytest.raises(ValueError, match="'crop'.*'squish'.*'pad'.*got 'stretch'"):
        check_resize("stretch", "zeros")
    with pytest.raises(ValueError, match="'reflection', 'border' or 'zeros'; got 'wr"):
        check_resize("pad", "wrap")
