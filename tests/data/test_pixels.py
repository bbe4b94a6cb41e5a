"""Arrays of every dtype become 0..255, and channels survive being resized."""

import numpy as np
import pytest
from PIL import Image

from jaxtune.data.decode import (
    ImageError,
    array_bands,
    check_floats,
    image_from_array,
    image_from_numbers,
    join_bands,
    to_uint8,
)


def test_dtypes():
    grey = np.arange(256, dtype=np.uint8)
    assert to_uint8(grey) is grey
    np.testing.assert_array_equal(to_uint8(grey.astype(np.uint16) * 257), grey)
    for dtype in (np.float16, np.float32, np.float64):
        floats = (grey / 255).astype(dtype)
        np.testing.assert_array_equal(to_uint8(floats), grey)
    assert to_uint8(np.array([True, False])).tolist() == [255, 0]


@pytest.mark.parametrize("bad", [1.01, -0.01, np.nan, np.inf])
def test_floats_out_of_range(bad):
    array = np.array([0.5, bad])
    for refuse in (check_floats, to_uint8):
        with pytest.raises(ImageError, match="must lie in 0..1.*Divide by 255"):
            refuse(array)


def test_dtypes_without_a_scale():
    with pytest.raises(ImageError, match="int64.*astype"):
        to_uint8(np.zeros(3, np.int64))


def test_images_that_pillow_knows():
    assert image_from_array(np.zeros((4, 5), bool)).mode == "L"
    assert image_from_array(np.zeros((4, 5, 1), np.uint16)).size == (5, 4)
    assert image_from_array(np.zeros((4, 5, 4), np.uint8)).mode == "RGBA"
    with pytest.raises(ImageError, match=r"must have shape.*\(4, 5, 2\)"):
        image_from_array(np.zeros((4, 5, 2), np.uint8))


def test_greys_that_are_no_bytes():
    deep = Image.fromarray(np.array([[0, 65535]], np.uint16))
    assert np.asarray(image_from_numbers(deep)).tolist() == [[0, 255]]
    floats = Image.fromarray(np.array([[0, 255]], np.float32))
    assert np.asarray(image_from_numbers(floats)).tolist() == [[0, 255]]
    wide = Image.fromarray(np.array([[0, 70000]], np.int32))
    with pytest.raises(ImageError, match="0 to 70000"):
        image_from_numbers(wide)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_bands_join_to_what_they_were(channels):
    array = np.random.default_rng(0).integers(0, 256, (6, 7, channels), np.uint8)
    bands = array_bands(array, channels)
    assert len(bands) == (1 if channels == 3 else channels)
    np.testing.assert_array_equal(join_bands(bands), array)


def test_bands_of_another_number():
    assert join_bands(array_bands(np.ones((3, 4), np.uint8), 1)).shape == (3, 4, 1)
    for shape in ((3, 4), (3, 4, 12), (13, 3, 4), (3, 0, 13), (1, 3, 4, 13)):
        with pytest.raises(ImageError, match=r"shape \(h, w, 13\)"):
            array_bands(np.zeros(shape, np.uint8), 13)
