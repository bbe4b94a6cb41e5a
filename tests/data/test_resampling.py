"""Resized pictures are Pillow's, whoever computes them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from jaxtune.data import resize
from jaxtune.data.resize import resampled

LANCZOS, BILINEAR = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR

installed = pytest.mark.skipif(
    resize.cykooz_resizer is None, reason="cykooz-resizer is not installed"
)


def photo(height, width, mode="RGB"):
    """Waves and edges, no saturated places: what a photo has."""
    y, x = np.mgrid[:height, :width]
    waves = [
        128 + 60 * np.sin(x / (5 + i)) * np.cos(y / 7) + 30 * (x + y > 90)
        for i in range(3)
    ]
    image = Image.fromarray(np.stack(waves, -1).round().astype(np.uint8))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("gap", [None, 1.0, 2.0])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((100, 120), (64, 64)),
        ((227, 227), (224, 224)),
        ((301, 455), (64, 48)),
        ((64, 64), (96, 80)),
        ((400, 33), (50, 60)),
    ],
)
def test_lanczos_is_pillows_to_a_part_of_a_grey_level(mode, gap, shape, size):
    image = photo(*shape, mode)
    ours = resampled(image, size, LANCZOS, reducing_gap=gap)
    theirs = image.resize(size[::-1], LANCZOS, reducing_gap=gap)
    assert ours.shape == (*size, 3)[: 3 if mode == "RGB" else 2]
    off = np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16))
    assert off.mean() < 0.4 and off.max() <= 3


def test_bilinear_is_pillows_to_the_bit():
    image = photo(100, 120)
    ours = resampled(image, (40, 48), BILINEAR, reducing_gap=2.0)
    theirs = image.resize((48, 40), BILINEAR, reducing_gap=2.0)
    assert (np.asarray(ours) == np.asarray(theirs)).all()


def test_without_the_library_all_is_pillows(monkeypatch):
    monkeypatch.setattr(resize, "cykooz_resizer", None)
    image = photo(227, 300)
    ours, theirs = resampled(image, (96, 96), LANCZOS), image.resize((96, 96), LANCZOS)
    assert (np.asarray(ours) == np.asarray(theirs)).all()


@installed
def test_the_library_is_used(monkeypatch):
    monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("Pillow"))
    assert resampled(photo(100, 120), (64, 64), LANCZOS).shape == (64, 64, 3)


def test_threads_give_the_same_bits():
    photos = [photo(150 + i, 200 + 3 * i) for i in range(16)]

    def work(image):
        return np.asarray(resampled(image, (96, 96), LANCZOS))

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(work, photos * 4))
    expected = [work(image) for image in photos] * 4
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)])
def test_a_picture_of_one_row_or_column(shape):
    ours = np.asarray(resampled(photo(*shape), (8, 8), LANCZOS))
    theirs = np.asarray(photo(*shape).resize((8, 8), LANCZOS))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
